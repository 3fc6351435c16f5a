"""Trials that are not finished: left by dead processes, or still held by live ones."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import optuna
from optuna.trial import FrozenTrial, TrialState

from sat_optuna.processes import is_dead, worker_name
from sat_optuna.sampler.storage import POLICY_KEY, backend_of, id_of
from sat_optuna.search.space import WORKER_KEY

__all__ = ["Blocker", "blocking_trials", "release_stale", "stale_trials"]


@dataclass(frozen=True, slots=True)
class Blocker:
    """A RUNNING trial of a live worker, behind which others wait to be learned from.

    Attributes:
        number: of the trial.
        worker: the process that scores it, `host/pid/start`.
        waiting: numbers of the finished trials behind it, ascending.
    """

    number: int
    worker: str
    waiting: tuple[int, ...]

    def __str__(self) -> str:
        host, pid, _ = self.worker.split("/")
        return (
            f"trial {self.number} is being run by process {pid} of {host}, and the sampler learns "
            f"nothing from the finished trials {_spans(self.waiting)} until it ends"
        )


def stale_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the RUNNING trials whose worker is dead, in number order.

    One process at a time works on a study; so a trial without a worker's name was killed at birth,
    and one of another machine, an earlier container for example, was left behind.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [t for t in running if not _at_work(t)]


def release_stale(study: optuna.Study) -> list[int]:
    """Let the trials that dead processes left RUNNING wait, and return their numbers.

    A waiting trial keeps its number and its parameters. The next search asks it before it makes a
    new one, and finishes it as if nothing had happened: FAIL would lose its place in its batch.

    Those of other machines, and those that a program of somebody's own has asked for, are left to
    the next search. A trial without a worker and without a parameter was killed at birth: call
    this while none is being asked, as `StudyFolder.release_dead` does, which holds the locks.
    """
    backend, _ = backend_of(study)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    stale = [trial for trial in running if _is_left(trial)]
    for trial in stale:
        backend.set_trial_state_values(id_of(trial), TrialState.WAITING)
    return [trial.number for trial in stale]


def blocking_trials(study: optuna.Study) -> list[Blocker]:
    """Return the RUNNING trials of live workers that finished ones wait behind, in number order.

    None where the sampler is one of Optuna's, which learn from trials in any order.
    """
    trials = study.get_trials(deepcopy=False)
    if not any(POLICY_KEY in t.system_attrs for t in trials):
        return []
    finished = [t.number for t in trials if t.state.is_finished()]
    held = [t for t in trials if t.state == TrialState.RUNNING and _at_work(t)]
    blockers = (
        Blocker(t.number, t.user_attrs[WORKER_KEY], tuple(n for n in finished if n > t.number))
        for t in held
    )
    return [blocker for blocker in blockers if blocker.waiting]


def _is_left(trial: FrozenTrial) -> bool:
    """Whether a process of this machine left the trial for certain, by its end."""
    worker = trial.user_attrs.get(WORKER_KEY, "")
    return is_dead(worker) if worker else not trial.params


def _at_work(trial: FrozenTrial) -> bool:
    """Whether another process of this machine is scoring the trial."""
    worker = trial.user_attrs.get(WORKER_KEY, "")
    here = worker.partition("/")[0] == worker_name().partition("/")[0]
    return here and worker != worker_name() and not is_dead(worker)


def _spans(numbers: Iterable[int]) -> str:
    """Return ascending numbers with their runs drawn together: 4-7, 9."""
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in run] for _, run in runs]
    return ", ".join(f"{s[0]}-{s[-1]}" if len(s) > 1 else str(s[0]) for s in spans)
