"""How far exported files are from their networks: each module in each format, on one backbone."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sat_optuna.attention import ATTENTION, default_spec
from sat_optuna.export import SUFFIXES, ExportError
from sat_optuna.export.write import TOLERANCE, export_ticket
from sat_optuna.files import write_text
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.materialise import TicketNetwork, materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import Ticket
from sat_optuna.training.checkpoint import versions

__all__ = ["bench_export", "own_modules"]

_CLASSES = 1000
_SEED = 0


def own_modules() -> tuple[str, ...]:
    """Return the modules that are this package's own, or registered by hand: no family's."""
    return tuple(name for name in ATTENTION.names() if ":" not in name)


def bench_export(
    backbone: str,
    *,
    modules: Sequence[str],
    side: int,
    out: Path | None = None,
    on_file: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Export a network with each module at all blocks in each format, and note the differences.

    Args:
        backbone: a name of `BACKBONES`; its weights are drawn, those that start at 0 or 1 too.
        modules: names of `ATTENTION`.
        side: of the RGB images, pixels.
        out: JSON file, rewritten after each export; what it holds already is not done again.
        on_file: called after each export with what it was; also for those not done again.

    Returns:
        A JSON document: a row for each module, format and batch.

    Raises:
        ExportError: a file does not compute what the network computes, or `out` holds something
            else.
    """
    shape = (3, side, side)
    document: dict[str, Any] = {
        "backbone": backbone,
        "image": list(shape),
        "versions": versions() | _onnx_versions(),
        "tolerance": {to: TOLERANCE.get(to, 0.0) for to in SUFFIXES},
    }
    document["rows"] = _held(out, document) if out else []
    for kind in modules:
        made: tuple[TicketNetwork, Ticket] | None = None
        for to in SUFFIXES:
            if not any((row["module"], row["format"]) == (kind, to) for row in document["rows"]):
                made = made or _network(backbone, kind, shape)
                document["rows"] += _rows(*made, kind=kind, to=to)
                if out:
                    write_text(out, json.dumps(document, indent=1) + "\n")
            if on_file:
                on_file(f"{kind} {to}")
    return document


def _onnx_versions() -> dict[str, str]:
    return {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}


def _held(out: Path, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a file that was begun with the same backbone, images and versions."""
    if not out.exists():
        return []
    try:
        held = json.loads(out.read_text(encoding="utf-8"))
        rows: list[dict[str, Any]] = held.pop("rows")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{out} holds something else than exports; choose another --out"
        ) from error
    other = sorted(key for key in wanted if held.get(key) != wanted[key])
    if other:
        raise ExportError(
            f"{out} was begun with another {', '.join(other)}; choose another --out, or move it "
            "away"
        )
    return rows


def _network(
    backbone: str, kind: str, shape: tuple[int, int, int]
) -> tuple[TicketNetwork, Ticket]:
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


def _stirred(network: TicketNetwork) -> TicketNetwork:
    """Move what starts at 0 or 1 elsewhere: nothing would be seen of a part that does nothing."""
    chance = generator_for("stir", _SEED)
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            if value.is_floating_point() and bool(((value == 0) | (value == 1)).all()):
                value += 0.2 * torch.rand(value.shape, generator=chance)
    return network


def _rows(
    network: TicketNetwork, ticket: Ticket, *, kind: str, to: str
) -> Iterator[dict[str, Any]]:
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
            "bytes": written.size,
            "seconds": seconds,
        }
