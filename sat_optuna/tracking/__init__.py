"""MLflow as the log book of studies: `store` speaks to MLflow, `log` says what is written.

Importing this package does not import mlflow, which takes seconds.
"""

from sat_optuna.tracking.log import MLflowLog
from sat_optuna.tracking.store import MLFLOW_SETTINGS, TrackingError, stale_runs, store_uri

__all__ = ["MLFLOW_SETTINGS", "MLflowLog", "TrackingError", "stale_runs", "store_uri"]
