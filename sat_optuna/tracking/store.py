"""MLflow's store behind a few methods; only this file imports mlflow, and only inside functions.

It uses MlflowClient, and not MLflow's fluent functions, whose active run is a hidden global.
"""

import contextlib
import json
import logging
import os
import re
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from sat_optuna.errors import SatOptunaError, errors_as, one_line, readable
from sat_optuna.files import check_writable, sqlite_url, write_text
from sat_optuna.tracking.limits import BATCH, NAME, PARAM, POINTS, TAG, cut, finite, keys_of
from sat_optuna.tracking.views import has_view
from sat_optuna.tracking.whole_runs import Point, WholeRun, write_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

__all__ = [
    "MLFLOW_SETTINGS",
    "RunStore",
    "StoreLockedError",
    "TrackingError",
    "UsedData",
    "bring_artifacts",
    "check_store",
    "store_file",
    "store_uri",
    "studies_in",
    "titles_of",
]

# Environment variables that MLflow reads. A value that the user has set is not changed.
MLFLOW_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        # With MLflow's own 120 s, 7 retries and waits that the server chooses, a lost server would
        # hold up a search for minutes at each trial; here what it does not take is logged later.
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    }
)
_PLACES = (  # table and column of each path below that of an experiment
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_STUDY = "sat.study_uuid"  # the tag of an experiment that says whose it is


@dataclass(frozen=True, slots=True)
class UsedData:
    """The data of a study, as MLflow shows them.

    Attributes:
        name: of the data set.
        fingerprint: of its bytes and its parts.
        source: where it is from, in words.
        images: how many each part has, by name.
    """

    name: str
    fingerprint: str
    source: str
    images: Mapping[str, int] = field(default_factory=dict)


class TrackingError(SatOptunaError, RuntimeError):
    """MLflow's store cannot be read or written; the study itself is complete."""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what}; {advice}" if advice else what)
        self.what = readable(what)


class StoreLockedError(TrackingError):
    """Another process holds MLflow's database, for a while."""


def store_uri(root: str | Path) -> str:
    """Return the URI of MLflow's runs: MLFLOW_TRACKING_URI if it is set, else root/mlflow.db."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(_database(root))


def store_file(root: str | Path) -> Path | None:
    """Return the SQLite file that holds MLflow's runs; None where they are kept elsewhere."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if not (uri := os.environ.get("MLFLOW_TRACKING_URI")):
        return _database(root)
    with contextlib.suppress(ArgumentError):
        url = make_url(uri)
        if url.get_backend_name() == "sqlite" and url.database:
            return Path(url.database)
    return None


# Experiments of studies; those of earlier versions are known by their runs.
_OURS = (
    "experiment_id IN (SELECT experiment_id FROM experiment_tags WHERE key = 'sat.study_uuid')"
    " OR experiment_id IN"
    " (SELECT experiment_id FROM runs JOIN tags USING (run_uuid) WHERE tags.key = 'sat.kind')"
)


def bring_artifacts(root: str | Path) -> None:
    """Correct where artifacts lie, in a project that was moved or copied: in root/artifacts.

    MLflow stores absolute paths and has no command to change them. Without this a copied project
    would show the old one's artifacts, and write to its folder.

    Args:
        root: the folder that holds mlflow.db.
    """
    here = (Path(root).resolve() / "artifacts").as_uri()
    with contextlib.closing(sqlite3.connect(_database(root), timeout=60)) as connection:
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'experiments'"
        ).fetchone():
            return
        located = f"SELECT artifact_location FROM experiments WHERE {_OURS}"
        for (old,) in connection.execute(located).fetchall():
            folder, _, name = (old or "").rpartition("/artifacts/")
            if not folder.startswith("file:") or "/" in name or old == f"{here}/{name}":
                continue
            with connection:
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?",
                    (f"{here}/{name}", old),
                )
                for table, column in _PLACES:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                        f" WHERE substr({column}, 1, ?) = ?",
                        (f"{here}/{name}", len(old) + 1, len(old) + 1, f"{old}/"),
                    )


def check_store(root: str | Path) -> None:
    """Make sure, without importing MLflow, that a file of runs can be written and is a database.

    A server is not asked.

    Raises:
        TrackingError: it cannot, or is none.
        WriteError: its folder cannot be written.
    """
    if (file := store_file(root)) is None:
        return
    check_writable(file)
    if file.exists():
        remedy = "bring it back from a copy, or add --no-mlflow to go on without"
        with errors_as(TrackingError, f"cannot read MLflow's store {file}", remedy):
            _check_database(file)


def _check_database(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


class RunStore:
    """The runs of one MLflow store.

    Calls are made inside `guarded`, which turns each failure of MLflow into one sentence.
    """

    def __init__(self, root: str | Path) -> None:
        """Connect to the store; root/mlflow.db is made if it is missing.

        Raises:
            TrackingError: the store cannot be made, read or reached.
        """
        self.uri = store_uri(root)
        self._root = Path(root).resolve()
        self._folders: dict[str, str] = {}  # by run, of those made here: where its artifacts lie
        for name, value in MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        with self.guarded("open the log"):
            self._client = _connect(self.uri, _database(root))
            if store_file(root) == _database(root):
                bring_artifacts(root)

    @contextlib.contextmanager
    def guarded(self, doing: str) -> Iterator[None]:
        """Raise MLflow's failures inside the block as TrackingError("cannot {doing} in ...")."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        known = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
        try:
            yield
        except SatOptunaError:
            raise
        except Exception as error:  # artifacts may lie anywhere, behind anybody's code
            said = str(error) if isinstance(error, known) else one_line(error)
            if "(Caused by " in said:  # after a server's address, told three times over
                said = said.rpartition("(Caused by ")[2].rstrip(")'\"")
            reason = said.partition("\n")[0].strip().rstrip(".")[:300]
            what = f"cannot {doing} in MLflow's store {self.uri}: {reason}"
            advice = (
                "the study itself has lost nothing: run the same command again, or add "
                "--no-mlflow to go on without"
            )
            kind = StoreLockedError if "database is locked" in reason else TrackingError
            raise kind(what, advice) from error

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client of this store, for calls inside `guarded`."""
        return self._client

    def experiment(self, name: str, uuid: str, *, place: str = "") -> str:
        """Return the id of a study's own experiment, which is made if it is missing.

        It is known by its tag, also where it was renamed. The first study of a name gives it that
        name. That of another one is called NAME (PLACE), and where that is taken as well, or no
        place is given, NAME with the first letters of the study's uuid. Its artifacts are in a
        folder of that name in root/artifacts, unless a tracking server keeps them.

        Args:
            name: of the study.
            uuid: of the study.
            place: tells the study from others of its name, the name of its project for example.
        """
        for found in self._of_studies():
            if found.tags[_STUDY] == uuid:
                return self._active(found)
        titles = titles_of(name, uuid, place)
        for title in titles:
            named = self._client.get_experiment_by_name(title)
            if named is None:
                served = re.match(r"https?:|databricks|uc:", self.uri)
                location = None if served else self._artifacts(title)
                return self._client.create_experiment(title, location, {_STUDY: uuid})
            if not self._is_of_another(named, uuid):
                self._client.set_experiment_tag(self._active(named), _STUDY, uuid)
                return str(named.experiment_id)
        raise TrackingError(
            f"experiment {titles[-1]} of MLflow's store {self.uri} is of another study",
            "rename it there, or add --no-mlflow to go on without",
        )

    def _of_studies(self) -> "Iterator[Experiment]":
        """Yield the experiments that say whose they are, those deleted too."""
        from mlflow.entities import ViewType

        token: str | None = None
        while True:
            page = self._client.search_experiments(
                ViewType.ALL, filter_string=f"tags.`{_STUDY}` != ''", page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _is_of_another(self, found: "Experiment", uuid: str) -> bool:
        """Tell whether another study has logged to an experiment, and this one has not.

        Earlier versions wrote no tag, and all studies of a name into one experiment.
        """
        if _STUDY in found.tags:
            return True
        parents = self.runs(found.experiment_id, "tags.`sat.kind` = 'study'")
        uuids = {run.data.tags.get("sat.study_uuid") for run in parents}
        return bool(uuids) and uuid not in uuids

    def _active(self, found: "Experiment") -> str:
        if found.lifecycle_stage != "active":
            # Without the variable, MLflow's own command looks at ./mlflow.db.
            told = (
                ""
                if "MLFLOW_TRACKING_URI" in os.environ
                else f"MLFLOW_TRACKING_URI={shlex.quote(self.uri)} "
            )
            command = f"{told}mlflow experiments restore --experiment-id {found.experiment_id}"
            raise TrackingError(
                f"experiment {found.name} was deleted in MLflow (bring it back with: {command})",
                "or add --no-mlflow to go on without",
            )
        return str(found.experiment_id)

    def experiments(self) -> list[str]:
        """Return the ids of all experiments."""
        return [str(found.experiment_id) for found in self._client.search_experiments()]

    def studies(self) -> dict[str, str]:
        """Return the ids of the experiments of studies by name; the one made last comes first."""
        found = self._client.search_experiments(order_by=["creation_time DESC"])
        return {e.name: str(e.experiment_id) for e in found if has_view(e.tags)}

    def runs(self, experiment: str, filters: str) -> "Iterator[Run]":
        """Yield the runs that a filter of MLflow's finds, the oldest first."""
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [experiment], filters, order_by=["attributes.start_time ASC"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def create(
        self, experiment: str, name: str, tags: Mapping[str, str], started_ms: int | None = None
    ) -> "Run":
        """Make a run with the status RUNNING; return it."""
        tags, name = _tags_of_run(tags), cut(name, NAME)
        made = self._client.create_run(experiment, start_time=started_ms, tags=tags, run_name=name)
        self._folders[made.info.run_id] = made.info.artifact_uri
        return made

    def create_whole(self, experiment: str, run: WholeRun) -> str | None:
        """Make a run that has ended, at once; return its id, or None where that cannot be done.

        Then the same is done step by step: `create`, `write_text`, `write`, `end`.

        Args:
            experiment: its id.
            run: of any keys and lengths, as they are given to the others.
        """
        if (file := store_file(self._root)) is None:
            return None
        params, points = _taken(run.params, run.points)
        tags, name = _tags_of_run(run.tags), cut(run.name, NAME)
        taken = replace(run, name=name, tags=tags, params=params, points=points)
        return write_whole(file, experiment, taken)

    def resume(self, run_id: str) -> None:
        """Set a run RUNNING again."""
        self._client.update_run(run_id, status="RUNNING")

    def end(self, run_id: str, status: str, ended_ms: int | None = None) -> None:
        """End a run with the status FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run_id, status, ended_ms)

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run."""
        return dict(self._client.get_run(run_id).data.tags)

    def write_text(self, run_id: str, file: str, text: str) -> None:
        """Write a text as an artifact of a run; an artifact of that name is replaced."""
        folder = urlsplit(self._folders.get(run_id, ""))
        if folder.scheme != "file":
            self._client.log_text(run_id, text, file)
            return
        # MLflow would read the whole run for the folder, which takes longer than all else here.
        path = Path(url2pathname(folder.path)) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)

    def write_file(self, run_id: str, path: Path, folder: str = "") -> None:
        """Copy a file into a folder of a run's artifacts; one of that name is replaced."""
        self._client.log_artifact(run_id, str(path), folder or None)

    def write_dataset(self, run_id: str, dataset: UsedData) -> None:
        """Say which data a run used; the same again changes nothing."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        known = Dataset(
            name=dataset.name,
            digest=dataset.fingerprint[:36],  # all that MLflow stores
            source_type="code",
            source=json.dumps({"tags": {"mlflow.source.name": dataset.source}}),
            profile=json.dumps(dict(dataset.images)),
        )
        used = DatasetInput(known, [InputTag("mlflow.data.context", "training")])
        self._client.log_inputs(run_id, [used])

    def describe(self, experiment: str, tags: Mapping[str, str]) -> None:
        """Write tags of an experiment, where they are not the same already."""
        known = self._client.get_experiment(experiment).tags
        for key, text in tags.items():
            if known.get(key) != text:
                self._client.set_experiment_tag(experiment, key, text)

    def experiment_tags(self, experiment: str) -> dict[str, str]:
        """Return the tags of an experiment."""
        return dict(self._client.get_experiment(experiment).tags)

    def write(
        self,
        run_id: str,
        *,
        params: Mapping[str, object],
        points: Sequence[Point] = (),
        tags: Mapping[str, str],
    ) -> None:
        """Write in as few batches as MLflow's limits allow; the last one holds the tags.

        Args:
            run_id: the run.
            params: settings; MLflow does not allow to change them later.
            points: the metrics. A point that is there already is not written twice.
            tags: at most 100.
        """
        from mlflow.entities import Metric, Param, RunTag

        settings, numbers = _taken(params, points)
        rows = [Param(key, value) for key, value in settings.items()]
        metrics = [Metric(*point) for point in numbers]
        texts = [RunTag(key, cut(text, TAG)) for key, text in tags.items()]
        last = max((len(rows) - 1) // BATCH, (len(metrics) - 1) // POINTS, 0)
        for i in range(last + 1):
            self._client.log_batch(
                run_id,
                metrics=metrics[i * POINTS : (i + 1) * POINTS],
                params=rows[i * BATCH : (i + 1) * BATCH],
                tags=texts if i == last else [],
            )

    def _artifacts(self, name: str) -> str:
        # A study's name may contain a slash or be "..", which must not lead out of the folder.
        folder = quote(name, safe=" ()").lstrip(".") or "study"
        return (self._root / "artifacts" / folder).as_uri()


def _tags_of_run(tags: Mapping[str, str]) -> dict[str, str]:
    taken = {key: cut(text, TAG) for key, text in tags.items()}
    return {**taken, "mlflow.source.name": "sat-optuna"}


def _taken(
    params: Mapping[str, object], points: Sequence[Point]
) -> tuple[dict[str, str], list[Point]]:
    """Return params and points with keys and values that MLflow takes."""
    keys = keys_of(params)
    settings = {keys[key]: cut(value, PARAM) for key, value in params.items()}
    keys = keys_of(dict.fromkeys(key for key, *_ in points))
    return settings, [(keys[key], finite(value), at, step) for key, value, at, step in points]


def studies_in(root: str | Path) -> dict[str, str]:
    """Return the ids of the experiments of studies by name; the one made last comes first.

    Raises:
        TrackingError: the store cannot be read or reached.
    """
    store = RunStore(root)
    with store.guarded("look for studies"):
        return store.studies()


def titles_of(name: str, uuid: str, place: str = "") -> list[str]:
    """Return what a study may be called in a store, best first, where others may have its name.

    >>> titles_of("mine", "4f3c9a1e-77", "home")
    ['mine', 'mine (home)', 'mine (4f3c9a1e)']

    Args:
        name: of the study.
        uuid: of the study.
        place: tells the study from others of its name; "" for none.
    """
    return [name, *([f"{name} ({place})"] if place else []), f"{name} ({uuid[:8]})"]


def _database(root: str | Path) -> Path:
    return Path(root).resolve() / "mlflow.db"


def _connect(uri: str, database: Path) -> "MlflowClient":
    from mlflow import MlflowClient

    # This logger prints a traceback for each failure, which the user gets as one sentence.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if uri == sqlite_url(database):
        if not database.exists():
            _make_database(database)
        # MLflow itself would try for minutes to open a file that is no database.
        _check_database(database)
        _keep_journal(database)
    # The registry that a program may have chosen for all of MLflow is not this study's.
    return MlflowClient(uri, os.environ.get("MLFLOW_REGISTRY_URI") or uri)


@cache
def _keep_journal(database: Path) -> None:
    """Let this process's connections to a database keep its journal file, emptied.

    SQLite would make and remove the file at each of MLflow's commits, seven a trial, and that
    takes more than the commits themselves. Other processes write as they are used to.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def on_connect(connection: object, _record: object) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return
        _, _, file = connection.execute("PRAGMA database_list").fetchone()
        if file == str(database):
            connection.execute("PRAGMA journal_mode = PERSIST")

    event.listen(Engine, "connect", on_connect)


def _make_database(database: Path) -> None:
    # Making the tables takes seconds. In that time a killed process would leave half of them, and
    # a second process would make them as well. So they are made in another file, which then gets
    # the name by a link. Unlike a rename, a link never replaces what another process has made.
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=database.parent) as folder:
        made = Path(folder) / database.name
        artifacts = (database.parent / "artifacts").as_uri()
        store = SqlAlchemyStore(sqlite_url(made), artifacts)  # type: ignore[no-untyped-call]
        store.engine.dispose()
        with contextlib.suppress(FileExistsError):
            database.hardlink_to(made)
