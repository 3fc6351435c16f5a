"""Optuna's tables in a SQLite file, read and written many rows at a time.

RDBStorage makes an object of each row and looks each trial up again for each of its parameters: 54
blocks cost it 2 ms to read and 80 ms to write a trial, most of it in Python. This is the only file
that knows the tables; what it reads and writes is compared with RDBStorage's in the tests. Their
form is Optuna's to change: `are_known` tells whether it is the one that this file was written for.
"""

import copy
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeAlias

from optuna.distributions import (
    BaseDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import DateTime, TableClause, column, select, table
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

__all__ = [
    "Row",
    "are_known",
    "attribute",
    "identity",
    "parameter",
    "states_from",
    "stored_space",
    "study_attributes",
    "trials_of",
    "with_row",
    "write",
]

_STUDIES = table("studies", column("study_id"), column("study_name"))
_TRIALS = table(
    "trials",
    *map(column, ("trial_id", "number", "study_id", "state")),
    column("datetime_start", DateTime),
    column("datetime_complete", DateTime),
)
_PARAMS = table(
    "trial_params", *map(column, ("trial_id", "param_name", "param_value", "distribution_json"))
)
_VALUES = table("trial_values", *map(column, ("trial_id", "objective", "value", "value_type")))
_REPORTS = table(
    "trial_intermediate_values",
    *map(column, ("trial_id", "step", "intermediate_value", "intermediate_value_type")),
)
_ATTRIBUTES = {
    whose: table(f"{whose}_attributes", *map(column, (f"{of}_id", "key", "value_json")))
    for of in ("study", "trial")
    for whose in (f"{of}_user", f"{of}_system")
}

_AT_ONCE = 500  # trials a query; SQLite takes some thousand variables
_SPECIAL = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}

_FORM, _KNOWN = table("alembic_version", column("version_num")), "v3.2.0.a"

Row: TypeAlias = tuple[TableClause, dict[str, Any]]


def are_known(connection: Connection) -> bool:
    """Tell whether the tables have the form that this file knows."""
    return connection.execute(select(_FORM.c.version_num)).scalar() == _KNOWN


def study_attributes(connection: Connection, study_id: int, whose: str) -> dict[str, Any]:
    """Return the attributes of a study, of "user" or "system".

    Raises:
        KeyError: there is no such study.
    """
    _check_study(connection, study_id)
    part = _ATTRIBUTES[f"study_{whose}"]
    rows = connection.execute(select(part).where(part.c.study_id == study_id))
    return {key: json.loads(text) for _, key, text in rows}


def identity(
    connection: Connection, study_id: int, key: str, trial_id: int | None
) -> tuple[str, str | None, datetime | None]:
    """Return what tells a study from a later one, to which SQLite gives the ids of a deleted one.

    Args:
        connection: to the file.
        study_id: of the study.
        key: of a user attribute.
        trial_id: of a trial.

    Returns:
        The study's name, its attribute as JSON, and the end of its trial; None where it has none.

    Raises:
        KeyError: there is no such study.
    """
    attributes = _ATTRIBUTES["study_user"]
    query = (
        select(_STUDIES.c.study_name, attributes.c.value_json, _TRIALS.c.datetime_complete)
        .outerjoin_from(
            _STUDIES,
            attributes,
            (attributes.c.study_id == _STUDIES.c.study_id) & (attributes.c.key == key),
        )
        .outerjoin(
            _TRIALS,
            (_TRIALS.c.study_id == _STUDIES.c.study_id) & (_TRIALS.c.trial_id == trial_id),
        )
        .where(_STUDIES.c.study_id == study_id)
    )
    found = connection.execute(query).first()
    if found is None:
        raise _gone(study_id)
    name, text, ended = found
    return name, text, _local(ended)


def states_from(connection: Connection, study_id: int, trial_id: int) -> dict[int, TrialState]:
    """Return by id the states of a study's trials from this one on."""
    query = select(_TRIALS.c.trial_id, _TRIALS.c.state).where(
        _TRIALS.c.study_id == study_id, _TRIALS.c.trial_id >= trial_id
    )
    return {found: TrialState[state] for found, state in connection.execute(query)}


def _check_study(connection: Connection, study_id: int) -> None:
    query = select(_STUDIES).where(_STUDIES.c.study_id == study_id)
    if connection.execute(query).first() is None:
        raise _gone(study_id)


def _gone(study_id: int) -> KeyError:
    return KeyError(f"there is no study of the id {study_id}; it was deleted perhaps")


def trials_of(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[int, FrozenTrial]]:
    """Return by id the study's id and the trial, of those that exist."""
    found: dict[int, tuple[int, FrozenTrial]] = {}
    for first in range(0, len(ids), _AT_ONCE):
        found |= _some_trials(connection, ids[first : first + _AT_ONCE])
    return found


def _some_trials(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[int, FrozenTrial]]:
    def rows(part: TableClause, by: str = "trial_id") -> Iterable[Any]:
        query = select(part).where(part.c.trial_id.in_(ids)).order_by(column(by))
        return connection.execute(query)

    def attributes(whose: str) -> dict[int, dict[str, Any]]:
        held: dict[int, dict[str, Any]] = defaultdict(dict)
        for trial_id, key, text in rows(_ATTRIBUTES[f"trial_{whose}"], by="key"):
            held[trial_id][key] = json.loads(text)
        return held

    # The states first: what a finished trial has was written before its state, by any process.
    trials = list(rows(_TRIALS))
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    spaces: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    for trial_id, name, value, text in rows(_PARAMS, by="param_id"):  # as they were asked for
        spaces[trial_id][name] = distribution = _distribution(text)
        params[trial_id][name] = distribution.to_external_repr(value)
    values, reports = _numbers(rows(_VALUES)), _numbers(rows(_REPORTS))
    user, system = attributes("user"), attributes("system")
    return {
        trial_id: (
            study_id,
            FrozenTrial(
                number=number,
                state=TrialState[state],
                value=None,
                values=[value for _, value in sorted(values[trial_id].items())] or None,
                datetime_start=_local(started),
                datetime_complete=_local(ended),
                params=params[trial_id],
                distributions=spaces[trial_id],
                user_attrs=user[trial_id],
                system_attrs=system[trial_id],
                intermediate_values=reports[trial_id],
                trial_id=trial_id,
            ),
        )
        for trial_id, number, study_id, state, started, ended in trials
    }


def _numbers(rows: Iterable[Any]) -> dict[int, dict[int, float]]:
    """Return by trial and place the numbers of rows; SQLite has no NaN, and Optuna no infinity."""
    held: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, place, value, kind in rows:
        held[trial_id][place] = _SPECIAL.get(kind, value)
    return held


@lru_cache(maxsize=4096)  # the same few texts are in each trial
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _local(moment: datetime | None) -> datetime | None:
    """Return a stored moment, which is in UTC, in this machine's time, as Optuna does."""
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def stored_space(connection: Connection, study_id: int, name: str) -> BaseDistribution | None:
    """Return the distribution that a study's trials have stored for a parameter, if any has."""
    query = (
        select(_PARAMS.c.distribution_json)
        .join(_TRIALS, _TRIALS.c.trial_id == _PARAMS.c.trial_id)
        .where(_TRIALS.c.study_id == study_id, _PARAMS.c.param_name == name)
        .limit(1)
    )
    text = connection.execute(query).scalar()
    return None if text is None else _distribution(text)


def parameter(trial_id: int, name: str, internal: float, distribution: BaseDistribution) -> Row:
    """Return the row of a trial's parameter; of one that is there already the first is kept."""
    row = {
        "trial_id": trial_id,
        "param_name": name,
        "param_value": internal,
        "distribution_json": distribution_to_json(distribution),
    }
    return _PARAMS, row


def attribute(trial_id: int, whose: str, key: str, value: Any) -> Row:
    """Return the row of a trial's attribute, which replaces one of its key.

    Args:
        trial_id: of the trial.
        whose: "user" or "system".
        key: of the attribute.
        value: can be written as JSON.
    """
    row = {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
    return _ATTRIBUTES[f"trial_{whose}"], row


def with_row(trial: FrozenTrial, row: Row) -> FrozenTrial:
    """Return a trial as it is read after its row was written; the given one stays as it is."""
    part, values = row
    changed = copy.copy(trial)
    if part is _PARAMS:
        name, distribution = values["param_name"], _distribution(values["distribution_json"])
        value = distribution.to_external_repr(values["param_value"])
        changed.params = {**trial.params, name: trial.params.get(name, value)}
        first = trial.distributions.get(name, distribution)
        changed.distributions = {**trial.distributions, name: first}
    else:
        held = {values["key"]: json.loads(values["value_json"])}
        if part is _ATTRIBUTES["trial_user"]:
            changed.user_attrs = trial.user_attrs | held
        else:
            changed.system_attrs = {**trial.system_attrs, **held}
    return changed


def write(connection: Connection, rows: Iterable[Row]) -> None:
    """Write rows in their order.

    Raises:
        KeyError: there is no such trial.
        optuna.exceptions.UpdateFinishedTrialError: a trial is finished.
    """
    by_table: dict[TableClause, list[dict[str, Any]]] = defaultdict(list)
    for part, row in rows:
        by_table[part].append(row)
    written = {row["trial_id"] for several in by_table.values() for row in several}
    query = select(_TRIALS.c.trial_id, _TRIALS.c.state).where(_TRIALS.c.trial_id.in_(written))
    states = {trial_id: TrialState[state] for trial_id, state in connection.execute(query)}
    for trial_id in written:
        if states[trial_id].is_finished():
            raise UpdateFinishedTrialError(
                f"the trial of the id {trial_id} is {states[trial_id].name} and changes no more"
            )
    for part, several in by_table.items():
        asked = insert(part)
        if part is _PARAMS:
            connection.execute(asked.on_conflict_do_nothing(), several)
        else:
            given = {"value_json": asked.excluded.value_json}
            replaced = asked.on_conflict_do_update(index_elements=["trial_id", "key"], set_=given)
            connection.execute(replaced, several)
