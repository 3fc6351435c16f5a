"""What the command line says of a step's result: what was done, where it lies, what comes next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shlex import quote

from sat_optuna.cli.console import Console
from sat_optuna.events import Event, OnEvent
from sat_optuna.pipeline.folder import StudyFolder
from sat_optuna.pipeline.results import (
    Enumerated,
    Opened,
    Pretrained,
    Reported,
    Retrained,
    Searched,
    Timed,
)

__all__ = ["steps_of"]


@contextmanager
def steps_of(study: StudyFolder, console: Console) -> Iterator[OnEvent]:
    """Yield an `on_event` that shows a study's steps: progress, and a line for each result."""
    from sat_optuna.search.storage import show_warnings_alone

    if not console.verbose:
        show_warnings_alone()
    with console.following(_said_of(study)) as on_event:
        yield on_event


def _said_of(study: StudyFolder) -> Callable[[Event], str | None]:
    """Return what gives the line for the last event of each step of a study."""

    def said(event: Event) -> str | None:
        if event.step == "passengers" and event.finished:
            return f"passengers: {event.made}"
        match event.made:
            case Opened(remarks=remarks):
                return "\n".join(f"data: {remark}" for remark in remarks)
            case Timed() as timed:
                return _timed(timed)
            case Pretrained() as pretrained:
                return _pretrained(study, pretrained)
            case Searched(spread=spread) as searched:
                told = f"\nsearch: {spread}" if spread else ""
                return _searched(study, searched) + told
            case Enumerated(folded=page) if page:
                return f"enumerate: all schemes scored; {page} says which modules can go"
            case Retrained() as retrained:
                return _retrained(study, retrained)
            case Reported(path=path, page=page, new=new):
                if not new:
                    return f"report: done already, {path}; for a browser {page}"
                ticket = quote(str(study.tickets / "ticket.json"))
                return (
                    f"report: {path} written, for a browser {page}; next: sat-optuna show {ticket}"
                )
        return None

    return said


def _timed(result: Timed) -> str:
    model = result.model
    error = model.residual_percent
    off = "" if error is None else f", off by {error:.1f} % (median of {model.fresh} others)"
    return (
        f"latency: {model.plain_ms.value:.2f} ms without attention, {result.full_ms:.2f} with "
        f"{model.kinds[0]} in all blocks, a batch of {model.batch}; from {model.runs} schemes in "
        f"{model.rounds} rounds{off}; {result.path} written"
    )


def _pretrained(study: StudyFolder, result: Pretrained) -> str:
    if result.loss is None:
        return f"pretrain: done already, {result.epochs} epochs in {result.path}"
    return (
        f"pretrain: {result.epochs} epochs, loss {result.loss:.3f}; {result.path} written, "
        f"next: sat-optuna search {study.argument}"
    )


def _searched(study: StudyFolder, result: Searched) -> str:
    if result.left:
        return (
            f"{result.step}: stopped by search.timeout with {result.left} trials to go; "
            f"the same command goes on: sat-optuna search {study.argument}"
        )
    if not result.new:
        where = ", now logged to MLflow" if result.caught_up else f" in {result.db}"
        return f"{result.step}: done already, {result.trials} trials{where}"
    front = bool(study.config.search.objectives) and result.step == "search"
    best = f"; {'' if front else 'best '}{result.best}" if result.best else ""
    then = f"ticket {study.argument} --front" if front else f"retrain {study.argument}"
    return (
        f"{result.step}: {result.new} trials now, {result.trials} in all, in {result.db}{best}; "
        f"next: sat-optuna {then}"
    )


def _retrained(study: StudyFolder, result: Retrained) -> str:
    if not result.new:
        return f"retrain: done already, {result.networks} networks in {result.folder}"
    return (
        f"retrain: {result.networks} networks; tickets written to {study.tickets}; "
        f"next: sat-optuna report {study.argument}"
        + (f"\nretrain: compare them in MLflow: {result.table}" if result.table else "")
    )
