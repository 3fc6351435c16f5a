"""A study's latency model: measured once, kept to the bit, and handed to the sampler as a cost."""

import itertools
import json
from contextlib import nullcontext
from types import SimpleNamespace

import optuna
import pytest

from sat_optuna.cost.latency import LatencyModel
from sat_optuna.cost.timing import Estimate
from sat_optuna.errors import SatOptunaWarning, StudyError
from sat_optuna.events import ignore
from sat_optuna.pipeline import latency
from sat_optuna.pipeline.folder import open_study
from sat_optuna.search.study import create_study
from tests.studies import STUDY, make_study

ADDED = (1.0, 2.0, 3.0)  # milliseconds of SE at each of three blocks; plain takes 4


def model(added=ADDED, error=1.0):
    return LatencyModel(
        stages=(1, 1, 1),
        kinds=("se",),
        batch=128,
        rounds=15,
        runs=8,
        plain_ms=Estimate(4.0, 3.9, 4.1),
        increments_ms=tuple((Estimate(ms, ms - 0.1, ms + 0.1),) for ms in added),
        fresh=0 if error is None else 8,
        residual_percent=error,
    )


@pytest.fixture
def measured(monkeypatch):
    """Stand in for the measurement with a model, and count how often it was asked for."""
    stand_in = SimpleNamespace(model=model(), calls=[])

    def fit(net, shape, *, batch, **more):
        stand_in.calls.append(batch)
        return stand_in.model

    monkeypatch.setattr("sat_optuna.cost.latency.fit_latency", fit)
    return stand_in


def study(project, search, name="tiny", **changed):
    text = STUDY.replace("[2, 2, 2]", "[1, 1, 1]").replace("[search]\n", f"[search]\n{search}\n")
    for old, new in changed.items():
        text = text.replace(f"{old} = 4", f"{old} = {new}")
    if not (project / "studies" / name).exists():
        return open_study(make_study(project, name, text))
    folder = project / "studies" / name
    (folder / "study.toml").write_text(text)
    return open_study(folder)


def proposed(opened):
    """All schemes that the sampler proposes, as the blocks that carry SE, once each."""
    sampler = opened.parts.sampler()
    found = optuna.create_study(direction="maximize", sampler=sampler)
    names = ("s1.b00", "s2.b00", "s3.b00")
    schemes = []
    for _ in range(12):
        trial = found.ask()
        schemes.append(tuple(trial.suggest_categorical(n, ("none", "se")) == "se" for n in names))
        found.tell(trial, float(sum(schemes[-1])))
    return set(schemes)


@pytest.mark.parametrize(
    ("search", "most"),
    [
        ("max_latency_share = 0.5", 7.0),
        ("max_latency_share = 0.34", 6.04),
        ("max_latency_ms = 5.5", 5.5),
        ("max_latency_ms = 9\nmax_connections = 2", 9.0),
    ],
)
def test_all_schemes_within_the_limit_are_proposed_and_none_above_it(
    tmp_path, measured, search, most
):
    opened = study(tmp_path, search)
    latency.measure_latency(opened, ignore)
    assert measured.calls == [128]
    kept = opened.parts.sampler().settings()["budget"]["latency_ms"][0]
    assert kept == pytest.approx(most, abs=1e-12)
    within = {
        blocks
        for blocks in itertools.product((False, True), repeat=3)
        if 4 + sum(ms for ms, on in zip(ADDED, blocks, strict=True) if on) <= most
        and sum(blocks) <= (2 if "connections" in search else 3)
    }
    assert proposed(opened) == within


def test_it_is_measured_once_for_a_network_and_a_machine_and_never_after_the_search_began(
    tmp_path, measured, monkeypatch
):
    limit = "max_latency_share = 0.5"
    for _ in range(2):
        opened = study(tmp_path, limit)
        latency.measure_latency(opened, ignore)
        assert latency.kept_latency(opened)[0] == measured.model
    assert measured.calls == [128]
    latency.measure_latency(study(tmp_path, limit, width=8), ignore)
    latency.measure_latency(study(tmp_path, limit + "\nlatency_batch = 2"), ignore)
    assert measured.calls == [128, 128, 2]
    opened = study(tmp_path, limit)
    latency.measure_latency(opened, ignore)
    # Another machine measures for itself, unless the search was begun with this one's.
    other = {"device": "another", "threads": 1, "torch": "0"}
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(latency, "hardware_of", lambda _threads: other)
        latency.measure_latency(opened, ignore)
        assert len(measured.calls) == 5
    latency.measure_latency(opened, ignore)
    assert len(measured.calls) == 6
    sampler = opened.parts.sampler()
    create_study(opened.storage, "tiny", config=opened.config, sampler=sampler)
    monkeypatch.setattr(latency, "hardware_of", lambda _threads: other)
    again = study(tmp_path, limit)
    latency.measure_latency(again, ignore)
    assert len(measured.calls) == 6
    with pytest.warns(SatOptunaWarning, match=r"was measured elsewhere \(device: .* another now"):
        assert again.parts.sampler().settings() == sampler.settings()


def test_a_model_that_is_gone_or_changed_is_refused(tmp_path, measured):
    opened = study(tmp_path, "max_latency_ms = 5.5")
    with pytest.raises(StudyError, match=r"latency.json, the latency model .* is not there; bri"):
        opened.parts.sampler()
    latency.measure_latency(opened, ignore)
    path = opened.work / "latency.json"
    document = json.loads(path.read_text())
    document["model"]["plain_ms"]["value"] = 1.0
    path.write_text(json.dumps(document))
    with pytest.raises(StudyError, match=r"is not what was measured .*: its bytes have changed"):
        study(tmp_path, "max_latency_ms = 5.5").parts.sampler()


@pytest.mark.parametrize(
    ("search", "added", "words"),
    [
        ("max_latency_ms = 3.5", ADDED, "'latency_ms' of 3.5 allows nothing: the cheapest scheme"),
        ("max_latency_share = 0.5", (0.5, -1.0, 0.25), "and here it adds nothing .3.75 ms, 4 wit"),
    ],
)
def test_a_limit_that_nothing_keeps_is_one_sentence(tmp_path, measured, search, added, words):
    measured.model = model(added)
    opened = study(tmp_path, search)
    opened.parts.check_search()  # which measures nothing, so it has nothing to say yet
    with pytest.warns(SatOptunaWarning) if sum(added) < 0 else nullcontext():
        latency.measure_latency(opened, ignore)
    for ask in (opened.parts.check_search, opened.parts.sampler):
        with pytest.raises(StudyError, match=words):
            ask()


@pytest.mark.parametrize(("error", "said"), [(149.0, False), (150.0, True), (None, False)])
def test_a_model_that_tells_less_than_its_error_is_doubted(tmp_path, measured, error, said):
    measured.model = model(error=error)  # SE in all blocks adds 6 ms to 4
    words = "off by 150.0 % .* se in all blocks adds 150.0 %, so it tells little"
    with pytest.warns(SatOptunaWarning, match=words) if said else nullcontext():
        latency.measure_latency(study(tmp_path, "max_latency_ms = 9"), ignore)


def test_what_was_measured_survives_its_file_to_the_last_bit():
    odd = model((0.1 + 0.2, 1 / 3, 2**-40), error=None)
    assert LatencyModel.from_dict(json.loads(json.dumps(odd.to_dict()))) == odd
