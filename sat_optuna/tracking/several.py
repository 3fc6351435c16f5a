"""Studies as optuna-dashboard shows them: those of one database, or of several at once.

What only the package reads, the attributes `sat:...`, is left out, and a trial's scheme comes
first. Of several databases the k-th of n gives its study or trial i the number i * n + k, and
studies of one name are told apart by a label; they can be read alone.
"""

import copy
import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from sat_optuna.errors import ServerError

__all__ = ["READ_ONLY", "FolderArtifacts", "SeveralArtifacts", "ShownStudies"]

READ_ONLY = (
    "several studies are shown at once, and so none of them can be changed; open the one to "
    "change alone, with: sat-optuna dashboard STUDY"
)
_OURS = "sat:"  # begins the keys of what only the package reads
_SETTINGS = "sat:sampler"
# Keys of a study's attributes that hold the id of a trial: its note, and older artifacts.
_OF_TRIAL = re.compile(r"dashboard:(artifacts:)?(\d+):")
_ARTIFACT = "artifacts:"
# Of a trial's attributes a page shows six at once, in this order; metrics have the rank 0.
_LATER = ("params", "macs", "latency_ms", "loss", "balanced_accuracy", "sparsity", "elementwise")
_RANK = {"scheme": -1, **{name: rank for rank, name in enumerate(_LATER, start=1)}}


class ShownStudies(BaseStorage):
    """The studies of one database, or of several, as optuna-dashboard shows them.

    What is written goes into the one database as it is. The limits of a search are shown as
    constraints of its trials: one that was enqueued and breaks a limit is then drawn as
    infeasible. They are not stored as constraints, because Optuna's `best_trial` and `best_trials`
    would leave such a trial out; and of what the sampler proposes, all keep the limits.

    Args:
        databases: Optuna's storages, by what tells them apart, a folder's name for example.
    """

    def __init__(self, databases: Mapping[str, BaseStorage]) -> None:
        self._labels = list(databases)
        # Of an RDBStorage finished trials are read once: optuna-dashboard by itself reads all of
        # them again every ten seconds.
        self._databases = [get_storage(database) for database in databases.values()]

    @property
    def is_one(self) -> bool:
        """Whether there is one database, which can be written."""
        return len(self._databases) == 1

    def _split(self, number: int) -> tuple[int, BaseStorage, int]:
        """Return the place of a study's or trial's database, that, and its own id there."""
        own, place = divmod(number, len(self._databases))
        return place, self._databases[place], own

    def _joined(self, place: int, own: int) -> int:
        return own * len(self._databases) + place

    def _renamed(self, place: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return a study's attributes with the ids of trials and artifacts as they are here."""
        if self.is_one:
            return dict(attributes)

        def of_trial(found: re.Match[str]) -> str:
            return f"dashboard:{found[1] or ''}{self._joined(place, int(found[2]))}:"

        renamed = {}
        for key, value in attributes.items():
            if key.startswith(_ARTIFACT):
                own = key.removeprefix(_ARTIFACT)
                renamed[f"{_ARTIFACT}{place:x}-{own}"] = value.replace(own, f"{place:x}-{own}")
            else:
                renamed[_OF_TRIAL.sub(of_trial, key, count=1)] = value
        return renamed

    @override
    def get_all_studies(self) -> list[FrozenStudy]:
        found = [
            (k, s) for k, shown in enumerate(self._databases) for s in shown.get_all_studies()
        ]
        count = Counter(study.study_name for _, study in found)
        for place, study in found:
            if count[study.study_name] > 1:
                study.study_name += f" ({self._labels[place]})"
            study.user_attrs = _readable(study.user_attrs)
            study.system_attrs = self._renamed(place, study.system_attrs)
            study._study_id = self._joined(place, study._study_id)
        return [study for _, study in found]

    @override
    def get_study_id_from_name(self, study_name: str) -> int:
        return {study.study_name: study._study_id for study in self.get_all_studies()}[study_name]

    @override
    def get_study_name_from_id(self, study_id: int) -> str:
        return {study._study_id: study.study_name for study in self.get_all_studies()}[study_id]

    @override
    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        _, database, own = self._split(study_id)
        return database.get_study_directions(own)

    @override
    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return all attributes of a study: when it is renamed, its copy gets them."""
        _, database, own = self._split(study_id)
        return database.get_study_user_attrs(own)

    @override
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        place, database, own = self._split(study_id)
        return self._renamed(place, database.get_study_system_attrs(own))

    def _shown(self, place: int, trial: FrozenTrial, limits: Mapping[str, float]) -> FrozenTrial:
        """Return a trial with readable attributes and, of a search with limits, constraints."""
        shown, attributes = copy.copy(trial), trial.user_attrs
        shown._trial_id = self._joined(place, trial._trial_id)
        shown.user_attrs = _readable(attributes)
        if limits and "scheme" in attributes:
            counted = {"connections": sum(c not in "0-" for c in attributes["scheme"])}
            values = {name: {**attributes, **counted}.get(name) for name in limits}
            over = [value - limits[name] for name, value in values.items() if value is not None]
            shown.system_attrs = {**trial.system_attrs, "constraints": over}
        return shown

    @override
    def get_trial(self, trial_id: int) -> FrozenTrial:
        place, database, own = self._split(trial_id)
        return self._shown(place, database.get_trial(own), {})

    @override
    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        place, database, own = self._split(study_id)
        settings = database.get_study_system_attrs(own).get(_SETTINGS, {})
        limits = {name: most for name, (most, *_) in settings.get("budget", {}).items()}
        trials = database.get_all_trials(own, deepcopy, states)
        return [self._shown(place, trial, limits) for trial in trials]

    @override
    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the best trial in short: a page lists all of its parameters in one paragraph."""
        place, database, own = self._split(study_id)
        best = self._shown(place, database.get_best_trial(own), {})
        if best.values:
            best.values = [float(f"{value:.6g}") for value in best.values]
        if scheme := best.user_attrs.get("scheme"):
            best.params = {"scheme": scheme}
            best.distributions = {"scheme": CategoricalDistribution((scheme,))}
        return best

    @property
    def _one(self) -> BaseStorage:
        """The database, if there is one alone.

        Raises:
            ServerError: there are several.
        """
        if not self.is_one:
            raise ServerError(READ_ONLY)
        return self._databases[0]

    @override
    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._one.create_new_study(directions, study_name)

    @override
    def delete_study(self, study_id: int) -> None:
        self._one.delete_study(study_id)

    @override
    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._one.set_study_user_attr(study_id, key, value)

    @override
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._one.set_study_system_attr(study_id, key, value)

    @override
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if template_trial is not None:  # of a study that is renamed: as it is stored, not as shown
            template_trial = self._one.get_trial(template_trial._trial_id)
        return self._one.create_new_trial(study_id, template_trial)

    @override
    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        self._one.set_trial_param(trial_id, param_name, param_value_internal, distribution)

    @override
    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        return self._one.set_trial_state_values(trial_id, state, values)

    @override
    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._one.set_trial_intermediate_value(trial_id, step, intermediate_value)

    @override
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._one.set_trial_user_attr(trial_id, key, value)

    @override
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._one.set_trial_system_attr(trial_id, key, value)


def _readable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes without those that only the package reads, the scheme and scores first."""
    kept = {k: v for k, v in attributes.items() if not k.startswith(_OURS)}
    return dict(sorted(kept.items(), key=lambda item: _RANK.get(item[0], 0)))


class FolderArtifacts(FileSystemArtifactStore):
    """The artifacts of a study, files in a folder; one that is gone already can be removed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact, that of a study which was copied without its files too."""
        try:
            super().remove(artifact_id)
        except ArtifactNotFound:
            return


class SeveralArtifacts:
    """The artifacts of several studies, for reading; `ShownStudies` says whose one is."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._stores = [FileSystemArtifactStore(folder) for folder in folders]

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact.

        Raises:
            ArtifactNotFound: it is not there.
        """
        place, _, own = artifact_id.partition("-")
        store = dict(enumerate(self._stores)).get(int(place, 16))
        if store is None:
            raise ArtifactNotFound(artifact_id)
        return store.open_reader(own)

    def write(self, artifact_id: str, content_body: BinaryIO) -> NoReturn:
        """Refuse to write."""
        del artifact_id, content_body
        raise ServerError(READ_ONLY)

    def remove(self, artifact_id: str) -> NoReturn:
        """Refuse to remove."""
        del artifact_id
        raise ServerError(READ_ONLY)
