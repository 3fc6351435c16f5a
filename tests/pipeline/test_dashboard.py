"""What a study's folder shows in optuna-dashboard, without study.toml, data or networks."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import optuna
import pytest
import torch
from filelock import FileLock
from optuna.trial import TrialState
from optuna_dashboard import get_note, save_note

import sat_optuna as sat
from sat_optuna.config.config import StudyConfig
from sat_optuna.errors import StudyError
from sat_optuna.evidence.effects import Effect
from sat_optuna.pipeline.dashboard import ARTIFACTS, note_references, open_dashboard, refresh
from sat_optuna.pipeline.fixing import close_dead
from sat_optuna.pipeline.folder import StudyFolder
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import WORKER_KEY
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import build_sampler, create_study, load_study, run_trials
from sat_optuna.search.tickets import best_ticket
from sat_optuna.ticket import Score
from sat_optuna.tracking.servers import dashboard_app
from sat_optuna.tracking.several import FolderArtifacts
from tests.wsgi import ask

STAGES, TRIALS = (2, 2, 1), 24


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A folder with a search, as a run leaves it, and its objective."""
    folder = tmp_path_factory.mktemp("searched") / "mine"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(60, 3, 8, 8, generator=generator)
    data = sat.Split.from_arrays(images, torch.arange(60) % 4)
    net = sat.Supernet(
        "resnet20",
        attention=["se", "srm"],
        in_channels=3,
        classes=4,
        seed=0,
        blocks=STAGES,
        width=4,
    )
    objective = sat.SupernetObjective(net, data, calibration=32)
    study = create_study(
        open_storage(folder / "study.db"),
        "mine",
        config=StudyConfig(),
        sampler=build_sampler("policy", seed=0, batch=4),
    )
    run_trials(
        study, objective, trials=TRIALS, batch=4, stages=STAGES, kinds=("se", "srm"),
        on_batch=objective.score_ahead,
    )  # fmt: skip
    note_references(study, objective)
    return folder, objective


@pytest.fixture
def study(searched, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(searched[0], tmp_path / "mine")
    return StudyFolder(tmp_path / "mine")


def shown(study):
    app = dashboard_app(study.storage, FolderArtifacts(study.work / ARTIFACTS))
    return app, ask(app, "/api/studies/1").json


def sections(study):
    parts = get_note(study.optuna_study()).split("## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}


def rows(table):
    lines = [line for line in table.splitlines() if line.startswith("| #")]
    return [[cell.strip(" `#") for cell in line.strip("|").split("|")] for line in lines]


def test_the_note_says_what_this_is_and_draws_the_best_schemes(study):
    refresh(study)
    note = sections(study)
    assert list(note) == ["This study", "Best schemes", "Next"]
    assert note["This study"] == (
        "In which of the 5 residual blocks of resnet20 (3 stages) does SE or SRM pay on arrays? "
        "24 trials (24 complete), proposed by the sampler `policy`."
    )
    trials = study.optuna_study().trials
    best = sorted(trials, key=lambda trial: (-trial.value, trial.number))
    first = [t for t in best if t.user_attrs["scheme"] == best[0].user_attrs["scheme"]][:1]
    found = rows(note["Best schemes"])
    assert [int(found[0][0])] == [trial.number for trial in first]
    assert len({row[1] for row in found}) == len(found) == 5
    for number, text, drawn, accuracy, connections, params, macs in found:
        trial, scheme = trials[int(number)], Scheme.parse(text)
        assert trial.user_attrs["scheme"] == text
        assert [len(part) for part in drawn.split()] == list(STAGES)
        assert ["○①②".index(sign) for sign in drawn.replace(" ", "")] == list(scheme.choices)
        assert accuracy == f"{trial.user_attrs['accuracy']:.2f} %"
        assert int(connections) == scheme.connections
        assert int(params.replace(",", "")) == trial.user_attrs["params"]
        assert int(macs.replace(",", "")) == trial.user_attrs["macs"]
    assert note["Best schemes"].endswith("① SE, ② SRM")


def test_a_users_own_words_are_kept_and_an_unchanged_note_is_not_written(study):
    opened = study.optuna_study()
    save_note(opened, "Mine.\n\n## Next\n\nold\n\n## To do\n\nlook at stage 2\n")
    refresh(study)
    assert get_note(opened).startswith("Mine.\n\n## To do\n\nlook at stage 2\n\n## This study")
    backend = study.storage
    before = backend.get_study_system_attrs(1)
    refresh(study)
    assert backend.get_study_system_attrs(1) == before


def test_twenty_schemes_and_the_ticket_are_drawn_in_their_trials(study):
    refresh(study)
    trials = shown(study)[1]["trials"]
    noted = {trial["number"]: trial["note"]["body"] for trial in trials if trial["note"]["body"]}
    different = {trial.user_attrs["scheme"] for trial in study.optuna_study().trials}
    assert len(noted) == min(20, len(different))
    ticket = best_ticket(study.optuna_study())
    first, second, third = ticket.scheme.dots(2).split()
    drawn = f"stage 1  {first}\nstage 2  {second}\nstage 3  {third}"
    assert f"```\n{drawn}\n```" in noted[ticket.trial]
    assert f"`{ticket.scheme}`: validation accuracy" in noted[ticket.trial]


def graphs(study):
    found = shown(study)[1]["plotly_graph_objects"]
    return {graph["id"]: json.loads(graph["graph_object"]) for graph in found}


def test_the_graphs_have_the_trials_and_the_networks_to_compare_with(study, searched):
    refresh(study)
    found, objective = graphs(study), searched[1]
    assert set(found) == {"connections", "cost"}
    assert len(found["connections"]["data"][0]["y"]) == sum(STAGES)
    traces = {trace["name"]: trace for trace in found["cost"]["data"]}
    assert set(traces) == {"trials", "front", "ticket", "plain", "full-se", "full-srm"}
    assert len(traces["trials"]["x"]) == TRIALS
    for kind, role in enumerate(("plain", "full-se", "full-srm")):
        scheme = Scheme.uniform(STAGES, kind)
        assert traces[role]["y"] == [round(objective.evaluator.score(scheme).accuracy, 4)]
        assert traces[role]["x"] == [objective.costs.cost(scheme).params]
    effects = [
        Effect(block, kind, 1.0, 0.5, 1.5, 0.01)
        for block in Scheme.parameter_names(STAGES)
        for kind in ("se", "srm")
    ]
    refresh(study, effects)
    assert [trace["name"] for trace in graphs(study)["blocks"]["data"]] == ["SE", "SRM"]
    refresh(study)  # one that does not know the effects leaves their graph
    assert "blocks" in graphs(study)


def files(study):
    app, found = shown(study)
    return {
        artifact["filename"]: ask(app, f"/artifacts/1/{artifact['artifact_id']}").body
        for artifact in found["artifacts"]
    }


@pytest.mark.parametrize("where", ["here", "moved", "moved without work"])
def test_the_reports_files_are_artifacts_also_of_a_folder_that_was_moved(study, tmp_path, where):
    (study.folder / "figures").mkdir()
    expected = {"ticket.png": b"a picture", "trials.csv": b"number\n0\n"}
    for name, content in expected.items():
        (study.folder / "figures" / name).write_bytes(content)
    (study.folder / "figures" / "report.html").write_text("never")
    refresh(study)
    if where != "here":
        if where == "moved without work":
            shutil.rmtree(study.work)
        (tmp_path / "elsewhere").mkdir()
        study = StudyFolder(study.folder.rename(tmp_path / "elsewhere" / "mine"))
        open_dashboard(study)
    assert files(study) == expected


def test_the_next_command_follows_the_road(study):
    def following():
        refresh(study)
        return sections(study)["Next"]

    opened = study.optuna_study()
    config = StudyConfig().to_dict()
    argument = study.argument
    assert config["search"]["trials"] > TRIALS
    assert following() == f"`sat-optuna search {argument}`"
    config["search"]["sampler"] = "brute-force"  # it has not tried all of the 243 schemes
    opened.set_user_attr("sat:config", config)
    assert following() == f"`sat-optuna search {argument}`"
    config["search"]["trials"] = TRIALS
    opened.set_user_attr("sat:config", config)
    assert following() == f"`sat-optuna retrain {argument}`"
    tested = Score(split="test", value=50.0, seed=0, epochs=1)
    replace(best_ticket(opened), scores=(tested,)).save(study.tickets / "ticket.json")
    assert following() == f"`sat-optuna report {argument}`"
    (study.folder / "report.md").touch()
    assert following() == f"`sat-optuna show {study.tickets / 'ticket.json'}`"
    opened.enqueue_trial({"s1.b00": "se"})
    assert following() == f"`sat-optuna search {argument}`"
    config["search"]["objective"] = "folded"
    opened.set_user_attr("sat:config", config)
    backend = study.storage
    backend.set_trial_state_values(opened.trials[-1]._trial_id, TrialState.FAIL)
    assert following() == f"`sat-optuna enumerate {argument}`"


def test_a_study_without_a_scored_trial_shows_nothing_and_breaks_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    sampler = build_sampler("random", seed=0, batch=1)
    create_study(
        open_storage(tmp_path / "mine" / "study.db"), "mine", config=StudyConfig(), sampler=sampler
    )
    study = StudyFolder(tmp_path / "mine")
    open_dashboard(study)
    assert get_note(study.optuna_study()) == ""
    with pytest.raises(StudyError, match="no search was run yet"):
        open_dashboard(StudyFolder(tmp_path / "other"))


def dead():
    """The name of a process that has ended."""
    code = "from sat_optuna.processes import worker_name as w; print(w())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def running(study, name, worker):
    opened = optuna.create_study(storage=study.storage, study_name=name, load_if_exists=True)
    trial = opened.ask()
    trial.set_user_attr(WORKER_KEY, worker)
    return trial.number


def states(study, name):
    return [
        t.state.name for t in load_study(study.storage, name).trials if t.state.name != "COMPLETE"
    ]


@pytest.mark.parametrize(
    ("suffix", "command"), [("", "search"), (".random", "retrain"), (".truth", "truth")]
)
def test_what_a_dead_process_left_waits_and_it_is_said_what_finishes_it(study, suffix, command):
    name = f"mine{suffix}"
    number = running(study, name, dead())
    assert list(close_dead([study.folder], study.mlruns)) == [
        f"trials [{number}] of study 'mine' were left by a dead process and wait now; they are "
        f"finished under their numbers by: sat-optuna {command} {study.argument}"
    ]
    assert states(study, name) == ["WAITING"]
    assert list(close_dead([study.folder], study.mlruns)) == []


@pytest.mark.parametrize("lock", ["lock", "truth.lock"])
def test_what_another_process_is_at_work_on_is_left_to_it(study, lock):
    for suffix in ("", ".random", ".truth"):
        running(study, f"mine{suffix}", dead())
    study.work.mkdir(exist_ok=True)
    with FileLock(study.work / lock):
        # It names its worker only after it was asked: nobody else may take it for a dead one.
        running(study, f"mine{'.truth' * (lock == 'truth.lock')}", "")
        list(close_dead([study.folder], study.mlruns))
        held = [".truth"] if lock == "truth.lock" else ["", ".random"]
        for suffix in held:
            assert set(states(study, f"mine{suffix}")) == {"RUNNING"}
    list(close_dead([study.folder], study.mlruns))
    for suffix in ("", ".random", ".truth"):
        assert "RUNNING" not in states(study, f"mine{suffix}")


def test_a_study_of_somebodys_own_in_the_same_file_is_left_alone(study):
    running(study, "my own", dead())
    running(study, "my own", "")
    assert list(close_dead([study.folder], study.mlruns)) == []
    assert states(study, "my own") == ["RUNNING", "RUNNING"]
