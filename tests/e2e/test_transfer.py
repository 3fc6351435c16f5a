"""A ticket taken elsewhere, as a user does it: from one command to report and MLflow."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sat_optuna.pipeline.folder import StudyFolder
from sat_optuna.pipeline.owed import Owed
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Ticket
from sat_optuna.tracking.store import RunStore
from tests.data.formats import write_points
from tests.studies import command, environment, sat_optuna

QUICKSTART = Path(__file__).parents[2] / "studies" / "quickstart" / "tickets" / "ticket.json"
ROLES = ["constant", "full", "plain", "random-1", "random-2", "random-3", "ticket"]


def project(tmp_path):
    (tmp_path / "studies").mkdir(parents=True)
    (tmp_path / "mlruns").mkdir()
    return tmp_path


def made(tmp_path, ticket, *options, limit=500):
    """Write the study of a transfer, cut, and return its folder."""
    printed = sat_optuna("transfer", str(ticket), *options, "--no-run", cwd=tmp_path).stdout
    (name,) = re.findall(r"^(\S+study.toml) written", printed, re.MULTILINE)
    path = Path(name)
    text, cut = re.subn("(?m)^limit = [0-9]+ ", f"limit = {limit} ", path.read_text())
    assert cut == 1  # the source's own data come with its limit
    path.write_text(text.replace("workers = 0 ", "workers = 1 "))
    return path.parent


def tickets(folder):
    return {path.stem: Ticket.load(path) for path in sorted(folder.glob("tickets/*.json"))}


def runs(tmp_path, folder):
    """The runs of a study's experiment by kind."""
    store, found = RunStore(tmp_path / "mlruns"), {}
    ticket = Ticket.load(folder / "tickets" / "ticket.json")
    experiment = store.experiment(folder.name, ticket.study_uuid or "", place=tmp_path.name)
    for kind in ("study", "summary", "retraining"):
        found[kind] = [*store.runs(experiment, f"tags.`sat.kind` = '{kind}'")]
    return found


SEGMENTATION = ("--task", "segmentation", "--data", "cued-seg")
SMALL = ("--epochs", "1", "--width", "4", "--stem-stride", "1", "--seeds", "0,1,2")


@pytest.mark.slow
def test_a_ticket_of_classification_comes_to_a_report_on_segmentation(tmp_path):
    project(tmp_path)
    folder = made(tmp_path, QUICKSTART, *SEGMENTATION, *SMALL)
    assert folder.name == "transfer-quickstart-cued-seg"
    again = ("transfer", str(QUICKSTART), *SEGMENTATION)
    said = sat_optuna(*again, cwd=tmp_path)
    assert "over plain: " in said.stdout
    assert "3 random tickets decide nothing" in " ".join(said.stderr.split())
    found, source = tickets(folder), Ticket.load(QUICKSTART)
    assert sorted(found) == ROLES
    for ticket in found.values():
        assert (ticket.dataset, ticket.backbone_settings["head"]) == ("cued-seg", "fcn")
        assert [s.seed for s in ticket.scores if s.split == "test"] == [0, 1, 2]
        assert {s.measure.name for s in ticket.scores} == {"miou"}
        assert ticket.source.study_uuid == source.study_uuid
        assert len(ticket.latency_rounds) == 31
    assert found["ticket"].scheme == found["ticket"].source.scheme == source.scheme
    assert len({found[role].scheme for role in ROLES}) == len(ROLES)
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# transfer-quickstart-cued-seg: does a ticket of cued-digits pay on")
    for words in (
        "- faster: ",
        "- smaller: holds",
        "- accuracy kept: ",
        "- over constant: ",
        "C4 over random: not decided",
        f"The ticket `{source.scheme}` of study `quickstart`, made on cued-digits in resnet20, "
        "was carried to cued-seg in resnet20 as it is: attention in 3 of 8 blocks",
        "rule: the same scheme",
        "margin: against full the ticket may lose 1 point of miou",
        "| random-3 | `",
    ):
        assert words in report
    assert (folder / "report.html").is_file()
    assert (folder / "figures" / "accuracy.png").is_file()
    logged = runs(tmp_path, folder)
    assert [run.info.run_name for run in logged["study"]] == ["transfer"]
    assert {r.info.status for part in logged.values() for r in part} == {"FINISHED"}
    assert len(logged["retraining"]) == 21
    assert sorted(run.data.tags["sat.role"] for run in logged["summary"]) == ROLES
    for run in logged["summary"]:
        told = {k[11:]: v for k, v in run.data.tags.items() if k.startswith("sat.source_")}
        assert told == {
            "study": "quickstart",
            "study_uuid": source.study_uuid,
            "scheme": str(source.scheme),
            "dataset": "cued-digits",
            "backbone": "resnet20",
        }
    digests = {path: path.read_bytes() for path in folder.rglob("*.json")}
    program = (
        "import sys, sat_optuna as sat\n"
        f"result = sat.run_study({folder.name!r})\n"
        "assert 'torch' not in sys.modules and 'mlflow' not in sys.modules\n"
        "assert len(result.tickets) == 7 and len(result.verdicts) == 6\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(), check=True)
    for name in ("run", "retrain", "report"):
        said = sat_optuna(name, folder.name, cwd=tmp_path)
        assert "done already" in said.stdout
    assert digests == {path: path.read_bytes() for path in folder.rglob("*.json")}
    assert len(runs(tmp_path, folder)["retraining"]) == 21


@pytest.mark.slow
def test_a_ticket_goes_deeper_and_a_kill_changes_no_result(tmp_path):
    options = ("--task", "classification", "--data", "cued-digits", "--backbone", "resnet32")
    unbroken, broken = project(tmp_path / "a"), project(tmp_path / "b")
    folders = [
        made(home, QUICKSTART, *options, *SMALL, "--study", "deeper", limit=500)
        for home in (unbroken, broken)
    ]
    arguments = ("transfer", str(QUICKSTART), *options, "--study", "deeper")
    sat_optuna(*arguments, cwd=unbroken)
    child = subprocess.Popen(
        command(*arguments),
        cwd=broken,
        env=environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    results = folders[1] / "work" / "retrain"
    while len([*results.glob("*/*.seed*.json")]) < 5 and child.poll() is None:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    begun = {path: path.stat().st_mtime_ns for path in results.glob("*/*.seed*.json")}
    assert 5 <= len(begun) < 21
    sat_optuna(*arguments, cwd=broken)
    known = [path for path, at in begun.items() if path.stat().st_mtime_ns == at]
    assert len(known) >= 4  # the last one may not have been noted before the kill
    one, two = (tickets(folder) for folder in folders)
    assert one.keys() == two.keys()
    for role, ticket in one.items():
        assert ticket.scores == two[role].scores
        assert ticket.source == two[role].source
    scheme, source = one["ticket"].scheme, one["ticket"].source
    assert scheme.stages == (5, 5, 5)
    assert (str(source.scheme), str(scheme)) == ("100-010-10", "11000-00100-11100")
    assert source.rule.startswith("nearest relative position in the stage: block i of n takes")
    report = (folders[0] / "report.md").read_text(encoding="utf-8")
    assert "became `11000-00100-11100` on cued-digits in resnet32, 6 of 15 blocks in the pl" in (
        report
    )
    logged = runs(broken, folders[1])
    assert len(logged["retraining"]) == 21
    assert {r.info.status for part in logged.values() for r in part} == {"FINISHED"}


@pytest.mark.slow
def test_all_controls_and_weights_to_start_from(tmp_path):
    project(tmp_path)
    document = json.loads(QUICKSTART.read_text())
    document |= {"scheme": "1-0-0", "study": "small"}
    document["backbone_settings"]["blocks"] = [1, 1, 1]
    del document["latency_rounds"]
    (tmp_path / "ticket.json").write_text(json.dumps(document))
    options = ("--task", "classification", "--data", "mnist5k")
    small = ("--epochs", "3", "--width", "4")
    first = made(tmp_path, tmp_path / "ticket.json", *options, *small, limit=500)
    again = ("transfer", str(tmp_path / "ticket.json"), *options, "--controls", "full")
    said = sat_optuna(*again, cwd=tmp_path)
    # There are two other arrangements of one block in three, which all are trained.
    claims = {
        row["name"]: row for row in json.loads((first / "evidence.json").read_text())["claims"]
    }
    assert "ranks in each seed among all 2 others" in claims["C4 over random"]["test"]
    assert "C4 over random: " in said.stdout
    report = (first / "report.md").read_text(encoding="utf-8")
    assert "ranks in each seed among all 2 others" in report
    assert sorted(tickets(first)) == [
        "constant",
        "full",
        "plain",
        "random-1",
        "random-2",
        "ticket",
    ]
    weighted = made(
        tmp_path,
        first / "tickets" / "ticket.json",
        *options,
        *("--init", "weights", "--seeds", "0,1,2", "--study", "tuned"),
        limit=500,
    )
    sat_optuna("run", "tuned", "--no-mlflow", cwd=tmp_path)
    study = StudyFolder(weighted)
    assert study.config.network.weights == "source.safetensors"
    found = tickets(weighted)
    assert {ticket.weights for ticket in found.values()} == {study.weights_digest}
    assert found["ticket"].source.study == first.name
    assert found["ticket"].scheme == Scheme.parse("1-0-0")
    report = (weighted / "report.md").read_text(encoding="utf-8")
    assert "## From the given weights, on train + validation" in report
    told = sat_optuna("doctor", "tuned", cwd=tmp_path).stdout
    assert "its ticket is given; retrained; go on: sat-optuna run tuned" in told
    Owed(study).owe("retrainings", "the store was away")
    told = sat_optuna("doctor", "tuned", "--fix", cwd=tmp_path).stdout
    assert "logged its retrainings to" in told
    logged = runs(tmp_path, weighted)
    assert len(logged["retraining"]) == 18
    assert {r.info.status for part in logged.values() for r in part} == {"FINISHED"}


@pytest.mark.slow
def test_a_folder_of_points_is_counted_by_a_ticket_of_classification(tmp_path):
    project(tmp_path)
    for part, seed in (("train", 0), ("test", 1)):
        write_points(tmp_path / "herds" / part, 12, sizes=((16, 16),), seed=seed)
    options = ("--task", "counting", "--data", "pointfolder", "--root", str(tmp_path / "herds"))
    arguments = ("transfer", str(QUICKSTART), *options, *SMALL)
    printed = sat_optuna(*arguments, "--no-run", cwd=tmp_path).stdout
    assert "study.toml written; edit it, then: sat-optuna check" in " ".join(printed.split())
    path = tmp_path / "studies" / "transfer-quickstart-pointfolder" / "study.toml"
    text = path.read_text()
    assert "margin = 0.1 " in text
    path.write_text(text.replace("batch = 64", "batch = 4 "))
    said = sat_optuna(*arguments, "--no-mlflow", cwd=tmp_path).stdout
    assert "accuracy kept: " in said
    found = tickets(path.parent)
    assert sorted(found) == ROLES
    assert {s.measure.name for ticket in found.values() for s in ticket.scores} == {"mae"}
    assert {ticket.backbone_settings["head"] for ticket in found.values()} == {"density"}
    report = (path.parent / "report.md").read_text(encoding="utf-8")
    assert "against full the ticket may lose 0.1 of mae" in report
    assert "ticket is at most 0.1 worse than full after 1 epoch of 12 images" in report
