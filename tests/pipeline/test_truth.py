"""Truth tables made: what each entry is, how the work goes on, what is refused.

Trainings are made in this process here; tests/e2e/test_truth.py makes them in processes.
"""

import json
import math
import shutil
import warnings
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch
from click.testing import CliRunner

import sat_optuna as sat
from sat_optuna.cli import sat_optuna as group
from sat_optuna.errors import SatOptunaWarning, StudyError, TrainingError
from sat_optuna.evidence import truth_runs
from sat_optuna.evidence.constants import constant_ticket
from sat_optuna.pipeline import truth as making
from sat_optuna.supernet.materialise import build_network
from tests.studies import make_study

TEXT = """
[data]
limit = 100
[network]
width = 4
stem_stride = 4
blocks = [1, 1, 1]
[attention]
kinds = ["srm"]
[train]
batch = 32
shift = 1
[retrain]
epochs = 1
[truth]
seeds = [0]
reference_seeds = [0, 1]
"""
COLUMNS = ("valid", "test", "valid_loss", "test_loss", "train_accuracy")


@pytest.fixture(scope="module", autouse=True)
def _here():
    def in_this_process(todo, run, **_more):
        for jobs in todo:
            yield from run(jobs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "in_processes", in_this_process)
        patch.setattr(truth_runs, "tell_share", lambda _number, _event: None)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a study with its whole table, and what was told; to be copied."""
    folder = make_study(tmp_path_factory.mktemp("whole"), text=TEXT)
    told = []
    sat.open_study(folder).truth(on_event=told.append)
    return folder, told


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(made[0], tmp_path / "studies" / "tiny")


def fresh(folder):
    """What a fresh clone has of a study."""
    (folder / "study.db").unlink()
    shutil.rmtree(folder / "work")


def same(one, other):
    for name in (*COLUMNS, "choices", "params", "macs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.seeds == other.seeds


class _StoppedError(Exception):
    pass


def stopping_after(count):
    """An `on_event` that ends the work after so many trainings."""
    left = iter(range(count))

    def on_event(event):
        if event.step == "truth" and event.made is not None and next(left, None) is None:
            raise _StoppedError

    return on_event


def test_references_come_first_and_each_training_is_made_once(made):
    folder, told = made
    results = [event.made for event in told if isinstance(event.made, truth_runs.TruthResult)]
    keys = [(str(result.scheme), result.seed) for result in results]
    assert keys[:3] == [("0-0-0", 0), ("1-1-1", 0), ("2-2-2", 0)]
    assert keys[-3:] == [("0-0-0", 1), ("1-1-1", 1), ("2-2-2", 1)]
    assert sorted(keys[3:-3]) == [(f"{a}-{b}-{c}", 0) for a, b, c in
                                  [(0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)]]  # fmt: skip
    assert keys[3:-3] != sorted(keys[3:-3])
    assert (told[-1].done, told[-1].total) == (12, 12)
    table = sat.load_truth(folder)
    assert table.missing == 0
    assert table.manifest["trainings"] == {"done": 12, "missing": 0}
    assert table.manifest["images"] == {"train": 80, "valid": 20, "test": 1000}
    assert (folder / "truth.npz").stat().st_size < 10_000


@pytest.mark.parametrize("role", ["plain", "scheme", "full", "constant"])
def test_an_entry_is_what_fit_by_hand_gives_on_the_training_part_alone(made, role):
    study, table = sat.open_study(made[0]), sat.load_truth(made[0])
    data, config, seed = study.parts.data, study.config, 0 if role == "scheme" else 1
    texts = {"plain": "0-0-0", "scheme": "0-1-1", "full": "1-1-1", "constant": "1-1-1"}
    supernet = study.parts.fresh_supernet()
    scheme = sat.Scheme.parse(texts[role])
    cost = sat.measure(sat.materialise(supernet, scheme), data.shape)
    ticket = sat.Ticket(
        role="ticket", scheme=scheme, backbone="resnet20",
        backbone_settings=config.network.backbone_settings, attention=config.attention.kinds,
        classes=10, input_shape=data.shape, dataset=data.name,
        dataset_fingerprint=data.fingerprint, seed=0, params=cost.params, macs=cost.macs,
    )  # fmt: skip
    if role == "constant":  # whose factors start by what is trained on
        ticket = constant_ticket(ticket)
        net = sat.retrain(ticket, data.train, epochs=1, seed=seed, config=config.train)
    else:
        net = build_network(ticket, seed=seed)
        sat.fit(net, data.train, epochs=1, seed=seed, config=config.train)
        row = table.row(scheme)
        assert (table.params[row], table.macs[row]) == (cost.params, cost.macs)
    valid, test = (sat.evaluate_network(net, part) for part in (data.valid, data.test))
    at = table.row(ticket.scheme), table.seeds.index(seed)
    found = [valid.accuracy, test.accuracy, valid.loss, test.loss]
    assert [getattr(table, name)[at] for name in COLUMNS[:4]] == found
    if role not in ("scheme",):
        assert table.reference(role)[seed] == valid.accuracy


def test_work_that_was_ended_goes_on_and_its_part_is_there(made, tmp_path):
    folder = make_study(tmp_path, text=TEXT)
    for count in (4, 3):  # the second call takes over what the first had begun
        with pytest.raises(_StoppedError):
            sat.open_study(folder).truth(on_event=stopping_after(count))
        with pytest.warns(SatOptunaWarning, match=r"of 12 trainings of truth table 'tiny' are"):
            part = sat.load_truth(folder)
        whole = sat.load_truth(made[0])
        there = ~np.isnan(part.valid)
        np.testing.assert_array_equal(part.valid[there], whole.valid[there])
        assert there.sum() == 12 - part.missing == part.manifest["trainings"]["done"]
    assert part.missing == 12 - 5 - 4
    sat.open_study(folder).truth()
    same(sat.load_truth(folder), whole)
    study = sat.open_study(folder)
    trials = optuna.load_study(study_name="tiny.truth", storage=study.storage).trials
    assert len(trials) == 12
    # A search of the same study begins as if there were no table.
    assert not study.has_search()


def test_a_part_table_goes_on_where_study_db_is_not_there(made, tmp_path):
    folder = make_study(tmp_path, text=TEXT)
    with pytest.raises(_StoppedError):
        sat.open_study(folder).truth(on_event=stopping_after(6))
    fresh(folder)
    result = sat.open_study(folder).truth()
    assert result.new == 12 - 7
    same(sat.load_truth(folder), sat.load_truth(made[0]))
    assert sat.open_study(folder).truth().new == 0


def test_more_seeds_are_added_and_seeds_no_longer_asked_for_are_kept(folder):
    before = sat.load_truth(folder)
    text = (folder / "study.toml").read_text()
    more = text.replace("reference_seeds = [0, 1]", "reference_seeds = [0, 5]")
    (folder / "study.toml").write_text(more)
    assert sat.open_study(folder).truth().new == 3
    table = sat.load_truth(folder)
    assert table.seeds == (0, 5, 1)
    assert table.missing == 0
    assert [*table.reference("constant")] == [0, 5, 1]
    np.testing.assert_array_equal(table.valid[:, [0, 2]], before.valid)
    assert table.balanced.seeds == (0,)
    assert table.balanced.valid.shape == (8, 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs = 1", "epochs = 2", "retrain.epochs: 1 is stored, 2 is given"),
        ("shift = 1", "shift = 0", "train.shift: 1 is stored, 0 is given"),
        ("limit = 100", "limit = 110", "data.limit: 100 is stored, 110 is given"),
    ],
)
@pytest.mark.parametrize("clone", [False, True])
def test_another_configuration_does_not_go_on(folder, old, new, said, clone):
    if clone:
        fresh(folder)
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace(old, new))
    study = sat.open_study(folder)
    for call in (study.truth, study.verify_truth):
        with pytest.raises(StudyError, match=f"truth.json was made with another.*{said}"):
            call()


def test_a_table_of_other_data_is_refused(folder):
    fresh(folder)
    manifest = json.loads((folder / "truth.json").read_text())
    manifest["decided"]["the data's fingerprint"] = "0" * 64
    (folder / "truth.json").write_text(json.dumps(manifest))
    with pytest.raises(StudyError, match=r"the data's fingerprint: '0000.* is stored"):
        sat.open_study(folder).truth()


def test_what_takes_too_long_is_refused_before_anything_is_trained(tmp_path):
    large = TEXT.replace("[1, 1, 1]", "[18, 18, 18]").replace("epochs = 1", "epochs = 164")
    for text, limit, said in (
        (large, 20.0, r"36,028,797,018,963,970 trainings .* core-years, more than the limit of 20"),
        (TEXT, 1e-9, r"would take 12 trainings of about [\d.e-]+ s, 0.0 core-hours, more than"),
    ):
        text = text.replace("seeds = [0]\n", "seeds = [0, 1]\n") if limit == 20 else text
        folder = make_study(tmp_path / str(limit), text=text)
        with pytest.raises(StudyError, match=said):
            sat.open_study(folder).truth(limit_hours=limit)
        assert [path.name for path in folder.iterdir()] == ["study.toml"]


def test_a_training_that_fails_is_told_in_the_table_and_not_made_again(made, tmp_path, monkeypatch):
    entries = truth_runs._entries

    def failing(jobs):
        if any(str(job.ticket.scheme) == "0-1-0" for job in jobs.values()):
            raise TrainingError("the loss is nan in epoch 0 with lr 0.1; lower train.lr")
        return entries(jobs)

    monkeypatch.setattr(truth_runs, "_entries", failing)
    folder = make_study(tmp_path, text=TEXT)
    sat.open_study(folder).truth()
    with pytest.warns(SatOptunaWarning, match="1 of 12 trainings .* are missing"):
        table = sat.load_truth(folder)
    (failed,) = table.manifest["failed"]
    assert (failed["scheme"], failed["seed"]) == ("0-1-0", 0)
    assert "the loss is nan" in failed["error"]
    assert math.isnan(table.valid[table.row("0-1-0"), 0])
    for _ in range(2):
        assert sat.open_study(folder).truth().new == 0
        fresh(folder)
    whole = sat.load_truth(made[0])
    there = ~np.isnan(table.valid)
    np.testing.assert_array_equal(table.valid[there], whole.valid[there])


def run(*arguments, code=0):
    done = CliRunner().invoke(group, [*arguments], auto_envvar_prefix="SAT_OPTUNA")
    assert done.exit_code == code, done.output
    return done


def test_verify_trains_entries_again_and_says_of_each_whether_it_came_out(folder):
    before = (folder / "truth.npz").read_bytes()
    printed = run("truth", "tiny", "--verify", "3").stdout
    assert printed.count(": equal, each bit\n") == 3
    assert run("truth", "tiny", "--verify", "3", "--seed", "1").stdout != printed
    assert (folder / "truth.npz").read_bytes() == before
    # Of another machine: within the noise, or not.
    table = sat.load_truth(folder)
    machines = [{**table.manifest["machines"][0], "device": "another"}]
    elsewhere = {**table.manifest, "machines": machines}
    noise = table.noise_of("valid")
    for off, said, code in (
        (noise, "within the noise, a standard deviation of", 0),
        (40 * noise, "DIFFERENT, by more than the noise, a standard deviation of", 1),
    ):
        moved = replace(table, valid=table.valid + off, manifest=elsewhere)
        assert moved.noise_of("valid") == pytest.approx(noise)
        moved.save(folder)
        done = run("truth", "tiny", "--verify", "2", code=code)
        assert done.stdout.count(said) == 2
    assert "2 of 2 entries of the truth table of 'tiny' did not come out again" in done.stderr
    replace(table, valid=table.valid + noise).save(folder)
    done = run("truth", "tiny", "--verify", "2", code=1)
    assert done.stdout.count("DIFFERENT, on the machine that made it") == 2


def test_several_kinds_have_references_each(tmp_path):
    text = TEXT.replace('["srm"]', '["srm", "gc"]').replace("seeds = [0]\n", "seeds = [3]\n", 1)
    folder = make_study(tmp_path, text=text)
    with pytest.raises(_StoppedError):
        sat.open_study(folder).truth(on_event=stopping_after(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sat.load_truth(folder)
    assert table.manifest["references"] == {
        "plain": "0-0-0", "full-srm": "1-1-1", "full-gc": "2-2-2",
        "constant-srm": "3-3-3", "constant-gc": "4-4-4",
    }  # fmt: skip
    assert table.planned.sum() == 27 + 5 * 2 == json.loads(
        (folder / "truth.json").read_text()
    )["trainings"]["missing"] + (~np.isnan(table.valid)).sum()  # fmt: skip
    assert table.choices.shape == (29, 3)


def test_a_task_without_labels_has_its_own_metric(tmp_path):
    assert torch  # placeholder
