"""A trained ticket on images: the study's test part, or any folder."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from sat_optuna.errors import StudyError, TicketError
from sat_optuna.evidence.figures import draw_confusion
from sat_optuna.evidence.performance import Performance, performance
from sat_optuna.export.weights import load_weights
from sat_optuna.pipeline.ticket_weights import TicketFile
from sat_optuna.tasks import build_task
from sat_optuna.training.precision import pick_device

if TYPE_CHECKING:
    from sat_optuna.data.images import Images
    from sat_optuna.ticket import Ticket

__all__ = ["Evaluated", "evaluate_ticket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What `evaluate_ticket` found.

    Attributes:
        ticket: of the network.
        found: how good it is.
        class_names: one an output.
        images: what it was measured on, in words.
        figure: the picture of the confusion matrix; None for a task without classes.
    """

    ticket: "Ticket"
    found: Performance
    class_names: tuple[str, ...]
    images: str
    figure: Path | None


def evaluate_ticket(
    path: str | Path,
    *,
    data: str | Path | None = None,
    weights: str | Path | None = None,
    seed: int | None = None,
    figure: str | Path | None = None,
) -> Evaluated:
    """Measure a trained ticket with every metric of its task, as `sat-optuna evaluate` does.

        evaluate_ticket("studies/mine/tickets/ticket.json", data="photographs")

    Args:
        path: a ticket's JSON file in its study, or an exported .safetensors.
        data: a folder of images, a folder for each class; None for the test part of the study.
        weights: a training's checkpoint or an exported file; None for the study's own retraining.
        seed: of that retraining; None for the first.
        figure: the confusion matrix's PNG file; None for one in figures/ of the study, or beside
            the exported file.

    Raises:
        TicketError: the ticket cannot be read, or does not say what its network takes.
        StudyError: there are no weights, or no test part.
        DataError: the images cannot be read, or are not such as the network takes.
        CheckpointError: the weights are of another network.
    """
    given = TicketFile(Path(path))
    ticket = given.ticket
    if weights is None and given.exported:
        weights = given.path
    own = given.weights(ticket.scheme, Path(weights) if weights else None, seed)
    task = build_task(ticket.config.get("task", {}).get("name", "classification"))
    device = pick_device(given.study.config.device if given.study else "auto")
    network = load_weights(ticket, own).to(device)
    if data is None:
        images, names, what = _test_part(given)
    else:
        task.check_targets("labels", of=f"the images of a folder such as {data}")
        images, names, what = _folder(given, Path(data), str(device))
    found = performance(network, images, class_names=names, task=task)
    drawn = None
    if found.confusion is not None:
        drawn = draw_confusion(
            Path(figure) if figure else _default_figure(given),
            found.confusion,
            names,
            title=f"{ticket.role} {ticket.scheme} on {what}",
        )
    return Evaluated(ticket=ticket, found=found, class_names=names, images=what, figure=drawn)


def _default_figure(given: TicketFile) -> Path:
    name = f"confusion-{given.path.stem}.png"
    folder = given.study.folder / "figures" if given.study else given.path.parent
    return folder / name


def _test_part(given: TicketFile) -> "tuple[Images, tuple[str, ...], str]":
    if given.study is None:
        raise StudyError(
            f"ticket {given.path} does not lie in the tickets/ of a study, whose test part could "
            "be taken; give a folder of images with --data"
        )
    data = given.study.parts.data
    if data.fingerprint != given.ticket.dataset_fingerprint:
        raise StudyError(
            f"the data {data.name!r} of study {given.study.name!r} are not those that ticket "
            f"{given.path} was made with; bring them back, or give a folder with --data"
        )
    return data.test, data.class_names, f"the test part of {data.name}"


def _folder(given: TicketFile, data: Path, device: str) -> "tuple[Images, tuple[str, ...], str]":
    from sat_optuna.data.imagefolder import labelled_images

    ticket = given.ticket
    if ticket.inputs is None:
        study = given.study.argument if given.study else "STUDY"
        raise TicketError(
            f"ticket {given.path} does not say how images become what its network takes, as those "
            f"of version 0.2.0; move {quote(str(given.path))} away and run: sat-optuna retrain "
            f"{study}"
        )
    images = labelled_images(data, ticket.inputs, shape=ticket.input_shape, device=device)
    return images, ticket.inputs.class_names, str(data)
