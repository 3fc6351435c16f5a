"""The road of a study with objective 'folded', as a user goes it."""

import json

import pytest
import torch
from click.testing import CliRunner

import sat_optuna as sat
from sat_optuna.cli import sat_optuna as group
from sat_optuna.ticket import Ticket
from tests.studies import STUDY, make_study

FOLDED = STUDY.replace("blocks = [2, 2, 2]", "blocks = [1, 2, 1]").replace(
    "epochs = 2", "epochs = 1\nconnect = 1.0"
)
FOLDED = FOLDED.replace("trials = 9", 'objective = "folded"\ntrials = 4')


def run(*arguments, code=0):
    done = CliRunner().invoke(group, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


@pytest.mark.slow
def test_the_road_ends_with_what_may_go_and_its_networks(tmp_path):
    folder = make_study(tmp_path, text=FOLDED)
    done = run("run", folder, "--no-mlflow")
    assert f"{folder}/folded.md says which modules can go" in done.output
    document = json.loads((folder / "folded.json").read_text())
    assert [row["points"] for row in document["kept"]] == [0.1, 0.3, 1.0]
    assert document["latency"]["kinds"] == ["se"]
    assert not list((folder / "work").glob("retrain*"))  # nothing was trained again
    page = (folder / "enumeration.md").read_text()
    assert "Scored in the trained network, its dropped modules constants, on 60 validation" in page
    made = {path: path.stat().st_mtime_ns for path in folder.glob("folded.*")}
    table = run("enumerate", folder).output
    assert "16 schemes done already" in table
    assert "the fewest modules within so many points of full" in table
    assert made == {path: path.stat().st_mtime_ns for path in folder.glob("folded.*")}
    path = folder / "tickets" / "within-1.json"
    ticket, kept = Ticket.load(path), document["kept"][2]
    assert str(ticket.scheme) == kept["scheme"]
    assert {s.split: s.value for s in ticket.scores} == {
        "valid": kept["accuracy"],
        "test": kept["test_accuracy"],
    }
    said = run("export", path, "--to", "safetensors", code=1).output
    assert "or take the network that was scored with --fold-constant" in said
    out = folder / "smaller.safetensors"
    run("export", path, "--to", "safetensors", "--fold-constant", "--out", out)
    objective = sat.open_study(folder).parts.objective
    assert isinstance(objective, sat.FoldedObjective)
    x = torch.rand(3, *ticket.input_shape)
    with torch.no_grad():
        folded = objective.folded(ticket.scheme).eval()
        assert torch.equal(sat.load_ticket(out)(x), folded(x))
    (folder / "study.toml").write_text(FOLDED.replace("calibration = 32", "calibration = 64"))
    assert "calibration: 32 is stored, 64 is given" in run("search", folder, code=1).output
