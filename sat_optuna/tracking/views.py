"""The table of a study's tickets in MLflow, and the link that opens it.

MLflow's pages open a study on its traces, and its table of runs with no metric. A shared view,
which MLflow keeps in a tag of the experiment, chooses rows, columns and order.
"""

import json
from collections.abc import Mapping

from sat_optuna.ticket import Measure

__all__ = ["has_view", "table_link", "view_tags"]

_KEY = "tickets"
_TAG = f"mlflow.sharedViewState.{_KEY}"


def view_tags(measure: Measure) -> dict[str, str]:
    """Return the tags of an experiment that hold its view: a row a network, the best first.

    Args:
        measure: what the networks are tested in.
    """
    measured = f"metrics.`test_{measure.name}`"
    # Beside MLflow's assistant there is room for four columns.
    columns = ["tags.`scheme`", measured, "metrics.`parameters`", "metrics.`latency_ms`"]
    state = {
        "searchFilter": "tags.`sat.kind` = 'summary'",
        "orderByKey": measured,
        "orderByAsc": measure.better == "lower",
        "selectedColumns": columns,
    }
    view = {"name": "Tickets", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    return {_TAG: json.dumps(view), "mlflow.experimentKind": "custom_model_development"}


def has_view(tags: Mapping[str, str]) -> bool:
    """Tell whether the tags of an experiment hold its view, as those of a study do."""
    return _TAG in tags


def table_link(url: str, experiment: str) -> str:
    """Return the link to the table of an experiment's tickets on a server of MLflow's.

    >>> table_link("http://127.0.0.1:5000", "1")
    'http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=tickets'

    Args:
        url: of the server.
        experiment: its id.
    """
    where = f"{url}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    return f"{where}&viewStateShareKey={_KEY}"
