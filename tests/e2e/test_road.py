"""The whole road on a tiny study, in real processes: what is done, what is written, what is kept.

One study is run once and looked at by every test of this file.
"""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from sat_optuna.evidence.controls import same_density
from sat_optuna.scheme import Scheme
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import load_study
from sat_optuna.ticket import ROLES, Ticket
from sat_optuna.training.checkpoint import read_record
from tests.studies import environment, make_study, sat_optuna, trials

COMMITTED = Path(__file__).parents[2] / "studies" / "quickstart"
FIELDS = ("scheme", "reward", "accuracy", "sparsity", "params", "macs")


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    project = tmp_path_factory.mktemp("road")
    folder = make_study(project)
    # The committed results of this repository: they must not be taken for done.
    shutil.copytree(COMMITTED / "tickets", folder / "tickets")
    shutil.copytree(COMMITTED / "figures", folder / "figures")
    shutil.copy(COMMITTED / "report.md", folder)
    printed = sat_optuna("run", "tiny", cwd=project).stdout
    return project, folder, printed


@pytest.fixture(scope="module")
def rows(road):
    return trials(road[0])


def test_a_fresh_clone_trains_searches_and_retrains(road):
    _, folder, printed = road
    for step in ("pretrain: 2 epochs", "search: 9 trials now", "retrain: ", "report: "):
        assert step in printed
    assert "done already" not in printed
    assert "search: 9 schemes have" in printed
    assert "; naming the largest class each time gets 10.00 % right, chance 10.00 %" in printed
    # 240 training images in batches of 32: 7 steps an epoch, 2 epochs.
    record = read_record(folder / "work" / "supernet.safetensors")
    assert (len(record["history"]), record["steps"]) == (2, 14)
    study = load_study(open_storage(folder / "study.db"), "tiny")
    best = study.best_trial
    found = f"accuracy {best.user_attrs['accuracy']:.2f} % and reward {best.value:.3f}; next"
    assert f"; best {best.user_attrs['scheme']} with validation {found}" in printed
    assert [t.number for t in study.trials] == list(range(9))
    assert len(load_study(open_storage(folder / "study.db"), "tiny.random").trials) == 9
    tickets = [Ticket.load(folder / "tickets" / f"{role}.json") for role in ROLES]
    distinct = {str(ticket.scheme) for ticket in tickets}
    results = list((folder / "work" / "retrain").glob("*/*.json"))
    assert len(results) == 3 * len(distinct)
    assert (folder / "report.md").read_text() != (COMMITTED / "report.md").read_text()


def test_trials_are_one_json_document(road, rows):
    _, folder, _ = road
    assert [row["number"] for row in rows] == list(range(9))
    for row in rows:
        scheme = Scheme.parse(row["scheme"], stages=(2, 2, 2), kinds=1)
        assert row["sparsity"] == scheme.sparsity
        assert row["reward"] == row["accuracy"] + 2.0 * scheme.sparsity
        assert all(row[field] is not None for field in FIELDS)
    assert len({row["scheme"] for row in rows}) == 9
    by_file = sat_optuna("trials", str(folder), "--format", "csv", cwd=folder).stdout
    assert [row["scheme"] for row in csv.DictReader(by_file.splitlines())] == [
        row["scheme"] for row in rows
    ]


def test_tickets_hold_ticket_and_controls_with_the_same_seeds(road, rows):
    _, folder, _ = road
    tickets = {role: Ticket.load(folder / "tickets" / f"{role}.json") for role in ROLES}
    best = max(rows, key=lambda row: row["reward"])
    assert str(tickets["ticket"].scheme) == best["scheme"]
    assert tickets["ticket"].trial == best["number"]
    assert [s.value for s in tickets["ticket"].scores if s.split == "valid"] == [best["accuracy"]]
    assert tickets["plain"].scheme == Scheme.uniform((2, 2, 2), 0)
    assert tickets["full"].scheme == Scheme.uniform((2, 2, 2), 1)
    assert tickets["random-density"].scheme == same_density(tickets["ticket"].scheme, seed=0)
    assert tickets["constant"].scheme.choices == tuple(
        2 * choice for choice in tickets["ticket"].scheme.choices
    )
    assert [spec.kind for spec in tickets["constant"].attention] == ["se", "constant:se"]
    assert tickets["plain"].params < tickets["constant"].params < tickets["ticket"].params
    assert not (folder / "tickets" / "random-best.json").exists()  # of the committed study
    for ticket in tickets.values():
        assert len(ticket.latency_rounds) == 31
        assert ticket.images == {"train": 300, "test": 1000}
        assert sum(score.split == "train" for score in ticket.scores) == 3
        tested = [score for score in ticket.scores if score.split == "test"]
        assert [score.seed for score in tested] == [0, 1, 2]
        assert ticket.latency_ms is not None
        assert ticket.latency_ms > 0
    assert tickets["plain"].params < tickets["full"].params
    assert tickets["ticket"].params == best["params"]
    assert tickets["ticket"].macs == best["macs"]


def test_the_dashboards_note_has_the_verdicts_and_the_blocks(road):
    _, folder, _ = road
    from optuna_dashboard import get_note

    study = load_study(open_storage(folder / "study.db"), "tiny")
    note = get_note(study)
    report = (folder / "report.md").read_text()
    parts = {part.partition("\n")[0]: part.partition("\n")[2] for part in note.split("## ")[1:]}
    assert list(parts) == [
        "This study",
        "Best schemes",
        "Verdicts",
        "From scratch",
        "Block by block",
        "Next",
    ]
    for role in ROLES:  # the same ticket is the same text in note, file and report
        ticket = Ticket.load(folder / "tickets" / f"{role}.json")
        scores = [score.value for score in ticket.scores if score.split == "test"]
        (row,) = (r for r in parts["From scratch"].splitlines() if r.startswith(f"| {role} |"))
        assert f"| `{ticket.scheme}` | {fmean(scores):.2f} % | 3 | {ticket.params:,} |" in row
        (row,) = (r for r in report.splitlines() if r.startswith(f"| {role} | `"))
        assert f"| `{ticket.scheme}` | {fmean(scores):.2f} | 3 |" in row
    assert parts["Verdicts"].strip() in report
    assert parts["Next"].strip() == f"`sat-optuna show {folder / 'tickets' / 'ticket.json'}`"
    lines, _, measured = parts["Block by block"].strip().partition("\n\n")
    assert measured in report
    assert len(lines.splitlines()) == 6
    for line in lines.splitlines():
        assert re.fullmatch(r"- SE (pays |hurts )?at s\d\.b\d\d: .* \(.* to .*\)", line)
        assert f"| {line.partition('(')[2].removesuffix(')')} |" in report


def test_the_report_has_the_five_networks_and_its_figures(road):
    _, folder, _ = road
    report = (folder / "report.md").read_text()
    for role in ROLES:
        assert f"| {role} | `" in report
    assert "What is shown and what is not decided, the verdicts at the head say" in report
    first = report.splitlines()[2:11]
    assert first[0].startswith("**")
    assert [line.split(":")[0] for line in first[2:8]] == [
        "- faster", "- smaller", "- accuracy kept", "- over plain", "- over constant",
        "- attention pays",
    ]  # fmt: skip
    assert "after 1 epoch of 300 images" in first[4]
    assert "1,000 images resolves" in report
    for figure in ("ticket", "blocks", "search", "accuracy", "connections"):
        assert f"figures/{figure}.png" in report
        assert (folder / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    written = (folder / "figures" / "trials.csv").read_text()
    assert len(list(csv.DictReader(written.splitlines()))) == 18


# Imports are watched in the process itself: a second run may not even load torch.
WATCH = """
import sys
from sat_optuna.cli import main
code = main(["run", "tiny"])
loaded = {"torch", "mlflow", "matplotlib"} & set(sys.modules)
assert not loaded, loaded
sys.exit(code)
"""


def test_a_second_run_does_no_step_again_and_imports_no_torch(road):
    project, folder, _ = road
    kept = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(("study.db", "lock"))
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCH],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done already") == 5
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_mlflow_has_a_child_run_a_trial_and_a_retraining(road, rows):
    project, folder, _ = road
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    kinds = [run.data.tags["sat.kind"] for run in runs]
    tickets = [Ticket.load(folder / "tickets" / f"{role}.json") for role in ROLES]
    distinct = {str(ticket.scheme) for ticket in tickets}
    assert kinds.count("study") == 1
    assert kinds.count("trial") == 9
    assert kinds.count("retraining") == 3 * len(distinct)
    assert {run.info.status for run in runs} == {"FINISHED"}
    (own,) = (run for run in runs if run.info.run_id == tickets[0].mlflow_run)
    assert own.data.tags["scheme"] == str(tickets[0].scheme)
    report = (folder / "report.md").read_text()
    for name in ("faster", "smaller", "accuracy_kept", "over_plain", "over_constant"):
        assert f"\n- {own.data.tags[f'verdict.{name}']}\n" in report
    assert own.data.metrics["verdict.smaller.effect"] < 0
    verdicts = own.data.tags["mlflow.note.content"].partition("## Verdicts\n\n")[2]
    assert verdicts.strip() in report
    summaries = {r.data.tags["scheme"]: r for r in runs if r.data.tags["sat.kind"] == "summary"}
    assert summaries.keys() == distinct
    assert own is summaries[str(tickets[0].scheme)]
    for ticket in tickets:
        numbers = summaries[str(ticket.scheme)].data.metrics
        scores = [score.value for score in ticket.scores if score.split == "test"]
        assert numbers["test_accuracy"] == pytest.approx(fmean(scores), abs=1e-4)
        assert (numbers["parameters"], numbers["macs"]) == (ticket.params, ticket.macs)
        assert numbers["latency_ms"] == pytest.approx(ticket.latency_ms, abs=1e-4)
        assert numbers["seeds"] == 3
        assert numbers["share_of_full_parameters"] == pytest.approx(
            (ticket.params - tickets[1].params) / (tickets[2].params - tickets[1].params), abs=1e-4
        )
    trained = [run for run in runs if run.data.tags["sat.kind"] == "retraining"]
    parents = {run.info.run_id: run for run in summaries.values()}
    for summary in summaries.values():
        nested = [
            run for run in trained if run.data.tags["mlflow.parentRunId"] == summary.info.run_id
        ]
        assert summary.info.end_time == max(run.info.end_time for run in nested)
        assert summary.info.start_time <= min(run.info.start_time for run in nested) + 1000
    for run in trained:
        scheme = parents[run.data.tags["mlflow.parentRunId"]].data.tags["scheme"]
        assert run.data.tags["scheme"] == scheme == run.data.params["scheme"]
        assert set(Scheme.parameter_names((2, 2, 2))) <= run.data.params.keys()
    (parent,) = (run for run in runs if run.data.tags["sat.kind"] == "study")
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("## Result\n\n**")
    assert "\n\n## Block by block\n\n- SE " in note
    told = experiment.tags["mlflow.note.content"]
    assert told in note
    for role in ("ticket", "plain", "full"):
        assert f"{role} `{tickets[ROLES.index(role)].scheme}` " in told
    logged = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert logged >= {"study.toml", "environment.json", "report.md", "figures"}
    assert parent.inputs is not None
    assert [used.dataset.name for used in parent.inputs.dataset_inputs] == [tickets[0].dataset]
    effects = {name for name in parent.data.metrics if name.startswith("effect.")}
    assert effects == {f"effect.{name}.se" for name in Scheme.parameter_names((2, 2, 2))}
    by_scheme = {r.data.tags["scheme"] for r in runs if r.data.tags["sat.kind"] == "trial"}
    assert by_scheme == {row["scheme"] for row in rows}
    names = {path.name for path in (project / "mlruns").iterdir()}
    assert names == {"mlflow.db", "mlflow.db-journal", "artifacts"}  # SQLite empties the second


def test_the_random_control_draws_for_itself(road, rows):
    _, folder, _ = road
    own = [row["scheme"] for row in rows]
    random = load_study(open_storage(folder / "study.db"), "tiny.random")
    drawn = [trial.user_attrs["scheme"] for trial in random.trials]
    assert len(drawn) == len(own)
    assert drawn[0] != own[0]
    assert drawn != own


def test_the_ticket_command_and_show(road):
    project, folder, _ = road
    printed = sat_optuna("ticket", "tiny", "--trial", "3", cwd=project).stdout
    path = folder / "tickets" / "trial-3.json"
    assert str(path) in printed
    assert Ticket.load(path).trial == 3
    path.unlink()
    shown = sat_optuna("show", str(folder / "tickets" / "full.json"), cwd=project).stdout
    assert "[SE] [SE]" in shown
    assert "accuracy kept: " not in shown
    assert shown.count("test accuracy") == 3
    found = str(folder / "tickets" / "ticket.json")
    shown = sat_optuna("show", found, "--no-latency", cwd=project).stdout
    (line,) = (row for row in shown.splitlines() if row.startswith("over constant: "))
    assert f"\n- {line}\n" in (folder / "report.md").read_text()
    assert "no finished trial 99" in (
        sat_optuna("ticket", "tiny", "--trial", "99", cwd=project, code=1).stderr
    )


def test_another_configuration_is_refused_and_nothing_is_lost(road, rows):
    project, folder, _ = road
    toml = folder / "study.toml"
    original = toml.read_text()
    toml.write_text(original.replace("calibration = 32", "calibration = 64"))
    try:
        message = sat_optuna("search", "tiny", cwd=project, code=1).stderr
        assert "search.calibration: 32 is stored, 64 is given" in message
        assert "Traceback" not in message
    finally:
        toml.write_text(original)
    assert trials(project) == rows


def test_the_test_part_is_read_by_retraining_alone(road, rows):
    _, folder, _ = road
    # The scores of every trial are of the validation part: 60 images, so 100/60 points a step.
    for row in rows:
        assert (row["accuracy"] * 60 / 100) == pytest.approx(round(row["accuracy"] * 60 / 100))
    for path in (folder / "work" / "retrain").glob("*/*.json"):
        result = json.loads(Path(path).read_text())
        assert result["images"] == 1000
        assert len(result["history"]) == 1


@pytest.mark.slow
def test_what_was_not_logged_is_caught_up_and_other_epochs_are_trained(road, tmp_path):
    project, _folder, _ = road
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("mlflow.db*", "artifacts"))
    printed = sat_optuna("run", "tiny", cwd=copy).stdout
    assert "now logged to MLflow" in printed
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{copy / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    kinds = [run.data.tags["sat.kind"] for run in runs]
    assert kinds.count("trial") == 9
    assert kinds.count("retraining") >= 6
    # What each block does is logged too, and times are those of the trials and trainings.
    (search,) = (run for run in runs if run.data.tags["sat.kind"] == "study")
    assert "\n\n## Block by block\n\n" in search.data.tags["mlflow.note.content"]
    assert any(name.startswith("effect.") for name in search.data.metrics)
    ends = [run.info.end_time for run in runs if run.data.tags["sat.kind"] == "trial"]
    assert search.info.end_time == max(ends)
    toml = copy / "studies" / "tiny" / "study.toml"
    toml.write_text(toml.read_text().replace("[retrain]\nepochs = 1", "[retrain]\nepochs = 2"))
    assert "pretrain: done already" in sat_optuna("run", "tiny", "--no-mlflow", cwd=copy).stdout
    ticket = Ticket.load(copy / "studies" / "tiny" / "tickets" / "ticket.json")
    assert {score.epochs for score in ticket.scores if score.split == "test"} == {2}
