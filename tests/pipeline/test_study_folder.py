"""The road from Python: each step once, and nothing continued that something else decided.

One tiny study is run once; each test that changes its folder works on a copy.
"""

import hashlib
import json
import math
import multiprocessing
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import sat_optuna as sat
from sat_optuna.cli import sat_optuna as group
from sat_optuna.errors import SatOptunaError, SatOptunaWarning, StudyError
from sat_optuna.events import GETTING_READY, Event, ignore
from sat_optuna.export.weights import load_weights
from sat_optuna.pipeline.evaluation import evaluate_ticket
from sat_optuna.pipeline.fixing import fix
from sat_optuna.pipeline.folder import StudyFolder, nearest_mlruns
from sat_optuna.pipeline.owed import Owed
from sat_optuna.pipeline.theory import theory_lines
from sat_optuna.pipeline.ticket_weights import TicketFile
from sat_optuna.processes import worker_name
from sat_optuna.scheme import Scheme
from sat_optuna.search.study import MACHINE_KEY
from sat_optuna.ticket import ROLES, AttentionSpec, Ticket
from sat_optuna.tracking import store_uri
from tests import forks
from tests.studies import STUDY, environment, make_study, sat_optuna, trials

# Before the README's script, which has no main guard: what is opened, built and read is counted.
COUNTING = """
import json, sys
from collections import Counter
from importlib import import_module
import sat_optuna as sat

counts = Counter()

def counted(module, name):
    home = import_module(f"sat_optuna.{module}")
    known = getattr(home, name)
    if isinstance(known, type):
        made = known.__init__
        def init(self, *arguments, **more):
            counts[name] += 1
            made(self, *arguments, **more)
        known.__init__ = init
        return
    def call(*arguments, **more):
        counts[name] += 1
        return known(*arguments, **more)
    for other in list(sys.modules.values()):
        if getattr(other, name, None) is known:
            setattr(other, name, call)

import sat_optuna.pipeline.parts, sat_optuna.pipeline.retraining
counted("search.storage", "open_storage")
counted("pipeline.outcome", "Outcome")
counted("evidence.results", "read_result")
counted("backbones.check", "check_split")
counted("supernet.supernet", "Supernet")
"""
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
(ROAD,) = (text for text in re.findall(r"```py\n(.*?)```", README, re.S) if "run_study" in text)
PRINTED = """
print(json.dumps({"counts": counts, "ticket": str(result.ticket.scheme)}))
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    project = tmp_path_factory.mktemp("road")
    make_study(project)
    program = COUNTING + ROAD.replace("quickstart", "tiny") + PRINTED
    done = forks.python("-c", program, cwd=project, env=environment())
    assert done.returncode == 0, done.stderr
    return project, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def copy(road, tmp_path):
    """A copy of the project, and its study's folder."""
    shutil.copytree(road[0], tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / "studies" / "tiny"


FIRST = """
import sys
import sat_optuna as sat

def tell(event):
    print(event.message, "torch" in sys.modules, "optuna" in sys.modules)
    sys.exit()

getattr(sat.open_study("tiny"), sys.argv[1])(on_event=tell)
"""


@pytest.mark.parametrize("step", ["run", "pretrain", "enumerate"])
def test_something_is_said_before_torch_is_imported(tmp_path, step):
    make_study(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FIRST, step],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "getting ready False False\n"


def test_a_script_without_a_main_guard_goes_the_whole_road(road):
    project, printed = road
    folder = project / "studies" / "tiny"
    result = sat.open_study(folder).report()
    assert not result.new
    assert set(result.tickets) == set(ROLES)
    assert str(result.tickets["ticket"].scheme) == printed["ticket"]
    assert "| ticket | `" in result.path.read_text()


def test_each_ticket_says_how_images_become_what_its_network_takes(road):
    study = sat.open_study(road[0] / "studies" / "tiny")
    known = study.parts.data.inputs
    assert known.class_names == tuple("0123456789")
    train: Any = study.parts.data.train
    assert known.mean == train.inputs()["mean"]
    assert {ticket.inputs for ticket in study.report().tickets.values()} == {known}


def test_a_ticket_is_measured_on_its_test_part_and_on_the_same_images_in_a_folder(road, tmp_path):
    study = sat.open_study(road[0] / "studies" / "tiny")
    path = study.tickets / "ticket.json"
    ticket = sat.Ticket.load(path)
    stored = next(score.value for score in ticket.scores if score.split == "test")
    done = evaluate_ticket(path, figure=tmp_path / "own.png")
    assert done.found.metrics[0].value == stored
    assert done.figure == tmp_path / "own.png"
    assert (tmp_path / "own.png").is_file()
    test: Any = study.parts.data.test.subset(torch.arange(60))  # type: ignore[attr-defined]
    for row, label in enumerate(test.labels.tolist()):
        folder = tmp_path / "digits" / done.class_names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images[row, 0].numpy()).save(folder / f"{row:05}.png")
    command = ["evaluate", str(path), "--data", str(tmp_path / "digits"), "--format", "json"]
    command += ["--figure", str(tmp_path / "folder.png")]
    printed = CliRunner().invoke(group, command)
    assert printed.exit_code == 0, printed.output
    rows = json.loads(printed.stdout)
    network = load_weights(ticket, TicketFile(path).weights(ticket.scheme, None, None))
    wanted = sat.evaluate_network(network, test)
    known = (value for value in wanted.class_accuracies if not math.isnan(value))
    found = [row["value"] for row in rows if row["metric"] == "accuracy"]
    assert found == [wanted.accuracy, *known]


def test_a_ticket_that_cannot_be_measured_is_said(road, tmp_path):
    path = road[0] / "studies" / "tiny" / "tickets" / "ticket.json"
    earlier = replace(sat.Ticket.load(path), inputs=None).save(tmp_path / "elsewhere.json")
    for given, more, said in (
        (earlier, {}, "does not lie in the tickets/ of a study"),
        (path, {"data": tmp_path / "nowhere"}, "image folder .* is missing"),
        (path, {"seed": 99}, "was not retrained here with seed 99"),
    ):
        with pytest.raises(SatOptunaError, match=said):
            evaluate_ticket(given, **more)


def test_each_thing_is_opened_built_and_read_a_few_times_at_most(road):
    counts = road[1]["counts"]
    assert counts["open_storage"] == 1
    assert counts["Outcome"] <= 2
    assert counts.get("read_result", 0) <= 15  # each result file once
    # One of them with the kinds of the constant control, two for the model in MLflow.
    assert counts["Supernet"] <= 6
    assert counts.get("check_split", 0) <= 3


def test_a_run_that_is_done_tells_the_same_and_makes_nothing(copy):
    _, folder = copy
    told: list[Event] = []
    result = sat.run_study(folder, mlflow=False, on_event=told.append)
    assert [event.step for event in told if event.finished] == [
        "pretrain",
        "search",
        "search random",
        "retrain",
        "report",
    ]
    assert all(event.finished for event in told)
    assert result.report == folder / "report.md"
    names = ["faster", "smaller", "accuracy kept", "over plain", "over constant", "attention pays"]
    assert [verdict.name for verdict in result.verdicts] == names
    report = (folder / "report.md").read_text()
    assert all(f"\n- {verdict.line()}\n" in report for verdict in result.verdicts)
    assert result.ticket is not None
    assert [score.seed for score in result.ticket.scores if score.split == "test"] == [0, 1, 2]


def test_more_trials_and_other_retrainings_go_on(copy):
    project, folder = copy
    told: list[Event] = []
    study = sat.open_study(folder, trials=11)
    found = study.search(mlflow=False, on_event=told.append)
    assert (found.trials, found.new) == (11, 2)
    assert [event.done for event in told[1:]] == [9, 10, 11, 11]  # after "getting ready"
    assert all(event.best for event in told[1:-1])
    assert len(trials(project)) == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "work" / "done"), "no record of what decided it"),
        (lambda folder: shutil.rmtree(folder / "work"), "no record of what decided it"),
        (
            lambda folder: other_bytes(folder),
            "bytes have changed",
        ),
        (lambda folder: (folder / "study.db").write_bytes(b"x" * 999), "cannot open"),
        (lambda folder: edit(folder, "width = 4", "width = 8"), "network.width: 4 is stored"),
        (lambda folder: edit(folder, "epochs = 2", "epochs = 1"), "pretrain.epochs: 2 is stored"),
    ],
    ids=["no records", "no work", "other weights", "broken database", "network", "epochs"],
)
def test_what_something_else_decided_is_not_searched_on(copy, change, message):
    _, folder = copy
    change(folder)
    before = {path: path.read_bytes() for path in (folder / "study.db", folder / "study.toml")}
    with pytest.raises(SatOptunaError, match=message):
        sat.open_study(folder, trials=12).search(mlflow=False)
    assert {
        path: path.read_bytes() for path in (folder / "study.db", folder / "study.toml")
    } == before


def test_what_the_objective_does_not_read_may_change(copy):
    """Also where an earlier version has noted it as what decided the search."""
    _, folder = copy
    edit(folder, "trials = 9", "trials = 9\nepochs = 3\nstart = 'supernet'")
    assert sat.open_study(folder).search(mlflow=False).new == 0
    path = folder / "work" / "done" / "search.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "decided": {**record["decided"], "search.epochs": 5}}))
    assert sat.open_study(folder, trials=10).search(mlflow=False).new == 1
    edit(folder, "calibration = 32", "calibration = 16")  # which it reads
    with pytest.raises(StudyError, match=r"search\.calibration: 32 is stored, 16 is given; rest"):
        sat.open_study(folder).search(mlflow=False)


def edit(folder, old, new):
    toml = folder / "study.toml"
    assert old in toml.read_text()
    toml.write_text(toml.read_text().replace(old, new))


def other_bytes(folder):
    path = folder / "work" / "supernet.safetensors"
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)


def test_a_supernet_of_another_seed_is_not_trained_beside_the_search(copy):
    _, folder = copy
    (folder / "work" / "supernet.safetensors").unlink()
    edit(folder, "seed = 0", "seed = 1")
    with pytest.raises(StudyError, match="seed: 0 is stored, 1 is given"):
        sat.open_study(folder).pretrain()
    assert not (folder / "work" / "supernet.safetensors").exists()


def test_a_search_without_its_work_is_refused_before_a_supernet_is_trained_anew(copy):
    _, folder = copy
    shutil.rmtree(folder / "work")
    before = (folder / "study.db").read_bytes()
    with pytest.raises(StudyError, match=r"no record of what decided it, as where work/ was rem"):
        sat.run_study(folder, mlflow=False)
    assert (folder / "study.db").read_bytes() == before
    assert not list(folder.glob("work/**/*.safetensors"))


@pytest.mark.parametrize("change", ["noise", "nothing"])
def test_a_supernet_that_is_gone_must_come_out_bit_for_bit_the_same(copy, change):
    from sat_optuna.training.checkpoint import load_tensors, read_record, save_checkpoint

    _, folder = copy
    path = folder / "work" / "supernet.safetensors"
    whole = path.read_bytes()
    if change == "noise":
        tensors = {k: v + 1 if v.is_floating_point() else v for k, v in load_tensors(path).items()}
        save_checkpoint(path, tensors, read_record(path))
    else:
        path.unlink()

        def stop(event):
            if event.step == "pretrain" and event.message != GETTING_READY:
                raise InterruptedError  # before there is a checkpoint

        for on_event in (stop, ignore):
            expected = pytest.raises(InterruptedError) if on_event is stop else nullcontext()
            said = pytest.warns(SatOptunaWarning, match="was searched with is gone; it is trained")
            with said, expected:
                sat.open_study(folder).pretrain(on_event=on_event)
            assert path.exists() == (on_event is ignore)
        assert path.read_bytes() == whole
    study = sat.open_study(folder, trials=10)
    if change == "nothing":
        assert study.search(mlflow=False).new == 1
        return
    with pytest.raises(StudyError, match=r"the supernet's bytes: '|its bytes have changed since"):
        study.search(mlflow=False)
    assert len(study.optuna_study().trials) == 9


def test_an_enqueued_trial_that_was_killed_is_run_by_the_same_command(copy):
    _, folder = copy
    study = sat.open_study(folder)
    opened = study.optuna_study()
    opened.enqueue_trial(dict.fromkeys(opened.best_params, "se"))
    killed = opened.ask()  # all trials that were asked for are there already
    killed.set_user_attr("sat:worker", worker_name().rpartition("/")[0] + "/long ago")
    assert study.search(mlflow=False).new == 1
    last = study.optuna_study().trials[-1]
    assert (last.number, last.state.name) == (killed.number, "COMPLETE")
    assert last.user_attrs["scheme"] == "11-11-11"


def test_runs_stay_within_the_project(tmp_path):
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "pyproject.toml").touch()
    lone = tmp_path / "proj" / "mine"
    assert StudyFolder(lone).mlruns == tmp_path / "proj" / "mlruns"
    assert StudyFolder(tmp_path / "proj" / "studies" / "a").mlruns == tmp_path / "proj" / "mlruns"


def test_a_search_that_another_machine_began_is_said(copy):
    _, folder = copy
    study = sat.open_study(folder, trials=10)
    opened = study.optuna_study()
    began = opened.user_attrs[MACHINE_KEY]
    opened.set_user_attr(MACHINE_KEY, {**began, "machine": "another"})
    with pytest.warns(SatOptunaWarning, match="study 'tiny' was begun elsewhere .*machine: anoth"):
        study.search(mlflow=False)


@pytest.mark.slow
def test_a_renamed_or_copied_study_goes_on_under_its_uuid(copy):
    project, folder = copy
    before = trials(project)
    for place in (folder.with_name("copied"), folder.with_name("with a space")):
        shutil.copytree(folder, place)
    folder.rename(folder.with_name("renamed"))
    for name in ("copied", "with a space", "renamed"):
        study = sat.open_study(folder.with_name(name), trials=10)
        with pytest.warns(SatOptunaWarning, match=f"study '{name}' was begun as 'tiny', in"):
            assert study.search(mlflow=False).new == 1
        done = sat_optuna("trials", name, "--format", "json", cwd=project)
        assert json.loads(done.stdout)[:9] == before
        assert len(json.loads(done.stdout)) == 10
        assert f"the search of study '{name}' was begun as 'tiny'" in done.stderr
        found = sat_optuna("doctor", name, "--format", "json", cwd=project)
        assert "finished trials: 10" in found.stdout


def test_a_search_whose_work_did_not_come_along_is_not_begun_anew_beside_it(copy):
    _, folder = copy
    moved = folder.with_name("moved")
    folder.rename(moved)
    shutil.rmtree(moved / "work")
    before = (moved / "study.db").read_bytes()
    with pytest.raises(
        StudyError, match=r"holds no study 'moved'; it holds: tiny.*bring its work"
    ):
        sat.run_study(moved, mlflow=False)
    assert (moved / "study.db").read_bytes() == before


def test_the_study_of_another_folder_is_not_continued(copy, tmp_path):
    _, folder = copy
    other = sat.open_study(make_study(tmp_path / "other"))
    shutil.copytree(folder / "work", other.work)
    record = other.work / "done" / "search.json"
    record.write_text(record.read_text().replace('"uuid": "', '"uuid": "0'))
    shutil.copy(folder / "study.db", other.db)
    with pytest.raises(StudyError, match="is not the one that was begun here"):
        other.search(mlflow=False)


def made_by_report(folder):
    """Return what the record says that the report made, once it is true of the files."""
    made = json.loads((folder / "work" / "done" / "report.json").read_text())["made"]
    for name, digest in made.items():
        path = folder / name if name.startswith("report.") else folder / "figures" / name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, name
    return made


def test_the_picture_of_the_blocks_is_part_of_what_the_report_made(copy):
    """Gone, it is drawn again as it was; of the trials the report is decided by their results."""
    _, folder = copy
    made = made_by_report(folder)
    pictures = ("ticket", "blocks", "search", "accuracy", "connections")
    drawn = {f"{name}.{kind}" for name in pictures for kind in ("png", "svg")}
    assert made.keys() == {"report.md", "report.html", "trials.csv", *drawn}
    assert not sat.open_study(folder).report().new
    for gone in ("blocks.png", "ticket.svg"):
        (folder / "figures" / gone).unlink()
        assert sat.open_study(folder).report().new
        assert made_by_report(folder) == made
    page = (folder / "report.md").read_text()
    assert "figures/blocks.png" in page
    assert "| s1.b00 | SE |" in page


def test_the_page_for_a_browser_is_of_the_report_that_lies_beside_it(copy):
    """Gone or changed it is written again; what somebody wrote into the report is in it."""
    _, folder = copy
    made, page, report = made_by_report(folder), folder / "report.html", folder / "report.md"
    before = page.read_bytes()
    for spoil in (page.unlink, lambda: page.write_bytes(before[:-9])):
        spoil()
        again = sat.open_study(folder).report()
        assert (again.page, again.new) == (page, False)
        assert page.read_bytes() == before
        assert made_by_report(folder) == made
    with report.open("a") as stream:
        stream.write("\nI doubt this.\n")
    written = report.read_bytes()
    assert not sat.open_study(folder).report().new
    assert report.read_bytes() == written
    assert "<p>I doubt this.</p>" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["trials", "enumeration"])
def test_other_trials_or_scores_draw_the_blocks_anew(copy, change):
    _, folder = copy
    before = made_by_report(folder)
    picture, page = folder / "figures" / "blocks.png", folder / "report.md"
    drawn, written = picture.read_bytes(), page.read_text()
    picture.write_bytes(b"an old one")
    if change == "trials":
        sat.open_study(folder, trials=10).run(mlflow=False)
    else:
        sat.open_study(folder).enumerate()
        assert sat.open_study(folder).report().new
    made = made_by_report(folder)  # with the digest of what lies there now
    assert made.keys() == before.keys()
    assert (page.read_text() != written) == (change == "trials")
    assert picture.read_bytes().startswith(b"\x89PNG")
    if change == "trials":
        assert picture.read_bytes() == drawn  # effects are of all 64 schemes, whatever was tried


def test_a_result_that_was_edited_is_made_again(copy):
    _, folder = copy
    study = sat.open_study(folder)
    before = study.report().tickets
    (path, *_) = sorted((folder / "work" / "retrain").glob("*/*.json"))
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "accuracy": 99.9}))
    (folder / "tickets" / "ticket.json").unlink()
    with pytest.warns(SatOptunaWarning, match=r"seed0.json is not what the retraining wrote"):
        assert sat.open_study(folder).retrain(mlflow=False).tickets.keys() == before.keys()
    assert json.loads(path.read_text()) == document


@pytest.mark.parametrize("finished", [True, False])
def test_weights_of_another_seed_are_not_taken_for_a_missing_result(copy, finished):
    _, folder = copy
    (ours, *_) = sorted((folder / "work" / "retrain").glob("*/*.seed0.json"))
    weights = ours.with_suffix(".safetensors")
    shutil.copy(str(weights).replace("seed0", "seed1"), weights)
    ours.unlink()
    (folder / "tickets" / "ticket.json").unlink()
    if not finished:  # as if it had been stopped within: no digest is noted yet
        (record,) = (folder / "work" / "done").glob("networks-*.json")
        document = json.loads(record.read_text())
        for name in (ours.name, weights.name):
            del document["made"][name]
        record.write_text(json.dumps(document))
    with pytest.raises(SatOptunaError, match=r"bytes have changed since|another configuration"):
        sat.open_study(folder).retrain(mlflow=False)
    assert not ours.exists()


def test_an_on_event_that_raises_ends_the_step_and_the_study_goes_on(copy):
    _, folder = copy

    def stop(event: Event) -> None:
        if event.done == 10:
            raise ZeroDivisionError

    study = sat.open_study(folder, trials=12)
    with pytest.raises(ZeroDivisionError):
        study.search(mlflow=False, on_event=stop)
    assert sat.open_study(folder, trials=12).search(mlflow=False).trials == 12


@pytest.mark.slow
def test_an_on_event_that_raises_in_retraining_ends_its_processes(copy):
    _, folder = copy
    edit(folder, "workers = 1", "workers = 2")
    before = sat.open_study(folder).report().tickets
    for path in (folder / "work" / "retrain").glob("*/*"):
        path.unlink()
    (folder / "tickets" / "ticket.json").unlink()

    def stop(event: Event) -> None:
        if event.step == "retrain" and event.made:
            raise ZeroDivisionError

    study = sat.open_study(folder)
    with pytest.raises(ZeroDivisionError):
        study.retrain(mlflow=False, on_event=stop)
    assert not multiprocessing.active_children()
    assert len(list((folder / "work" / "retrain").glob("*/*.json"))) < 9
    after = study.retrain(mlflow=False).tickets
    assert {r: t.scores for r, t in after.items()} == {r: t.scores for r, t in before.items()}


def test_a_database_that_is_moved_away_begins_anew_in_the_same_object(copy):
    _, folder = copy
    study = sat.open_study(folder)
    first = study.search(mlflow=False)
    study.db.rename(folder / "old.db")
    again = study.search(mlflow=False)
    assert (first.new, again.new, again.trials) == (0, 9, 9)
    assert study.db.exists()


@pytest.mark.slow
def test_weights_that_were_removed_are_said_with_a_way_out(copy):
    project, folder = copy
    for path in (folder / "work" / "retrain").glob("*/*.safetensors"):
        path.unlink()
    ticket = folder / "tickets" / "ticket.json"
    arguments = ("export", str(ticket), "--to", "safetensors")
    said = sat_optuna(*arguments, cwd=project, code=1).stderr
    assert "were removed; move " in said
    (result,) = (path for path in said.split() if path.endswith("seed0.json"))
    Path(result).unlink()
    ticket.unlink()
    sat.open_study(folder).retrain(mlflow=False)
    sat_optuna(*arguments, cwd=project)


def test_a_folder_is_held_by_one_step_at_a_time(copy):
    _, folder = copy
    refused: list[str] = []

    def again(_event: Event) -> None:
        with pytest.raises(StudyError) as error:
            sat.open_study(folder).report()
        refused.append(str(error.value))

    sat.open_study(folder).report(on_event=again)
    assert "is being run by another process, or by another call in this one" in refused[0]
    assert not sat.open_study(folder).report().new


def test_a_study_that_is_not_there():
    with pytest.raises(StudyError, match="no study 'nowhere'"):
        sat.open_study("nowhere")


def test_a_module_of_the_running_script_is_refused_before_anything_is_trained(tmp_path):
    folder = make_study(tmp_path, text=STUDY + '[attention]\nkinds = ["mine"]\n')
    script = """
import sat_optuna as sat
from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import Attention

class Mine(Attention):
    def __init__(self, channels):
        super().__init__()

    def forward(self, features, state=None):
        return 2 * features, state

ATTENTION.add("mine", Mine)
try:
    sat.run_study("studies/tiny", mlflow=False)
except sat.SatOptunaError as error:
    print(error)
"""
    done = forks.python("-c", script, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    assert "'mine' is registered by the script that runs now" in done.stdout
    assert not list(folder.glob("work/*.safetensors"))


@pytest.mark.parametrize("sign", ["pyproject.toml", ".git", "studies"])
def test_runs_are_looked_for_no_higher_than_the_project(tmp_path, sign):
    """The mlruns/ of the folder around it, the user's home for example, is not the project's."""
    (tmp_path / "mlruns").mkdir()
    project = tmp_path / "work" / "project"
    inside = project / "deep" / "inside"
    inside.mkdir(parents=True)
    (project / sign).mkdir()
    assert nearest_mlruns(inside) is None
    (project / "mlruns").mkdir()
    assert nearest_mlruns(inside) == project / "mlruns"
    assert nearest_mlruns(project / "studies") == project / "mlruns"


def test_a_study_of_no_project_keeps_its_runs_beside_it(tmp_path):
    (tmp_path / "mlruns").mkdir()
    lone = tmp_path / "home" / "things" / "mine"
    (lone).mkdir(parents=True)
    assert nearest_mlruns(lone.parent) is None
    (lone.parent / "mlruns").mkdir()
    assert nearest_mlruns(lone.parent) == lone.parent / "mlruns"


def test_the_theory_is_computed_once_and_then_read_from_the_committed_file(copy):
    _, folder = copy
    study = sat.open_study(folder)
    lines = theory_lines(study)
    assert lines[0].startswith("T1: ")
    assert lines[-1].startswith("T4: ")
    kept = folder / "evidence" / "theory.json"
    document = json.loads(kept.read_text())
    assert document["lines"] == list(lines)
    assert [single["block"] for single in document["singles"]] == [
        *Scheme.parameter_names((2, 2, 2))
    ]
    assert document["bound"]["holds"]
    shutil.rmtree(folder / "work")  # as in a fresh clone
    assert theory_lines(sat.open_study(folder)) == lines
    kept.unlink()
    (said,) = theory_lines(sat.open_study(folder))
    assert said.startswith("T1 and T4 are not computed: the weights of `11-11-11` are not in ")
    path = folder / "tickets" / "ticket.json"
    ticket = Ticket.load(path)
    mixed = replace(
        ticket,
        attention=(*ticket.attention, AttentionSpec(kind="eca")),
        scheme=Scheme.parse("12-00-00"),
    )
    mixed.save(path)
    (said,) = theory_lines(sat.open_study(folder))
    assert said.startswith("T1 and T4 are not computed: the ticket mixes kinds (se, eca), and")
    path.unlink()
    with pytest.raises(StudyError, match=r"study 'tiny' has no ticket yet; run: sat-optuna run "):
        theory_lines(sat.open_study(folder))


def test_what_a_store_lacks_of_a_whole_study_is_logged_by_doctor_fix(copy, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _, folder = copy
    study = sat.open_study(folder)
    for path in study.mlruns.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(study.mlruns / "artifacts", ignore_errors=True)
    for part in ("trials", "retrainings", "report"):
        Owed(study).owe(part, "the store was away")
    ticket = folder / "tickets" / "ticket.json"
    kept = ticket.read_bytes()
    ticket.write_bytes(kept + b" ")  # as if the retraining had not ended
    rows = [row for row in fix([folder], study.mlruns) if row.subject == "study tiny"]
    assert [row.state for row in rows] == ["look"]
    assert "retrainings are missing, and all are logged by: sat-optuna retrain" in rows[0].finding
    ticket.write_bytes(kept)
    rows = [row for row in fix([folder], study.mlruns) if row.subject == "study tiny"]
    assert [row.state for row in rows] == ["fixed"]
    assert rows[0].finding.startswith("logged its retrainings and report to sqlite:///")
    assert Owed(study).here is None
    client = MlflowClient(store_uri(study.mlruns))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    kinds = Counter(run.data.tags["sat.kind"] for run in runs)
    distinct = {str(ticket.scheme) for ticket in study.report().tickets.values()}
    assert kinds == {
        "study": 1,
        "trial": 9,
        "summary": len(distinct),
        "retraining": 3 * len(distinct),
    }
    assert int(client.get_model_version_by_alias("tiny", "best").version) == 1
    (search,) = (run for run in runs if run.data.tags["sat.kind"] == "study")
    files = {file.path for file in client.list_artifacts(search.info.run_id)}
    assert files >= {"study.toml", "report.md", "report.html", "figures"}
    assert list(fix([folder], study.mlruns)) == []
