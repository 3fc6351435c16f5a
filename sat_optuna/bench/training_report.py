"""The training benchmark as tables for people, and as a page of Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sat_optuna.cost.timing import interval_text
from sat_optuna.evidence.pages import markdown_table

__all__ = [
    "COMPILED_COLUMNS",
    "LOOP_COLUMNS",
    "RATIO_COLUMNS",
    "accuracy_line",
    "readable",
    "training_markdown",
]

LOOP_COLUMNS = (
    "network",
    "loop",
    "precision",
    "memory_format",
    "images_per_s",
    "times_float32",
    "times_usual",
    "times_bare",
)
RATIO_COLUMNS = ("what", "network", "pairs", "ratio", "limit", "kept")
COMPILED_COLUMNS = ("network", "precision", "memory_format", "compile_s", "pairs", "ratio")

_LOOPS = """\
## Loops

images_per_s: median over the rounds. times_float32, times_usual, times_bare: how many times as
fast as our loop in float32 and contiguous, as the usual loop, and as the usual loop without
augmentation, which no loader with more workers can beat; medians of the ratios within each round,
with 95 % intervals. *: what `auto` is here. Our loop augments in every row.
"""
_RATIOS = """\
## What a supernet costs beside networks of the same schemes

Medians of the ratios within each pair, with 95 % intervals, whose upper ends are to stay below the
limit.
"""
_COMPILED = """\
## torch.compile

A training step of the network through torch.compile over one without it, in the setting that
`auto` is here: medians of the ratios within each pair, with 95 % intervals. compile_s: the first
step, with nothing compiled before.
"""


def readable(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in which each interval stands behind its value and `auto` is marked."""
    return [_readable(row) for row in rows]


def accuracy_line(accuracy: Mapping[str, Any]) -> str:
    """Return one sentence that compares the two loops' accuracies."""
    found = accuracy["difference"]
    ours, usual = (sum(accuracy[loop]) / len(accuracy[loop]) for loop in ("ours", "usual"))
    return (
        f"accuracy on {accuracy['data']}, {accuracy['network']}, {accuracy['epochs']} epochs, "
        f"{found['n']} seeds: ours ({accuracy['precision']}, {accuracy['memory_format']}) "
        f"{ours:.2f} %, usual {usual:.2f} %; difference {found['mean']:+z.2f} points, 95 % "
        f"interval {found['low']:+z.2f} to {found['high']:+z.2f} (Student's t, paired by seed)"
    )


def training_markdown(document: Mapping[str, Any]) -> str:
    """Return the document of `bench_training` as a page of Markdown."""
    packages = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    flags = ", ".join(document["cpu_flags"]) or "none of interest"
    head = (
        f"# Training speed\n\n{document['device']}, {document['capability']} (flags: {flags}), "
        f"{document['threads']} threads, {document['rounds']} rounds; {packages}.\n"
    )
    accuracy = accuracy_line(document["accuracy"])
    parts = [
        head,
        _LOOPS,
        _table(readable(document["rows"]), LOOP_COLUMNS),
        _RATIOS,
        _table(readable(document["ratios"]), RATIO_COLUMNS),
        "## Accuracy\n",
        f"{accuracy[0].upper()}{accuracy[1:]}.\n",
    ]
    if document["compiled"]:
        parts += [_COMPILED, _table(readable(document["compiled"]), COMPILED_COLUMNS)]
    return "\n".join(parts)


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        name: interval_text(row, name) if f"{name}_low" in row else value
        for name, value in row.items()
        if not name.endswith(("_low", "_high"))
    }
    if row.get("auto"):
        shown["precision"] += " *"
    if "kept" in row:
        shown["kept"] = "yes" if row["kept"] else "no"
    return shown


def _table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    return markdown_table(columns, [[str(row[c]) for c in columns] for row in rows]) + "\n"
