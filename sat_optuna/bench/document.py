"""The JSON documents of the benchmarks.

A benchmark that was stopped goes on with the document that it has written.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sat_optuna.errors import SatOptunaError
from sat_optuna.files import write_text
from sat_optuna.training.precision import pick_device

__all__ = ["BenchError", "device_name", "held_parts", "write_document"]


class BenchError(SatOptunaError, ValueError):
    """A benchmark that cannot be run as asked."""


def device_name() -> str:
    """Return the type and the name of the device that this process computes on."""
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return f"{device.type} {name}"


def held_parts(
    out: Path | None, header: Mapping[str, Any], parts: Mapping[str, Any], *, what: str
) -> dict[str, Any]:
    """Return the parts of a document that an earlier run wrote, so that none is measured again.

    Args:
        out: the document's file; None, or no file there: nothing was measured yet.
        header: all other fields of the document. A run goes on with no other one's file.
        parts: by name, each part while nothing of it was measured.
        what: what the document holds, for messages.

    Raises:
        BenchError: the file holds something else, or was begun with another header.
    """
    if out is None or not out.exists():
        return dict(parts)
    try:
        held = json.loads(out.read_text(encoding="utf-8"))
        found = {"rows": held.pop("rows")}
        found |= {name: held.pop(name, empty) for name, empty in parts.items() if name != "rows"}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BenchError(
            f"{out} holds something else than {what}; choose another --out"
        ) from error
    if other := sorted(name for name in header if held.get(name) != header[name]):
        raise BenchError(
            f"{out} was begun with another {', '.join(other)}; choose another --out, or move it "
            "away"
        )
    return found


def write_document(out: Path, document: Mapping[str, Any]) -> None:
    """Write a document as JSON, whole or not at all."""
    write_text(out, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
