"""Optuna's storage of a study: a SQLite file that is opened, and written, with one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from sat_optuna.errors import StudyError
from sat_optuna.files import sqlite_url

__all__ = ["open_storage", "show_warnings_alone", "writing"]


def open_storage(db: Path) -> RDBStorage:
    """Open a SQLite file: a long wait for locks, and one fsync a checkpoint instead of each write.

    A search writes once a parameter; see the measured cost of a commit in Optuna's own storage.

    Raises:
        StudyError: it cannot be opened.
    """
    options = {"connect_args": {"timeout": 60}}
    try:
        storage = RDBStorage(sqlite_url(db), engine_kwargs=options)
    except Exception as error:
        raise StudyError(
            f"cannot open {db} ({str(error).splitlines()[0]}); is it a study's database on a disk "
            "with room? restore it, or move it away to start the search again"
        ) from error

    def fast(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    sqlalchemy.event.listen(storage.engine, "connect", fast)
    storage.engine.dispose()
    return storage


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


def show_warnings_alone() -> None:
    """Let Optuna print its warnings and errors, but not what it makes and finishes."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
