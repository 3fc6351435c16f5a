"""The note of a study in optuna-dashboard: what was found, where a user looks at the trials."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["write_note"]


def write_note(study: "Study", title: str, text: str) -> None:
    """Write a section of a study's note in optuna-dashboard, in the place of one of that title.

    The other sections, and a user's own words above the first, are kept.

    Args:
        study: the Optuna study.
        title: of the section, without a line break.
        text: Markdown without a heading of the second level.
    """
    from optuna_dashboard import get_note, save_note

    head = f"## {title}\n"
    before, *sections = re.split(r"(?m)^(?=## )", get_note(study))
    written = f"{head}\n{text.strip()}\n\n"
    if any(section.startswith(head) for section in sections):
        sections = [written if section.startswith(head) else section for section in sections]
    else:
        sections.append(written)
    if before:
        before = f"{before.rstrip()}\n\n"
    save_note(study, before + "".join(sections))
