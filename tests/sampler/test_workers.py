"""The sampler in processes that are killed, that begin anew, and that work beside each other."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.sampler.storage import POLICY_KEY
from tests.sampler.worker import BATCHES, NAMES, SAMPLERS, bits, objective, open_study, sampler_of

ROOT = Path(__file__).parents[2]
KILLED = -9
NEVER = "-1.0"


@pytest.fixture
def storage(request, tmp_path):
    return f"{request.param}:{tmp_path / 'study.storage'}"


# Each storage and each preset; all four pairs of them are in one test or the other.
one_way, other_way = (
    pytest.mark.parametrize(
        ("storage", "preset"),
        [("sqlite", first), ("journal", second)],
        indirect=["storage"],
    )
    for first, second in (("default", "paper"), ("paper", "default"))
)


def started(*given: str, hashes: int, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.sampler.worker", *given]
    env = os.environ | {"PYTHONHASHSEED": str(hashes), "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, **more)


def searched(storage: str, preset: str, total: int, dies: str = NEVER, *, hashes: int) -> int:
    worker = started("search", storage, preset, str(total), dies, hashes=hashes)
    return worker.wait(timeout=300)


def told(study: optuna.Study) -> list[Any]:
    return [
        (t.number, t.state, t.params, t.value, t.system_attrs.get(POLICY_KEY))
        for t in study.get_trials(deepcopy=False)
    ]


def unbroken(preset: str, trials: int) -> list[Any]:
    study = optuna.create_study(study_name="s", direction="maximize", sampler=sampler_of(preset))
    study.optimize(objective, n_trials=trials)
    return told(study)


def left(storage: str, preset: str) -> list[tuple[int, int]]:
    """Return number and parameters of the trials that a dead process left."""
    running = open_study(storage, preset).get_trials(states=(TrialState.RUNNING,))
    return [(t.number, len(t.params)) for t in running]


@pytest.mark.parametrize(
    "preset",
    [pytest.param(name, marks=() if name == "default" else pytest.mark.slow) for name in SAMPLERS],
)
def test_two_killed_processes_and_a_third_propose_what_one_proposes(tmp_path, preset):
    """Each with other hashes of strings."""
    storage = f"journal:{tmp_path / 'study.log'}"
    assert searched(storage, preset, 40, "17.5", hashes=1) == KILLED
    assert left(storage, preset) == [(17, 5)]
    assert searched(storage, preset, 40, "31.0", hashes=2) == KILLED
    assert left(storage, preset) == [(31, 0)]
    assert searched(storage, preset, 40, hashes=3) == 0
    assert told(open_study(storage, preset)) == unbroken(preset, 40)


@pytest.mark.slow
@one_way
def test_two_hundred_trials_are_a_hundred_a_kill_and_a_hundred(storage, preset):
    assert searched(storage, preset, 200, "100.7", hashes=1) == KILLED
    assert left(storage, preset) == [(100, 7)]
    assert searched(storage, preset, 200, hashes=2) == 0
    assert told(open_study(storage, preset)) == unbroken(preset, 200)


@pytest.mark.slow
@other_way
def test_two_hundred_trials_are_three_reopenings(storage, preset):
    assert searched(storage, preset, 50, hashes=1) == 0
    assert searched(storage, preset, 200, f"110.{len(NAMES)}", hashes=2) == KILLED
    assert left(storage, preset) == [(110, len(NAMES))]
    assert searched(storage, preset, 200, "111.0", hashes=3) == KILLED
    assert searched(storage, preset, 200, hashes=4) == 0
    assert told(open_study(storage, preset)) == unbroken(preset, 200)


def said(workers: list[subprocess.Popen[str]], line: str) -> list[dict[int, Any]]:
    """Write a line to all workers; when all have answered return what they saw at each version."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{line}\n")
        worker.stdin.flush()
    answers = [json.loads(heard(worker)) for worker in workers]
    return [{int(version): row for version, row in seen.items()} for seen in answers]


def heard(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline()


@pytest.fixture
def four(storage, preset):
    open_study(storage, preset)  # Optuna's tables are made by one process
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(started("share", storage, preset, hashes=number, **pipes))
            for number in range(4)
        ]
        assert [heard(worker) for worker in workers] == ["ready\n"] * 4
        yield workers


@pytest.mark.slow
@one_way
def test_four_processes_at_once_have_the_same_policy_at_each_version(storage, preset, four):
    """Digit for digit, and that of a sampler which is shown the finished trials alone."""
    study, batch = open_study(storage, preset), BATCHES[preset]
    for done in (12, 24, 36, 48, 60):
        said(four, "3")  # at once, some overtaking others
        assert [max(seen) for seen in said(four, "0")] == [done // batch] * 4
    finished = study.get_trials(deepcopy=False)
    assert [t.state for t in finished] == [TrialState.COMPLETE] * 60
    seen = said(four, "0")
    versions = {v for mine in seen for v in mine if v}  # at 0 not all parameters are known
    assert versions >= {done // batch for done in (12, 24, 36, 48, 60)}
    for version in versions:
        alone = optuna.create_study(direction="maximize", sampler=sampler_of(preset))
        alone.add_trials(finished[: version * batch])
        expected = bits(sampler_of(preset).policy(alone))
        assert list(expected) == NAMES
        assert all(mine.get(version, expected) == expected for mine in seen)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal"], indirect=True)
@pytest.mark.parametrize("preset", BATCHES)
def test_four_processes_at_once_propose_no_scheme_twice(storage, preset, four):
    said(four, "50")
    trials = open_study(storage, preset).get_trials(deepcopy=False)
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials) == 200


@pytest.mark.slow
@other_way
def test_a_dead_trial_holds_the_policy_of_all_processes_until_another_finishes_it(
    storage, preset, four
):
    batch = BATCHES[preset]
    said(four, "3")
    assert searched(storage, preset, 13, "12.5", hashes=5) == KILLED
    said(four, "3")
    assert left(storage, preset) == [(12, 5)]
    assert [max(seen) for seen in said(four, "0")] == [12 // batch] * 4
    assert searched(storage, preset, 25, hashes=6) == 0
    newest = [seen[25 // batch] for seen in said(four, "0")]
    study = open_study(storage, preset)
    assert [t.state for t in study.get_trials(deepcopy=False)] == [TrialState.COMPLETE] * 25
    assert newest == [bits(sampler_of(preset).policy(study))] * 4


class Interrupted(InMemoryStorage):
    """Before an attribute of a trial is stored, it lets another worker do something once."""

    other: Callable[[], None] | None = None

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        other, self.other = self.other, None
        if other is not None:
            other()
        super().set_trial_system_attr(trial_id, key, value)


def proposed(study):
    return [t.system_attrs[POLICY_KEY]["x"] for t in study.get_trials(deepcopy=False)]


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_that_draw_at_the_same_moment_one_draws_again(first):
    """Both draw before either stores; whoever stores later sees the other's proposal."""
    space = {"a": (0, 1), "b": (0, 1)}
    for seed in range(20):
        storage = Interrupted()
        study = optuna.create_study(study_name="s", storage=storage)
        study_id = storage.get_study_id_from_name("s")
        trials = [storage.get_trial(storage.create_new_trial(study_id)) for _ in "12"]
        samplers = [PolicyGradientSampler(seed=seed, search_space=space) for _ in trials]
        storage.other = partial(samplers[first].before_trial, study, trials[first])
        samplers[1 - first].before_trial(study, trials[1 - first])
        one, other = proposed(study)
        assert one != other, seed


def test_where_all_is_seen_proposals_do_not_hang_on_who_has_ended():
    space = {"a": (0, 1), "b": (0, 1)}
    for seed in range(20):
        found = []
        for ended in (True, False):
            sampler = PolicyGradientSampler(seed=seed, search_space=space, batch=8)
            study = optuna.create_study(sampler=sampler)
            for trial in [study.ask() for _ in range(4)]:
                for name, choices in space.items():
                    trial.suggest_categorical(name, choices)
                if ended:
                    study.tell(trial, 1.0)
            study.ask()
            found.append(proposed(study))
        assert found[0] == found[1]


def warned_of(records: Sequence[Any], number: int) -> list[str]:
    texts = [record.getMessage() for record in records]
    return [text for text in texts if text.startswith(f"trial {number} is RUNNING")]


def by_telling(study: optuna.Study, trial: optuna.Trial) -> None:
    study.tell(trial.number, state=TrialState.FAIL)


def by_going_on(study: optuna.Study, trial: optuna.Trial) -> None:
    again = optuna.trial.Trial(study, trial._trial_id)
    study.tell(again, objective(again))


@pytest.mark.parametrize("end", [by_telling, by_going_on])
@pytest.mark.parametrize(("preset", "batch"), [("default", 1), ("paper", 3)])
def test_a_dead_trial_is_told_by_each_worker_at_its_first_held_up_batch(
    preset, batch, end, tmp_path, caplog
):
    """Three fresh workers after a kill: each says which trial it is, and what ends it does."""
    place = f"journal:{tmp_path / 'study.log'}"
    dead = open_study(place, preset).ask()
    objective(dead)
    optuna.logging.enable_propagation()
    study = open_study(place, preset)
    for _ in range(3):
        caplog.clear()
        study = open_study(place, preset)
        before = len(study.get_trials(deepcopy=False)) - 1
        for finished in range(before, before + 2 * batch):
            study.optimize(objective, n_trials=1)
            told = warned_of(caplog.records, dead.number)
            assert len(told) == (finished >= batch)  # said when the next trial is proposed
            assert all(
                "if that is dead, end it with study.tell(0, state=" in text for text in told
            )
    optuna.logging.disable_propagation()
    version = study.get_trials(deepcopy=False)[-1].system_attrs[POLICY_KEY]["v"]
    assert version == 0
    end(study, dead)
    study.optimize(objective, n_trials=1)
    newest = study.get_trials(deepcopy=False)[-1]
    assert newest.system_attrs[POLICY_KEY]["v"] == newest.number // batch


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["heartbeat", "retry"])
@pytest.mark.parametrize(("preset", "batch"), [("default", 1), ("paper", 3)])
def test_a_heartbeat_ends_the_trial_of_a_killed_worker_and_all_learn_on(
    kind, preset, batch, tmp_path, caplog
):
    """Until then each worker says what holds it up, and that this would end it."""
    path, dead = tmp_path / "study.db", 2 * batch
    place = f"{kind}:{path}"
    killed = started("optimize", place, preset, str(dead), hashes=1)
    assert killed.wait(timeout=300) == KILLED
    assert left(f"quiet:{path}", preset) == [(dead, 5)]
    optuna.logging.enable_propagation()
    for _ in range(2):
        caplog.clear()
        open_study(f"quiet:{path}", preset).optimize(objective, n_trials=2 * batch + 1)
        (told,) = warned_of(caplog.records, dead)
        assert "heartbeat_interval=60) ends such trials by itself" in told
    optuna.logging.disable_propagation()
    workers = [open_study(place, preset) for _ in range(3)]
    while workers[0].get_trials(deepcopy=False)[dead].state is TrialState.RUNNING:
        time.sleep(0.2)
        workers[0].optimize(objective, n_trials=1)
    for worker in workers:
        worker.optimize(objective, n_trials=batch)
    trials = workers[0].get_trials(deepcopy=False)
    ended = trials[dead]
    assert ended.state is TrialState.FAIL
    assert {t.state for t in trials if t is not ended} == {TrialState.COMPLETE}
    again = [t for t in trials if t.system_attrs.get("failed_trial") == dead]
    assert len(again) == (kind == "retry")
    assert all(t.params.items() >= ended.params.items() for t in again)
    newest = trials[-1]
    assert newest.system_attrs[POLICY_KEY]["v"] == newest.number // batch


def test_a_study_without_a_dead_trial_is_told_nothing(caplog, tmp_path):
    optuna.logging.enable_propagation()
    study = open_study(f"sqlite:{tmp_path / 'study.db'}", "default")
    study.optimize(objective, n_trials=4)
    optuna.logging.disable_propagation()
    assert not [r for r in caplog.records if "RUNNING" in r.getMessage()]
