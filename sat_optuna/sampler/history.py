"""What the trials of a study say: the space, the schemes that were seen, and what is learned.

A trial's proposal is stored as its system attribute `sat:policy`, a record of

    n   the trial number that it was drawn for
    v   how many batches were learned from
    lp  its log probability under the policy, before the rule against repeats; None for a scheme
        that is measured again
    x   by parameter the index of its choice
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any
from typing import TypeAlias
from typing import TypeGuard

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from .budget import Budget
from .controller import Batch
from .controller import Controller
from .controller import has_reward
from .controller import scalarised
from .policy import Ints
from .settings import Reward
from .storage import POLICY_KEY


__all__ = ["History", "choices_of", "number_drawn_for", "row_of", "values_by"]

_ABSENT = object()  # equals no choice, as None might

Values: TypeAlias = Callable[[FrozenTrial], tuple[float, ...]]


class History:
    """What the trials below some number say, read incrementally.

    Args:
        build: makes a controller for slots of so many choices.
        values: turns a finished trial into values, greater is better.
        batch: number of trials that the controller is told at once.
        space: the parameters that are known beforehand.

    Attributes:
        space: the parameters that the policy is about, in order of their names.
        controller: what it was told so far; it exists once the space has a parameter.
        version: the number of batches that the controller was told.
        seen: (N, n) schemes of all trials read, unfinished ones too.
        finished: the finished trials before the first unfinished one.
        held_up: the number of finished trials after it.
    """

    def __init__(
        self,
        build: Callable[[Sequence[int]], Controller],
        values: Values,
        batch: int,
        space: Mapping[str, CategoricalDistribution],
    ) -> None:
        self._build = build
        self._values = values
        self._batch = batch
        self.space = dict(space)
        self._needed = 0  # how many trials there must be for the space to be this one
        self._restart()

    def _restart(self) -> None:
        """Forget the trials, for the space has other parameters now."""
        self.space = dict(sorted(self.space.items()))
        if self.space:
            self.controller = self._build([len(d.choices) for d in self.space.values()])
        self.version = 0
        self.finished: list[FrozenTrial] = []
        self._rows = np.zeros((0, len(self.space)), dtype=np.int64)  # of the finished trials
        self.seen = self._rows
        self.held_up = 0

    def fits(self, trials: Sequence[FrozenTrial]) -> bool:
        """Say whether all that was read are the first of these trials."""
        done = len(self.finished)
        if max(done, self._needed) > len(trials):
            return False
        if done == 0:
            return True
        return trials[done - 1].datetime_complete == self.finished[-1].datetime_complete

    def read(self, trials: Sequence[FrozenTrial]) -> None:
        """Read what is new in the trials: parameters, finished trials, whole batches of these."""
        known = len(self.space)
        for trial in trials[len(self.finished) :]:
            for name, distribution in trial.distributions.items():
                if name not in self.space and _is_choice(distribution):
                    self.space[name] = distribution
                    self._needed = trial.number + 1
        if len(self.space) > known:
            self._restart()
        done = len(self.finished)
        new = [row_of(trial, self.space) for trial in trials[done:]]
        self.seen = np.concatenate(
            [self._rows, np.array(new, dtype=np.int64).reshape(len(new), len(self.space))]
        )
        for trial in trials[done:]:
            if not trial.state.is_finished():
                break
            self.finished.append(trial)
        self._rows = self.seen[: len(self.finished)]
        self.held_up = sum(t.state.is_finished() for t in trials[len(self.finished) :])
        if not self.space:
            return
        size = self._batch
        for end in range((done // size + 1) * size, len(self.finished) + 1, size):
            self._tell(self.finished[end - size : end], self._rows[end - size : end])

    def _tell(self, trials: Sequence[FrozenTrial], rows: Ints) -> None:
        logs = [_log_prob(t, r, self.space) for t, r in zip(trials, rows, strict=True)]
        values = np.array([self._values(t) for t in trials], dtype=np.float64)
        self.controller.tell(Batch(rows, values, np.array(logs)))
        self.version += 1

    def recommended(self, weights: Sequence[float] | None) -> FrozenTrial:
        """Return the best complete trial of the scheme that all trials speak for.

        Raises:
            ValueError: no complete trial has a reward.
        """
        complete = [i for i, t in enumerate(self.finished) if t.state == TrialState.COMPLETE]
        values = np.array([self._values(self.finished[i]) for i in complete], dtype=np.float64)
        usable = has_reward(values) if complete else np.zeros(0, dtype=bool)
        if not usable.any():
            raise ValueError("no complete trial has a reward yet; finish one first")
        indices = np.array(complete)[usable]
        rewards = scalarised(values[usable], weights)
        if self.space:
            schemes, merits = self.controller.merits()
            # Which trial has which scheme, (trials, schemes).
            same = (self._rows[indices][:, None] == schemes[None]).all(axis=2)
            merits = np.where(same.any(axis=0), merits, -np.inf)
            if merits.max(initial=-np.inf) > -np.inf:
                chosen = same[:, merits == merits.max()].any(axis=1)
                rewards = np.where(chosen, rewards, -np.inf)
        return self.finished[int(indices[rewards.argmax()])]

    def promising(
        self, replicates: int, budget: Budget | None, fixed: Mapping[int, int]
    ) -> Ints | None:
        """Return the (n,) best scheme of fewer trials than `replicates`; None if there is none.

        It keeps the budget and makes the choices that are fixed by slot.
        """
        schemes, merits = self.controller.merits()
        counts = (self.seen[:, None] == schemes[None]).all(axis=2).sum(axis=0)
        eligible = (counts < replicates) & (schemes >= 0).all(axis=1)
        for slot, choice in fixed.items():
            eligible &= schemes[:, slot] == choice
        if budget is not None and len(schemes):
            eligible &= budget.allows(schemes)
        if not eligible.any():
            return None
        return np.asarray(schemes[np.where(eligible, merits, -np.inf).argmax()])


def values_by(study: Study, reward: Reward | None, weights: Sequence[float] | None) -> Values:
    """Return the function that turns a finished trial of a study into values, greater is better.

    The values are the reward alone, or the signed objectives where no reward function is given.
    They are NaN for a trial that has no values.

    Raises:
        ValueError: the weights are not one for each objective.
    """
    if reward is not None:
        return lambda trial: (math.nan if trial.values is None else _rewarded(reward, trial),)
    signs = [-1.0 if d == StudyDirection.MINIMIZE else 1.0 for d in study.directions]
    if weights is not None and len(weights) != len(signs):
        raise ValueError(
            f"{len(weights)} weights given for the {len(signs)} objectives of study "
            f"{study.study_name!r}; give one for each"
        )
    nothing = (math.nan,) * len(signs)
    return lambda trial: tuple(s * v for s, v in zip(signs, trial.values or nothing, strict=True))


def _rewarded(reward: Reward, trial: FrozenTrial) -> float:
    """Return what a reward function says of a trial; NaN for None, which is no reward."""
    value: Any = reward(trial)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        name = getattr(reward, "__qualname__", type(reward).__qualname__)
        raise ValueError(
            f"reward function {name!r} gave {str(value)[:40]!r} for trial {trial.number}; return "
            "one number, or None for no reward"
        ) from error


def number_drawn_for(trial: FrozenTrial) -> int:
    """Return the number whose proposal a trial has: for a retry that of its original trial."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def choices_of(trial: FrozenTrial, space: Mapping[str, CategoricalDistribution]) -> Ints:
    """Return the (n,) choices that a trial has made in a space; -1 where it has none.

    Fixed parameters of an enqueued trial that has no values yet count as well.
    """
    row = np.full(len(space), -1, dtype=np.int64)
    fixed = {} if _has_chosen(trial) else trial.system_attrs.get("fixed_params", {})
    for slot, (name, distribution) in enumerate(space.items()):
        if trial.distributions.get(name) == distribution:
            row[slot] = distribution.to_internal_repr(trial.params[name])
        elif fixed.get(name, _ABSENT) in distribution.choices:
            row[slot] = distribution.to_internal_repr(fixed[name])
    return row


def row_of(trial: FrozenTrial, space: Mapping[str, CategoricalDistribution]) -> Ints:
    """Return the (n,) choices of a trial in a space; -1 where it has none.

    A trial without values counts with what it was going to choose: its fixed parameters and its
    proposal. A trial with values counts with what it chose, for it may have left parts of its
    proposal unused.
    """
    row = choices_of(trial, space)
    if not _has_chosen(trial):
        proposed = trial.system_attrs.get(POLICY_KEY, {}).get("x", {})
        for slot, name in enumerate(space):
            row[slot] = proposed.get(name, -1) if row[slot] < 0 else row[slot]
    return row


def _has_chosen(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _log_prob(trial: FrozenTrial, row: Ints, space: Mapping[str, Any]) -> float:
    """Return the stored log probability; NaN where the trial is not as it was proposed."""
    record = trial.system_attrs.get(POLICY_KEY, {"x": None})
    as_proposed = record["x"] == dict(zip(space, row.tolist(), strict=True))
    return float(record["lp"]) if as_proposed and record["lp"] is not None else math.nan


def _is_choice(distribution: BaseDistribution) -> TypeGuard[CategoricalDistribution]:
    """Say whether a parameter is categorical and has two choices or more."""
    return isinstance(distribution, CategoricalDistribution) and not distribution.single()
