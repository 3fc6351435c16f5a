"""A search whose MLflow store is locked by another process: its trials are logged later."""

import sqlite3

import pytest

from sat_optuna.errors import SatOptunaWarning
from sat_optuna.pipeline.folder import open_study
from sat_optuna.tracking import MLflowLog
from tests.studies import make_study

TEXT = """
[data]
limit = 300
[network]
width = 4
stem_stride = 4
blocks = [1, 1, 1]
[pretrain]
epochs = 1
[search]
trials = 6
batch = 3
calibration = 32
"""


def logged(project):
    """Numbers of the trials that are whole in the store, read without MLflow."""
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as store:
        rows = store.execute(
            "SELECT number.value FROM tags number JOIN tags state USING (run_uuid)"
            " WHERE number.key = 'sat.trial' AND state.key = 'sat.state'"
        )
        return sorted(int(number) for (number,) in rows)


@pytest.mark.slow  # MLflow waits 20 s for the lock
@pytest.mark.parametrize(
    ("locked", "free", "expected"),
    [
        (0, 6, [0, 1, 2, 3, 4, 5]),  # from before the search on, until its last trial
        (2, 6, [0, 1, 2, 3, 4, 5]),
        (2, None, [0, 1]),  # until after it
    ],
)
def test_a_search_beside_a_locked_store_goes_on_and_is_logged_later(
    tmp_path, monkeypatch, locked, free, expected
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = open_study(make_study(tmp_path, text=TEXT))
    study.pretrain()
    MLflowLog(study.mlruns)  # the store is there already
    other = sqlite3.connect(study.mlruns / "mlflow.db", isolation_level=None)
    if locked == 0:
        other.execute("BEGIN EXCLUSIVE")

    def on_event(event):
        if event.made is None or event.finished:
            return
        if event.done == locked:
            other.execute("BEGIN EXCLUSIVE")
        if event.done == free:
            other.execute("ROLLBACK")

    with pytest.warns(SatOptunaWarning, match="database is locked"):
        searched = study.search(on_event=on_event)
    assert (searched.trials, searched.left) == (6, 0)
    if free is None:
        other.execute("ROLLBACK")
    other.close()
    assert logged(tmp_path) == expected
    again = study.search()
    assert (again.new, again.caught_up) == (0, expected != list(range(6)))
    assert logged(tmp_path) == list(range(6))
