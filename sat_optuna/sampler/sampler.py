"""PolicyGradientSampler: policy gradients over categorical parameters, behind Optuna's interface.

Everything that the sampler knows is in the study. Trials form batches by their numbers (of one
trial each, unless `batch` says more). A batch is told to the controller once all its trials and
all trials before them are finished. A proposal is determined by what the controller was told of
the batches before it and by a generator seeded with (seed, trial number). It is none of the
schemes of smaller trial numbers. So a kill loses nothing, an interrupted study goes on as an
unbroken one, and all workers learn the same. What a trial means to the controller:

    COMPLETE            its values become a reward by `values_by` and `scalarised`
    PRUNED              the same with the value that was reported last; as FAIL if there is none
    FAIL, NaN or inf    it keeps its position in its batch and teaches nothing; a trial with a
                        value beyond +-1e100 does the same
    RUNNING, WAITING    its batch and all later ones wait; its choices count as seen
    enqueued, added     as if it had been proposed
    retried             Optuna's attribute `failed_trial` names the original trial, whose proposal
                        it repeats; it counts in the batch of its own number
    equal schemes       each trial teaches. With `replicates` some schemes are measured again on
                        purpose; c rewards of a scheme count as their mean with 1/c of the noise

Choices that are fixed, by `fixed`, by Optuna's PartialFixedSampler around this sampler or by an
enqueued trial, are conditions: the others are drawn given them, so that the limits and the rule
against repeats hold for the whole scheme. Of a PartialFixedSampler the sampler learns through
`study.sampler`. Where another sampler around it takes a parameter out of the proposal, the trial
fails, for its choice cannot be known. What is enqueued is run also where it breaks a limit.

The proposal is stored when its trial starts (history.py says how). A RUNNING trial that is
attached again (`optuna.trial.Trial(study, trial_id)`) goes on with it.

Proposals are the same bits wherever NumPy computes alike: on one machine with one number of BLAS
threads, for example.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
from dataclasses import asdict
import hashlib
import json
import threading
from typing import Any
from typing import Literal
from weakref import WeakKeyDictionary
import zlib

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from . import storage
from .actor_critic import ActorCritic
from .budget import Budget
from .budget import Constraints
from .controller import Controller
from .history import choices_of
from .history import History
from .history import number_drawn_for
from .history import row_of
from .history import values_by
from .policy import Ints
from .published import PaperController
from .settings import budget_in
from .settings import chosen_in
from .settings import CostLimit
from .settings import fixed_of
from .settings import limits_of
from .settings import NUMBERS
from .settings import options_of
from .settings import RATES
from .settings import Reward
from .settings import space_of
from .settings import weights_of


__all__ = ["PolicyGradientSampler"]

_CONTROLLERS: dict[str, type[ActorCritic | PaperController]] = {
    "default": ActorCritic,
    "paper": PaperController,
}
_AGAIN = 0.1  # share of the proposals that measure a scheme again, where `replicates` allows it
_REDRAWS = 4  # how often a worker draws again where another drew the same at the same moment
_HELD_UP = 50  # from so many finished trials on that wait for one it is named again


class PolicyGradientSampler(optuna.samplers.BaseSampler):
    """Propose categorical parameters by a policy that learns from the study's own history.

    >>> space = {"block0": ("none", "se"), "block1": ("none", "se", "cbam")}
    >>> sampler = PolicyGradientSampler(seed=0, search_space=space)
    >>> study = optuna.create_study(direction="maximize", sampler=sampler)
    >>> def objective(trial):
    ...     chosen = [trial.suggest_categorical(name, space[name]) for name in space]
    ...     return chosen.count("se")
    >>> study.optimize(objective, n_trials=6)  # six schemes, none of them twice
    >>> study.best_params
    {'block0': 'se', 'block1': 'se'}

    Parameters that are not categorical are drawn at random, each by itself. A categorical
    parameter is drawn at random too while its choices are not known yet: it is not in
    `search_space`, and no earlier trial had it.

    Args:
        seed: of the proposals; with the history it determines them all. None: it is computed from
            the study's name, so that all workers have the same one. (Optuna draws a name at
            random for a study that is given none.)
        batch: trials told to the policy at once; 1, or 3 with preset "paper". Where trials are
            asked in groups, give the group's size.
        preset: "default", a natural policy gradient on a Bayesian critic; or "paper", the
            published controller with its defects repaired.
        learning_rate: 0.6, at most 1; or 0.05 with preset "paper".
        reward: turns a trial that has values into a number, greater is better; it must depend on
            the trial alone. None: the reward is the objective value, or the weighted mean of
            several, each standardised.
        weights: of several objectives in the reward, one each; None for equal ones.
        replicates: trials that a scheme may get. Above 1, a tenth of the proposals measure a
            scheme again: the most promising one that has fewer trials.
        search_space: the parameters and their choices, where they are known beforehand. The first
            trial is then proposed as well.
        budget: limits by name, for example `{"params": CostLimit(...)}`; no scheme over one is
            proposed. It needs `search_space`.
        max_connections: how many parameters of `search_space` may take another than their first
            choice.
        fixed: by parameter of `search_space` the choice that every proposal makes; the others are
            searched. `optuna.samplers.PartialFixedSampler` around this sampler does the same.
        options: further arguments of the preset's controller, `ActorCritic` or
            `PaperController`, by name.

    Raises:
        ValueError: a setting is out of range, or no scheme keeps the budget.

    A trial of one's own is enqueued with choices as the objective names them, for example
    `study.enqueue_trial({"block0": "se"})`; what is left out is proposed.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        batch: int | None = None,
        preset: Literal["default", "paper"] = "default",
        learning_rate: float | None = None,
        reward: Reward | None = None,
        weights: Sequence[float] | None = None,
        replicates: int = 1,
        search_space: Mapping[str, Sequence[Any]] | None = None,
        budget: Mapping[str, CostLimit] | None = None,
        max_connections: int | None = None,
        fixed: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if preset not in tuple(_CONTROLLERS):
            raise ValueError(f"preset {preset!r} given; choose 'default' or 'paper'")
        if not (reward is None or callable(reward)):
            raise ValueError(
                f"reward {reward!r} given; give a function of a finished trial, or None"
            )
        if reward is not None and weights is not None:
            raise ValueError(
                "reward and weights given, and a reward is one number already; give one of them"
            )
        self._preset, kind = preset, _CONTROLLERS[preset]
        self._reward = reward
        self._weights = None if weights is None else weights_of(weights)
        self._options = options_of(options or {}, preset)
        self._seed: int | None = NUMBERS["seed"].checked("seed", seed)
        self._batch: int = NUMBERS["batch"].checked("batch", batch) or kind.batch
        self._replicates: int = NUMBERS["replicates"].checked("replicates", replicates)
        rate = RATES[preset].checked("learning_rate", learning_rate)
        self._learning_rate: float = rate or kind.rate
        most = NUMBERS["max_connections"].checked("max_connections", max_connections)
        self._space = space_of(search_space or {})
        self._limits = limits_of(budget or {}, most, self._space)
        self._budget = budget_in(self._space, self._limits)
        self._fixed = fixed_of(fixed or {}, self._space)
        self._budget_given(self._space, chosen_in(self._fixed, self._space, "fixed"))
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        # By storage and study. They save time alone: without them proposals are the same.
        self._histories: WeakKeyDictionary[optuna.storages.BaseStorage, dict[int, History]]
        self._histories = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Leave lock and histories behind: a copy in another process makes its own."""
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_histories")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        self.__dict__.update(state)

    def settings(self) -> storage.StoredSettings:
        """Return all that proposals depend on besides the history, as JSON.

        A seed that was left out is None here, and the seed of the study's name in a study.
        """
        reward = self._reward
        name = getattr(reward, "__qualname__", type(reward).__qualname__) if reward else None
        return {
            "algorithm": f"policy-gradient/{self._preset}",
            "version": _CONTROLLERS[self._preset].version,
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
            # Absent where nothing is fixed, as in studies that were begun before it could be.
            **({"fixed": {n: repr(c) for n, c in self._fixed.items()}} if self._fixed else {}),
        }

    def policy(self, study: Study) -> dict[str, dict[Any, float]]:
        """Return the newest policy: for each parameter the probability of each of its choices.

        A fixed choice has the probability 1. Otherwise it is the policy before a budget tilts it
        and before seen schemes are left out. A choice that cannot be a key of a dict, a list for
        example, is named by its `repr`.
        """
        with self._lock:
            history = self._read(study, None)
            if not history.space:
                return {}
            rows = history.controller.policy.held(self._fixed_in(study, history.space))
        return {
            name: dict(zip(map(_as_key, distribution.choices), row.tolist(), strict=False))
            for (name, distribution), row in zip(history.space.items(), rows, strict=True)
        }

    def recommend(self, study: Study) -> FrozenTrial:
        """Return the best complete trial by what all trials say of its scheme, not by its luck.

        This is for noisy rewards. Where the objective is not noisy, `study.best_trial` is better:
        the critic ignores what single choices and pairs of choices do not explain. During warm-up
        and with preset "paper" the scheme with the best mean reward is recommended. Of several
        trials of the recommended scheme the best is returned.

        Raises:
            ValueError: no complete trial has a reward.
        """
        finished = [trial for trial in storage.all_trials(study) if trial.state.is_finished()]
        history = self._new_history(study, batch=1)
        history.read(finished)
        return history.recommended(self._weights)

    def reseed_rng(self) -> None:
        """Do nothing: each trial has its own generator."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Draw the trial's proposal.

        It is drawn here because Optuna takes an error in `sample_relative` for one of the
        objective, and the error would hide among failed trials. From here it surfaces.
        """
        with storage.failing_if_new(study, trial), self._lock:
            if self._held(study) is None:
                storage.claim_study(study, self.settings())
                self._read(study, trial.number)  # a retry has its proposal and would not read
            self._proposal(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that the trial's proposal is about."""
        with self._lock:
            names = self._proposal(study, trial)
            history = self._held(study)
            if history is None or not history.space.keys() >= names.keys():
                history = self._read(study, trial.number)
            return {name: history.space[name] for name in names}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposed choices of these parameters."""
        with self._lock:
            proposal = self._proposal(study, trial)
            known = {**self._fixed, **storage.fixed_around(study)}
        hidden = sorted(proposal.keys() - search_space.keys() - known.keys())
        # Where nothing was asked for, the space may have become known since, by another process.
        if hidden and (search_space or self._space):
            raise ValueError(
                f"{type(study.sampler).__name__} around PolicyGradientSampler takes "
                f"{', '.join(map(repr, hidden))} out of its proposal, so that it can keep neither "
                "limits nor the rule against repeats; fix choices with "
                "PolicyGradientSampler(fixed={...}) or optuna.samplers.PartialFixedSampler"
            )
        chosen = {}
        for name, distribution in search_space.items():
            if name in proposal and isinstance(distribution, CategoricalDistribution):
                chosen[name] = distribution.choices[proposal[name]]
        return chosen

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter that is no part of the proposal at random."""
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
        key = [self._seed_of(study), number_drawn_for(trial), zlib.crc32(param_name.encode())]
        seed = int(np.random.default_rng(key).integers(2**32))
        sampler = optuna.samplers.RandomSampler(seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _seed_of(self, study: Study) -> int:
        return storage.seed_of_name(study.study_name) if self._seed is None else self._seed

    def _warn(self, kind: str, message: str) -> None:
        """Warn once of each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            optuna.logging.get_logger(__name__).warning(message)

    def _proposal(self, study: Study, trial: FrozenTrial) -> dict[str, int]:
        """Return the trial's stored choices by name, or draw and store them."""
        record = trial.system_attrs.get(storage.POLICY_KEY)
        if record is None or not (
            record["n"] == number_drawn_for(trial)
            and self._makes_fixed_choices(study, trial, record["x"])
        ):
            history = self._read(study, trial.number)
            if not history.space:
                return {}
            record = self._drawn_and_stored(study, trial, history)
            trial.system_attrs[storage.POLICY_KEY] = record
        return dict(record["x"])

    def _makes_fixed_choices(
        self, study: Study, trial: FrozenTrial, proposed: Mapping[str, int]
    ) -> bool:
        """Say whether a stored proposal was drawn given what is fixed now.

        A PartialFixedSampler may have come after it, around the sampler of a trial that is
        attached again or retried.
        """
        if not (self._fixed or storage.fixed_around(study)):
            return True
        space = (self._held(study) or self._read(study, trial.number)).space
        names, made = list(space), choices_of(trial, space)
        return all(
            made[slot] >= 0 or proposed.get(names[slot], choice) == choice
            for slot, choice in self._fixed_in(study, space).items()
        )

    def _fixed_in(
        self, study: Study, space: Mapping[str, CategoricalDistribution]
    ) -> Mapping[int, int]:
        """Return by slot what this sampler and those around it fix."""
        own = chosen_in(self._fixed, space, "fixed")
        return {**own, **chosen_in(storage.fixed_around(study), space, "PartialFixedSampler")}

    def _budget_given(
        self, space: Mapping[str, CategoricalDistribution], fixed: Mapping[int, int]
    ) -> Budget | None:
        """Return the limits over the schemes that make the fixed choices.

        Raises:
            ValueError: no such scheme keeps them.
        """
        budget = self._budget if space.keys() == self._space.keys() else None
        budget = budget or budget_in(space, self._limits)
        if budget is None or not fixed:
            return budget
        budget = budget.holding(fixed)
        if not budget.is_possible():
            names = list(space)
            choices = ", ".join(
                f"{names[slot]!r}: {space[names[slot]].choices[k]!r}" for slot, k in fixed.items()
            )
            raise ValueError(
                f"no scheme with the fixed choices {{{choices}}} keeps the budget "
                f"{' and '.join(self._limits)}; raise it, or fix fewer"
            )
        return budget

    def _drawn_and_stored(
        self, study: Study, trial: FrozenTrial, history: History
    ) -> dict[str, Any]:
        """Draw a proposal, store its record and return it.

        Another worker may draw the same scheme at the same moment, where neither has seen the
        other's. The worker that stores later then sees both, and draws again.
        """
        rng = np.random.default_rng([self._seed_of(study), number_drawn_for(trial)])
        seen = history.seen
        record = self._drawn(study, history, trial, rng, seen)
        storage.store_record(study, trial, record)
        for _ in range(_REDRAWS if self._replicates == 1 else 0):
            history = self._read(study, trial.number)
            if history.space.keys() != record["x"].keys():
                break
            later = [
                row_of(t, history.space) for t in storage.all_trials(study)[trial.number + 1 :]
            ]
            now = np.concatenate([history.seen, *(row[None] for row in later)])
            scheme = list(record["x"].values())
            # In a finished space there is nothing else: a scheme that was seen before stays.
            if _holds(seen, scheme) or not _holds(now, scheme):
                break
            seen = now
            record = self._drawn(study, history, trial, rng, seen)
            storage.store_record(study, trial, record)
        return record

    def _budget_asked(self, trial: FrozenTrial, budget: Budget) -> Budget:
        """Return the limits for a trial of which some choices were asked for; those win."""
        with contextlib.suppress(ValueError):  # too hard to tell is as good as none
            if budget.is_possible():
                return budget
        self._warn(
            f"asked for {trial.number}",
            f"the choices that trial {trial.number} was enqueued with break the budget "
            f"{' and '.join(self._limits)}; it is run as asked for, and what was left out of it "
            "is chosen to cost the least",
        )
        return budget.raised()

    def _drawn(
        self,
        study: Study,
        history: History,
        trial: FrozenTrial,
        rng: np.random.Generator,
        seen: Ints,
    ) -> dict[str, Any]:
        """Return the record of a new proposal that is, if possible, none of the (N, n) seen."""
        choices = enumerate(choices_of(trial, history.space).tolist())
        made = {slot: choice for slot, choice in choices if choice >= 0}
        around = self._fixed_in(study, history.space)
        fixed = {slot: choice for slot, choice in around.items() if slot not in made}
        budget = self._budget_given(history.space, fixed)
        if budget is not None and made:
            budget = self._budget_asked(trial, budget.holding(made))
        scheme, log_prob = None, None
        if self._replicates > 1 and not made and rng.random() < _AGAIN:
            scheme = history.promising(self._replicates, budget, fixed)
        if scheme is None:
            constraints = Constraints(seen, {**fixed, **made}, budget)
            scheme, log_prob = history.controller.propose(rng, constraints)
        return {
            "n": number_drawn_for(trial),
            "v": history.version,
            "lp": log_prob,
            "x": dict(zip(history.space, scheme.tolist(), strict=True)),
        }

    def _read(self, study: Study, number: int | None) -> History:
        """Return what the trials below `number` say; what all trials say for None."""
        trials = storage.all_trials(study)[:number]
        backend, study_id = storage.backend_of(study)
        histories = self._histories.setdefault(backend, {})
        history = histories.pop(study_id, None)
        if history is None or not history.fits(trials):
            history = self._new_history(study, batch=self._batch)
        history.read(trials)
        histories[study_id] = history  # not before: an error may have stopped it half-way
        if history.held_up >= self._batch:
            self._warn_of(trials[len(history.finished)], history.held_up)
        return history

    def _warn_of(self, blocking: FrozenTrial, held_up: int) -> None:
        """Say which unfinished trial holds up the learning, and what ends it.

        Once at the first batch, for beside other workers such a trial may well be alive; from many
        trials on once for each such trial.
        """
        number = blocking.number
        if blocking.state == TrialState.WAITING:
            self._warn(
                "held up",
                f"trial {number} is enqueued, and {held_up} finished "
                f"{'trial teaches' if held_up == 1 else 'trials after it teach'} nothing to any "
                "worker until it ends; the next trial that is asked for is it",
            )
            return
        self._warn(
            f"held up by {number}" if held_up >= _HELD_UP else "held up",
            f"trial {number} is {blocking.state.name}, and {held_up} finished "
            f"{'trial teaches' if held_up == 1 else 'trials after it teach'} nothing to any "
            "worker until it ends, as it will by itself if its process lives; if that is dead, "
            f"end it with study.tell({number}, state=optuna.trial.TrialState.FAIL), or go on with "
            f"it as optuna.trial.Trial(study, {storage.id_of(blocking)}); RDBStorage(..., "
            "heartbeat_interval=60) ends such trials by itself",
        )

    def _held(self, study: Study) -> History | None:
        backend, study_id = storage.backend_of(study)
        return self._histories.get(backend, {}).get(study_id)

    def _new_history(self, study: Study, *, batch: int) -> History:
        seed, values = self._seed_of(study), values_by(study, self._reward, self._weights)
        return History(lambda sizes: self._controller(sizes, seed), values, batch, self._space)

    def _controller(self, sizes: Sequence[int], seed: int) -> Controller:
        given = {"learning_rate": self._learning_rate, "weights": self._weights, **self._options}
        if self._preset == "paper":
            return PaperController(sizes, seed=seed, **given)
        return ActorCritic(sizes, **given)


def _holds(schemes: Ints, scheme: Sequence[int]) -> bool:
    """Say whether a scheme is one of (N, n)."""
    return bool(len(schemes) and (schemes == np.asarray(scheme)).all(axis=1).any())


def _as_key(choice: Any) -> Any:
    """Return a choice as a key of a dict."""
    try:
        hash(choice)
    except TypeError:
        return repr(choice)
    return choice


def _digest(content: object) -> str:
    """Return 16 hex digits for JSON content; other objects in it count by their `repr`."""
    text = json.dumps(content, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
