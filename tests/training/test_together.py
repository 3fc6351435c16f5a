"""Networks that are trained in turn end with the bits that each gets alone."""

from dataclasses import replace

import pytest
import torch

from sat_optuna.config.config import TrainConfig
from sat_optuna.errors import TrainingError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training import loop
from sat_optuna.training import step as steps
from sat_optuna.training.checkpoint import load_tensors, read_record
from sat_optuna.training.loop import Checkpoint, Training, fit_together
from sat_optuna.training.step import together_for
from tests.training.test_loop import (
    CONFIG,
    Stop,
    assert_same,
    draw,
    images,
    stop_after,
    supernet,
    supernet_with_dropout,
    weights,
)

GRAPH = replace(CONFIG, strategy="graph")


def trainings(folder, **more):
    """Other schemes, seeds, lengths, precisions and strategies; half of them with dropout."""

    def training(name, net, **given):
        checkpoint = Checkpoint(folder / name, name)
        asked = {"epochs": 2, "config": CONFIG, "checkpoint": checkpoint, **given, **more}
        return Training(net, images(), **asked)

    def dropping():
        return materialise(supernet_with_dropout(), Scheme.parse("1-0-1"))

    return [
        training("dropping", dropping(), seed=1),
        training("other seed", dropping(), seed=2, config=GRAPH),
        training("longer", dropping(), seed=1, epochs=3, config=GRAPH),
        training("plain", materialise(supernet(), Scheme.parse("0-0-0")), seed=1, config=GRAPH),
        training(
            "half", supernet(), seed=4, config=replace(CONFIG, precision="bfloat16"), draw=draw
        ),
        training("supernet", supernet_with_dropout(), seed=3, draw=draw),
    ]


def test_trained_together_is_trained_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "EVENT_SECONDS", 0.0)
    folders = [tmp_path / "alone", tmp_path / "together"]
    alone, together = (trainings(folder) for folder in folders)
    expected = [history for one in alone for history in fit_together([one])]
    before = torch.get_rng_state()
    with seeded("whatever was drawn before"):
        assert list(fit_together(together)) == expected
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(alone, together, strict=True):
        assert_same(weights(one.net), weights(other.net))
        assert one.checkpoint
        assert other.checkpoint
        assert_same(load_tensors(one.checkpoint.path), load_tensors(other.checkpoint.path))


def test_those_that_were_stopped_together_go_on_together(tmp_path):
    unbroken = trainings(tmp_path / "unbroken")
    expected = fit_together(unbroken)
    before = torch.get_rng_state()
    begun = trainings(tmp_path / "begun")
    begun[2] = replace(begun[2], on_event=stop_after(0))
    with pytest.raises(Stop):
        fit_together(begun)
    assert torch.equal(torch.get_rng_state(), before)
    continued = trainings(tmp_path / "begun")
    done = [one.checkpoint.record() for one in continued if one.checkpoint]
    assert [len((record or {"history": []})["history"]) for record in done] == [1, 1, 1, 0, 0, 0]
    assert fit_together(continued) == expected
    for one, other in zip(unbroken, continued, strict=True):
        assert_same(weights(one.net), weights(other.net))


def test_they_take_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "EVENT_SECONDS", 0.0)
    told = []

    def begun(name):
        net = materialise(supernet(), Scheme.parse("0-0-0"))
        said = lambda event: told.append((name, event.message)) if event.share else None  # noqa: E731
        return Training(net, images(16), epochs=1, seed=0, config=CONFIG, on_event=said)

    fit_together(map(begun, "ab"))
    first, second = "epoch 1: step 1 of 2", "epoch 1: step 2 of 2"
    assert told == [("a", first), ("b", first), ("a", second), ("b", second)]
    assert fit_together([]) == ()


def test_one_that_diverges_ends_all_and_says_so(tmp_path):
    wild = trainings(tmp_path, config=replace(CONFIG, lr=1e20))[:2]
    good = trainings(tmp_path)[2]
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) in epoch \d with lr 1e\+20"):
        fit_together([good, *wild])
    assert good.checkpoint
    assert read_record(good.checkpoint.path)["history"]


def test_how_many_at_a_time_is_looked_up_for_small_networks_that_are_graphs(monkeypatch):
    monkeypatch.setattr(steps, "TOGETHER", {"cpu": (1, 0), "cuda": (20, 100)})

    def together(device="cuda", params=100, **asked):
        return together_for(TrainConfig(**asked), torch.device(device), params=params)

    assert (together("cpu"), together("cuda"), together("cuda", 101)) == (1, 20, 1)
    assert (together(strategy="graph"), together(params=101, strategy="graph")) == (20, 1)
    assert together(strategy="eager") == together(precision="float16") == 1
    assert together(precision="bfloat16", memory_format="channels_last") == 20
    assert together(compile=True) == together(compile=True, strategy="graph") == 1
