"""evidence.md and evidence.json: what a study's claims come to, with the numbers behind them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sat_optuna.evidence.claims import LOOKS, Claim, failed_starts
from sat_optuna.evidence.pages import markdown_table, write_html
from sat_optuna.evidence.runs import MeasuredNetwork, MeasuredRuns
from sat_optuna.evidence.statistics import summarise_scores
from sat_optuna.evidence.verdicts import row_of
from sat_optuna.files import write_text
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure

__all__ = ["network_rows", "write_claims"]

_DASH = "\N{EN DASH}"
_VERDICTS = ("fails", "not decided", "holds")


def network_rows(measured: MeasuredRuns) -> list[dict[str, Any]]:
    """Return a row for each role: its scheme, what it reached with how many seeds, what it costs.

    A run that failed to start is in the mean, as everything measured is, and counted.
    """
    return [_row(measured, role) for role in measured.runs().accuracy]


def _row(measured: MeasuredRuns, role: str) -> dict[str, Any]:
    scheme = measured.roles[role]
    network: MeasuredNetwork = measured.networks[scheme]
    values, measure = list(network.test.values()), Measure(**measured.about.measure)
    spread = summarise_scores(values, images=measured.images or 1, measure=measure)
    blind = spread.n < 2 or (not measured.images and len(set(values)) == 1)
    return {
        "role": role,
        "scheme": scheme,
        "density": Scheme.parse(scheme).density,
        "seeds": spread.n,
        "mean": spread.mean,
        "low": None if blind else spread.low,
        "high": None if blind else spread.high,
        "failed_starts": len(failed_starts(network.train, measured.about.classes))
        if network.train
        else None,
        "params": network.params,
        "macs": network.macs,
        "latency_ms": median(network.latency_ms) if network.latency_ms else None,
    }


def write_claims(
    folder: Path,
    measured: MeasuredRuns,
    found: Sequence[Claim],
    *,
    headline: str,
    argument: str,
    margin: float,
    remarks: Sequence[str] = (),
    theory: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Write evidence.md, .html and .json into a study's folder, untouched where they are so.

    Args:
        folder: the study's.
        measured: what was measured.
        found: the claims.
        headline: what they come to, in Markdown.
        argument: what a command line calls the study.
        margin: what "accuracy kept" allows, in the metric's unit.
        remarks: what else a reader must know, a sentence each.
        theory: what the method's own statements come to, a line each.

    Returns:
        The paths of evidence.md and evidence.json.
    """
    rows = network_rows(measured)
    document = {
        "study": folder.name,
        "headline": headline.replace("*", ""),
        "claims": [row_of(claim) for claim in found],
        "networks": rows,
        "margin": margin,
        "looks": list(LOOKS),
        "remarks": list(remarks),
        "theory": list(theory),
    }
    page = _page(folder.name, headline, argument, measured, found, rows, margin, remarks, theory)
    texts = {
        folder / "evidence.md": page,
        folder / "evidence.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
    }
    for path, text in texts.items():
        if not (path.is_file() and path.read_text(encoding="utf-8") == text):
            write_text(path, text)
    one, two = texts
    write_html(one)
    return one, two


def _page(
    title: str,
    first: str,
    argument: str,
    measured: MeasuredRuns,
    found: Sequence[Claim],
    rows: Sequence[Mapping[str, Any]],
    margin: float,
    remarks: Sequence[str],
    theory: Sequence[str],
) -> str:
    about, measure = measured.about, Measure(**measured.about.measure)
    said = [
        f"**{verdict[0].upper()}{verdict[1:]}**: {', '.join(names)}."
        for verdict in _VERDICTS
        if (names := [claim.name for claim in found if claim.verdict == verdict])
    ]
    planned = ", ".join(map(str, LOOKS[:-1])) + f" and {LOOKS[-1]}"
    runs = measured.runs()
    parts = [
        f"# {title}: what its claims are worth",
        " ".join([first, *said]),
        "\n".join(f"- {claim.line()}" for claim in found),
        *([" ".join(remarks)] if remarks else []),
        "## What was measured",
        _table(rows, measure),
        f"Test {measure.title} after the last epoch, mean over seeds, with Student's 95 % "
        "interval (of seeds that do not differ at all, Wilson's over the test images). Runs that "
        "failed to start, by their training accuracy, are in these means and not in the paired "
        "tests.",
        *(["## Theory, computed", "\n".join(f"- {line}" for line in theory)] if theory else []),
        "## How it was judged",
        f"Each network was trained with {runs.budget} ({about.backbone} on {about.dataset}, "
        f"fingerprint `{about.dataset_fingerprint[:16]}`); the claims but C5 and "
        f"C6 are of this budget. Results are looked at after {planned} seeds only, each time at "
        f"5 % over the {len(LOOKS)} looks, with intervals of that level; a claim with parts takes "
        "the largest p of them, and fails where one of them does after Holm's correction. The "
        f'margin of "accuracy kept" is {runs.amount(margin)}. Supernet scores rank schemes and '
        "say nothing of sizes; none is in here. The numbers of C5 and C6 come from the truth "
        "table, whose networks were trained on the training part alone and scored on the "
        "validation images, those of the theory from `evidence/theory.json`, and all others from "
        f"`evidence/runs.json` beside this file, made by `sat-optuna evidence {argument}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[str, Any]], measure: Measure) -> str:
    heads = ["network", "scheme", "seeds", f"test {measure.title} {measure.unit}".rstrip()]
    heads += ["95 % interval", "failed starts", "parameters", "multiply-adds", "latency ms"]
    lines = []
    for row in rows:
        low, high = row["low"], row["high"]
        between = _DASH if low is None else f"{measure.number(low)} to {measure.number(high)}"
        cells = [row["role"], f"`{row['scheme']}`", str(row["seeds"]), measure.number(row["mean"])]
        cells += [between, *(_cell(row[key]) for key in ("failed_starts", "params", "macs"))]
        cells.append(_DASH if row["latency_ms"] is None else f"{row['latency_ms']:.2f}")
        lines.append(cells)
    return markdown_table(heads, lines)


def _cell(value: int | None) -> str:
    return _DASH if value is None else f"{value:,}"
