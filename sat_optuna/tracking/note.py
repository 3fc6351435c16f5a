"""The note of a study in optuna-dashboard: what was found, where a user looks at the trials."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["write_note"]


def write_note(study: "Study", title: str, text: str) -> None:
    """Write a part of a study's note in optuna-dashboard, under a title.

    What stands above that title, a user's own words perhaps, is kept; what stood below is
    replaced.

    Args:
        study: the Optuna study.
        title: of the part, without a line break.
        text: Markdown.
    """
    from optuna_dashboard import get_note, save_note

    head = f"## {title}\n"
    before, _, _ = get_note(study).partition(head)
    save_note(study, f"{before}{head}\n{text}\n")
