"""The limits of each key hold in Python as in study.toml."""

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest

from sat_optuna.config.config import (
    NetworkConfig,
    PluginsConfig,
    PretrainConfig,
    RetrainConfig,
    SearchConfig,
    StudyConfig,
    TrainConfig,
)
from sat_optuna.config.limits import checked
from sat_optuna.errors import ConfigError


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        (
            TrainConfig,
            {"schedule": "cosin"},
            "schedule is 'cosin'; did you mean 'cosine'? "
            "choose one of: 'one-cycle', 'cosine', 'step'",
        ),
        (TrainConfig, {"momentum": 1.0}, "momentum is 1.0; write at most 0.9999"),
        (TrainConfig, {"batch": 0}, "batch is 0; write at least 1"),
        (TrainConfig, {"batch": True}, "batch is True; write a whole number"),
        (TrainConfig, {"batch": 8.0}, "batch is 8.0; write a whole number"),
        (TrainConfig, {"flip": 1}, "flip is 1; write true or false"),
        (TrainConfig, {"lr": None}, "lr is None; write a number"),
        (TrainConfig, {"lr": float("nan")}, "lr is nan; write a finite number"),
        (PretrainConfig, {"epochs": -1}, "epochs is -1; write at least 1"),
        (NetworkConfig, {"blocks": 3}, "blocks is 3; write a list of whole numbers"),
        (
            RetrainConfig,
            {"seeds": (0, 1)},
            "seeds is (0, 1); write at least 3 numbers, each once",
        ),
        (PluginsConfig, {"modules": "a.py"}, "modules is 'a.py'; write a list of texts"),
        (StudyConfig, {"seed": -1}, "seed is -1; write at least 0"),
    ],
)
def test_a_value_out_of_its_limits_is_one_sentence(section, values, said):
    for build in (section, partial(replace, section())):
        with pytest.raises(ConfigError) as caught:
            build(**values)
        assert str(caught.value) == f"{section.__name__}: {said}"


def test_all_faults_of_a_section_are_shown_at_once():
    with pytest.raises(ConfigError) as caught:
        SearchConfig(trials=0, sampler="tpee", timeout=-1)
    assert [fault.split(";")[0] for fault in caught.value.faults] == [
        "sampler is 'tpee'",
        "trials is 0",
        "timeout is -1",
    ]


def test_other_kinds_of_numbers_are_brought_to_the_type_of_the_key():
    odd: dict[str, Any] = {"lr": 1, "momentum": Fraction(1, 2), "batch": np.int64(8)}
    plain = TrainConfig(lr=1.0, momentum=0.5, batch=8)
    assert repr(TrainConfig(**odd)) == repr(plain)
    blocks: Any = [2, np.int32(2)]
    assert NetworkConfig(blocks=blocks) == NetworkConfig(blocks=(2, 2))


def test_a_function_checks_what_it_is_given_by_the_limits_of_a_key():
    assert checked("fit", RetrainConfig, {"epochs": np.int64(3)}) == {"epochs": 3}
    with pytest.raises(ConfigError, match=r"^fit: epochs is 0; write at least 1$"):
        checked("fit", RetrainConfig, {"epochs": 0})
