"""How far exported files are from their networks: each module in each format, on one backbone."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sat_optuna.attention import default_spec
from sat_optuna.bench.document import held_parts, write_document
from sat_optuna.events import Event, OnEvent, counted, ignore
from sat_optuna.export import SUFFIXES
from sat_optuna.export.write import TOLERANCE, export_ticket
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import Ticket
from sat_optuna.training.checkpoint import versions

__all__ = ["bench_export"]

_CLASSES = 1000
_SEED = 0


def bench_export(
    backbone: str,
    *,
    modules: Sequence[str],
    side: int,
    out: Path | None = None,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Export a network with each module in every block to each format; record the differences.

    Args:
        backbone: a name of `BACKBONES`. All its weights are drawn, also those that usually start
            at 0 or 1.
        modules: names of `ATTENTION`.
        side: H and W of the RGB images, in pixels.
        out: JSON file, which is rewritten after each export. What it holds already is not done
            again.
        on_event: told of each export, also of those that `out` holds already.

    Returns:
        A JSON document with a row for each module, format and batch size.

    Raises:
        ExportError: a file does not compute what the network computes.
        BenchError: `out` holds something else.
    """
    total = len(modules) * len(SUFFIXES)
    on_event = counted(on_event, step="bench export", total=total)
    shape = (3, side, side)
    header = {
        "backbone": backbone,
        "image": list(shape),
        "versions": versions() | _onnx_versions(),
        "tolerance": {to: TOLERANCE.get(to, 0.0) for to in SUFFIXES},
    }
    document = header | held_parts(out, header, {"rows": []}, what="exports")
    for kind in modules:
        made: tuple[nn.Module, Ticket] | None = None
        for to in SUFFIXES:
            if not any((row["module"], row["format"]) == (kind, to) for row in document["rows"]):
                made = made or _network(backbone, kind, shape)
                document["rows"] += _rows(*made, kind=kind, to=to)
                if out:
                    write_document(out, document)
            on_event(Event(step="export", done=1, total=1, message=f"{kind} {to}"))
    return document


def _onnx_versions() -> dict[str, str]:
    return {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}


def _network(backbone: str, kind: str, shape: tuple[int, int, int]) -> tuple[nn.Module, Ticket]:
    spec = default_spec(kind)
    net = Supernet(backbone, attention=[spec], in_channels=3, classes=_CLASSES, seed=_SEED)
    scheme = Scheme.uniform(net.stages, 1)
    network = _stirred(materialise(net, scheme))
    ticket = Ticket(
        role="full",
        scheme=scheme,
        backbone=backbone,
        backbone_settings={},
        attention=(spec,),
        classes=_CLASSES,
        input_shape=shape,
        dataset="none",
        dataset_fingerprint="none",
        seed=_SEED,
        params=sum(value.numel() for value in network.parameters()),
        macs=0,
    )
    return network, ticket


def _stirred(network: nn.Module) -> nn.Module:
    """Add noise to what starts at 0 or 1: a part that does nothing would hide a difference."""
    chance = generator_for("stir", _SEED)
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            if value.is_floating_point() and bool(((value == 0) | (value == 1)).all()):
                value += 0.2 * torch.rand(value.shape, generator=chance)
    return network


def _rows(network: nn.Module, ticket: Ticket, *, kind: str, to: str) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        written = export_ticket(network, ticket, Path(folder) / f"network{SUFFIXES[to]}", to=to)
        seconds = round(time.perf_counter() - start, 1)
    for batch, difference in written.differences.items():
        yield {
            "module": kind,
            "sharing": ticket.attention[0].sharing,
            "format": to,
            "opset": written.opset,
            "batch": batch,
            "difference": difference,
            "bytes": written.size_bytes,
            "seconds": seconds,
        }
