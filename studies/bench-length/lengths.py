"""How placements compare after trainings of other lengths: python lengths.py [OPTIONS].

Plain, full and the best placement of a truth table (by its validation images), trained as the
table's networks are, but for the number of epochs and the seeds. The same command goes on after
any end: a training that is in lengths.json is not made again. `--report` writes table.md alone.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import sat_optuna as sat
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.evidence.retrain import in_processes
from sat_optuna.evidence.truth_runs import TruthJob, train_entries
from sat_optuna.files import write_text
from sat_optuna.pipeline.latency import hardware_of

__all__ = ["compared", "main", "table"]

HERE = Path(__file__).parent
Row = dict[str, Any]


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", default="truth-cued-digits-srm", help="with its truth table")
    parser.add_argument("--epochs", type=int, nargs="*", default=[5, 10, 20, 40])
    # Not those of the table, which chose the best.
    parser.add_argument("--seeds", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="train nothing")
    asked = parser.parse_args()
    path = HERE / "lengths.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for row in () if asked.report else trained(asked, rows):
        rows.append(row)
        rows.sort(key=lambda r: (r["study"], r["scheme"], r["epochs"], r["seed"]))
        write_text(path, json.dumps(rows, indent=1) + "\n")
    write_text(HERE / "table.md", table(rows))


def compared(truth: sat.TruthTable) -> dict[str, str]:
    """Return the schemes of plain, of full, and of the best mean over a table's seeds."""
    whole = truth.signed()
    sums, counts = np.nansum(whole.values, axis=1), np.isfinite(whole.values).sum(axis=1)
    means = np.where(counts == counts.max(), sums / max(counts.max(), 1), -np.inf)
    best = str(sat.Scheme.of(whole.choices[int(np.argmax(means))], truth.stages))
    return {role: truth.manifest["references"][role] for role in ("plain", "full")} | {
        "best": best
    }


def trained(asked: argparse.Namespace, rows: list[Row]) -> Iterator[Row]:
    """Train the networks that no row is of, and yield a row each."""
    study = sat.open_study(HERE.parent / asked.study)
    schemes = dict.fromkeys(compared(sat.load_truth(study.folder)).values())
    known = {(row["study"], row["scheme"], row["epochs"], row["seed"]) for row in rows}
    machine = hardware_of(study.config)
    for epochs in asked.epochs:
        config = replace(study.config, retrain=replace(study.config.retrain, epochs=epochs))
        jobs = [
            TruthJob(study.parts.ticket(sat.Scheme.parse(text)), seed, config)
            for seed in asked.seeds
            for text in schemes
            if (asked.study, text, epochs, seed) not in known
        ]
        running = in_processes(
            ({number: job} for number, job in enumerate(jobs)),
            partial(train_entries, plugins=study.plugins),
            workers=asked.workers,
            threads=study.config.threads,
        )
        for result in running:
            if result.error:
                raise sat.SatOptunaError(f"{result.scheme}, {epochs} epochs: {result.error}")
            row = {"study": asked.study, "epochs": epochs} | asdict(result)
            row |= {"scheme": str(result.scheme), "machine": machine}
            del row["error"]
            sys.stderr.write(f"{row}\n")
            yield row


def table(rows: list[Row]) -> str:
    """Return the test accuracies by length as a page of Markdown."""
    lines = ["# Plain, full and the best placement, by the length of their training"]
    for study in dict.fromkeys(row["study"] for row in rows):
        of = [row for row in rows if row["study"] == study]
        schemes = compared(sat.load_truth(HERE.parent / study))
        lines += ["", f"## {study}", ""]
        lines += [
            "Test accuracy in % after the last epoch, of each seed; the best was chosen by other "
            "seeds and images.",
            "",
            "| epochs | seeds | " + " | ".join(f"{r} `{s}`" for r, s in schemes.items()) + " |",
            "|---|---|" + "---|" * len(schemes),
        ]
        for epochs in sorted({row["epochs"] for row in of}):
            here = [row for row in of if row["epochs"] == epochs]
            seeds = sorted({row["seed"] for row in here})
            cells = [
                ", ".join(f"{row['test']:.1f}" for row in here if row["scheme"] == scheme)
                for scheme in schemes.values()
            ]
            lines.append(f"| {epochs} | {', '.join(map(str, seeds))} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Made by `lengths.py` in this folder, from lengths.json.", ""])


if __name__ == "__main__":
    warnings.simplefilter("ignore", SatOptunaWarning)  # a table that lacks rows is used
    main()
