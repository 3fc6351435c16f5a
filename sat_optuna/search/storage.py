"""Optuna's storage of a study: a SQLite file that is opened, and written, with one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from sat_optuna.errors import StudyError
from sat_optuna.files import sqlite_url

__all__ = ["open_storage", "show_warnings_alone", "still_there", "writing"]


def open_storage(db: Path) -> RDBStorage:
    """Open a SQLite file: a long wait for locks, and one fsync a checkpoint instead of each write.

    A search writes once a parameter; see the measured cost of a commit in Optuna's own storage.

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

    def fast(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    sqlalchemy.event.listen(storage.engine, "connect", fast)
    storage.engine.dispose()
    return storage


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
