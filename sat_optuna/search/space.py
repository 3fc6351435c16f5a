"""The search space: one categorical parameter a block."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import optuna
from optuna.trial import FixedTrial, FrozenTrial

from sat_optuna.cost.affine import AffineCost
from sat_optuna.errors import StudyError
from sat_optuna.sampler import CostLimit
from sat_optuna.sampler.storage import given_to
from sat_optuna.scheme import Scheme

__all__ = [
    "COUNTS_KEY",
    "NETWORK_KEY",
    "WORKER_KEY",
    "AnyTrial",
    "ChoiceError",
    "check_names",
    "cost_limit",
    "given_choices",
    "scheme_space",
    "suggest_scheme",
]

# A trial of a study, or one that has its choices and belongs to none: `study.best_trial`.
AnyTrial: TypeAlias = optuna.Trial | FrozenTrial | FixedTrial

# Study attribute that says what a scheme of this study is a scheme of.
NETWORK_KEY = "sat:network"
COUNTS_KEY = "sat:valid-counts"  # validation images of each class
# Trial attribute that names the process at work on it.
WORKER_KEY = "sat:worker"


class ChoiceError(StudyError):
    """A trial whose choices were given, by enqueueing it for example, and are none of a scheme."""


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


def suggest_scheme(trial: AnyTrial, stages: Sequence[int], kinds: Sequence[str]) -> Scheme:
    """Ask the trial for one categorical parameter a block, `s1.b00`, `s1.b01`, ...

    Args:
        trial: its sampler decides, where its choices were not given.
        stages: blocks of each stage.
        kinds: names of the kinds of attention; a block's choices are "none" and these.

    Raises:
        ChoiceError: the choices that were given are none of such a scheme.
    """
    space = scheme_space(stages, kinds)
    choices = ("none", *kinds)
    given = given_choices(trial)
    check_names(trial, space, [name for name in given if re.fullmatch(r"s\d+\.b\d+", name)])
    for name in space:
        if name in given and given[name] not in choices:
            raise ChoiceError(
                f"trial {trial.number} was given {given[name]!r} for block {name!r}; give it one "
                f"of: {', '.join(map(repr, choices))}"
            )
        if name not in given and isinstance(trial, FrozenTrial | FixedTrial):
            raise ChoiceError(
                f"trial {trial.number} has no choice for block {name!r}; give a trial with all "
                f"{len(space)} blocks of this network"
            )
    try:
        picked = [choices.index(trial.suggest_categorical(name, choices)) for name in space]
    except ValueError as error:
        if not isinstance(trial, FrozenTrial | FixedTrial):
            raise
        raise ChoiceError(  # one block less or another kind makes another space
            f"trial {trial.number} is of a search over other kinds than {', '.join(kinds)}; give "
            "one of this network, or its choices as optuna.trial.FixedTrial(trial.params)"
        ) from error
    return Scheme.of(picked, stages)


def check_names(trial: AnyTrial, space: Mapping[str, Any], names: Collection[str]) -> None:
    """Make sure that all these names, which a trial was given choices for, are blocks.

    Raises:
        ChoiceError: one is not.
    """
    blocks = list(space)
    for name in names:
        if name not in space:
            raise ChoiceError(
                f"trial {trial.number} was given a choice for {name!r}, which is no block of this "
                f"network; its {len(blocks)} blocks are {blocks[0]} to {blocks[-1]}"
            )


def given_choices(trial: AnyTrial) -> Mapping[str, Any]:
    """Return the choices that a trial was given: enqueued with, or as a trial of no study."""
    return trial.params if isinstance(trial, FrozenTrial) else given_to(trial)
