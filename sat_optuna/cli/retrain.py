"""`sat-optuna retrain`: the ticket and its controls from scratch."""

import platform
from typing import TYPE_CHECKING

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.search import NO_MLFLOW, search_step
from sat_optuna.pipeline.folder import Workspace
from sat_optuna.pipeline.mlflow_log import are_logged, log_trial, note_logged, open_log
from sat_optuna.pipeline.outcome import RANDOM, Outcome, read_outcome

if TYPE_CHECKING:
    from optuna import Study

    from sat_optuna.evidence.results import RetrainResult

__all__ = ["retrain", "retrain_step"]


def retrain_step(workspace: Workspace, console: Console, *, mlflow: bool) -> None:
    """Retrain ticket, plain, full and the random controls, and write their tickets."""
    from sat_optuna.search.study import finished_trials

    study = workspace.load_study()
    count = len(finished_trials(study))
    search_step(workspace, console, mlflow=False, suffix=RANDOM, sampler="random", trials=count)
    outcome = read_outcome(workspace)
    logged = not mlflow or are_logged(workspace, study, outcome.results)
    if outcome.finished and logged:
        console.result(f"retrain: done already, {len(outcome.jobs)} networks in {outcome.folder}")
        return
    if outcome.costs is None:
        _measure_costs(outcome)
        outcome = read_outcome(workspace)
    _train(workspace, console, outcome)
    outcome = read_outcome(workspace)
    run_id = _log(workspace, study, outcome) if mlflow else None
    outcome.write_tickets(mlflow_run=run_id)
    console.result(
        f"retrain: {len(outcome.jobs)} networks; tickets written to {workspace.tickets}; "
        f"next: sat-optuna report {workspace.name}"
    )


def _measure_costs(outcome: Outcome) -> None:
    """Measure every network's cost before any is trained, while the machine is quiet."""
    from sat_optuna.cost.operations import measure
    from sat_optuna.cost.timing import latencies_ms
    from sat_optuna.supernet.materialise import build_network
    from sat_optuna.training.precision import pick_device

    device, shape = pick_device(), outcome.best.input_shape
    nets = {
        str(scheme): build_network(outcome.ticket_for(scheme), seed=outcome.best.seed).to(device)
        for scheme in outcome.distinct
    }
    latencies = latencies_ms(
        nets, shape, batch=outcome.LATENCY_BATCH, repeats=outcome.LATENCY_REPEATS
    )
    costs = {}
    for scheme, net in nets.items():
        cost = measure(net, shape)
        costs[scheme] = {
            "params": cost.params,
            "macs": cost.macs,
            "latency_ms": latencies[scheme],
        }
    outcome.write_costs(costs, hardware=_hardware(device.type))


def _hardware(device: str) -> str:
    import torch

    threads = torch.get_num_threads()
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return f"{platform.machine()} {platform.system()}, {threads} CPU threads{gpu}"


def _train(workspace: Workspace, console: Console, outcome: Outcome) -> None:
    from sat_optuna.evidence.retrain import run_jobs

    total = len(outcome.jobs)
    with console.progress("retrain", total, total - len(outcome.missing)) as bar:

        def on_result(result: "RetrainResult") -> None:
            bar.advance(f"{result.scheme} seed {result.seed}: {result.accuracy:.2f} %")

        run_jobs(
            [(job, outcome.ticket_for(job.scheme)) for job in outcome.jobs],
            workers=workspace.config.retrain.workers,
            plugins=workspace.plugins,
            on_result=on_result,
        )


def _log(workspace: Workspace, study: "Study", outcome: Outcome) -> str:
    """Log all retrainings and return the run of the ticket's trial."""
    from sat_optuna.search.study import finished_trials

    with open_log(workspace, study) as log:
        for result in outcome.results.values():
            ticket = outcome.ticket_for(result.scheme)
            log.log_retraining(
                f"{result.scheme} seed {result.seed} {outcome.fingerprint}",
                role=ticket.role,
                seed=result.seed,
                scheme=str(result.scheme),
                metrics={
                    "test_accuracy": result.accuracy,
                    "params": ticket.params,
                    "macs": ticket.macs,
                    "latency_ms": ticket.latency_ms or float("nan"),
                },
                params={"epochs": workspace.config.retrain.epochs},
                curves={
                    "train_loss": [entry.loss for entry in result.history],
                    "train_accuracy": [entry.accuracy for entry in result.history],
                },
                ticket=ticket.to_json(),
            )
        best = next(t for t in finished_trials(study) if t.number == outcome.best.trial)
        run_id = log_trial(log, study, best)
        note_logged(study, log, outcome.results)
    return run_id


@click.command(epilog="Example: sat-optuna retrain mine; next: sat-optuna report mine")
@click.argument("study")
@NO_MLFLOW
@click.pass_obj
def retrain(console: Console, *, study: str, no_mlflow: bool) -> None:
    """Train the ticket from scratch beside its controls, the same seeds for all.

    Controls: plain (no attention), full (all blocks), a random scheme of the same density, and
    the best of as many random schemes as the search had trials.
    """
    workspace = Workspace.open(study)
    with workspace.locked():
        retrain_step(workspace, console, mlflow=not no_mlflow)
