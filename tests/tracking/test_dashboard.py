"""Graphs, notes of trials and files of a study, read back as optuna-dashboard reads them."""

import json

import optuna
import plotly.graph_objects as go
import pytest
from optuna_dashboard import get_note, save_note

from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import load_study
from sat_optuna.tracking.dashboard import save_file, save_graph, write_trial_note
from sat_optuna.tracking.note import write_note
from sat_optuna.tracking.servers import dashboard_app
from sat_optuna.tracking.several import FolderArtifacts
from tests.wsgi import ask


@pytest.fixture
def study(tmp_path):
    storage = open_storage(tmp_path / "study.db")
    optuna.create_study(storage=storage, study_name="s").add_trials(
        [optuna.trial.create_trial(value=float(number)) for number in range(3)]
    )
    return load_study(storage, "s")


def shown(study, folder):
    app = dashboard_app(study._storage, FolderArtifacts(folder))
    return app, ask(app, "/api/studies/1").json


def attributes(study):
    return study._storage.get_study_system_attrs(study._study_id)


def test_a_graph_is_replaced_and_an_equal_one_is_not_written(study, tmp_path):
    long, short = (
        go.Figure([go.Scatter(y=list(range(points)))], {"template": "none"})
        for points in (2000, 3)  # the second one has fewer pieces
    )
    for figure in (long, short):
        save_graph(study, "cost", figure)
        _, found = shown(study, tmp_path)
        assert [graph["id"] for graph in found["plotly_graph_objects"]] == ["cost"]
        assert found["plotly_graph_objects"][0]["graph_object"] == figure.to_json()
    save_graph(study, "cost-2", long)
    before = attributes(study)
    save_graph(study, "cost", short)
    assert attributes(study) == before
    assert {g["id"] for g in shown(study, tmp_path)[1]["plotly_graph_objects"]} == {
        "cost",
        "cost-2",
    }


@pytest.mark.parametrize("own", ["", "My own words."])
def test_a_trials_note_keeps_a_users_words(study, tmp_path, own):
    trial = study.trials[1]
    if own:
        save_note(optuna.trial.Trial(study, trial._trial_id), own)
    for text in ("first", "second"):
        write_trial_note(study, trial, "Scheme", text)
    trials = shown(study, tmp_path)[1]["trials"]
    above = f"{own}\n\n" if own else ""
    bodies = ["", f"{above}## Scheme\n\nsecond\n\n", ""]
    assert [trial["note"]["body"] for trial in trials] == bodies
    write_trial_note(study, trial, "Scheme", "second")
    assert shown(study, tmp_path)[1]["trials"][1]["note"] == trials[1]["note"]  # and its version


def test_a_note_that_is_the_same_is_not_written_and_the_last_section_stays_last(study):
    write_note(study, "Next", "search", last=True)
    write_note(study, "Verdicts", "- faster: holds")
    assert get_note(study) == "## Next\n\nsearch\n\n## Verdicts\n\n- faster: holds\n\n"
    for _ in range(2):
        write_note(study, "Next", "report", last=True)
        assert get_note(study) == "## Verdicts\n\n- faster: holds\n\n## Next\n\nreport\n\n"
        assert attributes(study)["dashboard:note_ver"] == 3


@pytest.mark.parametrize("name", ["ticket.png", "trials.csv"])
def test_a_file_is_served_and_replaced(study, tmp_path, name):
    folder, path = tmp_path / "artifacts", tmp_path / name
    for content in (b"first", b"second", b"second"):
        path.write_bytes(content)
        save_file(study, path, folder=folder)
        app, found = shown(study, folder)
        assert [artifact["filename"] for artifact in found["artifacts"]] == [name]
        (artifact,) = found["artifacts"]
        answer = ask(app, f"/artifacts/1/{artifact['artifact_id']}")
        assert answer.body == content
        assert answer.headers["Content-Type"] == artifact["mimetype"]
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("gone", ["its file", "what says so", "the folder"])
def test_a_file_that_was_lost_or_deleted_comes_back(study, tmp_path, gone):
    """A kill leaves the entry without its file; the dashboard's button leaves neither."""
    folder, path = tmp_path / "artifacts", tmp_path / "trials.csv"
    path.write_text("number\n0\n")
    save_file(study, path, folder=folder)
    (file,) = folder.iterdir()
    if gone == "what says so":
        ask(shown(study, folder)[0], f"/api/artifacts/1/{file.name}", method="DELETE")
    else:
        file.unlink()
        if gone == "the folder":
            folder.rmdir()
    save_file(study, path, folder=folder)
    app, found = shown(study, folder)
    (artifact,) = found["artifacts"]
    assert ask(app, f"/artifacts/1/{artifact['artifact_id']}").body == b"number\n0\n"


@pytest.mark.parametrize("name", ["report.html", "figure.svg", "page.HTML", "program"])
def test_what_may_hold_a_program_is_no_artifact(study, tmp_path, name):
    (tmp_path / name).write_text("<script>")
    with pytest.raises(ValueError, match=r"give a file that ends in \.png or \.csv"):
        save_file(study, tmp_path / name, folder=tmp_path / "artifacts")
    assert not any(
        key.startswith("artifacts:") for key in json.loads(json.dumps(attributes(study)))
    )
