"""How good networks are on images: one network, or many schemes of a supernet through one tree."""

from sat_optuna.evaluate.evaluator import Evaluator
from sat_optuna.evaluate.network import (
    Evaluation,
    accuracy,
    calibration_batches,
    evaluate_network,
    score_scheme,
)
from sat_optuna.evaluate.results import SchemeResult

__all__ = [
    "Evaluation",
    "Evaluator",
    "SchemeResult",
    "accuracy",
    "calibration_batches",
    "evaluate_network",
    "score_scheme",
]
