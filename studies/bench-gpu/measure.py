"""What a GPU gives: training, scoring, searching and inference, each as a ratio within one run.

    .ci/gpu FOLDER                                  the tests marked gpu, then this
    python studies/bench-gpu/measure.py FOLDER      this alone; --cut for sizes a CPU can do

Each entry of `MEASUREMENTS` has seconds of its own, what was measured on no card yet first; what
fails or takes longer is recorded, and the rest goes on. After each one FOLDER has a JSON named by
the card, and table.md, with a section for this card and for each other one whose JSON lies beside
this program. `--resume` begins with the JSON of this card that lies here, and measures what it
does not have.
"""

import argparse
import contextlib
import json
import logging
import math
import re
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
from sat_optuna.errors import one_line
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
    "supernet, eager and by blocks": Measurement(strategies.supernets, 34),
    "training, wide resnet56": Measurement(training.wide_resnet56, 32),
    "training, resnet20": Measurement(training.resnet20, 40),
    "seeds batched by torch.func": Measurement(strategies.batched, 14),
    "training, compiled": Measurement(strategies.compiled, 75),
    "searching": Measurement(searching.studies, 30),
    "training, eager and graph": Measurement(strategies.steps, 18),
    "retraining together": Measurement(strategies.together, 35),
    "scoring": Measurement(scoring.all_schemes, 45),
    "training, resnet56": Measurement(training.resnet56, 28),
    "inference": Measurement(inference.increments, 22),
    "training steps": Measurement(inference.training_steps, 10),
    "training, wide resnet20": Measurement(training.wide_resnet20, 26),
}
HERE = Path(__file__).parent
LEAST = 5  # seconds that must be left for a measurement to be begun


class OutOfTime(Exception):  # noqa: N818
    """A measurement took longer than it may."""


def run(
    folder: Path,
    *,
    cut: bool,
    only: Sequence[str] = (),
    seconds: float = math.inf,
    resume: bool = False,
) -> bool:
    """Measure all, or what is named; return whether nothing failed.

    Args:
        folder: results are written there after each measurement.
        cut: whether sizes are cut to what a CPU does in a minute.
        only: names of `MEASUREMENTS`.
        seconds: for all of them; what is not begun in time is recorded as not reached.
        resume: whether to keep what was measured on this card before and lies beside this program.
    """
    here = where()
    document: dict[str, Any] = {**here, "cut": cut, "results": {}, "failed": {}, "seconds": {}}
    place = re.sub("[^a-z0-9]+", "-", here["card"].lower()).strip("-") + ".json"
    if resume and (HERE / place).exists():
        earlier = _read(HERE / place)
        for part in ("results", "failed", "seconds"):
            document[part] |= earlier.pop(part)
        document["earlier"] = [earlier, *earlier.pop("earlier", [])]
    others = [] if cut else [_read(p) for p in sorted(HERE.glob("*.json")) if p.name != place]
    todo = [
        name
        for name in MEASUREMENTS
        if name in only or not (only or document["results"].get(name))
    ]
    document["results"] |= {name: [] for name in todo}
    document["seconds"] = {k: v for k, v in document["seconds"].items() if k not in todo}
    document["failed"] |= dict.fromkeys(todo, "not reached")
    begun, whole = time.monotonic(), True
    for name in todo:
        measurement, start = MEASUREMENTS[name], time.monotonic()
        left = seconds - (start - begun)
        if left < LEAST:
            return False
        allowed = int(min(10 * measurement.seconds if cut else measurement.seconds, left))
        del document["failed"][name]
        rows = document["results"][name]
        try:
            with _at_most(allowed):
                for row in measurement.measure(cut=cut):
                    rows.append(row)  # kept where the next one fails
        except Exception as error:  # the others are measured all the same
            whole = False
            sys.stderr.write(f"{name} failed\n{traceback.format_exc()}")
            late = time.monotonic() - start >= allowed  # what ran may have wrapped it
            told = OutOfTime(f"not done after {allowed} s") if late else error
            document["failed"][name] = one_line(told)
        passed = time.monotonic() - start
        sys.stderr.write(f"{name}: {passed:.1f} s\n")
        document["seconds"][name] = round(passed, 1)
        document["seconds_in_all"] = round(time.monotonic() - begun, 1)
        text = json.dumps(document, indent=1, ensure_ascii=False)
        write_text(folder / place, text + "\n")
        write_text(folder / "table.md", table([*others, document]))
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):  # a broken context says so in what comes next
                torch.cuda.empty_cache()
    return whole


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


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


def table(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return documents as a page of Markdown, a section a card."""
    lines = ["# On a GPU"]
    for document in documents:
        lines += ["\n## " + document["card"]]
        for run in (document, *document.get("earlier", [])):
            packages = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
            lines += [
                f"\n{'' if run is document else 'Earlier: '}Driver {run['driver']}, CUDA "
                f"{run['cuda']}, cuDNN {run['cudnn']}; {packages}; {run['seconds_in_all']} s"
                f"{'; sizes cut' if run['cut'] else ''}."
            ]
        for name, rows in document["results"].items():
            lines += [f"\n### {name[0].upper()}{name[1:]}\n"]
            if rows:
                columns = list(dict.fromkeys(column for row in rows for column in row))
                lines += [_line(columns), _line("-" for _ in columns)]
                lines += [_line(row.get(column, "") for column in columns) for row in rows]
            if name in document["failed"]:
                lines += ["\n" * bool(rows) + f"Not whole: {document['failed'][name]}"]
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
    parser.add_argument("--seconds", type=float, default=math.inf, help="for all of them")
    parser.add_argument("--resume", action="store_true", help="what this card lacks here")
    given = parser.parse_args()
    logging.getLogger("optuna").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    whole = run(
        given.folder,
        cut=given.cut,
        only=given.only,
        seconds=given.seconds,
        resume=given.resume,
    )
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
