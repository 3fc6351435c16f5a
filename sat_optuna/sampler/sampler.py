"""PolicyGradientSampler: policy gradients over categorical parameters, behind Optuna's interface.

Everything it knows is in the study. Trials form batches by their numbers (of one, unless `batch`
says more); a batch is told to the controller once all its trials, and all before them, are
finished. A trial is proposed by what the controller was told of the batches before it and a
generator seeded with (seed, trial number), and is none of the schemes of smaller numbers. So
nothing is lost by a kill, an interrupted study goes on as an unbroken one, and all workers learn
the same. What a trial means to the controller:

    COMPLETE            its values, turned into a reward by `signed_values` and `scalarised`
    PRUNED              the same, its value being the last one reported; none reported: as FAIL
    FAIL, NaN or inf    keeps its place in its batch and teaches nothing; so does one with a
                        value beyond +-1e100
    RUNNING, WAITING    its batch waits, and all later ones; its choices count as seen
    enqueued, added     as if it had been proposed
    retried             Optuna's `failed_trial` names the original, whose proposal it repeats; it
                        counts in the batch of its own number
    equal schemes       each teaches; with `replicates` some are measured again on purpose. The
                        critic takes c rewards of a scheme as their mean with 1/c of the noise

The proposal is stored when the trial starts, as the system attribute `sat:policy`: n the number
it was drawn for, v the batches learned, lp the log probability under the policy it was drawn from,
before the rule against repeats, x the choices. A RUNNING trial that is attached again
(`optuna.trial.Trial(study, trial_id)`) goes on with it.

Proposals are the same bits wherever numpy computes alike: on one machine with one number of BLAS
threads, for example.

This file and `controller.py` need numpy, scipy and Optuna alone, so that the two can be published
as they are; that is why they are long.
"""

import contextlib
import hashlib
import inspect
import json
import math
import operator
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any, Literal, TypeAlias, TypeGuard

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from sat_optuna.sampler.actor_critic import (
    ActorCritic,
    Batch,
    Budget,
    Controller,
    PaperController,
    scalarised,
)

__all__ = [
    "POLICY_KEY",
    "SETTINGS_KEY",
    "CostLimit",
    "PolicyGradientSampler",
    "SamplerSettingsError",
    "claim_study",
    "failing_if_new",
    "signed_values",
]

POLICY_KEY = "sat:policy"
SETTINGS_KEY = "sat:sampler"
_ABSENT = object()  # equals no choice, as None might
# Of the proposals: raised with any change to them, for old studies would go astray.
_VERSIONS = {"default": 4, "paper": 3}
_AGAIN = 0.1  # share of the proposals that measure a scheme again, where `replicates` allows it
_REDRAWS = (
    4  # of a worker whose proposal another made at the same moment; a finished space repeats
)
_HELD_UP = 50  # finished trials behind one that is not, from which on the user is told

Reward: TypeAlias = Callable[[FrozenTrial], float]
Settings: TypeAlias = dict[str, Any]  # JSON


class SamplerSettingsError(ValueError):
    """A study whose trials were proposed with other settings of the sampler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLimit:
    """An upper limit of a cost that is affine in the choices.

        cost(x) = base + sum_i costs[i][x_i] + sum of the extras of which x makes a choice

    Attributes:
        at_most: the limit.
        base: what any scheme costs.
        costs: of a parameter's choices, by its name, in the order of its choices; a parameter
            that is not named costs nothing.
        extras: each a cost, 0 or more, paid once if any parameter makes a choice named with it
            (by the parameter's name the choices' places): a module that blocks share.
    """

    at_most: float
    base: float = 0.0
    costs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    extras: Sequence[tuple[float, Mapping[str, Sequence[int]]]] = ()


class _Store:
    """The one place that touches what Optuna keeps private: a study's storage and the ids."""

    def __init__(self, study: Study) -> None:
        self.backend = study._storage
        self.study_id = study._study_id

    def trials(self) -> list[FrozenTrial]:
        """Return all trials by number, not copied; a pruner's own view may leave some out."""
        return self.backend.get_all_trials(self.study_id, deepcopy=False)

    def settings(self) -> Any:
        return self.backend.get_study_system_attrs(self.study_id).get(SETTINGS_KEY)

    def set_settings(self, settings: Settings) -> None:
        self.backend.set_study_system_attr(self.study_id, SETTINGS_KEY, settings)

    def set_attr(self, trial: FrozenTrial | int, key: str, value: Mapping[str, Any]) -> None:
        trial_id = trial if isinstance(trial, int) else trial._trial_id
        self.backend.set_trial_system_attr(trial_id, key, value)

    def fail(self, trial: FrozenTrial) -> None:
        self.backend.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def claim_study(study: Study, settings: Settings) -> None:
    """Store a sampler's settings with a study that has none, or compare them.

    Raises:
        SamplerSettingsError: the study was begun with others.
    """
    store = _Store(study)
    stored = store.settings()
    if stored is None:
        store.set_settings(settings)
        stored = store.settings()  # another worker may have begun it in this moment
    if stored != settings:
        names = [k for k in {**stored, **settings} if stored.get(k) != settings.get(k)]
        changes = ", ".join(f"{k}: {stored.get(k)!r}, now {settings.get(k)!r}" for k in names)
        raise SamplerSettingsError(
            f"study {study.study_name!r} was begun with other sampler settings ({changes}); "
            "use those again, or begin a new study"
        )


@contextlib.contextmanager
def failing_if_new(study: Study, trial: FrozenTrial) -> Iterator[None]:
    """Let an error pass, and make the trial FAIL unless something of it is stored already.

    Optuna would leave it RUNNING, and a batch would wait for it.
    """
    try:
        yield
    except Exception:
        if not trial.params and POLICY_KEY not in trial.system_attrs:
            _Store(study).fail(trial)
        raise


def signed_values(trial: FrozenTrial, directions: Sequence[StudyDirection]) -> tuple[float, ...]:
    """Return a finished trial's objective values, greater is better; NaN where it has none."""
    if trial.values is None:
        return (math.nan,) * len(directions)
    signs = [-1.0 if d == StudyDirection.MINIMIZE else 1.0 for d in directions]
    return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))


class PolicyGradientSampler(BaseSampler):
    """Propose categorical parameters by a policy that learns from the study's own history.

    Parameters that are not categorical are drawn at random, each by itself. So is, unless it is
    in `search_space`, any parameter that no earlier trial had, in the first trial all: their
    choices are not known yet.

    Args:
        seed: of the proposals; with the history it determines them all.
        batch: trials told to the policy at once; 1, or 3 with preset "paper". Where trials are
            asked in groups, the group's size.
        preset: "default", a natural policy gradient on a Bayesian critic, or "paper", the
            published controller with its defects repaired.
        learning_rate: 0.6, at most 1, or 0.05 with preset "paper".
        reward: turns a trial that has values into a number, greater is better; it must depend on
            the trial alone. None: the objective value, or the mean of several, standardised.
        weights: of several objectives in the reward, one each; None for equal ones.
        replicates: trials that a scheme may get. Above 1, a tenth of the proposals measure the
            most promising scheme again that has fewer.
        search_space: the parameters and their choices, where known beforehand: the first trial is
            proposed as well then.
        budget: limits by name, for example `{"params": CostLimit(...)}`; no scheme over one is
            proposed. It needs `search_space`.
        max_connections: limit of the parameters of `search_space` that do not take their first
            choice.
        options: further arguments of the preset's controller, `ActorCritic` or
            `PaperController`, by name.

    Raises:
        ValueError: a setting that is out of range, or a budget that no scheme keeps.
    """

    def __init__(
        self,
        *,
        seed: int,
        batch: int | None = None,
        preset: Literal["default", "paper"] = "default",
        learning_rate: float | None = None,
        reward: Reward | None = None,
        weights: Sequence[float] | None = None,
        replicates: int = 1,
        search_space: Mapping[str, Sequence[Any]] | None = None,
        budget: Mapping[str, CostLimit] | None = None,
        max_connections: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        paper = preset == "paper"
        if preset not in ("default", "paper"):
            raise ValueError(f"preset {preset!r} given; choose 'default' or 'paper'")
        self._preset = preset
        self._seed = _whole("seed", seed, least=0)
        self._batch = _whole("batch", (3 if paper else 1) if batch is None else batch, least=1)
        rate = (0.05 if paper else 0.6) if learning_rate is None else learning_rate
        bound = math.inf if paper else 1.0
        self._learning_rate = _real("learning_rate", rate, positive=True, at_most=bound)
        if not (reward is None or callable(reward)):
            raise ValueError(
                f"reward {reward!r} given; give a function of a finished trial, or None"
            )
        self._reward = reward
        self._weights = None if weights is None else _weights_of(weights)
        self._replicates = _whole("replicates", replicates, least=1)
        if reward is not None and weights is not None:
            raise ValueError(
                "reward and weights given, and a reward is one number already; give one of them"
            )
        self._space = _space_of(search_space or {})
        self._limits = _limits_of(budget or {})
        if max_connections is not None:
            self._limits["connections"] = CostLimit(
                at_most=_whole("max_connections", max_connections, least=0),
                costs={n: [0.0, *[1.0] * (len(d.choices) - 1)] for n, d in self._space.items()},
            )
        if self._limits and not self._space:
            raise ValueError(
                f"a limit of {' and '.join(self._limits)} given without search_space; give the "
                "parameters and their choices, for the first trial has to keep it as well"
            )
        self._budget = _budget_of(self._limits, self._space)
        self._options = _options_of(options or {}, PaperController if paper else ActorCritic)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        # A pure speed-up, by storage and study: dropping it changes no proposal.
        self._memories: weakref.WeakKeyDictionary[Any, dict[int, _Memory]]
        self._memories = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock and the memory behind: a copy in another process has its own."""
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_memories")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        vars(self).update(state)

    def settings(self) -> Settings:
        """Return all that proposals depend on besides the history."""
        reward = self._reward
        name = getattr(reward, "__qualname__", type(reward).__qualname__) if reward else None
        return {
            "algorithm": f"policy-gradient/{self._preset}",
            "version": _VERSIONS[self._preset],
            "seed": self._seed,
            "batch": self._batch,
            "learning_rate": self._learning_rate,
            "reward": name,
            "weights": None if self._weights is None else list(self._weights),
            "replicates": self._replicates,
            "search_space": _digest({n: list(d.choices) for n, d in self._space.items()}),
            "budget": {
                name: [float(x.at_most), _digest(asdict(x))] for name, x in self._limits.items()
            },
            "options": self._options,
        }

    def policy(self, study: Study) -> dict[str, dict[Any, float]]:
        """Return the newest policy: for each parameter the probability of each of its choices.

        It is what is drawn from before a budget tilts it and repeats are left out. A choice that
        cannot be a key, a list for example, is named by its `repr`.
        """
        with self._lock:
            memory = self._memory(study, None)
            if not memory.space:
                return {}
            rows = memory.controller.policy.probabilities
        return {
            name: dict(zip(map(_key, dist.choices), row.tolist(), strict=False))
            for (name, dist), row in zip(memory.space.items(), rows, strict=True)
        }

    def recommend(self, study: Study) -> FrozenTrial:
        """Return the best complete trial by what all trials say of its scheme, not by its luck.

        For noisy rewards. Where the objective is not noisy `study.best_trial` is better: the
        critic smooths over what single choices and pairs of choices do not explain. Before the
        critic has anything to say, and with preset "paper", it is a trial of the scheme whose
        rewards have the best mean. Of several trials of a scheme it is the best.

        Raises:
            ValueError: no complete trial has a reward.
        """
        finished = [trial for trial in _Store(study).trials() if trial.state.is_finished()]
        memory = _Memory(self._controller, self._values(study), 1, self._space)
        memory.read(finished)
        return finished[memory.recommended(self._weights)]

    @override
    def reseed_rng(self) -> None:
        """Do nothing: each trial has its own generator."""

    @override
    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Draw the trial's proposal.

        It is drawn here and not in `sample_relative` because Optuna takes an error there for one
        of the objective: it would hide among failed trials. From here it surfaces.
        """
        with failing_if_new(study, trial), self._lock:
            if self._held(study) is None:
                claim_study(study, self.settings())
                self._memory(study, trial.number)  # a retry's proposal would not be read for
            self._proposal(study, trial)

    @override
    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        with self._lock:
            names = self._proposal(study, trial)
            memory = self._held(study)
            if memory is None or not memory.space.keys() >= names.keys():
                memory = self._memory(study, trial.number)
            return {name: memory.space[name] for name in names}

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with self._lock:
            proposal = self._proposal(study, trial)
        chosen = {}
        for name, distribution in search_space.items():
            if name in proposal and isinstance(distribution, CategoricalDistribution):
                chosen[name] = distribution.choices[proposal[name]]
        return chosen

    @override
    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if not isinstance(param_distribution, CategoricalDistribution):
            self._warn(
                "independent",
                f"{param_name!r} is not categorical: PolicyGradientSampler draws such parameters "
                "at random and learns nothing about them.",
            )
        elif self._limits and param_name not in self._space and not param_distribution.single():
            self._warn(
                "unlimited",
                f"{param_name!r} is not in search_space, and no limit counts its choices; name "
                "it there with the others",
            )
        place = [self._seed, _slot(trial), zlib.crc32(param_name.encode())]
        seed = int(np.random.default_rng(place).integers(2**32))
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def _warn(self, kind: str, message: str) -> None:
        """Warn of something once."""
        if kind not in self._warned:
            self._warned.add(kind)
            optuna.logging.get_logger(__name__).warning(message)

    def _proposal(self, study: Study, trial: FrozenTrial) -> dict[str, int]:
        """Return the trial's stored choices by name, or draw and store them."""
        slot = _slot(trial)
        record = trial.system_attrs.get(POLICY_KEY)
        if record is None or record["n"] != slot:
            memory = self._memory(study, trial.number)
            if not memory.space:
                return {}
            record = self._stored(study, trial, memory)
            trial.system_attrs[POLICY_KEY] = record
        return dict(record["x"])

    def _stored(self, study: Study, trial: FrozenTrial, memory: "_Memory") -> dict[str, Any]:
        """Draw a proposal, store it, and return its record.

        A worker beside this one may draw the same at the same moment, neither having seen the
        other's. Who stores later sees both, and draws again.
        """
        rng = np.random.default_rng([self._seed, _slot(trial)])
        seen, store = memory.seen, _Store(study)
        record = self._drawn(memory, trial, rng, seen)
        store.set_attr(trial, POLICY_KEY, record)
        for _ in range(_REDRAWS if self._replicates == 1 else 0):
            memory = self._memory(study, trial.number)
            if memory.space.keys() != record["x"].keys():
                break
            later = [_row(memory.space, other) for other in store.trials()[trial.number + 1 :]]
            now = np.concatenate([memory.seen, *(row[None] for row in later)])
            scheme = list(record["x"].values())
            # A finished space has nothing else: what was known to be a repeat may stay one.
            if _holds(seen, scheme) or not _holds(now, scheme):
                break
            seen = now
            record = self._drawn(memory, trial, rng, seen)
            store.set_attr(trial, POLICY_KEY, record)
        return record

    def _drawn(
        self,
        memory: "_Memory",
        trial: FrozenTrial,
        rng: np.random.Generator,
        seen: NDArray[np.int64],
    ) -> dict[str, Any]:
        """Return the record of a new proposal that is, if possible, none of the (N, n) seen."""
        choices = enumerate(_row(memory.space, trial).tolist())
        fixed = {place: choice for place, choice in choices if choice >= 0}
        budget = self._budget
        if memory.space.keys() != self._space.keys():
            budget = _budget_of(self._limits, memory.space)
        again = None
        if self._replicates > 1 and not fixed and rng.random() < _AGAIN:
            again = memory.promising(self._replicates, budget)
        if again is not None:
            scheme, log_prob = again, None
        else:
            scheme, log_prob = memory.controller.propose(
                rng, seen=seen, fixed=fixed, budget=budget
            )
        return {
            "n": _slot(trial),
            "v": memory.version,
            "lp": log_prob,
            "x": dict(zip(memory.space, scheme.tolist(), strict=True)),
        }

    def _memory(self, study: Study, number: int | None) -> "_Memory":
        """Return what the trials below `number` say; None for all trials."""
        store = _Store(study)
        trials = store.trials()[:number]
        held = self._memories.setdefault(store.backend, {})
        memory = held.pop(store.study_id, None)
        if memory is None or not memory.fits(trials):
            memory = _Memory(self._controller, self._values(study), self._batch, self._space)
        memory.read(trials)
        held[store.study_id] = memory  # only now: one that an error stopped half-way is dropped
        if memory.held_up >= _HELD_UP:
            blocking = trials[memory.finished]
            self._warn(
                "held up",
                f"trial {blocking.number} is {blocking.state.name} and {memory.held_up} finished "
                "trials after it teach nothing until it ends; if its process is dead, end it "
                f"with: study.tell({blocking.number}, state=optuna.trial.TrialState.FAIL)",
            )
        return memory

    def _held(self, study: Study) -> "_Memory | None":
        store = _Store(study)
        return self._memories.get(store.backend, {}).get(store.study_id)

    def _controller(self, sizes: Sequence[int]) -> Controller:
        rate = self._learning_rate
        options = {**self._options, "weights": self._weights}
        if self._preset == "paper":
            return PaperController(sizes, seed=self._seed, learning_rate=rate, **options)
        return ActorCritic(sizes, learning_rate=rate, **options)

    def _values(self, study: Study) -> Callable[[FrozenTrial], tuple[float, ...]]:
        """Return the function that turns a finished trial into values, greater is better."""
        reward, directions = self._reward, study.directions
        if reward is not None:
            return lambda trial: (math.nan if trial.values is None else _number(reward, trial),)
        if self._weights is not None and len(self._weights) != len(directions):
            raise ValueError(
                f"{len(self._weights)} weights given for the {len(directions)} objectives of "
                f"study {study.study_name!r}; give one for each"
            )
        return lambda trial: signed_values(trial, directions)


class _Memory:
    """What the trials below some number say: space, schemes seen, policy; read incrementally.

    Args:
        controller: makes one for given numbers of choices.
        values: turns a finished trial into values, greater is better.
        batch: trials told at once.
        space: parameters known beforehand.
    """

    def __init__(
        self,
        controller: Callable[[Sequence[int]], Controller],
        values: Callable[[FrozenTrial], tuple[float, ...]],
        batch: int,
        space: Mapping[str, CategoricalDistribution],
    ) -> None:
        self._make = controller
        self._values = values
        self._batch = batch
        self.space = dict(space)
        self._since = 0  # trials that must be there for the space to be this one
        self._restart()

    def _restart(self) -> None:
        """Begin to read again, in a space that has grown."""
        self.space = dict(sorted(self.space.items()))
        if self.space:
            self.controller = self._make([len(d.choices) for d in self.space.values()])
        self.version = 0
        self._done: list[FrozenTrial] = []
        self._rows = np.zeros((0, len(self.space)), dtype=np.int64)
        self.seen = self._rows
        self.held_up = 0
        self.unsettled = False

    @property
    def finished(self) -> int:
        """How many trials are finished without a gap before them."""
        return len(self._done)

    def fits(self, trials: Sequence[FrozenTrial]) -> bool:
        """Say whether the memory was made of the first of these trials and no others."""
        done = len(self._done)
        if max(done, self._since) > len(trials):
            return False
        return done == 0 or trials[done - 1].datetime_complete == self._done[-1].datetime_complete

    def read(self, trials: Sequence[FrozenTrial]) -> None:
        """Read on: new parameters, newly finished trials, whole batches of them."""
        known = len(self.space)
        for trial in trials[len(self._done) :]:
            for name, distribution in trial.distributions.items():
                if name not in self.space and _is_choice(distribution):
                    self.space[name] = distribution
                    self._since = trial.number + 1
        if len(self.space) > known:
            self._restart()
        done = len(self._done)
        new = [_row(self.space, trial) for trial in trials[done:]]
        self.seen = np.concatenate(
            [self._rows, np.array(new, dtype=np.int64).reshape(len(new), len(self.space))]
        )
        for trial in trials[done:]:
            if not trial.state.is_finished():
                break
            self._done.append(trial)
        self._rows = self.seen[: len(self._done)]
        states = [trial.state.is_finished() for trial in trials[len(self._done) :]]
        self.held_up, self.unsettled = sum(states), not all(states)
        if not self.space:
            return
        size = self._batch
        for end in range((done // size + 1) * size, len(self._done) + 1, size):
            self._tell(self._done[end - size : end], self._rows[end - size : end])

    def _tell(self, trials: Sequence[FrozenTrial], rows: NDArray[np.int64]) -> None:
        logs = [_log_prob(self.space, t, r) for t, r in zip(trials, rows, strict=True)]
        values = np.array([self._values(t) for t in trials], dtype=np.float64)
        self.controller.tell(Batch(rows, values, np.array(logs)))
        self.version += 1

    def recommended(self, weights: Sequence[float] | None) -> int:
        """Return the place of the trial that `PolicyGradientSampler.recommend` means."""
        values = np.array([self._values(trial) for trial in self._done], dtype=np.float64)
        rewarded = (
            Batch(self._rows, values, np.zeros(len(values))).has_reward() if len(values) else ()
        )
        complete = [trial.state == TrialState.COMPLETE for trial in self._done]
        places = np.flatnonzero(np.logical_and(rewarded, complete))
        if not len(places):
            raise ValueError("no complete trial has a reward yet; finish one first")
        rewards = scalarised(values[places], weights)
        if self.space:
            schemes, merits = self.controller.merits()
            same = (self._rows[places][:, None] == schemes[None]).all(axis=2)  # (places, schemes)
            merits = np.where(same.any(axis=0), merits, -np.inf)
            if merits.max(initial=-np.inf) > -np.inf:
                chosen = same[:, merits == merits.max()].any(axis=1)
                rewards = np.where(chosen, rewards, -np.inf)
        return int(places[rewards.argmax()])

    def promising(self, replicates: int, budget: Budget | None) -> NDArray[np.int64] | None:
        """Return the most promising (n,) scheme measured less often than that; None if none."""
        schemes, merits = self.controller.merits()
        counts = (self.seen[:, None] == schemes[None]).all(axis=2).sum(axis=0)
        open_ones = (counts < replicates) & (schemes >= 0).all(axis=1)
        if budget is not None and len(schemes):
            open_ones &= budget.allows(schemes)
        if not open_ones.any():
            return None
        return np.asarray(schemes[np.where(open_ones, merits, -np.inf).argmax()])


def _holds(schemes: NDArray[np.int64], scheme: Sequence[int]) -> bool:
    """Say whether a scheme is one of (N, n)."""
    return bool(len(schemes) and (schemes == np.asarray(scheme)).all(axis=1).any())


def _whole(name: str, value: Any, *, least: int) -> int:
    """Return a setting that has to be a whole number, NumPy's too."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} {value!r} given; it must be a whole number, {least} or more")
    return number


def _real(name: str, value: Any, *, positive: bool, at_most: float = math.inf) -> float:
    """Return a setting that has to be a finite number from 0 or above 0 on, NumPy's too."""
    number = math.nan if isinstance(value, bool | str) else _floated(value)
    if not (0 <= number <= at_most and number < math.inf) or (positive and number == 0):
        low = "above 0" if positive else "0 or more"
        high = f" and at most {at_most:g}" if at_most < math.inf else ""
        raise ValueError(f"{name} {value!r} given; it must be a number {low}{high}")
    return number


def _floated(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _weights_of(weights: Any) -> tuple[float, ...]:
    numbers = () if isinstance(weights, str) else tuple(map(_floated, _listed(weights)))
    if not (all(0 <= w < math.inf for w in numbers) and sum(numbers) > 0):
        raise ValueError(f"weights {weights!r} given; give numbers from 0 on, and one above 0")
    return numbers


def _options_of(options: Mapping[str, Any], controller: type[Any]) -> dict[str, Any]:
    """Return the options of a controller, each of the kind of its default.

    Raises:
        ValueError: one is unknown, or of another kind.
    """
    if not _is_mapping(options):
        raise ValueError(f"options {options!r} given; give a dict of them by name")
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(controller).parameters.items()
        if name not in ("sizes", "seed", "learning_rate", "weights")
    }
    for name in options:
        if name not in known:
            raise ValueError(f"option {name!r} given; known are {', '.join(known)}")
    return {name: _option(name, value, known[name]) for name, value in options.items()}


def _option(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        if value is not True and value is not False:
            raise ValueError(f"option {name} {value!r} given; it must be true or false")
        return value
    if isinstance(default, int):
        return _whole(f"option {name}", value, least=1)
    if value is None and default is None:
        return value
    # Logits are divided by a temperature; of the others 0 leaves a term out.
    return _real(f"option {name}", value, positive=name in ("temperature", "tanh_c"))


def _is_mapping(given: Any) -> bool:
    return isinstance(given, Mapping)


def _limits_of(budget: Mapping[str, CostLimit]) -> dict[str, CostLimit]:
    if not (_is_mapping(budget) and all(isinstance(x, CostLimit) for x in budget.values())):
        raise ValueError(
            f"budget {budget!r} given; give a CostLimit for each name, for example "
            "{'params': CostLimit(at_most=..., costs=...)}"
        )
    return dict(budget)


def _number(reward: Reward, trial: FrozenTrial) -> float:
    """Return what a reward function says of a trial; None is no reward."""
    value: Any = reward(trial)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        name = getattr(reward, "__qualname__", type(reward).__qualname__)
        raise ValueError(
            f"reward function {name!r} gave {str(value)[:40]!r} for trial {trial.number}; return "
            "one number, or None for no reward"
        ) from error


def _space_of(search_space: Any) -> dict[str, CategoricalDistribution]:
    """Return the parameters that have something to choose, by name in order.

    Raises:
        ValueError: a name is no text, or there is no list of choices, or none in it.
    """
    if not _is_mapping(search_space):
        raise ValueError(
            f"search_space {search_space!r} given; give a dict of each parameter's choices"
        )
    space = {}
    for name, choices in search_space.items():
        listed = [] if isinstance(choices, str) else _listed(choices)
        if not isinstance(name, str) or not listed:
            raise ValueError(
                f"search_space gives {name!r} the choices {choices!r}; give each parameter's name "
                "a list of choices"
            )
        space[name] = CategoricalDistribution(listed)
    return {name: dist for name, dist in sorted(space.items()) if _is_choice(dist)}


def _listed(given: Any) -> list[Any]:
    """Return what there is to go through, nothing where it is no such thing."""
    return list(given) if isinstance(given, Iterable) else []


def _budget_of(
    limits: Mapping[str, CostLimit], space: Mapping[str, CategoricalDistribution]
) -> Budget | None:
    """Return the limits in the order of a space.

    Raises:
        ValueError: a limit names what is not there, or no scheme keeps all.
    """
    if not limits:
        return None
    sizes = [len(dist.choices) for dist in space.values()]
    costs = np.zeros((len(limits), len(sizes), max(sizes)))
    at_most = np.zeros(len(limits))
    extras = []
    for place, (name, limit) in enumerate(limits.items()):
        total: tuple[Any, Any] = limit.at_most, limit.base
        if not all(isinstance(number, Real) for number in total):
            raise ValueError(f"budget {name!r} of {total[0]!r} over {total[1]!r}; give numbers")
        at_most[place] = limit.at_most - limit.base
        for parameter, row in _named(limit.costs, space, name):
            slot = list(space).index(parameter)
            numbers = [] if isinstance(row, str) else [*map(_floated, _listed(row))]
            if len(numbers) != sizes[slot] or not np.isfinite(numbers).all():
                raise ValueError(
                    f"budget {name!r} gives {parameter!r} the costs {row!r}; give {sizes[slot]} "
                    "finite numbers, one for each choice"
                )
            costs[place, slot, : len(numbers)] = numbers
        for extra in limit.extras:
            paid, mask = _extra_of(extra, space, name, costs.shape[1:])
            extras.append((place, paid, mask))
    budget = Budget(sizes, at_most, costs, extras)
    for (name, limit), least in zip(limits.items(), budget.least.tolist(), strict=True):
        if not limit.base + least <= limit.at_most:
            raise ValueError(
                f"budget {name!r} of {limit.at_most:g} allows nothing: the cheapest scheme costs "
                f"{limit.base + least:g}; raise it"
            )
    if budget.first(np.ones(costs.shape[1:]), ()) is None:
        raise ValueError(f"no scheme keeps the budgets {', '.join(limits)} together; raise one")
    return budget


def _extra_of(
    extra: Any, space: Mapping[str, CategoricalDistribution], budget: str, shape: tuple[int, ...]
) -> tuple[float, NDArray[np.bool_]]:
    """Return what an extra of a limit costs, and (slots, choices) of which one has to be made."""
    if not isinstance(extra, tuple | list) or len(extra) != 2:
        raise ValueError(
            f"budget {budget!r} has the extra {extra!r}; give a cost and the choices it is for"
        )
    paid = _floated(extra[0])
    if not 0 <= paid < math.inf:
        raise ValueError(f"budget {budget!r} has an extra of {extra[0]!r}; give 0 or more")
    mask = np.zeros(shape, dtype=bool)
    for parameter, places in _named(extra[1], space, budget):
        size = len(space[parameter].choices)
        for place in places if isinstance(places, Iterable) else [None]:
            if not isinstance(place, int | np.integer) or not 0 <= place < size:
                raise ValueError(
                    f"budget {budget!r} has an extra for {parameter!r} of the choices {places!r}; "
                    f"give a list of places from 0 to {size - 1}"
                )
            mask[list(space).index(parameter), place] = True
    return paid, mask


def _named(
    given: Any, space: Mapping[str, CategoricalDistribution], budget: str
) -> Iterator[tuple[str, Any]]:
    """Yield what a budget gives parameters by name."""
    if not _is_mapping(given):
        raise ValueError(f"budget {budget!r} has {given!r}; give a dict by parameter")
    for parameter, value in given.items():
        if parameter not in space:
            raise ValueError(
                f"budget {budget!r} names the parameter {parameter!r}, of which search_space has "
                "no two choices; name its own parameters"
            )
        yield parameter, value


def _digest(content: object) -> str:
    """Return 16 hex digits of JSON content, or of what its objects print as."""
    text = json.dumps(content, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _key(choice: Any) -> Any:
    """Return a choice as a key of a dictionary."""
    try:
        hash(choice)
    except TypeError:
        return repr(choice)
    return choice


def _is_choice(distribution: BaseDistribution) -> TypeGuard[CategoricalDistribution]:
    """Say whether there is something to choose and the policy can learn it."""
    return isinstance(distribution, CategoricalDistribution) and not distribution.single()


def _slot(trial: FrozenTrial) -> int:
    """Return the number whose proposal a trial has: a retry's is that of its original."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def _row(space: Mapping[str, CategoricalDistribution], trial: FrozenTrial) -> NDArray[np.int64]:
    """Return a trial's choices in a space, (n,); -1 where it has none.

    What a trial without values was meant to choose counts too: its proposal and its fixed
    parameters. One with values may have left parts of its proposal unused.
    """
    row = np.full(len(space), -1, dtype=np.int64)
    meant: Mapping[str, int] = {}
    fixed: Mapping[str, Any] = {}
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        meant = trial.system_attrs.get(POLICY_KEY, {}).get("x", {})
        fixed = trial.system_attrs.get("fixed_params", {})
    for place, (name, distribution) in enumerate(space.items()):
        if trial.distributions.get(name) == distribution:
            row[place] = distribution.to_internal_repr(trial.params[name])
        elif fixed.get(name, _ABSENT) in distribution.choices:
            row[place] = distribution.to_internal_repr(fixed[name])
        else:
            row[place] = meant.get(name, -1)
    return row


def _log_prob(space: Mapping[str, Any], trial: FrozenTrial, row: NDArray[np.int64]) -> float:
    """Return the stored log probability; NaN where the trial is not just as it was proposed."""
    record = trial.system_attrs.get(POLICY_KEY, {"x": None})
    proposed = record["x"] == dict(zip(space, row.tolist(), strict=True))
    return float(record["lp"]) if proposed and record["lp"] is not None else math.nan
