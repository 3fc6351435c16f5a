"""Studies in MLflow, and the servers that show studies in a browser.

`study_runs` says what of a study is written, `log` when, `child_runs` writes one run, `store`
calls MLflow, `stale` ends what killed processes left, and `servers` runs MLflow's UI and
optuna-dashboard. Importing this package does not import mlflow, which takes seconds.
"""

from sat_optuna.tracking.log import MLflowLog
from sat_optuna.tracking.patience import Patience
from sat_optuna.tracking.stale import end_stale_runs, stale_runs
from sat_optuna.tracking.store import (
    MLFLOW_SETTINGS,
    StoreLockedError,
    TrackingError,
    UsedData,
    check_store,
    store_file,
    store_uri,
    studies_in,
)
from sat_optuna.tracking.study_runs import Network
from sat_optuna.tracking.views import table_link

__all__ = [
    "MLFLOW_SETTINGS",
    "MLflowLog",
    "Network",
    "Patience",
    "StoreLockedError",
    "TrackingError",
    "UsedData",
    "check_store",
    "end_stale_runs",
    "stale_runs",
    "store_file",
    "store_uri",
    "studies_in",
    "table_link",
]
