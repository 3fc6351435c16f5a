"""Runs that have ended, written whole into MLflow's SQLite file: each in one transaction.

MLflow's client takes three calls and seven commits for what is one run here, and with the choices
of 54 blocks most of what a trial costs. What it writes are rows of five tables; they are written
here as they stand in the schema of `REVISION`, MLflow 3.17's. Of any other schema nothing is
known, and the client writes. So a run is in the file whole or not at all, also after a kill -9.
"""

import math
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

from sat_optuna.files import write_text

__all__ = ["REVISION", "Point", "WholeRun", "write_whole"]

REVISION = "dc11669786a5"  # of the schema that is known here
_BUSY_S = 20.0  # what MLflow waits for another process's transaction

Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRun:
    """All that a run consists of.

    Attributes:
        name: the run's name.
        status: FINISHED or FAILED.
        started_ms, ended_ms: milliseconds since 1970.
        tags, params: by key.
        points: the metrics.
        text: file name and text of an artifact, or None.
    """

    name: str
    status: str
    started_ms: int
    ended_ms: int
    tags: Mapping[str, str]
    params: Mapping[str, object]
    points: Sequence[Point]
    text: tuple[str, str] | None = None


def write_whole(database: Path, experiment: str, run: WholeRun) -> str | None:
    """Write a run into an experiment; return its id, or None where the client has to write it.

    That is where the file has another schema, the experiment is not active, or its artifacts do
    not lie in a folder of this machine.

    Args:
        database: MLflow's file.
        experiment: the id of one of it.
        run: its keys and texts as MLflow takes them.

    Raises:
        sqlite3.Error: the file is locked, or cannot be written.
        OSError: the artifact cannot be written.
    """
    run_id = uuid4().hex
    with closing(sqlite3.connect(database, timeout=_BUSY_S)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = PERSIST")  # as of all our connections to it
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("SELECT version_num FROM alembic_version").fetchall() != [
            (REVISION,)
        ]:
            return None
        found = connection.execute(
            "SELECT artifact_location FROM experiments"
            " WHERE experiment_id = ? AND lifecycle_stage = 'active'",
            (int(experiment),),
        ).fetchone()
        if found is None or not (found[0] or "").startswith("file:"):
            return None
        artifacts = f"{found[0]}/{run_id}/artifacts"
        if run.text is not None:
            path = Path(url2pathname(urlsplit(artifacts).path)) / run.text[0]
            path.parent.mkdir(parents=True)
            write_text(path, run.text[1])
        _insert(connection, run_id, int(experiment), artifacts, run)
    return run_id


def _insert(
    connection: sqlite3.Connection, run_id: str, experiment: int, artifacts: str, run: WholeRun
) -> None:
    connection.execute(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id,"
        " status, start_time, end_time, source_version, lifecycle_stage, artifact_uri,"
        " experiment_id) VALUES (?, ?, 'UNKNOWN', '', '', 'unknown', ?, ?, ?, '', 'active', ?, ?)",
        (run_id, run.name, run.status, run.started_ms, run.ended_ms, artifacts, experiment),
    )
    tags = {**run.tags, "mlflow.runName": run.name}
    for table, values in (("tags", tags), ("params", run.params)):
        connection.executemany(
            f"INSERT INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)",
            [(key, value, run_id) for key, value in values.items()],
        )
    rows = [(key, *_stored(value), at, step, run_id) for key, value, at, step in run.points]
    latest: dict[str, tuple[object, ...]] = {}
    for row in sorted(rows, key=lambda row: (row[4], row[3], row[1])):  # step, time, value
        latest[row[0]] = row
    for table, kept in (("metrics", dict.fromkeys(rows)), ("latest_metrics", latest.values())):
        connection.executemany(
            f"INSERT INTO {table} (key, value, is_nan, timestamp, step, run_uuid)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            list(kept),
        )


def _stored(value: float) -> tuple[float, int]:
    """Return how MLflow stores a number: its finite stand-in, and whether it is no number."""
    if math.isnan(value):
        return 0.0, 1
    return max(-sys.float_info.max, min(sys.float_info.max, value)), 0
