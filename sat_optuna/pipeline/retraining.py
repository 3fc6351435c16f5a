"""The ticket and its controls retrained, what they cost, and the report on them."""

import json
import platform
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from shlex import quote
from statistics import median
from typing import TYPE_CHECKING, Any

from sat_optuna.errors import StudyError
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.files import sha256_of, write_text
from sat_optuna.pipeline.blocks import blocks_of, current_enumeration
from sat_optuna.pipeline.dashboard import refresh
from sat_optuna.pipeline.done import Done, digest_of
from sat_optuna.pipeline.latency import kept_latency
from sat_optuna.pipeline.mlflow_log import BLOCKS, StudyLog, trials_digest
from sat_optuna.pipeline.outcome import RANDOM, Outcome, read_candidates, read_outcome
from sat_optuna.pipeline.passengers import find_passengers, known_passengers
from sat_optuna.pipeline.results import Reported, Retrained
from sat_optuna.pipeline.search import random_control, scored_on, searched_trials
from sat_optuna.scheme import Scheme
from sat_optuna.tasks import build_task
from sat_optuna.ticket import Ticket

if TYPE_CHECKING:
    import torch

    from sat_optuna.evidence.maps import MapResults
    from sat_optuna.evidence.report import Blocks, Front
    from sat_optuna.evidence.results import RetrainResult
    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["report", "retrain", "retrain_searched", "train_missing"]


def retrain(study: "StudyFolder", *, mlflow: bool, on_event: OnEvent) -> Retrained:
    """Retrain ticket, plain, full and the random controls, and write their tickets.

    Raises:
        StudyError: no search was run yet, or no trial of it is complete.
    """
    if study.config.is_given:
        outcome = read_outcome(study)
        if outcome.missing:
            study.parts.tell_of_data(on_event)
        return _retrain(outcome, mlflow=mlflow, on_event=on_event)
    random_control(study, on_event=on_event)
    return retrain_searched(study, mlflow=mlflow, on_event=on_event)


def retrain_searched(study: "StudyFolder", *, mlflow: bool, on_event: OnEvent) -> Retrained:
    """Do what `retrain` does once the random control is there."""
    find_passengers(study, on_event=ignore)
    if (pair := read_candidates(study)) and pair.missing:
        train_missing(pair, on_event)  # which of the two is the ticket decides the controls
    return _retrain(read_outcome(study), mlflow=mlflow, on_event=on_event)


def _retrain(outcome: Outcome, *, mlflow: bool, on_event: OnEvent) -> Retrained:
    study = outcome.study
    log = StudyLog(study) if mlflow else None
    whole = outcome.is_written and not outcome.missing
    new = not whole or (log is not None and not log.has_retrainings(outcome))
    if new:
        if outcome.measured is None:
            _measure_costs(outcome, on_event)
        with log.retrainings(outcome) if log else nullcontext(_nowhere) as on_result:
            train_missing(outcome, on_event, on_result)
        run_id = log.log_retrainings(outcome) if log else None
        outcome.write_tickets(mlflow_run=run_id)
        if not study.config.is_given:  # which has no search that a dashboard could show
            _note_verdicts(outcome)
            refresh(study)
    result = Retrained(
        tickets={role: Ticket.load(path) for role, path in outcome.paths.items()},
        networks=len(outcome.jobs),
        new=new,
        folder=outcome.folder,
        table=log.table if log else "",
    )
    total = len(outcome.jobs)
    on_event(Event(step="retrain", done=total, total=total, made=result, finished=True))
    return result


def _nowhere(_result: "RetrainResult") -> None:
    """Log a retraining nowhere."""


def _tell_blocks(outcome: Outcome, blocks: "Blocks", ticket: Ticket) -> None:
    """Write what each block does into the dashboard's note, and keep it for MLflow."""
    from sat_optuna.evidence.report import words_of
    from sat_optuna.search.storage import writing
    from sat_optuna.tracking.note import write_note

    opened = outcome.study.optuna_study()
    lines = "\n".join(f"- {said}" for said in words_of(blocks, ticket, outcome.measure))
    text = f"{lines}\n\n{blocks.measured}"
    with writing(outcome.study.name):
        write_note(opened, "Block by block", text)
    effects = {f"{effect.block}.{effect.kind}": effect.points for effect in blocks.effects}
    document = {"text": text, "effects": effects}
    write_text(outcome.study.work / BLOCKS, json.dumps(document, indent=1) + "\n")


def _note_verdicts(outcome: Outcome) -> None:
    """Write the verdicts into the note that optuna-dashboard shows of the study."""
    from sat_optuna.evidence.verdicts import claims_of, claims_text
    from sat_optuna.search.storage import writing
    from sat_optuna.tracking.note import write_note

    with writing(outcome.study.name):
        text = claims_text(claims_of(outcome.tickets))
        write_note(outcome.study.optuna_study(), "Verdicts", text)


def _measure_costs(outcome: Outcome, on_event: OnEvent) -> None:
    """Measure every network's cost before any is trained, while the machine is quiet."""
    from sat_optuna.cost.operations import measure
    from sat_optuna.cost.timing import network_ms
    from sat_optuna.supernet.materialise import build_network, materialise

    supernet, shape = outcome.study.parts.any_supernet(), outcome.best.input_shape
    device, data = next(supernet.parameters()).device, outcome.study.parts.data
    nets = {
        str(scheme): materialise(supernet, scheme)
        if max(scheme.choices) <= len(supernet.specs)
        else build_network(outcome.ticket_for(scheme), seed=outcome.best.seed).to(device)
        for scheme in outcome.distinct
    }
    passed = network_ms(
        nets,
        shape,
        batch=outcome.study.config.search.latency_batch,
        rounds=outcome.LATENCY_REPEATS,
        on_event=lambda event: on_event(replace(event, step="costs")),
    )
    costs = {}
    for scheme, net in nets.items():
        cost = measure(net, shape)
        counts = {"params": cost.params, "macs": cost.macs}
        rounds = [round(ms, 4) for ms in passed[scheme]]
        costs[scheme] = {**counts, "latency_ms": median(rounds), "latency_rounds": rounds}
    outcome.keep_costs(
        costs,
        hardware=_hardware(device),
        inputs=data.inputs,
        images={"train": len(data.train_and_valid), "test": len(data.test)},
    )


def _hardware(device: "torch.device") -> str:
    import torch

    threads = torch.get_num_threads()
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{platform.machine()} {platform.system()}, {threads} CPU threads{gpu}"


def train_missing(
    outcome: Outcome,
    on_event: OnEvent,
    on_result: "Callable[[RetrainResult], object]" = _nowhere,
) -> None:
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
            Event(step=outcome.step, done=total - len(outcome.missing), total=total, share=share)
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
            on_result(result)
            measured = outcome.measure.text(result.score)
            said = f"{result.scheme} seed {result.seed}: {measured}"
            on_event(Event(step=outcome.step, done=count, total=total, message=said, made=result))


def report(study: "StudyFolder", *, on_event: OnEvent) -> Reported:
    """Write the report, unless it is there and of these tickets; and its page for a browser.

    report.html is always of the report.md beside it, whoever wrote that.

    Raises:
        StudyError: the retrainings are not finished.
    """
    from sat_optuna.evidence.pages import write_html

    given = study.config.is_given
    trials, outcome = () if given else searched_trials(study), read_outcome(study)
    if not outcome.is_written:
        raise StudyError(
            f"{len(outcome.missing)} of {len(outcome.jobs)} retrainings of study {study.name!r} "
            f"are missing, or their tickets; run: sat-optuna retrain {study.argument}"
        )
    searched = "front.png" if study.config.search.objectives else "search.png"
    names = ("ticket.png", "accuracy.png", *(() if given else (searched, "trials.csv")))
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
    # Where there is something to draw.
    drawn = ("blocks.png", "curves.png", "connections.png", "maps.png")
    pictures = [name for name in (*names, *drawn) if name.endswith(".png")]
    vectors = [f"{name.removesuffix('.png')}.svg" for name in pictures]  # where they are small
    optional = [study.folder / "figures" / name for name in (*drawn, *vectors)]
    record = study.records.get("report")
    files |= {file.name: file for file in optional if record and file.name in record.made}
    new = not study.records.is_finished("report", decided) or not all(
        file.exists() for file in files.values()
    )
    if new:
        for file in optional:
            file.unlink(missing_ok=True)
        if outcome.measured is None or not outcome.results:
            raise StudyError(
                f"the costs or the results of study {study.name!r} are missing from {study.work}; "
                f"move {quote(str(study.tickets))} away and run: sat-optuna retrain "
                f"{study.argument}"
            )
        if given:
            from sat_optuna.evidence.transfer_report import write_transfer_report

            write_transfer_report(study.folder, tickets, **_networks_of(outcome, tickets))
        else:
            _write(outcome, tickets, on_event)
        files |= {file.name: file for file in optional}
        files = {name: file for name, file in files.items() if file.exists()}
        made = {name: sha256_of(file) for name, file in files.items()}
    else:
        made = dict(record.made) if record else {}
    page = write_html(path)  # costs little, and is not written where it is so already
    study.records.write(
        "report", Done(decided, {**made, page.name: sha256_of(page)}, finished=True)
    )
    StudyLog(study).log_report(outcome, {**files, page.name: page})
    result = Reported(path=path, page=page, tickets=tickets, new=new)
    on_event(Event(step="report", done=1, total=1, made=result, finished=True))
    return result


def _write(outcome: Outcome, tickets: dict[str, Ticket], on_event: OnEvent) -> None:
    from sat_optuna.evidence.report import (
        SearchSummary,
        TrialRow,
        blocks_of_trials,
        write_report,
    )
    from sat_optuna.search.study import finished_trials

    study = outcome.study
    several = bool(study.config.search.objectives)

    def rows(suffix: str) -> list[TrialRow]:
        return [
            TrialRow(
                t.number,
                t.user_attrs.get("scheme", ""),
                None if several else t.value,
                t.user_attrs.get(outcome.measure.name),
                t.state.name,
                tuple(t.values or ()) if several else (),
            )
            for t in finished_trials(study.optuna_study(suffix))
        ]

    summary = SearchSummary(
        study.config.search.sampler,
        rows(""),
        rows(RANDOM),
        scored_on(study),
        outcome.measure,
        front=_front(outcome) if several else None,
        latency=_latency(outcome, tickets) if study.config.search.uses_latency else "",
    )
    found = known_passengers(study, outcome.best.scheme)
    blocks = blocks_of(study, on_event) or blocks_of_trials(tickets["ticket"], summary)
    _tell_blocks(outcome, blocks, tickets["ticket"])
    write_report(
        study.folder,
        tickets,
        summary,
        passengers="" if found is None else f"{found}. {_replaced(outcome)}".strip(),
        blocks=blocks,
        **_networks_of(outcome, tickets),
    )
    refresh(study, blocks.effects)


def _networks_of(outcome: Outcome, tickets: Mapping[str, Ticket]) -> dict[str, Any]:
    """Return what each report tells of the networks beside their tickets."""
    return {
        "images": next(iter(outcome.results.values())).images,
        "tested": outcome.tested,
        "latency": (
            f"latency is the median of {outcome.LATENCY_REPEATS} interleaved forward passes of "
            f"{outcome.study.config.search.latency_batch} images in eval and inference mode, "
            "after warm-up."
        ),
        "hardware": (outcome.measured or {})["hardware"],
        "curves": _curves(outcome),
        "maps": _maps(outcome, tickets),
    }


def _maps(outcome: Outcome, tickets: Mapping[str, Ticket]) -> "MapResults | None":
    if not build_task(outcome.study.config.task.name).maps:
        return None
    from sat_optuna.pipeline.maps import map_results

    return map_results(outcome, tickets)


def _curves(outcome: Outcome) -> dict[str, list[list[float]]]:
    """Return the training accuracy of each role, seed and epoch.

    Empty where it is not known, and of a single epoch, which is no curve.
    """
    found = {
        role: [
            [record.accuracy for record in outcome.results[scheme, seed].history]
            for seed in outcome.study.config.retrain.seeds
        ]
        for role, scheme in outcome.schemes.items()
    }
    known = {
        role: [[right for right in curve if right is not None] for curve in curves]
        for role, curves in found.items()
    }
    return known if known == found and outcome.study.config.retrain.epochs > 1 else {}


def _replaced(outcome: Outcome) -> str:
    """Return whether the scheme without passengers is the ticket, and why; a sentence."""
    pair = outcome.pair
    if pair is None:
        return ""
    margin = outcome.study.config.evidence.margin
    measure = outcome.measure
    unit = "points" if measure.unit == "%" else measure.unit or measure.title
    gained = measure.number(pair.gain) if pair.gain < 0 else f"+{measure.number(pair.gain)}"
    trained = (
        f"Trained on the training part alone, with the same seeds, it makes {gained} {unit} in "
        f"the mean on the {pair.images:,} validation images"
    )
    allowed = f"less than the margin of {margin:g} {unit} (one-sided paired test, 5 %)"
    if "searched" in outcome.schemes:
        return f"{trained} and is shown to lose {allowed}: it is the ticket."
    return f"{trained} and is not shown to lose {allowed}: the searched scheme is the ticket."


def _front(outcome: Outcome) -> "Front":
    """Return the front of the search, with plain and full scored by the same objective."""
    from optuna.trial import FixedTrial

    from sat_optuna.evidence.controls import full_roles
    from sat_optuna.evidence.report import Front
    from sat_optuna.search.front import front_trials, objectives_of
    from sat_optuna.search.study import finished_trials

    study = outcome.study
    searched, objective = study.optuna_study(), study.parts.objective
    scored = {
        t.user_attrs["scheme"]: tuple(t.values) for t in finished_trials(searched) if t.values
    }

    def values(scheme: Scheme) -> tuple[float, ...]:
        if str(scheme) in scored:
            return scored[str(scheme)]
        names, choices = Scheme.parameter_names(scheme.stages), ("none", *objective.kinds)
        chosen = {name: choices[c] for name, c in zip(names, scheme.choices, strict=True)}
        scores = objective(FixedTrial(chosen))
        return scores if isinstance(scores, tuple) else (scores,)

    roles = ("plain", *full_roles(objective.kinds))
    return Front(
        objectives=objectives_of(searched),
        points={t.user_attrs["scheme"]: tuple(t.values) for t in front_trials(searched)},
        references={role: values(outcome.schemes[role]) for role in roles},
        random=len(front_trials(study.optuna_study(RANDOM))),
    )


def _latency(outcome: Outcome, tickets: Mapping[str, Ticket]) -> str:
    """Return how the milliseconds of schemes were known, and how the ticket's were found again."""
    study, search = outcome.study, outcome.study.config.search
    model, hardware = kept_latency(study)
    ticket, plain, full = (outcome.schemes[r] for r in ("ticket", "plain", _first_full(outcome)))
    added = model.predict(full) - model.predict(plain)
    error = model.residual_percent
    off = "" if error is None else f", off by {error:.1f} % (median of {model.fresh} others)"
    said = (
        f"a model of what each module adds at each block, from {model.runs} schemes in "
        f"{model.rounds} rounds, a batch of {model.batch} on {hardware['device']}{off}; the "
        f"ticket takes {model.predict(ticket):.2f} ms by it"
    )
    if added > 0:
        said += f", {_share(model.predict(ticket), model.predict(plain), model.predict(full))}"
    measured = [tickets[r].latency_ms for r in ("ticket", "plain", _first_full(outcome))]
    now = [ms for ms in measured if ms is not None]
    if len(now) == len(measured) and now[2] > now[1]:
        said += f"; measured again {now[0]:.2f} ms, {_share(*now)}"
    if search.max_latency_ms:
        said += f"; no scheme above {search.max_latency_ms:g} ms was proposed"
    elif search.limits_latency:
        said += f"; no scheme above {search.max_latency_share:.0%} of full's was proposed"
    return said


def _share(ticket: float, plain: float, full: float) -> str:
    return f"{(ticket - plain) / (full - plain):.0%} of full's increment over plain"


def _first_full(outcome: Outcome) -> str:
    """Return the role of the network with the first kind in all blocks."""
    return next(role for role in outcome.schemes if role.split("-")[0] == "full")
