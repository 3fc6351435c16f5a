"""How placements compare after trainings of other lengths: python lengths.py [OPTIONS].

Plain, full and the best scheme of a truth table, trained as its networks are, but for the number
of epochs. The same command goes on after any end: a training that is in lengths.json is not made
again. `--report` writes table.md of it.
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
from sat_optuna.evidence.statistics import summarise
from sat_optuna.evidence.truth_runs import TruthJob, train_entries
from sat_optuna.files import write_text
from sat_optuna.pipeline.latency import hardware_of

HERE = Path(__file__).parent
Row = dict[str, Any]


def main() -> None:
    """Train what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", default="truth-cued-digits-srm", help="with its truth table")
    parser.add_argument("--epochs", type=int, nargs="*", default=[5, 10, 20, 40])
    # Not those of the table, which chose the best.
    parser.add_argument("--seeds", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--report", action="store_true", help="only write table.md")
    asked = parser.parse_args()
    path = asked.out / "lengths.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not asked.report:
        for row in trained(asked, rows):
            rows.append(row)
            rows.sort(key=lambda r: (r["study"], r["epochs"], r["role"], r["seed"]))
            write_text(path, json.dumps(rows, indent=1) + "\n")
    write_text(asked.out / "table.md", table(rows))


def schemes_of(table: sat.TruthTable) -> dict[str, str]:
    """Return by role plain, full, and the scheme whose mean validation value is the best."""
    whole = table.signed()
    best = int(np.argmax(np.nanmean(whole.values, axis=1)))
    references = {role: table.manifest["references"][role] for role in ("plain", "full")}
    return references | {"best": str(sat.Scheme.of(whole.choices[best], table.stages))}


def trained(asked: argparse.Namespace, rows: list[Row]) -> Iterator[Row]:
    """Train the networks that no row is of, and yield a row each."""
    study = sat.open_study(HERE.parent / asked.study)
    roles = {text: role for role, text in schemes_of(sat.load_truth(study.folder)).items()}
    known = {(row["study"], row["scheme"], row["epochs"], row["seed"]) for row in rows}
    machine = hardware_of(study.config)
    for epochs in asked.epochs:
        config = replace(study.config, retrain=replace(study.config.retrain, epochs=epochs))
        jobs = [
            TruthJob(study.parts.ticket(sat.Scheme.parse(text)), seed, config)
            for seed in asked.seeds
            for text in roles
            if (asked.study, text, epochs, seed) not in known
        ]
        running = in_processes(
            ({number: job} for number, job in enumerate(jobs)),
            partial(train_entries, plugins=study.plugins),
            workers=asked.workers,
            threads=study.config.threads,
        )
        for result in running:
            scheme, values = str(result.scheme), asdict(result)
            row = {"study": asked.study, "role": roles[scheme], "epochs": epochs} | values
            row |= {"scheme": scheme, "machine": machine}
            sys.stderr.write(f"{row}\n")
            yield row


def table(rows: list[Row]) -> str:
    """Return the accuracies by length as a page of Markdown."""
    lines = ["# Plain, full and the best placement, by the length of their training"]
    for study in dict.fromkeys(row["study"] for row in rows):
        of = [row for row in rows if row["study"] == study]
        schemes = {row["role"]: row["scheme"] for row in of}
        lines += ["", f"## {study}", ""]
        lines += [
            "Validation accuracy in % after the last epoch: mean over seeds with Student's 95 % "
            "interval, in brackets the worst seed.",
            "",
            "| epochs | seeds | " + " | ".join(f"{r} `{s}`" for r, s in schemes.items()) + " |",
            "|---|---|" + "---|" * len(schemes),
        ]
        for epochs in sorted({row["epochs"] for row in of}):
            cells, count = [], 0
            for role in schemes:
                values = [r["valid"] for r in of if (r["epochs"], r["role"]) == (epochs, role)]
                count = max(count, len(values))
                spread = summarise(values)
                high, low = min(spread.high, 100.0), max(spread.low, 0.0)
                cells.append(f"{spread.mean:.1f}, {low:.1f} to {high:.1f} ({min(values):.1f})")
            lines.append(f"| {epochs} | {count} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Made by `lengths.py` in this folder, from lengths.json.", ""])


if __name__ == "__main__":
    warnings.simplefilter("ignore", SatOptunaWarning)  # a table that lacks rows is used
    main()
