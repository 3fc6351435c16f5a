"""A study's claims from committed files alone, what is refused, and the networks they lack."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import sat_optuna as sat
from sat_optuna.attention import default_spec
from sat_optuna.cli import sat_optuna as group
from sat_optuna.config.config import decided, fingerprint
from sat_optuna.errors import SatOptunaError
from sat_optuna.evidence.constants import constant_ticket
from sat_optuna.evidence.runs import MeasuredRuns
from sat_optuna.evidence.truth import TruthTable
from sat_optuna.pipeline.reading import read_study
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure, Score
from tests.networks import tiny_supernet
from tests.studies import STUDY, command, environment, make_study
from tests.tickets import ticket_of

FASHION = Path(__file__).parents[2] / "studies" / "fashion-sge"
NAMES = ("C1", "C2", "C3", "C4", "C5 above full", "C5 below plain", "C6")
NOISE = (0.0, 0.1, -0.1, 0.05, -0.15, 0.1, 0.0, -0.05)
# By role: scheme, mean test accuracy, parameters, milliseconds.
NETWORKS = {
    "ticket": ("10-000-0", 95.0, 1010, 10.5),
    "plain": ("00-000-0", 60.0, 1000, 10.0),
    "full": ("11-111-1", 95.6, 1100, 13.0),
    "random-density": ("00-010-0", 70.0, 1010, 10.5),
}


def scores(mean, seeds, train):
    for number, seed in enumerate(seeds):
        value = mean + NOISE[(number + round(mean)) % 8]
        yield Score(split="test", value=value, seed=seed, epochs=7)
        yield Score(split="train", value=train, seed=seed, epochs=7)


def tickets(folder, seeds=(0, 1, 2, 3), **more):
    """Write the tickets of a study in which one block does what all do."""
    config = read_study(folder).to_dict()
    base = ticket_of(tiny_supernet(), Scheme.parse("10-000-0"))
    base = replace(base, config=config, images={"train": 600, "test": 1000}, seed=0)
    for role, (scheme, mean, params, ms) in NETWORKS.items():
        ticket = replace(
            base,
            role=role,
            scheme=Scheme.parse(scheme),
            scores=tuple(scores(mean, seeds, mean)),
            params=params,
            latency_ms=ms,
            latency_rounds=tuple(ms + 0.01 * turn for turn in range(20)),
        )
        replace(ticket, **more.get(role, {})).save(folder / "tickets" / f"{role}.json")
    constant = replace(constant_ticket(base), scores=tuple(scores(62.0, seeds, 62.0)))
    replace(constant, **more.get("constant", {})).save(folder / "tickets" / "constant.json")


@pytest.fixture
def study(tmp_path):
    folder = make_study(tmp_path)
    text = STUDY.replace("seeds", "#").replace("epochs = 1", "epochs = 7")
    (folder / "study.toml").write_text(text)
    tickets(folder)
    return folder


def run(*arguments, code=0):
    done = CliRunner().invoke(group, ["evidence", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def error(*arguments):
    done = run(*arguments, code=1)
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    return line


def verdicts(folder):
    document = json.loads((folder / "evidence.json").read_text())
    return {claim["name"]: claim for claim in document["claims"]}


def test_claims_are_computed_from_committed_files_and_come_out_the_same_again(study):
    lines = run(study).stdout.splitlines()
    found = verdicts(study)
    held = {name: claim["verdict"] for name, claim in found.items()}
    for name in ("C1", "C2", "C3", "over plain", "over constant", "attention pays"):
        assert held[name] == "holds", name
    assert {*NAMES} <= held.keys()
    assert lines[0].startswith("Attention pays under this budget: the ticket beats plain and")
    (theory,) = json.loads((study / "evidence.json").read_text())["theory"]
    assert theory.startswith("T1 and T4 are not computed: the weights of `11-111-1` are not in ")
    assert lines[1:] == [*(claim["line"] for claim in found.values()), theory]
    assert "after 7 epochs of 600 images" in found["C1"]["line"]
    page = (study / "evidence.md").read_text()
    assert "**Holds**: C1, C2, C3" in page
    assert "| random-density | `00-010-0` | 4 |" in page
    # The first block alone is the ticket itself.
    assert "Not trained yet: random-best, last-k, every-other, stage-ends, 4 random" in page
    # Each command is one that finds this study, which lies outside studies/.
    assert f"sat-optuna evidence {study} --seeds 4" in page
    assert f"sat-optuna truth {study}." in page
    assert f"made by `sat-optuna evidence {study}`." in page
    assert "Results are looked at after 4, 8, 16 and 32 seeds only" in page
    assert json.loads((study / "evidence.json").read_text())["looks"] == [4, 8, 16, 32]
    assert "first-k is the ticket's own scheme" in found["C4 over first-k"]["line"]
    written = {p: (study / p).read_bytes() for p in ("evidence.md", "evidence/runs.json")}
    # Where somebody has runs.json and no more of what was trained than the tickets.
    shutil.rmtree(study / "work")
    run(study)
    assert {p: (study / p).read_bytes() for p in written} == written
    runs = sat.evidence_of(study).runs
    assert MeasuredRuns.load(runs).networks["00-000-0"].params == 1000


def test_what_fails_stands_in_the_first_lines(study):
    worse = {"full": {"scores": tuple(scores(99.0, range(4), 99.0))}}
    tickets(study, **worse)
    run(study)
    page = (study / "evidence.md").read_text().splitlines()
    assert "**Failed: accuracy kept.**" in page[2]
    assert "**Fails**: C1." in page[2]
    assert verdicts(study)["C1"]["verdict"] == "fails"


def test_the_margin_is_that_of_study_toml_and_makes_no_retraining_stale(study):
    before = read_study(study)
    path = study / "study.toml"
    path.write_text(path.read_text() + "[evidence]\nmargin = 0.01\n")
    after = read_study(study)
    assert after.evidence.margin == 0.01
    for step in ("pretrain", "search", "retrain"):
        assert fingerprint(before, step) == fingerprint(after, step)
    run(study)
    assert verdicts(study)["C1"]["margin"] == 0.01
    assert verdicts(study)["C1"]["verdict"] == "fails"
    changed = "study.toml has 0.01 points, which the claims here use, and the ticket was retrained"
    page = (study / "evidence.md").read_text()
    assert f"The margin was changed: {changed}, and is shown, with 1 point." in page
    tickets(study)  # retrained with the new margin
    run(study)
    assert "The margin was changed" not in (study / "evidence.md").read_text()


def test_one_seed_decides_nothing_and_says_how_many_more_would(study):
    tickets(study, seeds=(0,))
    run(study)
    found = verdicts(study)
    assert found["C1"]["verdict"] == found["over plain"]["verdict"] == "not decided"
    assert found["C1"]["more_seeds"] == 3
    assert found["C1"]["p"] is None
    assert found["C3"]["verdict"] == "holds"


def test_of_unequal_seeds_the_common_ones_count(study):
    tickets(study, seeds=range(8), full={"scores": tuple(scores(95.6, range(4), 95.2))})
    run(study)
    found = verdicts(study)["C1"]
    assert found["seeds"] == 4
    assert "ticket has 8 seeds and full 4; the 4 common ones count" in found["line"]


def test_a_failed_start_is_counted_apart(study):
    values = tuple(scores(95.6, range(4), 95.2))
    failed = (*(s for s in values if s.seed != 1), *scores(12.0, [1], 11.0))
    tickets(study, full={"scores": failed})
    run(study)
    assert verdicts(study)["C1"]["failed_starts"] == {"full": 1}
    assert "| full | `11-111-1` | 4 | 74." in (study / "evidence.md").read_text()


def test_a_ticket_that_fails_to_start_half_the_time_keeps_no_accuracy(study):
    started = tuple(scores(95.0, range(4), 95.0))
    failed = tuple(scores(12.0, range(4, 8), 11.0))
    every = {role: tuple(scores(row[1], range(8), row[1])) for role, row in NETWORKS.items()}
    every["ticket"] = (*started, *failed)
    tickets(study, **{role: {"scores": values} for role, values in every.items()})
    lines = run(study).stdout.splitlines()
    assert "4 runs of the ticket failed to start." in lines[0]
    found = verdicts(study)
    for name in ("C1", "over plain", "attention pays"):
        assert found[name]["verdict"] == "not decided"
        assert "ticket failed to start in 4 of 8 runs" in found[name]["line"]


def test_timings_of_unequal_rounds_are_no_error(study):
    tickets(study, plain={"latency_rounds": tuple(10 + 0.01 * turn for turn in range(12))})
    run(study)
    assert "were not timed in the same rounds" in verdicts(study)["C2"]["line"]


def test_a_study_of_several_kinds_is_held_against_each_full_network(study):
    net = tiny_supernet([default_spec("se"), default_spec("sge")])
    base = replace(ticket_of(net, Scheme.parse("12-000-0")), config=read_study(study).to_dict())
    (study / "tickets" / "full.json").unlink()
    named = {"ticket": "12-000-0", "plain": "00-000-0", "random-density": "00-012-0"}
    named |= {"full-se": "11-111-1", "full-sge": "22-222-2"}
    means = {"ticket": 95.0, "plain": 60.0, "full-se": 95.6}
    for role, scheme in named.items():
        mean = means.get(role, 70.0)
        found = replace(base, role=role, scheme=Scheme.parse(scheme))
        replace(found, scores=tuple(scores(mean, range(4), mean))).save(
            study / "tickets" / f"{role}.json"
        )
    constant = replace(constant_ticket(base), scores=tuple(scores(62.0, range(4), 62.0)))
    constant.save(study / "tickets" / "constant.json")
    run(study)
    found = verdicts(study)["C1"]  # the harder of the two
    assert found["verdict"] == "holds"
    assert "ticket is at most 1.00 points worse than full-se after" in found["line"]
    page = (study / "evidence.md").read_text()
    for row in ("constant | `34-000-0`", "full-sge | `22-222-2`", "first-k | `12-000-0`"):
        assert f"| {row} |" in page


def test_of_a_loss_less_is_better(study):
    measure = Measure("log_loss", "nats", "lower")

    def losses(role, mean):
        said = [s for s in scores(mean, range(4), 50.0) if s.split == "test"]
        return {
            role: {"scores": tuple(replace(s, value=s.value / 100, measure=measure) for s in said)}
        }

    means = {"ticket": 40.0, "plain": 91.0, "full": 22.0, "random-density": 93.0, "constant": 92.0}
    more: dict[str, dict[str, object]] = {}
    for role, mean in means.items():
        more |= losses(role, mean)
    path = study / "study.toml"
    path.write_text(path.read_text() + "[evidence]\nmargin = 0.05\n")
    tickets(study, **more)
    run(study)
    found = verdicts(study)
    assert found["over plain"]["verdict"] == found["over constant"]["verdict"] == "holds"
    assert found["C1"]["verdict"] == "fails"  # 0.18 nats more than full
    assert found["C1"]["effect"] == pytest.approx(-0.18, abs=0.01)
    assert "| test log loss nats |" in (study / "evidence.md").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "resnet56"}, r"full\.json and ticket\.json .*'resnet56' and 'resnet20'"),
        ({"dataset": "stl10"}, "dataset 'stl10' and 'mnist5k'.* leave the tickets of one study"),
        ({"dataset_fingerprint": "f00"}, "dataset fingerprint 'f00' and 'abc'"),
        ({"classes": 7}, "classes 7 and 5"),
    ],
)
def test_tickets_of_another_network_or_other_data_are_refused(study, change, said):
    tickets(study, full=change)
    with pytest.raises(SatOptunaError, match=said):
        sat.evidence_of(study)
    assert not (study / "evidence").exists()
    error(study)


def test_runs_of_another_network_are_refused(study):
    run(study)
    others = {role: {"backbone": "resnet56"} for role in (*NETWORKS, "constant")}
    tickets(study, **others)
    assert "runs.json is not of this study" in (said := error(study))
    assert "backbone 'resnet56' and 'resnet20'; move the file away" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-40], "is broken, no file that `evidence` wrote"),
        (lambda text: "[]", "is broken, no file that `evidence` wrote"),
        (lambda text: text.replace('"0": 60.0', '"0": 99.9'), "was changed since it was written"),
        (lambda text: text.replace('"schema": 1', '"schema": 9'), "schema 9, and this version"),
    ],
)
def test_a_broken_or_changed_file_of_runs_is_refused(study, change, said):
    run(study)
    path = study / "evidence" / "runs.json"
    path.write_text(change(path.read_text()))
    assert said in error(study)


def test_what_cannot_be_asked_is_said(study, tmp_path):
    with pytest.raises(SatOptunaError, match=r"seeds is 5; .* after 4, 8, 16, 32 seeds only"):
        sat.evidence_of(study, seeds=5)
    text = (study / "study.toml").read_text()
    (study / "study.toml").write_text(text.replace("batch = 32", "batch = 16"))
    assert "retrained with another configuration (train.batch: 32 is stored, 16 is given)" in (
        error(study, "--seeds", "4")
    )
    found = sat.evidence_of(study)  # and nobody is told to ask for it
    assert "Not trained yet: random-best, last-k" in found.remarks[0]
    assert "another configuration now than the tickets" in found.remarks[0]
    assert "--seeds" not in found.remarks[0]
    bare = make_study(tmp_path, "bare")
    assert "study 'bare' has no ticket with controls yet; run: sat-optuna run" in error(bare)


def test_a_committed_study_of_version_0_2_0_has_its_claims_and_says_what_they_lack(tmp_path):
    shutil.copytree(FASHION, tmp_path / "fashion-sge")
    lines = run(tmp_path / "fashion-sge").stdout.splitlines()
    said = {line.partition(":")[0]: line for line in lines}
    assert said.keys() >= {*NAMES}
    assert "C1: holds" in said["C1"]
    assert "+1.12 points" in said["C1"]
    assert "were not timed in the same rounds" in said["C2"]
    assert "C3: holds" in said["C3"]
    assert "+0.07 points" in said["over random-best"]
    assert "the ticket is plain, which has no constant control" in said["over constant"]
    for name in NAMES[-3:]:
        assert f"{name}: not decided" in said[name]
        assert "there is no table of all schemes" in said[name]


# Of three blocks one may carry attention, and one does: there are two others of its density.
ONE = """
seed = 0
[data]
limit = 200
[network]
width = 4
stem_stride = 4
blocks = [1, 1, 1]
[train]
batch = 32
[pretrain]
epochs = 1
[search]
trials = 8
batch = 4
calibration = 32
sparsity_weight = -500.0
max_connections = 1
[retrain]
epochs = 2
workers = 1
"""
ROLES = ("ticket", "plain", "full", "constant", "random-1", "random-2", "first-k", "last-k")


@pytest.mark.slow
def test_what_the_claims_lack_is_trained_and_a_killed_call_goes_on(tmp_path):
    folder = make_study(tmp_path, text=ONE)
    sat.run_study(folder, mlflow=False)
    kept = folder / "work" / "retrain"

    def results():
        return {path: path.stat().st_mtime_ns for path in kept.glob("*/*.json")}

    before = results()
    call = command("evidence", "tiny", "--seeds", "4")
    child = subprocess.Popen(call, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(results()) < len(before) + 2:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    found = sat.evidence_of(folder, seeds=4)
    measured = MeasuredRuns.load(found.runs)
    runs = measured.runs()
    for role in (*ROLES, "random-best"):
        assert list(runs.accuracy[role]) == list(runs.train_accuracy[role]) == [0, 1, 2, 3]
        assert runs.params[role] > 0
    for role in ("every-other", "stage-ends"):  # of another density, shown untested
        assert len(runs.accuracy[role]) == 4
    assert Scheme.parse(measured.roles["ticket"]).connections == 1
    assert {c.name for c in found.claims} >= {*NAMES}
    # One more call trains nothing.
    after = results()
    assert len(after) == 7 * 4  # 000, 111, three of one block, the constant control, 101
    sat.evidence_of(folder, seeds=4)
    assert results() == after
    # Committed files alone tell the same.
    page = found.page.read_bytes()
    shutil.rmtree(folder / "work")
    (folder / "study.db").unlink()
    assert sat.evidence_of(folder).page.read_bytes() == page


@pytest.mark.slow
def test_a_ticket_without_passengers_takes_its_place_where_it_is_no_worse(tmp_path, monkeypatch):
    text = ONE.replace("max_connections = 1", 'held_back = 0.5\nsampler = "brute-force"')
    folder = make_study(tmp_path, text=text + "[evidence]\nmargin = 100.0\n")
    study = sat.open_study(folder)
    assert len(study.parts.search_data.valid) == len(study.parts.held_back) == 20
    # Connections are rewarded here, so the search ends with all; a loss of 100 points is allowed.
    result = sat.run_study(folder, mlflow=False)
    ticket, searched = result.tickets["ticket"], result.tickets["searched"]
    assert (str(searched.scheme), searched.trial is None) == ("1-1-1", False)
    assert ticket.scheme.connections < 3
    assert ticket.trial is None
    for found in (ticket, searched):
        assert [s.seed for s in found.scores if s.split == "test"] == [0, 1, 2]
    constant = result.tickets["constant"].scheme if ticket.scheme.connections else ticket.scheme
    assert [c and c - 1 for c in constant.choices] == list(ticket.scheme.choices)
    report = (folder / "report.md").read_text()
    assert "shown to lose less than the margin of 100 points" in report
    assert f"Without its passengers the search found `{ticket.scheme}`" in report
    assert MeasuredRuns.load(sat.evidence_of(folder).runs).roles["searched"] == "1-1-1"
    shown = CliRunner().invoke(group, ["ticket", str(folder)])
    assert f"passengers: `{ticket.scheme}` is left of `1-1-1`" in shown.stdout
    # Where it is not shown to be no worse, the searched scheme is the ticket.
    monkeypatch.setattr("sat_optuna.evidence.passengers.not_worse", lambda *_, **__: False)
    result = sat.run_study(folder, mlflow=False)
    assert str(result.tickets["ticket"].scheme) == "1-1-1"
    assert result.tickets["candidate"].scheme == ticket.scheme
    assert "searched" not in result.tickets
    assert not (folder / "tickets" / "searched.json").exists()
    assert "the searched scheme is the ticket" in (folder / "report.md").read_text()


CHOICES = np.array(list(product((0, 1), repeat=6)), dtype=np.uint8)
# Block 0 is worth 30 points, block 5 costs 5, each other is worth 1.5.
TRUTH = 60 + CHOICES @ np.array([30.0, 1.5, 1.5, 1.5, 1.5, -5.0])


def save_table(folder, decides):
    """Write a table of 2 seeds a scheme and 16 of plain and full, whose true means are TRUTH."""
    values = TRUTH[:, None] + 0.05 * np.random.default_rng(0).normal(size=(64, 16))
    values[1:-1, 2:] = np.nan
    blank = np.zeros((64, 16))
    parts = ("test", "valid_loss", "test_loss", "train_accuracy", "seconds")
    TruthTable(
        choices=CHOICES,
        seeds=tuple(range(16)),
        valid=values,
        **dict.fromkeys(parts, blank),
        machine=blank.astype(np.int16),
        params=np.zeros(64, dtype=np.int64),
        macs=np.zeros(64, dtype=np.int64),
        manifest={
            "name": folder.name,
            "what": "made for a test",
            "stages": [2, 3, 1],
            "kinds": ["se"],
            "seeds": [0, 1],
            "reference_seeds": list(range(16)),
            "references": {"plain": "00-000-0", "full": "11-111-1"},
            "measure": {"name": "accuracy", "unit": "%", "better": "higher"},
            "images": {"train": 500, "valid": 100, "test": 1000},
            "epochs": 1,
            "decided": decides,
        },
    ).save(folder)


def test_a_truth_table_of_the_same_network_and_data_beside_the_study_is_found(study):
    config = read_study(study)
    decides = {**decided(config, "truth"), "the data's fingerprint": "abc"}
    for name, more in (("a-other", {"seed": 5}), ("b-same", {})):
        save_table(study.parent / f"truth-{name}", {**decides, **more})
    run(study)
    found = verdicts(study)
    assert found["C5 above full"]["verdict"] == "holds"
    assert found["C6"]["verdict"] == "fails"  # the first block alone has 6 points less than best
    page = (study / "evidence.md").read_text()
    assert "of truth table 'truth-b-same': made for a test." in page
    # Not the retraining's 7 epochs of 600 images.
    said = "after 1 epoch of 500 images, scored on 100 validation images: "
    assert all(said in found[name]["line"] for name in ("C5 above full", "C5 below plain", "C6"))
    assert "numbers of C5 and C6 come from the truth table, whose networks were" in page
    # A changed table is refused; one of another study is none of ours.
    (study.parent / "truth-a-other" / "truth.npz").write_bytes(b"0")
    run(study)
    (study.parent / "truth-b-same" / "truth.npz").write_bytes(b"0")
    assert "truth.npz is not what truth.json was written for" in error(study)
