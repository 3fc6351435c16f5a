"""The ticket and its controls retrained, what they cost, and the report on them."""

import platform
from contextlib import closing
from dataclasses import replace
from shlex import quote
from statistics import median
from typing import TYPE_CHECKING

from sat_optuna.errors import StudyError
from sat_optuna.events import Event, OnEvent
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.blocks import blocks_of, current_enumeration
from sat_optuna.pipeline.done import Done, digest_of
from sat_optuna.pipeline.mlflow_log import StudyLog, trials_digest
from sat_optuna.pipeline.outcome import RANDOM, Outcome, read_outcome
from sat_optuna.pipeline.results import Reported, Retrained
from sat_optuna.pipeline.search import random_control, scored_on, searched_trials
from sat_optuna.ticket import Ticket

if TYPE_CHECKING:
    import torch

    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["report", "retrain"]


def retrain(study: "StudyFolder", *, mlflow: bool, on_event: OnEvent) -> Retrained:
    """Retrain ticket, plain, full and the random controls, and write their tickets.

    Raises:
        StudyError: no search was run yet, or no trial of it is complete.
    """
    random_control(study, on_event=on_event)
    outcome, log = read_outcome(study), StudyLog(study) if mlflow else None
    whole = outcome.is_written and not outcome.missing
    new = not whole or (log is not None and not log.has_retrainings(outcome))
    if new:
        if outcome.measured is None:
            _measure_costs(outcome, on_event)
        _train(outcome, on_event)
        run_id = log.log_retrainings(study.optuna_study(), outcome) if log else None
        outcome.write_tickets(mlflow_run=run_id)
    result = Retrained(
        tickets={role: Ticket.load(path) for role, path in outcome.paths.items()},
        networks=len(outcome.jobs),
        new=new,
        folder=outcome.folder,
    )
    total = len(outcome.jobs)
    on_event(Event(step="retrain", done=total, total=total, made=result, finished=True))
    return result


def _measure_costs(outcome: Outcome, on_event: OnEvent) -> None:
    """Measure every network's cost before any is trained, while the machine is quiet."""
    from sat_optuna.cost.operations import measure
    from sat_optuna.cost.timing import network_ms
    from sat_optuna.supernet.materialise import materialise

    supernet, shape = outcome.study.parts.any_supernet(), outcome.best.input_shape
    nets = {str(scheme): materialise(supernet, scheme) for scheme in outcome.distinct}
    passed = network_ms(
        nets,
        shape,
        batch=outcome.LATENCY_BATCH,
        rounds=outcome.LATENCY_REPEATS,
        on_event=lambda event: on_event(replace(event, step="costs")),
    )
    costs = {}
    for scheme, net in nets.items():
        cost = measure(net, shape)
        counts = {"params": cost.params, "macs": cost.macs}
        costs[scheme] = {**counts, "latency_ms": median(passed[scheme])}
    outcome.keep_costs(costs, hardware=_hardware(next(supernet.parameters()).device))


def _hardware(device: "torch.device") -> str:
    import torch

    threads = torch.get_num_threads()
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{platform.machine()} {platform.system()}, {threads} CPU threads{gpu}"


def _train(outcome: Outcome, on_event: OnEvent) -> None:
    """Run the jobs without a result; each is noted as it comes."""
    from sat_optuna.evidence.retrain import run_jobs

    outcome.check_weights()
    study, total = outcome.study, len(outcome.jobs)
    weights = None
    if study.config.retrain.start == "weights":
        study.parts.loaded_supernet()  # what does not fit is refused here, and said once
        weights = study.weights_path
    jobs = [(job, outcome.ticket_for(job.scheme)) for job in outcome.missing]
    done = total - len(jobs)

    def on_share(share: float) -> None:
        on_event(
            Event(step="retrain", done=total - len(outcome.missing), total=total, share=share)
        )

    on_share(0.0)
    running = run_jobs(
        jobs,
        workers=study.config.retrain.workers,
        plugins=study.plugins,
        weights=weights,
        on_share=on_share,
    )
    with closing(running) as results:  # whatever is raised here ends the processes
        for count, result in enumerate(results, start=done + 1):
            outcome.add(result)
            said = f"{result.scheme} seed {result.seed}: {result.accuracy:.2f} %"
            on_event(Event(step="retrain", done=count, total=total, message=said, made=result))


def report(study: "StudyFolder", *, on_event: OnEvent) -> Reported:
    """Write the report, unless it is there and of these tickets.

    Raises:
        StudyError: the retrainings are not finished.
    """
    trials, outcome = searched_trials(study), read_outcome(study)
    if not outcome.is_written:
        raise StudyError(
            f"{len(outcome.missing)} of {len(outcome.jobs)} retrainings of study {study.name!r} "
            f"are missing, or their tickets; run: sat-optuna retrain {study.argument}"
        )
    names = ("ticket.png", "search.png", "accuracy.png", "trials.csv")
    path = study.folder / "report.md"
    files = {file.name: file for file in (path, *(study.folder / "figures" / n for n in names))}
    tickets = {role: Ticket.load(ticket) for role, ticket in outcome.paths.items()}
    decided = {
        # Which run logged the ticket is no matter of the report.
        "tickets": digest_of([replace(t, mlflow_run=None).to_json() for t in tickets.values()]),
        "trials": trials_digest(trials),
        # Where all schemes were scored since, the table of blocks is of them.
        "enumeration": (current_enumeration(study) or Done({})).made,
    }
    # A report that somebody has written into is left as it is.
    blocks = study.folder / "figures" / "blocks.png"  # only where effects can be told
    record = study.records.get("report")
    if record and blocks.name in record.made:
        files[blocks.name] = blocks
    new = not study.records.is_finished("report", decided) or not all(
        file.exists() for file in files.values()
    )
    if new:
        blocks.unlink(missing_ok=True)
        _write(outcome, tickets, on_event)
        files |= {blocks.name: blocks} if blocks.exists() else {}
        files = {name: file for name, file in files.items() if file.exists()}
        made = {name: sha256_of(file) for name, file in files.items()}
        study.records.write("report", Done(decided, made, finished=True))
    result = Reported(path=path, tickets=tickets, new=new)
    on_event(Event(step="report", done=1, total=1, made=result, finished=True))
    return result


def _write(outcome: Outcome, tickets: dict[str, Ticket], on_event: OnEvent) -> None:
    from sat_optuna.evidence.report import SearchSummary, TrialRow, write_report
    from sat_optuna.search.study import finished_trials

    study = outcome.study
    if outcome.measured is None or not outcome.results:
        raise StudyError(
            f"the costs or the results of study {study.name!r} are missing from {study.work}; "
            f"move {quote(str(study.tickets))} away and run: sat-optuna retrain {study.argument}"
        )

    def rows(suffix: str) -> list[TrialRow]:
        return [
            TrialRow(
                t.number,
                t.user_attrs.get("scheme", ""),
                t.value,
                t.user_attrs.get("accuracy"),
                t.state.name,
            )
            for t in finished_trials(study.optuna_study(suffix))
        ]

    write_report(
        study.folder,
        tickets,
        SearchSummary(study.config.search.sampler, rows(""), rows(RANDOM), scored_on(study)),
        images=next(iter(outcome.results.values())).images,
        blocks=blocks_of(study, on_event),
        tested=outcome.tested,
        latency=(
            f"latency is the median of {outcome.LATENCY_REPEATS} interleaved forward passes of "
            f"{outcome.LATENCY_BATCH} images in eval and inference mode, after warm-up."
        ),
        hardware=outcome.measured["hardware"],
    )
