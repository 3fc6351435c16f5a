"""The front of several objectives: which trials it holds, and the one that is retrained."""

import math

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from sat_optuna.config.objectives import directions_of
from sat_optuna.errors import StudyError
from sat_optuna.search.front import chosen_of_front, front_trials, objectives_of, values_of
from sat_optuna.search.space import COUNTS_KEY
from sat_optuna.search.study import name_objectives
from sat_optuna.search.tickets import best_ticket

# scheme, accuracy, latency_ms: what no other beats is 111, 110, 010 and 000
ROWS = [
    ("000", 80.0, 4.0),
    ("111", 90.0, 9.0),
    ("110", 89.0, 7.0),
    ("100", 79.0, 5.0),
    ("110", 89.0, 7.0),
    ("010", 86.0, 5.0),
    ("101", 88.0, 8.0),
]


def study_of(rows=ROWS, names=("accuracy", "latency_ms"), images=400, named=True):
    """The rows as trials; their order within a trial is that of the names."""
    study = optuna.create_study(directions=directions_of(names))
    if named:
        name_objectives(study, names)
    study.set_user_attr(COUNTS_KEY, [images // 2, images // 2])
    for scheme, accuracy, latency in rows:
        values = {"accuracy": accuracy, "latency_ms": latency, "params": 10.0}
        study.add_trial(
            create_trial(values=[values[name] for name in names], user_attrs={"scheme": scheme})
        )
    study.add_trial(create_trial(state=TrialState.FAIL))
    return study


@pytest.mark.parametrize(
    "names", [("accuracy", "latency_ms"), ("latency_ms", "accuracy"), ("params", "accuracy")]
)
def test_the_front_holds_each_scheme_that_no_other_beats_once_the_best_first(names):
    study = study_of(names=names)
    front = [trial.user_attrs["scheme"] for trial in front_trials(study)]
    assert front == (["111"] if "params" in names else ["111", "110", "010", "000"])
    assert objectives_of(study) == names
    assert values_of(study, front_trials(study)[0])["accuracy"] == 90.0
    assert values_of(study, study.trials[-1]) == {}


@pytest.mark.golden
@pytest.mark.parametrize(
    ("images", "scheme"),
    # One standard error of 90 % is sqrt(0.9 * 0.1 / images): 0.95, 1.5 and 4.24 points.
    [(1000, "111"), (400, "110"), (50, "010")],
)
def test_the_ticket_is_the_fastest_within_one_standard_error_of_the_highest(images, scheme):
    assert math.sqrt(0.9 * 0.1 / 50) == pytest.approx(0.0424, abs=1e-4)
    chosen = chosen_of_front(study_of(images=images))
    assert chosen.user_attrs["scheme"] == scheme


def test_a_study_without_such_a_front_is_one_sentence():
    single = optuna.create_study(direction="maximize")
    with pytest.raises(StudyError, match=r"has one objective and so no front .*; set objectives"):
        front_trials(single)
    foreign = study_of(named=False)
    with pytest.raises(StudyError, match="has objectives of another program and so no front"):
        front_trials(foreign)
    with pytest.raises(StudyError, match=r"has 2 objectives and so no best trial; choose one of"):
        best_ticket(foreign)
    for ask in (front_trials, best_ticket):
        with pytest.raises(StudyError, match="has no complete trial, and so no front"):
            ask(study_of(rows=[]))
