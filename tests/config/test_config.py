"""The configuration as a value: what it is made of, its fingerprint, how two of them differ."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sat_optuna.config.config import (
    AttentionConfig,
    NetworkConfig,
    PretrainConfig,
    RetrainConfig,
    SearchConfig,
    Step,
    StudyConfig,
    TrainConfig,
    decided,
    differences,
    fingerprint,
    with_trials,
)
from sat_optuna.pipeline.reading import read_study
from sat_optuna.ticket import AttentionSpec

SPEC = AttentionSpec(kind="dia", sharing="stage", settings={"reduction": 4})


def keys():
    """Each key of study.toml as (section, key, default); the top level is section ''."""
    for spec in fields(StudyConfig):
        section = getattr(StudyConfig(), spec.name)
        if is_dataclass(section):
            yield from ((spec.name, f.name, getattr(section, f.name)) for f in fields(section))
        else:
            yield "", spec.name, section


KEYS = list(keys())
NAMES = [f"{section}.{key}".lstrip(".") for section, key, _ in KEYS]


def spec_of(section, key):
    cls = type(getattr(StudyConfig(), section)) if section else StudyConfig
    return next(f for f in fields(cls) if f.name == key)


def changed(section, key, default):
    """The default configuration with another value at one key."""
    value: Any
    choices = spec_of(section, key).metadata.get("choices", ())
    if isinstance(default, bool):
        value = not default
    elif isinstance(default, tuple):
        texts = {"modules": ("a.py",), "objectives": ("accuracy", "macs")}
        value = {"kinds": (*default[1:], SPEC), **texts}.get(key, (7, 8, 9))
    elif isinstance(default, dict):
        value = {"s1.b00": "se"}
    elif choices:
        value = next(choice for choice in choices if choice != default)
    elif isinstance(default, float):
        value = default / 2 + 0.125
    else:
        value = default + {int: 2, str: "x"}[type(default)]
    config = StudyConfig()
    if not section:
        return replace(config, **{key: value})
    return replace(config, **{section: replace(getattr(config, section), **{key: value})})


def test_every_key_has_a_comment_of_one_line():
    for spec in fields(StudyConfig):
        section = getattr(StudyConfig(), spec.name)
        for f in fields(section) if is_dataclass(section) else (spec,):
            if f.name == "sha256":  # no key: it comes from the plugins' files
                continue
            assert f.metadata["comment"]
            assert "\n" not in f.metadata["comment"]


def test_to_dict_is_plain_json():
    plain = StudyConfig().to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["retrain"]["seeds"] == [0, 1, 2, 3]
    assert plain["attention"]["kinds"][0]["kind"] == "se"


STEPS: tuple[Step, ...] = ("pretrain", "search", "retrain", "truth")


@pytest.mark.parametrize("hashing", ["0", "1"])
def test_fingerprint_is_the_same_in_every_process(hashing):
    program = "from sat_optuna.config.config import *; print(fingerprint(StudyConfig(), 'search'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": hashing},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == fingerprint(StudyConfig(), "search")
    assert re.fullmatch("[0-9a-f]{16}", done.stdout.strip())


# What a key decides, said here once more: by key, else by its section, else everything.
DECIDES = {
    "data.root": (),
    "device": (),
    "data.workers": (),
    # Of weights their bytes decide, and only what starts from them.
    "network.weights": (),
    "network.pretrained": (),
    "network.sha256": (),
    "train.strategy": ("retrain", "truth"),
    "train.compile": ("retrain", "truth"),
    "pretrain": ("pretrain", "search"),
    "search.trials": (),
    "search.timeout": (),
    "search.metric": ("search", "retrain", "truth"),
    "search.epochs": (),  # these by objective "train" alone
    "search.start": (),
    "search.pruner": (),
    "search.replicates": (),
    "search": ("search",),
    "retrain.seeds": (),
    "retrain.epochs": ("retrain", "truth"),
    "transfer": (),  # the bytes of the ticket do
    "truth": (),
    "retrain.workers": (),
    "retrain": ("retrain",),
    "evidence": (),
}


@pytest.mark.parametrize(("section", "key", "default"), KEYS, ids=NAMES)
def test_each_key_changes_the_fingerprint_of_the_steps_that_it_decides(section, key, default):
    one, other = StudyConfig(), changed(section, key, default)
    name = f"{section}.{key}".lstrip(".")
    expected = DECIDES.get(name, DECIDES.get(section, STEPS))
    for step in STEPS:
        same = fingerprint(one, step) == fingerprint(other, step)
        phrases = differences(decided(one, step), decided(other.to_dict(), step))
        assert same == (step not in expected), step
        assert [phrase.startswith(f"{name}: ") for phrase in phrases] == [True] * (not same)


@pytest.mark.parametrize(
    ("starts", "steps"),
    [
        ({}, ()),
        ({"pretrain": PretrainConfig(start="weights")}, ("pretrain", "search")),
        ({"search": SearchConfig(objective="train", start="weights")}, ("search",)),
        ({"retrain": RetrainConfig(start="weights")}, ("retrain",)),
    ],
)
def test_weights_decide_by_their_bytes_what_starts_from_them(starts, steps):
    def study(**network):
        return StudyConfig(network=NetworkConfig(**network), **starts)

    one, moved, other, offered = (
        study(weights="a.pth", sha256="11"),
        study(weights="/elsewhere/b.pth", sha256="11"),
        study(weights="a.pth", sha256="22"),
        study(pretrained=True),
    )
    for step in STEPS:
        assert fingerprint(one, step) == fingerprint(moved, step)
        assert (fingerprint(one, step) != fingerprint(other, step)) == (step in steps)
        assert (fingerprint(one, step) != fingerprint(offered, step)) == (step in steps)


@pytest.mark.parametrize(
    ("study", "prints"),
    [
        ("quickstart", ("2d12cffa7d55f002", "682dabb9faea4b78", "aa22054528f43d17")),
        ("fashion-sge", ("10a09959be1c1610", "8a1df91ed2186f0f", "6000ec3eb6ca9a1a")),
    ],
)
def test_keys_that_came_later_change_no_fingerprint_of_a_committed_study(study, prints):
    folder = Path(__file__).parents[2] / "studies" / study
    assert tuple(fingerprint(read_study(folder), step) for step in STEPS[:3]) == prints


def test_compiling_decides_a_search_that_trains_in_its_trials():
    training = SearchConfig(objective="train")
    one, other = (
        StudyConfig(search=training, train=TrainConfig(compile=compiled))
        for compiled in (False, True)
    )
    assert differences(decided(one, "search"), decided(other, "search")) == (
        "train.compile: False is stored, True is given",
    )


@pytest.mark.parametrize(
    ("search", "unread"),
    [
        (SearchConfig(), {"search.epochs", "search.start", "search.pruner", "search.replicates"}),
        (
            SearchConfig(objective="train"),
            {
                "pretrain.epochs",
                "pretrain.connect",
                "pretrain.draws",
                "pretrain.start",
                "search.calibration",
                "search.calibration_chunk",
                "search.recalibrate",
                "search.held_back",
            },
        ),
        (
            SearchConfig(objective="train", start="weights"),
            {
                "pretrain.epochs",
                "pretrain.connect",
                "pretrain.draws",
                "pretrain.start",
                "search.calibration",
                "search.calibration_chunk",
                "search.recalibrate",
                "search.held_back",
            },
        ),
        (
            SearchConfig(objective="train", start="supernet"),
            {
                "search.calibration",
                "search.calibration_chunk",
                "search.recalibrate",
                "search.held_back",
            },
        ),
    ],
    ids=["supernet", "train", "train from weights", "train from the supernet"],
)
def test_what_an_objective_does_not_read_decides_nothing(search, unread):
    """Nor does it where an earlier version has stored it."""
    config = StudyConfig(search=search)
    free = set()
    for section, key, default in KEYS:
        name = f"{section}.{key}"
        if section not in ("pretrain", "search") or key in ("objective", "trials", "timeout"):
            continue
        if name == "search.start" and search.objective == "train":
            continue  # decides what is read
        value = getattr(getattr(changed(section, key, default), section), key)
        other = replace(config, **{section: replace(getattr(config, section), **{key: value})})
        one = decided(config, "search")
        if fingerprint(other, "search") == fingerprint(config, "search"):
            free.add(name)
            assert differences({**one, name: value}, one) == ()
        else:
            assert differences({**one, name: value}, one) != ()
        same = decided(other, "scores") == decided(config, "scores")
        # Scores of the supernet are those of the first objective.
        assert same == (DECIDES.get(name) == ())
    assert free == unread


def test_differences_show_both_values_and_what_is_in_one_alone():
    one = {"seed": 2, "search.batch": 8, "old.key": None}
    other = {"seed": 1, "new.key": "nothing"}
    assert differences(one, other) == (
        "new.key: nothing is stored, 'nothing' is given",
        "old.key: None is stored, nothing is given",
        "seed: 2 is stored, 1 is given",
    )
    assert differences(one, one) == ()


def test_the_order_in_which_settings_are_written_does_not_count():
    one, other = (
        replace(
            StudyConfig(),
            attention=AttentionConfig((AttentionSpec(kind="x", settings=dict(pairs)),)),
        )
        for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)])
    )
    assert fingerprint(one, "retrain") == fingerprint(other, "retrain")


def test_with_trials_changes_the_total_alone():
    config = with_trials(StudyConfig(), 7)
    assert config.search.trials == 7
    assert decided(config, "search") == {}
    assert with_trials(config, None) is config


def test_other_code_of_a_plugin_is_another_study():
    default = StudyConfig()
    one, other = (
        replace(default, plugins=replace(default.plugins, modules=("a.py",), sha256=(digest,)))
        for digest in ("00", "11")
    )
    (said,) = differences(decided(one, "retrain"), decided(other, "retrain"))
    assert said == "plugins.sha256: ['00'] is stored, ['11'] is given"
