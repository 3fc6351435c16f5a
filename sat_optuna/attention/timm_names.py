"""Which of timm's attention modules a block may carry; nothing is imported to list them."""

import importlib.util
from collections.abc import Mapping

__all__ = ["TIMM_NAMES", "TIMM_REFUSED", "timm_kinds"]

# What timm's factory builds from the channels alone and what keeps the shape at any H and W.
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
# What else it knows, and why a block cannot carry that.
TIMM_REFUSED: Mapping[str, str] = {
    "bat": "it takes maps alone whose sides its block size of 7 divides",
    "bottleneck": "it is built for one size of maps, which has to be known beforehand",
    "ge": "timm cannot build it with its own defaults",
    "halo": "it takes maps alone whose sides its block size of 8 divides",
}


def timm_kinds() -> tuple[str, ...]:
    """Return the kinds `timm:<name>`; none where timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return ()
    return tuple(f"timm:{name}" for name in TIMM_NAMES)
