"""The configuration as a value: what it is made of, its fingerprint, how two of them differ."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from sat_optuna.config.config import (
    CHANGEABLE,
    NEUTRAL,
    AttentionConfig,
    StudyConfig,
    differences,
    fingerprint,
    with_trials,
)
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
        value = {"kinds": (*default[1:], SPEC), "modules": ("a.py",)}.get(key, (7, 8, 9))
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
    assert plain["retrain"]["seeds"] == [0, 1, 2]
    assert plain["attention"]["kinds"][0]["kind"] == "se"


@pytest.mark.parametrize("hashing", ["0", "1"])
def test_fingerprint_is_the_same_in_every_process(hashing):
    program = "from sat_optuna.config.config import *; print(fingerprint(StudyConfig()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": hashing},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == fingerprint(StudyConfig())
    assert re.fullmatch("[0-9a-f]{16}", done.stdout.strip())


@pytest.mark.parametrize(("section", "key", "default"), KEYS, ids=NAMES)
def test_fingerprint_changes_with_each_key_and_with_no_excluded_one(section, key, default):
    one, other = StudyConfig(), changed(section, key, default)
    place = f"{section}.{key}".lstrip(".")
    if place in NEUTRAL:
        assert fingerprint(one) == fingerprint(other)
        return
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one, without=(place,)) == fingerprint(other, without=(place,))
    assert fingerprint(one, without=(section or key,)) == fingerprint(
        other, without=(section or key,)
    )
    assert fingerprint(one, without=("data.elsewhere", "ret")) != fingerprint(
        other, without=("data.elsewhere", "ret")
    )


@pytest.mark.parametrize(("section", "key", "default"), KEYS, ids=NAMES)
def test_a_difference_is_shown_for_each_key_that_may_not_change(section, key, default):
    one, other = StudyConfig().to_dict(), changed(section, key, default).to_dict()
    place = f"{section}.{key}".lstrip(".")
    if place in NEUTRAL:
        assert differences(one, other, without=()) == ()
        return
    free = place in CHANGEABLE or section in CHANGEABLE
    assert len(differences(one, other)) == (0 if free else 1)
    (line,) = differences(one, other, without=())
    assert line.startswith(f"{place}: ")


def test_differences_show_both_values_and_what_is_in_one_alone():
    one = {"seed": 0, "search": {"trials": 9, "batch": 8}, "old": {"key": None}}
    other = {"seed": 1, "search": {"trials": 10, "batch": 8}, "new": {"key": "nothing"}}
    assert differences(one, other) == (
        "new.key: nothing is stored, 'nothing' is given",
        "old.key: None is stored, nothing is given",
        "seed: 0 is stored, 1 is given",
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
    assert fingerprint(one) == fingerprint(other)
    assert differences(one.to_dict(), other.to_dict()) == ()


def test_with_trials_changes_the_total_alone():
    config = with_trials(StudyConfig(), 7)
    assert config.search.trials == 7
    assert differences(StudyConfig().to_dict(), config.to_dict()) == ()
    assert with_trials(config, None) is config


@pytest.mark.golden
def test_studies_of_the_first_version_keep_their_fingerprints():
    # Taken with version 0.1.0, whose `new` wrote width = 16 and stem_stride = 1, its defaults.
    default = StudyConfig()
    written = replace(default, network=replace(default.network, width=16, stem_stride=1))
    for config in (default, written):
        assert fingerprint(config, without=("search", "retrain")) == "44136fa355b3678a"
    assert differences(written.to_dict(), default.to_dict()) == ()
    assert differences(default.to_dict(), written.to_dict()) == ()
    other = replace(default, network=replace(default.network, width=17))
    assert fingerprint(other) != fingerprint(default)


def test_other_code_of_a_plugin_is_another_study():
    default = StudyConfig()
    one, other = (
        replace(default, plugins=replace(default.plugins, modules=("a.py",), sha256=(digest,)))
        for digest in ("00", "11")
    )
    assert fingerprint(one) != fingerprint(other)
    (said,) = differences(one.to_dict(), other.to_dict())
    assert said == "plugins.sha256: ['00'] is stored, ['11'] is given"
