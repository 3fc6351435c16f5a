"""The search space: one categorical parameter a block."""

from collections.abc import Sequence

import optuna

from sat_optuna.cost.affine import AffineCost
from sat_optuna.sampler import CostLimit
from sat_optuna.scheme import Scheme

__all__ = [
    "COUNTS_KEY",
    "NETWORK_KEY",
    "WORKER_KEY",
    "cost_limit",
    "scheme_space",
    "suggest_scheme",
]

# Study attribute that says what a scheme of this study is a scheme of.
NETWORK_KEY = "sat:network"
COUNTS_KEY = "sat:valid-counts"  # validation images of each class
# Trial attribute that names the process at work on it.
WORKER_KEY = "sat:worker"


def scheme_space(stages: Sequence[int], kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the parameters of schemes and their choices, for a sampler's `search_space`."""
    return dict.fromkeys(Scheme.parameter_names(stages), ("none", *kinds))


def cost_limit(cost: AffineCost, stages: Sequence[int], *, at_most: float) -> CostLimit:
    """Return an upper limit of a cost, for a sampler's `budget`.

    Args:
        cost: of `CostModel.affine` or `LatencyModel.affine`.
        stages: blocks of each stage.
        at_most: the limit, in the unit of the cost.
    """
    names = tuple(Scheme.parameter_names(stages))
    extras = []
    for extra, pairs in cost.extras:
        named: dict[str, list[int]] = {}
        for block, choice in pairs:
            named.setdefault(names[block], []).append(choice)
        extras.append((extra, named))
    return CostLimit(
        at_most=at_most,
        base=cost.base,
        costs=dict(zip(names, cost.added, strict=True)),
        extras=tuple(extras),
    )


def suggest_scheme(trial: optuna.Trial, stages: Sequence[int], kinds: Sequence[str]) -> Scheme:
    """Ask the trial for one categorical parameter a block, `s1.b00`, `s1.b01`, ...

    Args:
        trial: its sampler decides.
        stages: blocks of each stage.
        kinds: names of the kinds of attention; a block's choices are "none" and these.
    """
    picked = [
        choices.index(str(trial.suggest_categorical(name, choices)))
        for name, choices in scheme_space(stages, kinds).items()
    ]
    return Scheme.of(picked, stages)
