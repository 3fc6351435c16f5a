"""What optuna-dashboard is shown of one study, and of several databases at once."""

import json
import shutil

import optuna
import pytest
from optuna.trial import TrialState
from optuna_dashboard import get_note

from sat_optuna.errors import ServerError
from sat_optuna.evidence.graphs import Scored, costs_graph
from sat_optuna.sampler import CostLimit, PolicyGradientSampler
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import load_study
from sat_optuna.tracking.dashboard import save_file, save_graph, write_trial_note
from sat_optuna.tracking.note import write_note
from sat_optuna.tracking.servers import dashboard_app
from sat_optuna.tracking.several import (
    READ_ONLY,
    FolderArtifacts,
    SeveralArtifacts,
    ShownStudies,
)
from tests.wsgi import ask

SPACE = {f"s1.b0{block}": ("none", "se") for block in range(3)}


def score(trial):
    choices = [trial.suggest_categorical(name, SPACE[name]) for name in SPACE]
    for name, value in {
        "sat:worker": "host/1/2",
        "accuracy": 60.0 + trial.number,
        "scheme": "".join(str(int(choice == "se")) for choice in choices),
        "params": 100 * choices.count("se"),
    }.items():
        trial.set_user_attr(name, value)
    return 61.0 + trial.number / 3


def made(folder, *names, trials=4, **limits):
    """A database with studies of these names, and what a dashboard shows beside their trials."""
    folder.mkdir(parents=True)
    storage = open_storage(folder / "study.db")
    for name in names:
        sampler = PolicyGradientSampler(seed=0, search_space=SPACE, **limits)
        study = optuna.create_study(
            direction="maximize", storage=storage, study_name=name, sampler=sampler
        )
        if limits:
            study.enqueue_trial(dict.fromkeys(SPACE, "se"))
        study.optimize(score, n_trials=trials)
        study.set_user_attr("sat:config", {"seed": 0})
        study.set_user_attr("mine", "words")
        study.set_metric_names(["reward"])
        opened = load_study(storage, name)
        write_note(opened, "This study", f"in {folder.name}")
        write_trial_note(opened, opened.trials[2], "Scheme", f"drawn in {folder.name}")
        save_graph(opened, "cost", costs_graph([Scored("1", 2.0, 3.0, 0)], {}, cost="parameters"))
        (folder / "table.csv").write_text(f"number\n{folder.name}\n")
        save_file(opened, folder / "table.csv", folder=folder / "artifacts")
    return storage


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders with a study of one name, the second with another one before it, and a copy."""
    root = tmp_path_factory.mktemp("several")
    made(root / "one", "same")
    made(root / "two", "other", "same", trials=5)
    shutil.copytree(root / "two", root / "copy")
    table = next((root / "copy" / "artifacts").iterdir())
    table.write_text("number\ncopy\n")
    return [root / name for name in ("one", "two", "copy")]


def several(folders):
    shown = ShownStudies({folder.name: open_storage(folder / "study.db") for folder in folders})
    return dashboard_app(shown, SeveralArtifacts([folder / "artifacts" for folder in folders]))


def alone(folder):
    storage = open_storage(folder / "study.db")
    return dashboard_app(storage, FolderArtifacts(folder / "artifacts"))


def studies(app):
    listed = ask(app, "/api/studies").json["study_summaries"]
    return {study["study_name"]: study["study_id"] for study in listed}


def detail(app, number):
    return ask(app, f"/api/studies/{number}").json


def without_ids(value):
    """A JSON value without what differs between a study alone and the same among others."""
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    if isinstance(value, dict):
        ids = ("study_id", "trial_id", "artifact_id", "name")
        return {k: without_ids(v) for k, v in value.items() if k not in ids}
    return value


def test_studies_of_one_name_are_told_apart_by_their_folder(folders):
    expected = ["same (one)", "other (two)", "same (two)", "other (copy)", "same (copy)"]
    assert list(studies(several(folders))) == expected
    assert list(studies(several(folders[:1]))) == ["same"]


@pytest.mark.parametrize("name", ["same (one)", "other (two)", "same (two)", "same (copy)"])
def test_a_study_among_others_is_shown_as_it_is_alone(folders, name):
    app, (own, place) = several(folders), name.rstrip(")").split(" (")
    folder = next(folder for folder in folders if folder.name == place)
    single = alone(folder)
    number, own_number = studies(app)[name], studies(single)[own]
    here, there = detail(app, number), detail(single, own_number)
    assert here["name"] == name
    assert without_ids(here) == without_ids(there)
    assert f"drawn in {'two' if place == 'copy' else place}" in here["trials"][2]["note"]["body"]
    for page in ("param_importances", "plot/slice"):
        both = [
            ask(a, f"/api/studies/{n}/{page}") for a, n in ((app, number), (single, own_number))
        ]
        assert both[0].status == both[1].status == 200
        assert without_ids(both[0].json) == without_ids(both[1].json)
    assert ask(app, f"/csv/{number}").body == ask(single, f"/csv/{own_number}").body
    (artifact,) = here["artifacts"]
    served = ask(app, f"/artifacts/{number}/{artifact['artifact_id']}")
    first = place if own == next(iter(studies(single))) else "two"
    assert served.body.decode() == f"number\n{first}\n"


def test_no_id_is_that_of_two_studies_or_trials(folders):
    app = several(folders)
    numbers = list(studies(app).values())
    trials = [trial["trial_id"] for number in numbers for trial in detail(app, number)["trials"]]
    assert len(set(numbers)) == 5
    assert len(set(trials)) == len(trials) == 4 + 4 * 5


CHANGES = {
    "a study made": ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
    "a study renamed": ("POST", "/api/studies/{0}/rename", {"study_name": "new"}),
    "a study deleted": ("DELETE", "/api/studies/{0}", {}),
    "a note written": ("PUT", "/api/studies/{0}/note", {"version": 3, "body": "mine"}),
    "a trial's note": ("PUT", "/api/studies/{0}/{1}/note", {"version": 1, "body": "mine"}),
    "a trial told": ("POST", "/api/trials/{1}/tell", {"state": "Fail"}),
    "an attribute": ("POST", "/api/trials/{1}/user-attrs", {"user_attrs": {"a": 1}}),
    "a file": (
        "POST",
        "/api/artifacts/{0}",
        {"file": "data:text/csv;base64,YQ==", "filename": "a"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_of_several_studies_none_can_be_changed(folders, change):
    app, (method, path, sent) = several(folders), CHANGES[change]
    number = studies(app)["same (two)"]
    before = [file.read_bytes() for folder in folders for file in folder.rglob("*.db")]
    trial = detail(app, number)["trials"][0]["trial_id"]
    answer = ask(app, path.format(number, trial), method=method, sent=sent)
    assert (answer.status, answer.json) == (403, {"reason": READ_ONLY})
    assert [file.read_bytes() for folder in folders for file in folder.rglob("*.db")] == before
    shown = ShownStudies({folder.name: open_storage(folder / "study.db") for folder in folders})
    with pytest.raises(ServerError, match="sat-optuna dashboard STUDY"):
        shown.set_study_user_attr(number, "a", 1)
    with pytest.raises(ServerError, match="sat-optuna dashboard STUDY"):
        shown.delete_study(number)


def test_a_person_is_shown_what_a_person_reads(folders):
    shown = detail(alone(folders[0]), 1)
    assert shown["user_attrs"] == [{"key": "mine", "value": "words"}]
    assert shown["objective_names"] == ["reward"]
    attributes = [attribute["key"] for attribute in shown["trials"][0]["user_attrs"]]
    assert attributes == ["scheme", "accuracy", "params"]
    (best,) = shown["best_trials"]
    assert best["values"] == [62.0]
    assert [p["name"] for p in best["params"]] == ["scheme"]
    assert best["params"][0]["param_external_value"] == best["user_attrs"][0]["value"]
    assert len(shown["trials"][0]["params"]) == 3


def test_renaming_a_study_keeps_what_is_not_shown(tmp_path):
    storage = made(tmp_path / "mine", "mine")
    before = optuna.load_study(study_name="mine", storage=storage)
    trials = [(t.params, t.value, t.user_attrs, t.system_attrs) for t in before.trials]
    app = alone(tmp_path / "mine")
    renamed = ask(app, "/api/studies/1/rename", method="POST", sent={"study_name": "new"})
    assert renamed.status == 201
    after = optuna.load_study(study_name="new", storage=storage)
    assert after.user_attrs == {"sat:config": {"seed": 0}, "mine": "words"}
    assert [(t.params, t.value, t.user_attrs, t.system_attrs) for t in after.trials] == trials
    assert get_note(after) == "## This study\n\nin mine\n\n"


def test_a_study_whose_files_are_gone_can_be_deleted(tmp_path):
    made(tmp_path / "mine", "mine")
    shutil.rmtree(tmp_path / "mine" / "artifacts")
    app = alone(tmp_path / "mine")
    assert ask(app, "/api/studies/1", method="DELETE", sent={}).status == 204
    assert studies(app) == {}


def test_an_uploaded_page_runs_nothing_here(tmp_path):
    made(tmp_path / "mine", "mine")
    app = alone(tmp_path / "mine")
    sent = {"file": "data:text/html;base64,PGI+", "filename": "page.html"}
    number = ask(app, "/api/artifacts/1", method="POST", sent=sent).json["artifact_id"]
    headers = ask(app, f"/artifacts/1/{number}").headers
    assert headers["Content-Security-Policy"] == "sandbox"
    assert headers["X-Content-Type-Options"] == "nosniff"


def params_at_most(most):
    return CostLimit(at_most=most, costs={name: [0.0, 100.0] for name in SPACE})


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_connections": 2}, [1.0]),
        ({"budget": {"params": params_at_most(250)}}, [50.0]),
        (
            {
                "max_connections": 1,
                "budget": {"params": params_at_most(300)},
            },
            [0.0, 2.0],
        ),
    ],
)
def test_limits_are_shown_as_constraints_and_are_not_stored(tmp_path, limits, expected):
    """What was enqueued breaks them; what was proposed does not."""
    storage = made(tmp_path / "mine", "mine", trials=3, **limits)
    trials = detail(alone(tmp_path / "mine"), 1)["trials"]
    assert sorted(trials[0]["constraints"]) == expected
    assert all(over <= 0 for trial in trials[1:] for over in trial["constraints"])
    study = optuna.load_study(study_name="mine", storage=storage)
    assert [trial.constraints for trial in study.trials] == [{}] * 3


def test_a_search_without_limits_has_no_constraints(folders):
    assert [t["constraints"] for t in detail(alone(folders[0]), 1)["trials"]] == [[]] * 4


def test_what_a_running_search_adds_is_seen(tmp_path):
    storage = made(tmp_path / "mine", "mine")
    shown = ShownStudies({"mine": open_storage(tmp_path / "mine" / "study.db")})
    assert len(shown.get_all_trials(1)) == 4
    study = optuna.load_study(
        study_name="mine", storage=storage, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    trial = study.ask()
    assert [t.state for t in shown.get_all_trials(1)][4:] == [TrialState.RUNNING]
    study.tell(trial, score(trial))
    assert shown.get_all_trials(1)[4].value == study.trials[4].value
    assert json.loads(json.dumps(shown.get_trial(5).user_attrs))["accuracy"] == 64.0
