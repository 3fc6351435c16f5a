"""What the sampler keeps in a study's storage: its settings, and a record for each trial.

This is the only file that touches what Optuna keeps private: a study's storage, the ids of
studies and trials, and what a `PartialFixedSampler` holds.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import hashlib
from typing import Any
from typing import TypeAlias

from optuna.samplers import PartialFixedSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FixedTrial
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from optuna.trial import TrialState


__all__ = [
    "POLICY_KEY",
    "SETTINGS_KEY",
    "SamplerSettingsError",
    "StoredSettings",
    "all_trials",
    "backend_of",
    "claim_study",
    "failing_if_new",
    "fixed_around",
    "given_to",
    "id_of",
    "seed_of_name",
    "store_record",
]

POLICY_KEY = "sat:policy"  # system attribute of a trial: the record of its proposal
SETTINGS_KEY = "sat:sampler"  # system attribute of a study: the settings of its sampler

StoredSettings: TypeAlias = dict[str, Any]  # JSON


class SamplerSettingsError(ValueError):
    """A study was begun with other settings of its sampler than those it is continued with."""


def seed_of_name(name: str) -> int:
    """Return the seed of a study of this name, where its sampler was given none.

    >>> seed_of_name("quickstart") == seed_of_name("quickstart") != seed_of_name("quickstart-2")
    True
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def claim_study(study: Study, settings: StoredSettings) -> None:
    """Store a sampler's settings with a study that has none, or compare them with the stored.

    The seed None stands for the seed of the study's name, and that number is stored: a study that
    is copied to another name is then not continued with another seed.

    Raises:
        SamplerSettingsError: the study was begun with others.
    """
    if settings["seed"] is None:
        settings = {**settings, "seed": seed_of_name(study.study_name)}
    backend, study_id = backend_of(study)
    if SETTINGS_KEY not in backend.get_study_system_attrs(study_id):
        backend.set_study_system_attr(study_id, SETTINGS_KEY, settings)
    # Another worker may have begun the study at the same moment.
    stored = backend.get_study_system_attrs(study_id)[SETTINGS_KEY]
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

    Optuna would leave the trial RUNNING, and its batch would wait for it.
    """
    try:
        yield
    except Exception:
        if not trial.params and POLICY_KEY not in trial.system_attrs:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        raise


def fixed_around(study: Study) -> dict[str, Any]:
    """Return what the `PartialFixedSampler`s around a study's sampler fix; the outermost wins.

    Such a sampler asks the one inside for a proposal and tells it nothing.
    """
    fixed: dict[str, Any] = {}
    sampler: Any = study.sampler
    while sampler is not None:
        if isinstance(sampler, PartialFixedSampler):
            fixed = {**sampler._fixed_params, **fixed}
        sampler = getattr(sampler, "_base_sampler", None)
    return fixed


def backend_of(study: Study) -> tuple[BaseStorage, int]:
    """Return the storage of a study and the study's id in it."""
    return study._storage, study._study_id


def given_to(trial: Trial | FixedTrial) -> Mapping[str, Any]:
    """Return the choices that a trial was enqueued with, or that a FixedTrial was made of."""
    if isinstance(trial, FixedTrial):
        return trial._params
    backend = getattr(trial, "storage", None)  # what wraps a trial need not have it
    given: Mapping[str, Any] = {}
    if backend is not None:
        given = backend.get_trial_system_attrs(trial._trial_id).get("fixed_params", {})
    return given


def id_of(trial: Trial | FrozenTrial) -> int:
    """Return the id of a trial in its storage, which is not its number."""
    return trial._trial_id


def all_trials(study: Study) -> list[FrozenTrial]:
    """Return all trials in number order, not copied; `Study.get_trials` may leave some out.

    A pruner such as Hyperband gives its samplers a study that shows a part of the trials.
    """
    backend, study_id = backend_of(study)
    return backend.get_all_trials(study_id, deepcopy=False)


def store_record(study: Study, trial: FrozenTrial, record: Mapping[str, Any]) -> None:
    """Store the record of a trial's proposal; the given trial stays as it is."""
    study._storage.set_trial_system_attr(trial._trial_id, POLICY_KEY, record)
