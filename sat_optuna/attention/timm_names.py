"""The names of timm's attention modules; listing them imports neither timm nor torch."""

import importlib.util
from collections.abc import Mapping

__all__ = ["TIMM_ADDS", "TIMM_NAMES", "TIMM_REFUSED", "timm_kinds"]

# The modules that timm's factory builds from the channels alone and that keep any H and W.
TIMM_NAMES = (
    "cbam",
    "ceca",
    "coord",
    "eca",
    "ecam",
    "ela",
    "ese",
    "gc",
    "gca",
    "lambda",
    "lcbam",
    "nl",
    "scoord",
    "se",
    "sk",
    "splat",
    "strip",
)
# Of these, the ones that add numbers to the features and multiply them by nothing.
TIMM_ADDS = ("gca", "nl")
# The other modules of timm's factory, each with the reason why a block cannot carry it.
TIMM_REFUSED: Mapping[str, str] = {
    "bat": "it takes only maps whose sides are multiples of its block size, 7",
    "bottleneck": "it is built for one size of maps, which has to be known beforehand",
    "ge": "timm cannot build it with its own defaults",
    "halo": "it takes only maps whose sides are multiples of its block size, 8",
}


def timm_kinds() -> tuple[str, ...]:
    """Return the names of all kinds `timm:<name>`; none if timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return ()
    return tuple(f"timm:{name}" for name in TIMM_NAMES)
