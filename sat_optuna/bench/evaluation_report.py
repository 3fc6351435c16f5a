"""The table of the evaluation benchmark."""

from collections.abc import Mapping
from typing import Any

from sat_optuna.evidence.pages import markdown_table

__all__ = ["evaluation_markdown"]


def evaluation_markdown(document: Mapping[str, Any]) -> str:
    """Return the document's rows as a page of Markdown."""
    columns = (
        "case", "schemes", "images", "calibration", "branch_passes", "tree_s", "one_by_one_s",
        "timed", "faster", "floor_s", "floor_share",
    )  # fmt: skip
    lines = [
        f"{document['rounds']} rounds on {document['threads']} threads of {document['device']} "
        f"({document['capability']}), chunks of {document['chunk']} images; medians over the "
        "rounds, in brackets the lowest and the highest; one by one is scaled up from the `timed` "
        "schemes.",
        "",
    ]
    rows = []
    for row in document["rows"]:
        shown = {k: "-" if v is None else str(v) for k, v in row.items()}
        shown["faster"] += f" ({row['faster_low']} to {row['faster_high']})"
        rows.append([shown[name] for name in columns])
    honest = document["score_over_network"]
    lines += [
        markdown_table(columns, rows),
        "",
        f"A scheme's score over evaluating the network of that scheme, {honest['pairs']} pairs, "
        "median with its 95 % interval: "
        + "; ".join(
            f"{title} {honest[title]['ratio']} ({honest[title]['low']} to {honest[title]['high']})"
            for title in ("without calibration", "with calibration")
        )
        + ".",
        "",
    ]
    return "\n".join(lines)
