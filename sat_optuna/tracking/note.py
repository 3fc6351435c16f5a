"""Notes in optuna-dashboard and MLflow: what was found, where a user looks at the trials."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["with_section", "write_note"]


def with_section(note: str, title: str, text: str) -> str:
    r"""Return a note with a section, in the place of one of that title.

    The other sections, and a user's own words above the first, are kept.

    >>> with_section("Mine.", "Verdicts", "- faster: holds")
    'Mine.\n\n## Verdicts\n\n- faster: holds\n\n'

    Args:
        note: Markdown; empty for none.
        title: of the section, without a line break.
        text: Markdown without a heading of the second level.
    """
    head = f"## {title}\n"
    written = f"{head}\n{text.strip()}"
    parts = [part for part in re.split(r"(?m)^(?=## )", note) if part.strip()]
    if any(part.startswith(head) for part in parts):
        parts = [written if part.startswith(head) else part for part in parts]
    else:
        parts.append(written)
    return "".join(f"{part.rstrip()}\n\n" for part in parts)


def write_note(study: "Study", title: str, text: str, *, last: bool = False) -> None:
    """Write a section of a study's note in optuna-dashboard, as of `with_section`.

    Nothing is written where it is there already: each write is a new version of the note, and who
    is editing it meanwhile cannot save.

    Args:
        study: opened for writing.
        title: of the section.
        text: Markdown.
        last: put it at the end, also where there is one of that title.
    """
    from optuna_dashboard import get_note, save_note

    note = get_note(study)
    written = with_section(_without(note, title) if last else note, title, text)
    if written != note:
        save_note(study, written)


def _without(note: str, title: str) -> str:
    parts = re.split(r"(?m)^(?=## )", note)
    return "".join(part for part in parts if not part.startswith(f"## {title}\n"))
