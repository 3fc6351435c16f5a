"""Find out in which residual blocks of a CNN self-attention pays.

Names are imported when they are first used, so that `import sat_optuna` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sat_optuna.attention import build_attention
    from sat_optuna.backbones import build_backbone
    from sat_optuna.config.config import TrainConfig
    from sat_optuna.cost.latency import LatencyModel, fit_latency
    from sat_optuna.cost.operations import Cost, CostModel, measure
    from sat_optuna.data import load_dataset
    from sat_optuna.data.density import density_map
    from sat_optuna.data.split import Split
    from sat_optuna.errors import SatOptunaError
    from sat_optuna.evaluate import Evaluator, accuracy, evaluate_network
    from sat_optuna.events import Event
    from sat_optuna.evidence.constants import constant_ticket
    from sat_optuna.evidence.controls import control_schemes
    from sat_optuna.evidence.enumeration import enumerate_schemes
    from sat_optuna.evidence.folding import fold_report
    from sat_optuna.evidence.report import SearchSummary, TrialRow, write_report
    from sat_optuna.evidence.retrain import retrain
    from sat_optuna.evidence.truth import TruthTable, load_truth
    from sat_optuna.export.fold import fold_constant
    from sat_optuna.export.weights import load_ticket
    from sat_optuna.export.write import export_ticket
    from sat_optuna.pipeline.evidence import evidence_of
    from sat_optuna.pipeline.folder import StudyFolder, open_study, run_study
    from sat_optuna.pipeline.progress import progress_bar
    from sat_optuna.pipeline.transfer import transfer
    from sat_optuna.sampler import CostLimit, PolicyGradientSampler
    from sat_optuna.scheme import Scheme
    from sat_optuna.search.objective import FoldedObjective, SupernetObjective, TrainObjective
    from sat_optuna.search.space import cost_limit, scheme_space
    from sat_optuna.search.tickets import best_ticket, ticket_of
    from sat_optuna.slots import Slots, attach
    from sat_optuna.supernet.materialise import materialise, scheme_of
    from sat_optuna.supernet.supernet import Supernet
    from sat_optuna.supernet.weights import load_weights
    from sat_optuna.tasks import Metric, Task, build_task
    from sat_optuna.ticket import AttentionSpec, Ticket
    from sat_optuna.tracking import MLflowLog
    from sat_optuna.training.loop import fit, pretrain

__all__ = [
    "AttentionSpec",
    "Cost",
    "CostLimit",
    "CostModel",
    "Evaluator",
    "Event",
    "FoldedObjective",
    "LatencyModel",
    "MLflowLog",
    "Metric",
    "PolicyGradientSampler",
    "SatOptunaError",
    "Scheme",
    "SearchSummary",
    "Slots",
    "Split",
    "StudyFolder",
    "Supernet",
    "SupernetObjective",
    "Task",
    "Ticket",
    "TrainConfig",
    "TrainObjective",
    "TrialRow",
    "TruthTable",
    "accuracy",
    "attach",
    "best_ticket",
    "build_attention",
    "build_backbone",
    "build_task",
    "constant_ticket",
    "control_schemes",
    "cost_limit",
    "density_map",
    "enumerate_schemes",
    "evaluate_network",
    "evidence_of",
    "export_ticket",
    "fit",
    "fit_latency",
    "fold_constant",
    "fold_report",
    "load_dataset",
    "load_ticket",
    "load_truth",
    "load_weights",
    "materialise",
    "measure",
    "open_study",
    "pretrain",
    "progress_bar",
    "retrain",
    "run_study",
    "scheme_of",
    "scheme_space",
    "ticket_of",
    "transfer",
    "write_report",
]

_HOMES = {
    "AttentionSpec": "ticket",
    "Cost": "cost.operations",
    "CostLimit": "sampler",
    "CostModel": "cost.operations",
    "Evaluator": "evaluate",
    "Event": "events",
    "FoldedObjective": "search.objective",
    "LatencyModel": "cost.latency",
    "MLflowLog": "tracking",
    "Metric": "tasks",
    "PolicyGradientSampler": "sampler",
    "SatOptunaError": "errors",
    "Scheme": "scheme",
    "SearchSummary": "evidence.report",
    "Slots": "slots",
    "Split": "data.split",
    "StudyFolder": "pipeline.folder",
    "Supernet": "supernet.supernet",
    "SupernetObjective": "search.objective",
    "Task": "tasks",
    "Ticket": "ticket",
    "TrainConfig": "config.config",
    "TrainObjective": "search.objective",
    "TrialRow": "evidence.report",
    "TruthTable": "evidence.truth",
    "accuracy": "evaluate",
    "attach": "slots",
    "best_ticket": "search.tickets",
    "build_attention": "attention",
    "build_backbone": "backbones",
    "build_task": "tasks",
    "constant_ticket": "evidence.constants",
    "control_schemes": "evidence.controls",
    "cost_limit": "search.space",
    "density_map": "data.density",
    "enumerate_schemes": "evidence.enumeration",
    "evaluate_network": "evaluate",
    "evidence_of": "pipeline.evidence",
    "export_ticket": "export.write",
    "fit": "training.loop",
    "fit_latency": "cost.latency",
    "fold_constant": "export.fold",
    "fold_report": "evidence.folding",
    "load_dataset": "data",
    "load_ticket": "export.weights",
    "load_truth": "evidence.truth",
    "load_weights": "supernet.weights",
    "materialise": "supernet.materialise",
    "measure": "cost.operations",
    "open_study": "pipeline.folder",
    "pretrain": "training.loop",
    "progress_bar": "pipeline.progress",
    "retrain": "evidence.retrain",
    "run_study": "pipeline.folder",
    "scheme_of": "supernet.materialise",
    "scheme_space": "search.space",
    "ticket_of": "search.tickets",
    "transfer": "pipeline.transfer",
    "write_report": "evidence.report",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
