"""`sat-optuna export`: write a ticket's network to one file that is known to compute the same."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sat_optuna.cli.console import Console
from sat_optuna.export import SUFFIXES, Exported, check_format

if TYPE_CHECKING:
    from sat_optuna.export.fold import FoldReport

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
    "--with-preprocessing",
    is_flag=True,
    help="Put scale and normalisation into the program (torch-export, onnx), so that it takes "
    "uint8 images as they lie in files, of the network's size.",
)
@click.option(
    "--fold-constant",
    is_flag=True,
    help="Take the full network, which carries the study's first kind everywhere, and fold the "
    "modules that the ticket drops into constants; a ticket of other kinds cannot be folded. Of a "
    "study with objective 'folded' it is the network that was scored.",
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
    with_preprocessing: bool,
    fold_constant: bool,
) -> None:
    """Write a ticket's network to one file, load it back and compare.

    TICKET is a ticket's JSON file or an exported .safetensors. A file that does not compute the
    same as the network is deleted.
    """
    check_format(out or Path(f"ticket{SUFFIXES[to]}"), to=to, opset=opset)
    from sat_optuna.export.weights import load_weights
    from sat_optuna.export.write import export_ticket
    from sat_optuna.pipeline.ticket_weights import TicketFile, folded, scores_with

    given = TicketFile(ticket)
    if seed is not None and (weights or given.exported):
        raise click.UsageError("--seed chooses among a study's own weights; leave it out")
    found = given.ticket
    mark = f"{'-folded' * fold_constant}{'-uint8' * with_preprocessing}"
    out = out or given.default_out(to, mark=mark)
    if out == ticket:
        raise click.UsageError(f"{out} is what was given; name another file with --out")
    report = None
    if fold_constant:
        network, report = folded(given, weights, seed)
        found = replace(found, scores=())  # those of the retrained ticket do not hold for it
    else:
        own = ticket if given.exported and weights is None else None
        network = load_weights(found, own or given.weights(found.scheme, weights, seed))
        if weights:
            found = replace(found, scores=scores_with(weights, found))
    console.remark(f"writing {to} and comparing it")
    written = export_ticket(
        network, found, out, to=to, opset=opset, preprocessing=with_preprocessing
    )
    if report:
        _print_report(console, report)
    _print_written(console, written)


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
