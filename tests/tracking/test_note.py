"""The note of a study in optuna-dashboard, written section by section."""

import optuna
import pytest
from optuna_dashboard import get_note, save_note

from sat_optuna.tracking.note import write_note


@pytest.mark.parametrize(
    "own", ["", "My own words.", "# Mine\n\nwith ## in a line\n", "## Mine\n\nwithout an end"]
)
def test_a_section_is_replaced_and_all_else_is_kept(own):
    study = optuna.create_study()
    save_note(study, own)
    write_note(study, "Verdicts", "- faster: holds")
    write_note(study, "Blocks", "s1.b00 pays")
    write_note(study, "Verdicts", "- faster: fails\n")
    above = f"{own.rstrip()}\n\n" if own else ""
    expected = "## Verdicts\n\n- faster: fails\n\n## Blocks\n\ns1.b00 pays\n\n"
    assert get_note(study) == above + expected
