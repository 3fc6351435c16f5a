"""What a GPU gives: training, scoring, searching and inference, each as a ratio within one run.

    .ci/gpu FOLDER                                  the tests marked gpu, then this
    python studies/bench-gpu/measure.py FOLDER      this alone; --cut for sizes a CPU can do

Each entry of `MEASUREMENTS` has seconds of its own, the most valuable first; what fails or takes
longer is recorded, and the rest goes on. All but the last have 280 s together, of the 285 s of
.ci/gpu; by the seconds of the first run they should take some 230 s. FOLDER/gpu.json and
FOLDER/table.md are written after each one.
"""

import argparse
import contextlib
import json
import logging
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import optuna
import torch

import inference
import scoring
import searching
import strategies
import training
from sat_optuna.files import write_text
from sat_optuna.training.checkpoint import versions
from sat_optuna.training.precision import pick_device

__all__ = ["MEASUREMENTS", "Measurement", "main", "run"]

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something that is measured.

    Attributes:
        measure: called with whether sizes are cut; yields the rows of a table.
        seconds: at most.
    """

    measure: Callable[..., Iterable[Row]]
    seconds: int


MEASUREMENTS: Mapping[str, Measurement] = {
    "training, resnet20": Measurement(training.resnet20, 30),
    "training, eager and graph": Measurement(strategies.steps, 18),
    "retraining together": Measurement(strategies.together, 35),
    "scoring": Measurement(scoring.all_schemes, 45),
    "training, resnet56": Measurement(training.resnet56, 28),
    "inference": Measurement(inference.increments, 22),
    "training steps": Measurement(inference.training_steps, 10),
    "training, wide resnet20": Measurement(training.wide_resnet20, 26),
    "training, wide resnet56": Measurement(training.wide_resnet56, 26),
    "searching": Measurement(searching.studies, 28),
    "seeds batched by torch.func": Measurement(strategies.batched, 12),
    "training, compiled": Measurement(strategies.compiled, 60),
}


class OutOfTime(Exception):  # noqa: N818
    """A measurement took longer than it may."""


def run(folder: Path, *, cut: bool, only: Sequence[str] = ()) -> bool:
    """Measure all, or what is named; return whether nothing failed.

    Args:
        folder: results are written there after each measurement.
        cut: whether sizes are cut to what a CPU does in a minute.
        only: names of `MEASUREMENTS`.
    """
    document: dict[str, Any] = {**where(), "cut": cut, "results": {}, "failed": {}}
    begun = time.monotonic()
    for name, measurement in MEASUREMENTS.items():
        if only and name not in only:
            continue
        start = time.monotonic()
        try:
            with _at_most(10 * measurement.seconds if cut else measurement.seconds):
                rows = document["results"][name] = []
                for row in measurement.measure(cut=cut):
                    rows.append(row)  # noqa: PERF402  kept where the next one fails
        except Exception:  # the others are measured all the same
            document["failed"][name] = traceback.format_exc()
            sys.stderr.write(f"{name} failed\n{document['failed'][name]}")
        passed = time.monotonic() - start
        sys.stderr.write(f"{name}: {passed:.1f} s\n")
        document.setdefault("seconds", {})[name] = round(passed, 1)
        document["seconds_in_all"] = round(time.monotonic() - begun, 1)
        write_text(folder / "gpu.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        write_text(folder / "table.md", table(document))
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):  # a broken context says so in what comes next
                torch.cuda.empty_cache()
    return not document["failed"]


def where() -> dict[str, Any]:
    """Return the card, its driver and the versions of everything."""
    device = pick_device()
    found: dict[str, Any] = {"device": device.type, "card": "no GPU", "driver": None}
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        found |= {"card": facts.name, "memory_gib": round(facts.total_memory / 2**30, 1)}
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            found["driver"] = subprocess.run(
                asked, capture_output=True, text=True, check=True, timeout=20
            ).stdout.strip()
    return found | {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def table(document: Mapping[str, Any]) -> str:
    """Return a document as a page of Markdown."""
    packages = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    sizes = "; sizes cut" if document["cut"] else ""
    lines = [
        "# On a GPU\n",
        f"{document['card']}, driver {document['driver']}, CUDA {document['cuda']}, cuDNN "
        f"{document['cudnn']}; {packages}; {document['seconds_in_all']} s{sizes}.",
    ]
    for name, rows in document["results"].items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        lines += [
            f"\n## {name[0].upper()}{name[1:]}\n",
            _line(columns),
            _line("-" for _ in columns),
        ]
        lines += [_line(row.get(column, "") for column in columns) for row in rows]
    for name, said in document["failed"].items():
        lines += [f"\n## {name}: failed\n", said.strip().splitlines()[-1]]
    return "\n".join(lines) + "\n"


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise in the middle of what takes longer."""

    def end(*_: object) -> None:
        raise OutOfTime(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    """Measure what the command line asks for; return 1 where something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cut", action="store_true", help="sizes that a CPU can do")
    parser.add_argument("--only", action="append", default=[], choices=list(MEASUREMENTS))
    given = parser.parse_args()
    logging.getLogger("optuna").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return 0 if run(given.folder, cut=given.cut, only=given.only) else 1


if __name__ == "__main__":
    sys.exit(main())
