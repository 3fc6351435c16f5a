"""Do two checkouts of this project compute the same? Tiny whole studies, compared bit for bit.

    python tests/same_bits.py BEFORE AFTER
    python tests/same_bits.py BEFORE AFTER --only policy tpe --keep FOLDER
    python tests/same_bits.py FOLDER/before AFTER

Each study of `STUDIES` is run in both checkouts through the command line alone: each command is a
process of this Python, and its PYTHONPATH is the checkout. Then this program reads the files of
both runs with safetensors, Optuna, NumPy and sqlite3. It never imports sat_optuna, so it can
compare any two versions that have the same commands and the same files. A table says what was
compared, and the exit code is 1 if anything differs. With `--keep` the runs stay in FOLDER/before
and FOLDER/after; a later call takes either of them in place of a checkout.

Values that no two runs share are left out: times, measured latencies, ids, names of processes, and
digests of the configuration. A value that only AFTER has is a difference too, except in the kinds
that `GROWING` names.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import safetensors

__all__ = ["STUDIES", "main"]

Values = dict[str, str]  # by a name that says what it is: a digest, or the value as text

_NAME = "tiny"
_TICKET = f"studies/{_NAME}/tickets/ticket.json"
_COMMON: dict[str, Any] = {
    "data.limit": 300,
    "network.width": 4,
    "network.stem_stride": 4,
    "network.blocks": [2, 2, 2],
    "train.batch": 32,
    "train.shift": 1,
    "pretrain.epochs": 2,
    "search.calibration": 40,
    "search.calibration_chunk": 16,
    "retrain.epochs": 1,
    "retrain.workers": 1,
}
# The whole road in one process, and then the two commands that are no part of it.
_ROAD = (
    ("run", _NAME, "--no-mlflow"),
    ("enumerate", _NAME),
    ("export", _TICKET, "--to", "safetensors"),
)
# The road step by step; the search is stopped after 10 trials and continued.
_STEPS = (
    ("pretrain", _NAME),
    ("search", _NAME, "--trials", "10", "--no-mlflow"),
    ("search", _NAME, "--no-mlflow"),
    ("enumerate", _NAME),
    ("retrain", _NAME, "--no-mlflow"),
    ("report", _NAME),
    ("export", _TICKET, "--to", "safetensors"),
    ("export", _TICKET, "--to", "safetensors", "--fold-constant"),
)


@dataclass(frozen=True)
class _Study:
    """A study to run: keys of study.toml, over those of `_COMMON`, and the commands in order."""

    keys: dict[str, Any]
    commands: Sequence[Sequence[str]] = _ROAD


STUDIES = {
    "policy": _Study({"search.batch": 4}, _STEPS),  # 24 trials in small batches: six policies
    "train": _Study(
        {
            "train.cutout": 4,
            "train.label_smoothing": 0.1,
            "train.schedule": "step",
            "search.objective": "train",
            "search.start": "supernet",
            "search.pruner": "median",
            "search.replicates": 2,
        },
        (("run", _NAME), *_ROAD[1:]),  # logged to MLflow
    ),
    "scratch": _Study(
        {
            "attention.kinds": ["sge"],
            "attention.sge.groups": 4,
            "search.objective": "train",
            "search.pruner": "halving",
            "search.sampler": "nsga2",
        },
        (("pretrain", _NAME), *_ROAD),
    ),
    "paper": _Study(
        {
            "data.valid": 0.3,
            "network.backbone": "preresnet110",
            "pretrain.draws": "antithetic",
            "search.sampler": "paper",
            "search.max_connections": 4,
        }
    ),
    "stage": _Study(
        {
            "attention.kinds": ["srm", "dia"],
            "attention.srm.sharing": "stage",
            "train.precision": "bfloat16",
            "train.memory_format": "channels_last",
            "pretrain.draws": "balanced",
            "search.batch": 4,
            "search.max_params": 11_900,
            "search.max_macs": 95_600,
        }
    ),
    "tpe": _Study(
        {
            "attention.kinds": ["cbam"],
            "attention.cbam.sharing": "stage",
            "train.schedule": "cosine",
            "train.flip": True,
            "train.nesterov": False,
            "search.sampler": "tpe",
            "search.recalibrate": False,
        }
    ),
}
# A later version may have more values of these kinds, but not more files, trials or runs: their
# number is a value too.
GROWING = ("trials", "enumeration", "retrainings", "tickets", "MLflow")
_UNEQUAL = {
    "latency_ms",
    "latency_rounds",
    "study_uuid",
    "mlflow_run",
    "sat_optuna",
    "fingerprint",
}
_UNEQUAL_TAGS = {"mlflow.parentRunId", "sat.key", "sat.search", "sat.study_uuid", "sat.worker"}


def _run(checkout: Path, project: Path, study: _Study, trials: int) -> None:
    """Let a checkout run a study in a new project."""
    if project.exists():
        sys.exit(f"{project} is there already; remove it, or give --keep another folder")
    folder = project / "studies" / _NAME
    folder.mkdir(parents=True)
    (project / "mlruns").mkdir()
    keys = _COMMON | study.keys | {"search.trials": trials}
    # A JSON text, number, truth value or list is a TOML one too.
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in keys.items()]
    (folder / "study.toml").write_text("".join(lines), encoding="utf-8")
    found = _python(checkout, project, "-c", "import sat_optuna; print(sat_optuna.__file__)")
    if not Path(found.strip()).is_relative_to(checkout):
        sys.exit(f"{checkout} was to be run, but Python finds {found.strip()}")
    for command in study.commands:
        _python(checkout, project, "-m", "sat_optuna", *command)


def _python(checkout: Path, project: Path, *arguments: str) -> str:
    """Run this Python on a checkout, in a project, and return what it prints."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SAT_OPTUNA", "MLFLOW"))}
    given = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=own | given | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(arguments)} ended with {done.returncode}\n{done.stderr}")
    return done.stdout


def _read(project: Path) -> dict[str, Values]:
    """Return all that is compared of a project, by its kind."""
    folder = project / "studies" / _NAME
    kinds = {
        "supernet": _tensors(folder.glob("work/**/supernet.safetensors")),
        "trials": _trials(folder / "study.db"),
        "enumeration": _arrays(folder / "enumeration.npz"),
        "retrainings": _documents(sorted(folder.glob("work/**/*.seed*.json"))),
        "retrained weights": _tensors(folder.glob("work/**/*.seed*.safetensors")),
        "tickets": _documents(sorted(folder.glob("tickets/*.json"))),
        "exported weights": _tensors(folder.glob("exports/*.safetensors")),
        "pages and figures": _pages(folder),
    }
    logged = project / "mlruns" / "mlflow.db"
    return kinds | ({"MLflow": _runs(logged)} if logged.exists() else {})


def _digest(*parts: object) -> str:
    """Return 16 hex digits of bytes and of the texts of other values."""
    joined = b"|".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
    return hashlib.sha256(joined).hexdigest()[:16]


def _tensors(paths: Iterable[Path]) -> Values:
    """Return a digest of each tensor of safetensors files; their metadata is not looked at."""
    return {
        f"{path.name} {name}": _digest(held["dtype"], held["shape"], bytes(held["data"]))
        for path in paths
        for name, held in safetensors.deserialize(path.read_bytes())
    }


def _arrays(path: Path) -> Values:
    """Return a digest of each array of an npz file."""
    with np.load(path) as arrays:
        return {
            name: _digest(array.dtype, array.shape, array.tobytes())
            for name, array in arrays.items()
        }


def _trials(db: Path) -> Values:
    """Return all that a database of Optuna holds of the trials of the search and its control."""
    storage = f"sqlite:///{db}"
    values: Values = {}
    for name in optuna.get_all_study_names(storage):
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        values[f"{name}: how many"] = str(len(trials))
        for trial in trials:
            held = {
                "state": trial.state.name,
                "values": trial.values,
                "params": trial.params,
                "distributions": trial.distributions,
                "reports": trial.intermediate_values,
                # The objective's attributes and those that the policy notes of its proposals.
                "noted": trial.user_attrs | trial.system_attrs,
            }
            held["noted"].pop("sat:worker", None)
            values |= _leaves(f"{name} {trial.number}", held)
    return values


def _documents(paths: Sequence[Path]) -> Values:
    """Return the values of JSON files."""
    values = {"files": str([path.name for path in paths])} if paths else {}
    for path in paths:
        values |= _leaves(path.name, json.loads(path.read_text(encoding="utf-8")))
    return values


def _leaves(name: str, value: Any) -> Values:
    """Return the values within nested mappings; a list is one value. repr keeps every bit."""
    if not isinstance(value, Mapping):
        return {name: repr(value)}
    leaves: Values = {}
    for key in sorted(value.keys() - _UNEQUAL):
        leaves |= _leaves(f"{name} {key}", value[key])
    return leaves


def _untimed(text: str) -> str:
    """Return verdicts without the one that was timed, and without what it adds to the headline."""
    text = re.sub(r"^(- )?faster: .*$", "faster", text, flags=re.MULTILINE)
    return re.sub(r" \*\*Failed: [^*]*\*\*", "", text)


def _pages(folder: Path) -> Values:
    """Return digests of pages and figures, and the report's lines without what was measured."""
    report = (folder / "report.md").read_text(encoding="utf-8")
    report = re.sub(r"[\d.]+ \|$", "latency |", _untimed(report), flags=re.MULTILINE)
    report = re.sub(r"sat_optuna [\d.]+", "sat_optuna VERSION", report)
    lines = {f"report.md line {n}": line for n, line in enumerate(report.splitlines(), start=1)}
    figures = [path for path in sorted(folder.glob("figures/*")) if path.stem != "ticket"]
    others = [*folder.glob("enumeration.[jm]*"), *figures]  # the ticket's has its milliseconds
    return lines | {path.name: _digest(path.read_bytes()) for path in others}


def _runs(db: Path) -> Values:
    """Return what MLflow's database and its artifacts hold of each run."""
    with contextlib.closing(sqlite3.connect(db)) as connection:
        runs = connection.execute("SELECT run_uuid, name, status FROM runs").fetchall()
        values = {"how many": str(len(runs)), "names": str(sorted(name for _, name, _ in runs))}
        for run, name, status in runs:
            values[f"{name} status"] = status
            for table in ("tags", "params"):
                rows = connection.execute(
                    f"SELECT key, value FROM {table} WHERE run_uuid = ?", [run]
                )
                kept = {k: _untimed(v) for k, v in rows if k not in _UNEQUAL_TAGS}
                values |= _leaves(f"{name} {table}", kept)
            rows = connection.execute(
                "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND key != 'latency_ms' "
                "AND key NOT LIKE 'verdict.faster.%'",
                [run],
            )
            values |= {f"{name} {key} at {step}": repr(value) for key, step, value in rows}
            for path in db.parent.glob(f"artifacts/*/{run}/**/*.json"):
                document = json.loads(path.read_text(encoding="utf-8"))
                values |= _leaves(f"{name} {path.name}", document)
    return values


def _compare(kind: str, before: Values, after: Values) -> tuple[bool, str]:
    """Return whether the values of a kind are the same, and the words for the table."""
    names = [*dict.fromkeys((*before, *after))]
    if kind in GROWING:
        names = [*before]
    if not names:
        return False, "nothing found to compare"
    unequal = [name for name in names if before.get(name) != after.get(name)]
    if not unequal:
        return True, f"equal, {len(names)} values"
    old, new = (values.get(unequal[0], "absent") for values in (before, after))
    return False, f"{len(unequal)} of {len(names)} values DIFFER, {unequal[0]}: {old} | {new}"


def _project(given: Path, name: str, kept: Path, trials: int) -> Path:
    """Return the project of a study: one that an earlier call kept, or one that is run now."""
    if not (given / "sat_optuna").is_dir():
        if not (given / name / "studies").is_dir():
            sys.exit(f"{given} holds neither sat_optuna/ nor the kept study {name!r}")
        return given / name
    _run(given, kept / name, STUDIES[name], trials)
    return kept / name


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and compare; return 0 where all is equal, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", type=Path, help="a checkout, or what --keep left of one")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--only", nargs="+", choices=[*STUDIES], default=[*STUDIES])
    parser.add_argument("--trials", type=int, default=24, help="of each search")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the runs are left")
    given = parser.parse_args(arguments)
    same = True
    with tempfile.TemporaryDirectory() as temporary:
        kept = (given.keep or Path(temporary)).resolve()
        for name in given.only:
            before, after = (
                _read(_project(checkout.resolve(), name, kept / side, given.trials))
                for side, checkout in (("before", given.before), ("after", given.after))
            )
            for kind in dict.fromkeys((*before, *after)):
                equal, words = _compare(kind, before.get(kind, {}), after.get(kind, {}))
                same &= equal
                _say(f"{name:<8} {kind:<18} {words}")
    _say("all equal" if same else "NOT equal")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
