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
from click.testing import CliRunner

import sat_optuna as sat
from sat_optuna.cli import sat_optuna as group
from sat_optuna.errors import SatOptunaWarning, StudyError, TrainingError
from sat_optuna.evidence import truth_runs
from sat_optuna.evidence.constants import constant_ticket
from sat_optuna.evidence.effects import noise_of
from sat_optuna.pipeline import truth as making
from sat_optuna.pipeline.results import CheckedEntry
from sat_optuna.supernet.materialise import build_network
from tests.studies import TRUTH, make_study

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
    folder = make_study(tmp_path_factory.mktemp("whole"), text=TRUTH)
    told: list[sat.Event] = []
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


def without(folder, *keys):
    """Take trainings out of the table, and leave what a fresh clone has."""
    table = sat.load_truth(folder)
    for scheme, seed in keys:
        at = table.row(scheme), table.seeds.index(seed)
        for name in (*COLUMNS, "seconds"):
            getattr(table, name)[at] = np.nan
        table.machine[at] = -1
    table.save(folder)
    fresh(folder)


MISSING = [("0-0-0", 0), ("0-1-1", 0), ("1-0-0", 0), ("2-2-2", 0), ("1-1-1", 1)]


class _StoppedError(Exception):
    pass


def stopping_after(count):
    """An `on_event` that ends the work after so many trainings."""
    left = iter(range(count - 1))

    def on_event(event):
        if isinstance(event.made, truth_runs.TruthResult) and next(left, None) is None:
            raise _StoppedError

    return on_event


def test_references_come_first_and_each_training_is_made_once(made):
    folder, told = made
    results = [event.made for event in told if isinstance(event.made, truth_runs.TruthResult)]
    keys = [(str(result.scheme), result.seed) for result in results]
    assert keys[:3] == [("0-0-0", 0), ("1-1-1", 0), ("2-2-2", 0)]
    assert keys[-3:] == [("0-0-0", 1), ("1-1-1", 1), ("2-2-2", 1)]
    others = ["0-0-1", "0-1-0", "0-1-1", "1-0-0", "1-0-1", "1-1-0"]
    assert sorted(keys[3:-3]) == [(scheme, 0) for scheme in others]
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


def test_work_that_was_ended_goes_on_and_its_part_is_there(made, folder):
    whole, missing = sat.load_truth(folder), 5
    without(folder, *MISSING)
    for count in (1, 2):  # the second call takes over what the first had begun
        with pytest.raises(_StoppedError):
            sat.open_study(folder).truth(on_event=stopping_after(count))
        missing -= count
        with pytest.warns(SatOptunaWarning, match=rf"^{missing} of 12 trainings of truth table"):
            part = sat.load_truth(folder)
        there = ~np.isnan(part.valid)
        np.testing.assert_array_equal(part.valid[there], whole.valid[there])
        assert part.manifest["trainings"] == {"done": 12 - missing, "missing": missing}
    assert sat.open_study(folder).truth().new == 2
    same(sat.load_truth(folder), whole)
    study = sat.open_study(folder)
    trials = optuna.load_study(study_name="tiny.truth", storage=study.storage).trials
    assert len(trials) == 12
    assert not study.has_search()  # a search begins as if there were no table


def test_a_table_goes_on_in_a_fresh_clone_and_under_another_name(made, folder):
    without(folder, MISSING[1])
    assert sat.open_study(folder).truth().new == 1
    renamed = folder.rename(folder.with_name("other"))
    for _ in range(2):
        assert sat.open_study(renamed).truth().new == 0
        fresh(renamed)
    same(sat.load_truth("other"), sat.load_truth(made[0]))


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
def test_another_configuration_does_not_go_on(folder, old, new, said):
    there = r"truth\.json"
    if old.startswith("epochs"):  # known by the trials too
        (folder / "truth.npz").unlink()
        (folder / "truth.json").unlink()
        there = r"study 'tiny\.truth' in .*study\.db"
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace(old, new))
    with pytest.raises(StudyError, match=f"{there} was made with another.*{said}"):
        sat.open_study(folder).truth()


def test_a_table_of_other_data_is_not_verified(folder):
    fresh(folder)
    manifest = json.loads((folder / "truth.json").read_text())
    manifest["decided"]["the data's fingerprint"] = "0" * 64
    (folder / "truth.json").write_text(json.dumps(manifest))
    with pytest.raises(StudyError, match=r"the data's fingerprint: '0000.* is stored"):
        sat.open_study(folder).verify_truth()


def test_what_takes_too_long_is_refused_before_anything_is_trained(folder, tmp_path):
    large = TRUTH.replace("[1, 1, 1]", "[9, 9, 9]").replace("epochs = 1", "epochs = 164")
    new = make_study(tmp_path / "large", text=large.replace("seeds = [0]\n", "seeds = [0, 1]\n"))
    said = r"would take 268,435,458 trainings of about .* core-years, more than the limit of 20 "
    with pytest.raises(StudyError, match=said):
        sat.open_study(new).truth()
    assert [path.name for path in new.iterdir()] == ["study.toml"]
    without(folder, *MISSING)
    said = (
        r"would take 5 trainings of about [\d.e-]+ s, 0.0 core-hours, more than the limit of 1e-09"
    )
    with pytest.raises(StudyError, match=said):
        sat.open_study(folder).truth(limit_hours=1e-9)
    assert not (folder / "study.db").exists()


def test_how_long_it_takes_is_told_by_this_machine_s_trainings(folder, monkeypatch):
    without(folder, *MISSING)
    monkeypatch.setattr(making, "hardware_of", lambda _config: {"device": "another"})
    monkeypatch.setattr(making, "seconds_of", lambda _job, _data: 3600.0)
    with pytest.raises(StudyError, match=r"take 5 trainings of about 3.6e\+03 s, 5.0 core-hours"):
        sat.open_study(folder).truth(limit_hours=4)


def test_a_training_that_fails_is_told_in_the_table_and_not_made_again(made, folder, monkeypatch):
    entries = truth_runs._entries

    def failing(jobs):
        if any(str(job.ticket.scheme) == "0-1-1" for job in jobs.values()):
            raise TrainingError("the loss is nan in epoch 0 with lr 0.1; lower train.lr")
        return entries(jobs)

    monkeypatch.setattr(truth_runs, "_entries", failing)
    monkeypatch.setattr(making, "processes_for", lambda *_, **__: (1, 3))  # as on a GPU
    without(folder, *MISSING)
    assert sat.open_study(folder).truth().new == 5
    with pytest.warns(SatOptunaWarning, match="1 of 12 trainings .* are missing"):
        table = sat.load_truth(folder)
    (failed,) = table.manifest["failed"]
    assert (failed["scheme"], failed["seed"]) == ("0-1-1", 0)
    assert "the loss is nan" in failed["error"]
    for _ in range(2):
        assert sat.open_study(folder).truth().new == 0
        fresh(folder)
    there, whole = ~np.isnan(table.valid), sat.load_truth(made[0])
    assert not there[table.row("0-1-1"), 0]
    np.testing.assert_array_equal(table.valid[there], whole.valid[there])


def run(*arguments, code=0):
    done = CliRunner().invoke(group, [*arguments], auto_envvar_prefix="SAT_OPTUNA")
    assert done.exit_code == code, done.output
    return done


def spread(table):
    """The deviation of the seeds of all schemes, which are fewer than 33."""
    return float(np.sqrt(np.nanmax(noise_of(table.valid)[0])))


def test_noise_is_of_the_schemes_near_an_entry_where_seeds_are_bimodal():
    rng = np.random.default_rng(0)
    sure, either = np.full((60, 2), 95.0), np.tile([95.0, 38.0], (60, 1))
    either[::2] = either[::2, ::-1]
    values = np.vstack([sure, either]) + rng.normal(0, 0.3, (120, 2))
    noise = making._noise(np.vstack([values, np.full((1, 2), np.nan)]))
    assert math.isnan(noise[-1])

    def entry(row, again):
        of = {name: float(noise[row]) for name in ("valid", "test")}
        stored, now = ({"valid": v, "test": v} for v in (values[row, 0], again))
        return CheckedEntry(
            scheme="0", seed=0, stored=stored, again=now, noise=of, same_machine=False
        )

    assert not entry(0, 38.0).agrees  # the pooled deviation is 28
    assert entry(0, 95.5).agrees
    assert entry(119, 38.0).agrees
    assert entry(119, 95.0).agrees


def test_verify_trains_entries_again_and_says_of_each_whether_it_came_out(folder):
    before = (folder / "truth.npz").read_bytes()
    printed = run("truth", "tiny", "--verify", "2").stdout
    assert printed.count(": equal, each bit\n") == 2
    assert (folder / "truth.npz").read_bytes() == before
    table = sat.load_truth(folder)
    other = [{**table.manifest["machines"][0], "device": "another"}]
    elsewhere, noise = {**table.manifest, "machines": other}, spread(table)
    for off, manifest, said in (
        (noise, elsewhere, "within the noise, a standard deviation of"),
        (40 * noise, elsewhere, "DIFFERENT, by more than the noise, a standard deviation of"),
        (noise, table.manifest, "DIFFERENT, on the machine that made it"),
    ):
        moved = replace(table, valid=table.valid + off, manifest=manifest)
        assert spread(moved) == pytest.approx(noise)
        moved.save(folder)
        done = run("truth", "tiny", "--verify", "1", "--seed", "1", code=int("DIFF" in said))
        assert said in done.stdout
        assert ("1 of 1 entries of the truth table of 'tiny' did not" in done.stderr) == (
            "DIFF" in said
        )


def test_several_kinds_have_references_each(tmp_path):
    text = TRUTH.replace('["srm"]', '["srm", "gc"]').replace("seeds = [0]\n", "seeds = [3]\n", 1)
    folder = make_study(tmp_path, text=text)
    with pytest.raises(_StoppedError):
        sat.open_study(folder).truth(on_event=stopping_after(2))
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


def test_another_metric_stands_where_the_accuracy_does(tmp_path):
    folder = make_study(tmp_path, text=TRUTH + '[search]\nmetric = "log_loss"\n')
    with pytest.raises(_StoppedError):
        sat.open_study(folder).truth(on_event=stopping_after(1))
    with pytest.warns(SatOptunaWarning, match="are missing"):
        table = sat.load_truth(folder)
    assert table.manifest["measure"] == {"name": "log_loss", "unit": "nats", "better": "lower"}
    for part in ("valid", "test"):
        (value,) = table.reference("plain", part).values()
        assert value == pytest.approx(table.reference("plain", f"{part}_loss")[0])
    study = sat.open_study(folder)
    opened = optuna.load_study(study_name="tiny.truth", storage=study.storage)
    assert opened.best_value == table.reference("plain")[0]
    assert opened.direction == optuna.study.StudyDirection.MINIMIZE
