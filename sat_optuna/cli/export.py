"""`sat-optuna export`: write a ticket's network to one file that is known to compute the same."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sat_optuna.cli.console import Console
from sat_optuna.config.config import decided, differences, fingerprint
from sat_optuna.errors import CheckpointError, StudyError
from sat_optuna.evidence.results import RetrainJob, read_result, retrain_fingerprint
from sat_optuna.export import SUFFIXES, Exported, check_format
from sat_optuna.pipeline.folder import open_study
from sat_optuna.pipeline.reading import is_exported, open_ticket, study_of
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Score, Ticket
from sat_optuna.training.checkpoint import read_record

if TYPE_CHECKING:
    from sat_optuna.export.fold import FoldReport
    from sat_optuna.supernet.materialise import TicketNetwork

__all__ = ["export"]

# By format, two lines of Python that use the file.
_USE = {
    "safetensors": ("import sat_optuna as sat", 'network = sat.load_ticket("{path}")'),
    "torch-export": ("import torch", 'network = torch.export.load("{path}").module()'),
    "onnx": (
        "import onnxruntime",
        'logits = onnxruntime.InferenceSession("{path}").run(None, {{"images": images}})[0]',
    ),
}


# A checkpoint of a training does not say what it belongs to; its file name does.
_SUPERNET = "supernet.safetensors"
_RETRAINED = re.compile(r"([0-9a-z]+(?:-[0-9a-z]+)*)\.seed\d+\.safetensors")


class _Given:
    """The ticket that was given, and the study that it lies in.

    Attributes:
        path: the ticket's JSON file, or an exported safetensors file that holds it.
        exported: whether `path` is an exported file.
        ticket: the ticket itself.
        workspace: of the study in whose tickets/ folder the file lies; None if it lies elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.exported = is_exported(path)
        self.ticket = open_ticket(path)
        study = None if self.exported else study_of(path)
        self.workspace = None if study is None else open_study(study)

    def weights(self, scheme: Scheme, given: Path | None, seed: int | None) -> Path:
        """Return the file that holds the weights of a scheme.

        Args:
            scheme: the ticket's scheme, or full.
            given: the file given with --weights. It is refused if its record or its name says that
                it belongs to another network.
            seed: the seed given with --seed.

        Raises:
            CheckpointError: the file given is of the supernet or of another scheme.
            StudyError: no file was given, and the study has none that fits.
        """
        if given is None:
            return self.retrained(scheme, seed)
        try:
            record = read_record(given)
        except (CheckpointError, OSError):
            return given  # reading its tensors will say what is wrong with it
        if "ticket" in record:
            return given  # loading it compares its ticket with the network
        ours = self.workspace and fingerprint(self.workspace.config, "pretrain")
        pretrained = ours is not None and record.get("fingerprint") == ours
        if pretrained or given.name == _SUPERNET:
            raise CheckpointError(
                f"{given} holds the weights of the supernet, not of scheme {scheme}; give those "
                "of a retraining"
            )
        named = _RETRAINED.fullmatch(given.name)
        if named and named[1] != str(scheme):
            raise CheckpointError(
                f"{given} does not hold the weights of scheme {scheme}: by its name it is the "
                f"retraining of {named[1]}; give those of this very network"
            )
        return given

    def retrained(self, scheme: Scheme, seed: int | None) -> Path:
        """Return the file of the study's own weights of a scheme, for a seed or the first one.

        Raises:
            StudyError: there is none, or study.toml has changed since the ticket was made.
        """
        if self.workspace is None:
            raise StudyError(
                f"ticket {self.path} does not lie in the tickets/ of a study, whose weights could "
                "be taken; give them with --weights FILE"
            )
        config = self.workspace.config
        stored, given = (decided(c, "retrain") for c in (self.ticket.config, config))
        if found := differences(stored, given):
            raise StudyError(
                f"ticket {self.path} was made with another study.toml ({'; '.join(found)}); "
                "restore it, or give the ticket's weights with --weights FILE"
            )
        seed = config.retrain.seeds[0] if seed is None else seed
        folder = self.workspace.work / "retrain" / retrain_fingerprint(config)
        job = RetrainJob(scheme, seed, config, folder)
        if read_result(job) is None or not job.weights_path.is_file():
            raise StudyError(
                f"scheme {scheme} was not retrained here with seed {seed}; run: sat-optuna "
                f"retrain {self.workspace.name}, or give its weights with --weights FILE"
            )
        return job.weights_path

    def default_out(self, to: str, *, folded: bool) -> Path:
        """Return the file to write without --out: in exports/ of the study, or beside `path`."""
        if self.workspace is None:
            out = self.path.with_suffix(SUFFIXES[to])
            if out == self.path:
                raise click.UsageError(f"{out} is what was given; name another file with --out")
            return out
        name = f"{self.ticket.role}-{self.ticket.scheme}{'-folded' if folded else ''}"
        return self.workspace.folder / "exports" / f"{name}{SUFFIXES[to]}"


@click.command(
    epilog="Example: sat-optuna export studies/mine/tickets/ticket.json --to onnx; "
    "next: use the file, two lines that it prints"
)
@click.argument("ticket", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice([*SUFFIXES]), required=True, help="What to write.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A training's checkpoint or an exported file; default: the study's own retraining. The "
    "scores are then those that this file holds.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of that retraining; default: the first.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: exports/ of the study.")
@click.option("--opset", type=click.IntRange(min=1), help="Of ONNX; default: torch's choice.")
@click.option(
    "--fold-constant",
    is_flag=True,
    help="Take the full network, which carries the study's first kind everywhere, and fold the "
    "modules that the ticket drops into constants; a ticket of other kinds cannot be folded.",
)
@click.pass_obj
def export(
    console: Console,
    *,
    ticket: Path,
    to: str,
    weights: Path | None,
    seed: int | None,
    out: Path | None,
    opset: int | None,
    fold_constant: bool,
) -> None:
    """Write a ticket's network to one file, load it back and compare.

    TICKET is a ticket's JSON file or an exported .safetensors. A file that does not compute the
    same as the network is deleted.
    """
    check_format(out or Path(f"ticket{SUFFIXES[to]}"), to=to, opset=opset)
    given = _Given(ticket)
    if seed is not None and (weights or given.exported):
        raise click.UsageError("--seed chooses among a study's own weights; leave it out")
    found = given.ticket
    out = out or given.default_out(to, folded=fold_constant)
    report = None
    if fold_constant:
        network, report = _folded(given, weights, seed)
        found = replace(found, scores=())  # those of the retrained ticket do not hold for it
    else:
        from sat_optuna.export.weights import load_weights

        own = ticket if given.exported and weights is None else None
        network = load_weights(found, own or given.weights(found.scheme, weights, seed))
        if weights:
            found = replace(found, scores=_scores_with(weights, found))
    from sat_optuna.export.write import export_ticket

    console.remark(f"writing {to} and comparing it")
    written = export_ticket(network, found, out, to=to, opset=opset)
    if report:
        _print_report(console, report)
    _print_written(console, written)


def _folded(
    given: _Given, weights: Path | None, seed: int | None
) -> tuple["TicketNetwork", "FoldReport"]:
    """Fold the study's full network down to the ticket, over the calibration images."""
    if given.workspace is None:
        raise StudyError(
            f"ticket {given.path} does not lie in the tickets/ of a study, whose images "
            "--fold-constant takes means over; give one that does"
        )
    from sat_optuna.evaluate import calibration_batches
    from sat_optuna.export.fold import fold_constant
    from sat_optuna.export.weights import load_weights

    keep = given.ticket.scheme
    _check_first_kind(given.ticket)
    full = replace(given.ticket, role="full", scheme=Scheme.uniform(keep.stages, 1))
    network = load_weights(full, given.weights(full.scheme, weights, seed))
    config = given.workspace.config
    images = given.workspace.parts.data.train
    search = config.search
    batches = calibration_batches(
        images, count=search.calibration, chunk=search.calibration_chunk, seed=config.seed
    )
    return fold_constant(network.to(images.device), keep, batches)


def _check_first_kind(ticket: Ticket) -> None:
    """Make sure that a ticket uses only the first kind, which the full network carries.

    Raises:
        StudyError: the ticket uses another kind.
    """
    first = ticket.attention[0].kind
    for stage, choices in enumerate(ticket.scheme.by_stage(), start=1):
        for block, choice in enumerate(choices, start=1):
            if choice > 1:
                raise StudyError(
                    f"the study's full network carries {first} everywhere and this ticket uses "
                    f"kind {choice} ({ticket.attention[choice - 1].kind}) at stage {stage}, block "
                    f"{block}, which folding cannot keep; export it without --fold-constant"
                )


def _scores_with(weights: Path, ticket: Ticket) -> tuple[Score, ...]:
    """Return the scores that the file of some weights holds for this ticket, if any."""
    from sat_optuna.export.weights import read_ticket

    if "ticket" not in read_record(weights):
        return ()
    stored = read_ticket(weights)
    same = replace(stored, scores=()) == replace(ticket, scores=())
    return stored.scores if same else ()


def _print_report(console: Console, report: "FoldReport") -> None:
    rows = [
        {"stage": b.stage, "block": b.block, "kind": b.kind, "dispersion": b.dispersion}
        for b in report.blocks
    ]
    console.rows(rows, ("stage", "block", "kind", "dispersion"), "table")
    console.result(
        f"{len(rows)} modules folded into constants; over {report.images} training images the "
        f"logits change by {report.change_mean:.2%} of the largest in the mean and "
        f"{report.change_max:.2%} at most, and {report.unchanged:.2%} of the predictions stay"
    )


def _print_written(console: Console, written: Exported) -> None:
    opset = "" if written.opset is None else f", opset {written.opset}"
    apart = ", ".join(f"{value:.1e} at batch {n}" for n, value in written.differences.items())
    console.result(f"largest difference to the network, over its largest logit: {apart}")
    console.result(
        f"wrote {written.path}: {written.format}{opset}, {written.size_bytes:,} bytes; use:"
    )
    for line in _USE[written.format]:
        console.result(f"  {line.format(path=written.path)}")
