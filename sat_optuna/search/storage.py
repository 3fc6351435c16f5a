"""Optuna's storage of a study: a SQLite file that is opened, and written, with one sentence."""

import copy
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from sat_optuna.errors import StudyError
from sat_optuna.files import sqlite_url
from sat_optuna.sampler.storage import backend_of
from sat_optuna.search import tables

__all__ = [
    "UUID_KEY",
    "SQLiteStorage",
    "open_storage",
    "place_of",
    "show_warnings_alone",
    "still_there",
    "together",
    "writing",
]


UUID_KEY = "sat:uuid"  # user attribute of a study: what it is, whatever it is called


@dataclass(slots=True)
class _Read:
    """The trials of a study, by id, as they were read last."""

    of: tuple[str, str | None] | None = None  # the study's name and uuid
    trials: dict[int, FrozenTrial] = field(default_factory=dict)
    first: int = 0  # the smallest id that may have changed since
    spaces: dict[str, BaseDistribution] = field(default_factory=dict)  # by parameter


class _Pending(threading.local):
    """What a thread has not written yet, and in how many blocks of `together` it is."""

    def __init__(self) -> None:
        self.rows: list[tables.Row] = []
        self.depth = 0


class SQLiteStorage(BaseStorage):
    """A file of Optuna's, as RDBStorage keeps it, with fewer and larger reads and writes.

    The file is the same, and any other process may use it at the same time. Finished trials are
    read once. A trial that is run by this process is kept in memory too, and is not read again
    until it has ended; another process that ends it is seen. Inside of `together` what is written
    of trials goes into one transaction. Threads may share it, each with transactions of its own,
    and a pickled copy opens the file itself. A process that is forked must call `open_storage`,
    for SQLite lets no connection be used on both sides of a fork.

    Args:
        rdb: Optuna's storage of the file.

    Attributes:
        path: of the file.
    """

    def __init__(self, rdb: RDBStorage) -> None:
        self.path = Path(rdb.engine.url.database or "")
        self._rdb = rdb
        # Held for single reads and writes, and never while a block of `together` runs: the block
        # may wait for a sampler's lock, and that sampler in another thread for this one.
        self._lock = threading.RLock()
        self._read: defaultdict[int, _Read] = defaultdict(_Read)
        self._run: dict[int, tuple[int, FrozenTrial]] = {}  # by id: study and trial, RUNNING here
        self._pending = _Pending()

    @override
    def __reduce__(self) -> "tuple[Callable[[RDBStorage], SQLiteStorage], tuple[RDBStorage]]":
        """Let a copy open the file, with all that this thread wrote in it."""
        with self._lock:
            self._flush()
        return _fast, (self._rdb,)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what the block writes of trials in one transaction: at its end, or earlier.

        Earlier is before other trials are read, for another process may be waiting to see these.
        A process that is killed before has written nothing of it. Each thread has its own blocks.
        """
        self._pending.depth += 1
        try:
            yield
        finally:
            self._pending.depth -= 1
            if not self._pending.depth:
                with self._lock:
                    self._flush()

    def _write(self, trial_id: int, row: tables.Row) -> None:
        study_id, trial = self._found(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        if trial.state is TrialState.RUNNING:
            self._run[trial_id] = study_id, tables.with_row(trial, row)
        else:  # it waits; it is read again when it is asked for
            self._read[study_id].trials.pop(trial_id, None)
        self._pending.rows.append(row)
        if not self._pending.depth:
            self._flush()

    def _flush(self) -> None:
        rows, self._pending.rows = self._pending.rows, []
        if not rows:
            return
        try:
            with self._rdb.engine.begin() as connection:
                tables.write(connection, rows)
        except Exception:
            for _, row in rows:
                self._run.pop(row["trial_id"], None)  # the file knows better
            raise

    def _found(self, trial_id: int) -> tuple[int, FrozenTrial]:
        """Return a trial and the id of its study: from memory where it cannot have changed.

        Raises:
            KeyError: there is no such trial.
        """
        if trial_id in self._run:
            return self._run[trial_id]
        for study_id, read in self._read.items():
            trial = read.trials.get(trial_id)
            if trial is not None and trial.state.is_finished():
                return study_id, trial
        with self._rdb.engine.connect() as connection:
            study_id, trial = tables.trials_of(connection, [trial_id])[trial_id]
        if trial.state.is_finished():
            self._read[study_id].trials[trial_id] = trial
        return study_id, trial

    def _refresh(self, study_id: int) -> None:
        """Read what is new of a study, and what other processes run."""
        with self._rdb.engine.connect() as connection:
            read = self._read_of(connection, study_id)
            states = tables.states_from(connection, study_id, read.first)
            self._forget_dead(study_id, states)
            changed = []
            for trial_id, state in states.items():
                known = read.trials.get(trial_id)
                if state is not TrialState.RUNNING:
                    self._run.pop(trial_id, None)  # it was ended, perhaps by another process
                    if known is None or known.state is not state:
                        changed.append(trial_id)
                elif trial_id not in self._run:
                    changed.append(trial_id)
            found = tables.trials_of(connection, changed)
        read.trials |= {trial_id: trial for trial_id, (_, trial) in found.items()}
        read.trials |= {t: self._run[t][1] for t in states if t in self._run}
        unfinished = (t for t, state in states.items() if not state.is_finished())
        read.first = min(unfinished, default=max(read.trials, default=0) + 1)

    def _read_of(self, connection: sqlalchemy.Connection, study_id: int) -> _Read:
        """Return what was read of a study: nothing, where it is another one of a deleted one's id.

        Raises:
            KeyError: there is no such study.
        """
        known = self._read[study_id]
        kept = ((t, trial) for t, trial in known.trials.items() if trial.state.is_finished())
        trial_id, finished = next(kept, (None, None))
        name, uuid, ended = tables.identity(connection, study_id, UUID_KEY, trial_id)
        other = known.of not in (None, (name, uuid))
        if other or (finished is not None and finished.datetime_complete != ended):
            self._forget(study_id)
        self._read[study_id].of = name, uuid
        return self._read[study_id]

    def _forget(self, study_id: int) -> None:
        self._read.pop(study_id, None)
        self._run = {t: kept for t, kept in self._run.items() if kept[0] != study_id}

    def _forget_dead(self, study_id: int, ids: Iterable[int]) -> None:
        """Forget the studies that had these ids of a study's trials: they were deleted."""
        had = {t for t, (of, _) in self._run.items() if of != study_id}
        dead = {self._run[t][0] for t in had.intersection(ids)}
        for other, read in self._read.items():
            if other != study_id and not read.trials.keys().isdisjoint(ids):
                dead.add(other)
        for other in dead:
            self._forget(other)

    @override
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = self._rdb.create_new_trial(study_id, template_trial)
        with self._lock:
            self._forget_dead(study_id, [trial_id])
        return trial_id

    @override
    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        with self._lock:
            study_id, _ = self._found(trial_id)
            spaces = self._read[study_id].spaces
            if param_name not in spaces:
                with self._rdb.engine.connect() as connection:
                    stored = tables.stored_space(connection, study_id, param_name)
                spaces[param_name] = stored or distribution
            check_distribution_compatibility(spaces[param_name], distribution)
            row = tables.parameter(trial_id, param_name, param_value_internal, distribution)
            self._write(trial_id, row)

    @override
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            self._write(trial_id, tables.attribute(trial_id, "user", key, value))

    @override
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            self._write(trial_id, tables.attribute(trial_id, "system", key, value))

    @override
    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self._lock:
            self._flush()
            self._rdb.set_trial_intermediate_value(trial_id, step, intermediate_value)
            self._run.pop(trial_id, None)  # it is read again

    @override
    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        with self._lock:
            self._flush()
            self._run.pop(trial_id, None)
            return self._rdb.set_trial_state_values(trial_id, state, values)

    @override
    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            if trial_id not in self._run:
                self._flush()
            _, trial = self._found(trial_id)
            return trial if trial.state.is_finished() else _copied(trial)

    @override
    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        with self._lock:
            self._flush()
            self._refresh(study_id)
            trials = self._read[study_id].trials.values()
            asked = [t for t in trials if states is None or t.state in states]
        asked.sort(key=lambda trial: trial.number)
        return copy.deepcopy(asked) if deepcopy else asked

    @override
    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with self._rdb.engine.connect() as connection:
            return tables.study_attributes(connection, study_id, "user")

    @override
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with self._rdb.engine.connect() as connection:
            return tables.study_attributes(connection, study_id, "system")

    # All else is Optuna's own.

    @override
    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._rdb.create_new_study(directions, study_name)

    @override
    def delete_study(self, study_id: int) -> None:
        with self._lock:
            self._rdb.delete_study(study_id)
            self._forget(study_id)

    @override
    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._rdb.set_study_user_attr(study_id, key, value)

    @override
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._rdb.set_study_system_attr(study_id, key, value)

    @override
    def get_study_id_from_name(self, study_name: str) -> int:
        return self._rdb.get_study_id_from_name(study_name)

    @override
    def get_study_name_from_id(self, study_id: int) -> str:
        return self._rdb.get_study_name_from_id(study_id)

    @override
    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._rdb.get_study_directions(study_id)

    @override
    def get_all_studies(self) -> list[Any]:
        return self._rdb.get_all_studies()

    @override
    def remove_session(self) -> None:
        self._rdb.remove_session()


def _fast(rdb: RDBStorage) -> SQLiteStorage:
    """Return our storage of a file, of whose connections each is opened by `_ready`."""
    sqlalchemy.event.listen(rdb.engine, "connect", _ready)
    rdb.engine.dispose()  # those that were opened before
    return SQLiteStorage(rdb)


def _ready(connection: Any, _record: object) -> None:
    """Let a connection sync the file once a checkpoint instead of at each write."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """Return a copy that its owner may write to, as Optuna's Trial does."""
    copied = copy.copy(trial)
    copied.params, copied.distributions = dict(trial.params), dict(trial.distributions)
    copied.user_attrs, copied.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
    copied.intermediate_values = dict(trial.intermediate_values)
    return copied


def together(study: optuna.Study) -> AbstractContextManager[None]:
    """Return `SQLiteStorage.together` of a study's storage; nothing for one of another kind."""
    backend, _ = backend_of(study)
    return backend.together() if isinstance(backend, SQLiteStorage) else nullcontext()


def place_of(storage: BaseStorage) -> str:
    """Return where a storage keeps its studies, for messages."""
    if isinstance(storage, RDBStorage):
        return str(storage.engine.url.database)
    return str(storage.path) if isinstance(storage, SQLiteStorage) else "this storage"


def open_storage(db: Path) -> "RDBStorage | SQLiteStorage":
    """Open a SQLite file: a long wait for locks, and one fsync a checkpoint instead of each write.

    A file whose tables a later Optuna has changed is kept by that Optuna's own storage.

    Raises:
        StudyError: it cannot be opened.
    """
    if db.exists() and not (_is_writable(db) and _is_writable(db.parent)):
        raise StudyError(
            f"cannot open {db}, for it or its folder is read-only and SQLite writes beside what "
            "it reads; copy the study to a disk that can be written, or make both writable"
        )
    options = {"connect_args": {"timeout": 60}}
    try:
        storage = RDBStorage(sqlite_url(db), engine_kwargs=options)
    except Exception as error:
        reason = str(error).splitlines()[0]
        damaged = any(
            words in reason for words in ("not a database", "malformed", "no such table")
        )
        remedy = (
            "bring it back from a copy, or move it away to begin the search anew"
            if damaged
            else "see to that and run the same command again, for what it holds is kept"
        )
        raise StudyError(f"cannot open {db} ({reason}); {remedy}") from error
    fast = _fast(storage)
    with storage.engine.connect() as connection:
        return fast if tables.are_known(connection) else storage


def _is_writable(place: Path) -> bool:
    return os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn a database that cannot be written, on a full disk for example, into one sentence.

    Args:
        name: of the study.

    Raises:
        StudyError: it cannot.
    """
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = error.__cause__ or error
        raise StudyError(
            f"cannot write the database of study {name!r} ({str(reason).splitlines()[0]}); what "
            "it held is kept: make room, or end what uses it, and run the same command again"
        ) from error


@contextmanager
def still_there(study: optuna.Study) -> Iterator[None]:
    """Turn a study that somebody deletes or renames while it is used into one sentence.

    optuna-dashboard renames a study by copying it and deleting the one there was.

    Raises:
        StudyError: it is gone.
    """
    name, storage = study.study_name, study._storage
    try:
        yield
    except KeyError as error:  # of Optuna's; or of a plugin, where the study is there
        if name in optuna.get_all_study_names(storage):
            raise
        raise StudyError(
            f"study {name!r} was deleted from its database, or renamed, while it was run; bring "
            "study.db back from a copy, or run the same command again: a renamed one goes on, and "
            "one that was deleted begins anew"
        ) from error


def show_warnings_alone() -> None:
    """Let Optuna print its warnings and errors, but not what it makes and finishes."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
