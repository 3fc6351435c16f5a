"""A search that is killed at any write ends as one that never was; and what a study refuses."""

import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import datetime

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from sat_optuna.config.config import StudyConfig
from sat_optuna.errors import SatOptunaWarning, StudyError, TrainingError
from sat_optuna.processes import worker_name
from sat_optuna.sampler.storage import backend_of, id_of
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import NETWORK_KEY, WORKER_KEY, ChoiceError, suggest_scheme
from sat_optuna.search.storage import SQLiteStorage, open_storage
from sat_optuna.search.study import (
    build_pruner,
    build_sampler,
    create_study,
    finished_trials,
    hold_to,
    load_study,
    run_trials,
)
from sat_optuna.search.tickets import best_ticket
from sat_optuna.search.unfinished import release_stale
from tests import forks

STAGES = (2, 2, 2)

# A search in a process of its own; KILL counts what is written to the database and committed,
# after which the process is killed with -9, -1 never. The objective is a plain function of the
# scheme.
CHILD = """
    import os, signal, sys
    from pathlib import Path

    import sqlalchemy

    from sat_optuna.config.config import StudyConfig
    from sat_optuna.search.space import suggest_scheme
    from sat_optuna.search.storage import open_storage
    from sat_optuna.search.study import (build_sampler, create_study, run_trials)

    db, sampler, kill = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    left = kill

    def counted(*happened):
        global left
        if len(happened) == 1 or happened[2].startswith(("INSERT", "UPDATE")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def objective(trial):
        scheme = suggest_scheme(trial, (2, 2, 2), ("se", "sge"))
        trial.set_user_attr("scheme", str(scheme))
        return sum((i + 1) * c for i, c in enumerate(scheme.choices)) / 7

    built = build_sampler(sampler, seed=3, batch=4)
    study = create_study(open_storage(db), "s", config=StudyConfig(), sampler=built)
    for moment in ("after_cursor_execute", "commit"):
        sqlalchemy.event.listen(sqlalchemy.engine.Engine, moment, counted)
    run_trials(
        study, objective, trials=14, batch=4, stages=(2, 2, 2), kinds=("se", "sge")
    )
    print("done", -left if kill < 0 else 0)
"""


def search(db, sampler, kill):
    program = ("-c", textwrap.dedent(CHILD), str(db), sampler, str(kill))
    return forks.python(*program, cwd=db.parent, env=os.environ)


def told(db):
    study = load_study(open_storage(db), "s")
    return [
        (t.number, t.state.name, t.params, t.value, t.user_attrs["scheme"])
        for t in study.get_trials(deepcopy=False)
    ]


def killed_again_and_again(tmp_path, sampler, strides, between=lambda study: None):
    assert search(tmp_path / "unbroken.db", sampler, -1).returncode == 0
    broken, kills = tmp_path / "broken.db", 0
    for stride in strides:
        ended = search(broken, sampler, stride)
        if ended.returncode == 0:
            break
        assert ended.returncode == -9, ended.stderr
        between(load_study(open_storage(broken), "s"))
        kills += 1
    else:
        assert search(broken, sampler, -1).returncode == 0
    assert kills >= 3
    assert told(broken) == told(tmp_path / "unbroken.db")


@pytest.mark.slow
def test_a_search_killed_at_any_write_equals_an_unbroken_one(tmp_path):
    # Kills in the middle of asking, of suggesting, of scoring and of telling.
    killed_again_and_again(tmp_path, "policy", (1, 4, 19, 38, 27, 44))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["policy", "paper", "tpe", "random", "nsga2"])
def test_every_sampler_continues_after_kills(tmp_path, sampler):
    killed_again_and_again(tmp_path, sampler, (3, 11, 23, 47, 61))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["policy", "tpe"])
def test_what_is_released_after_each_kill_ends_the_same(tmp_path, sampler):
    def release(study):
        running = [t.number for t in study.trials if t.state is TrialState.RUNNING]
        assert release_stale(study) == running

    killed_again_and_again(tmp_path, sampler, (3, 11, 23, 47, 61), release)


def score(trial):
    return float(suggest_scheme(trial, STAGES, ("se",)).connections)


def make(tmp_path, sampler="policy", config=None, **options):
    return create_study(
        open_storage(tmp_path / "study.db"),
        "s",
        config=config or StudyConfig(),
        sampler=build_sampler(sampler, seed=0, batch=4),
        **options,
    )


def run(study, objective=score, trials=8, **more):
    return run_trials(
        study, objective, trials=trials, batch=4, stages=STAGES, kinds=("se",), **more
    )


def test_optimize_gives_the_same_values_one_by_one(tmp_path):
    batched = make(tmp_path, "random")
    run(batched, trials=6)
    single = optuna.create_study(
        direction="maximize", sampler=build_sampler("random", seed=0, batch=4)
    )
    single.optimize(score, n_trials=6)
    assert [(t.params, t.value) for t in finished_trials(batched)] == [
        (t.params, t.value) for t in single.trials
    ]


def test_total_counts_finished_trials_of_all_runs(tmp_path):
    assert run(make(tmp_path), trials=5) == 5
    assert run(make(tmp_path), trials=5) == 0
    assert run(make(tmp_path), trials=7) == 2
    seen = []
    assert run(make(tmp_path), trials=9, on_trial=lambda trial: seen.append(trial.number)) == 2
    assert seen == [7, 8]


def interrupted_at(number, objective=score):
    """An objective that is interrupted once, in the trial of that number."""
    left = [number]

    def interrupting(trial):
        if trial.number in left:
            left.clear()
            raise KeyboardInterrupt
        return objective(trial)

    return interrupting


def times(study):
    return [(t.datetime_start, t.datetime_complete) for t in finished_trials(study)]


def test_a_trial_begins_when_it_is_its_turn(tmp_path):
    """Not when it was asked with its batch, and after an interruption not before that."""
    study = make(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(study, interrupted_at(5))
    asked = datetime.now()
    run(make(tmp_path))
    seen = times(study)
    assert len(seen) == 8
    assert all(start <= end for start, end in seen)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(seen))
    assert [start > asked for start, _ in seen] == [number >= 5 for number in range(8)]


def test_trials_that_are_scored_together_begin_together(tmp_path):
    study, scored = make(tmp_path), []
    with pytest.raises(KeyboardInterrupt):
        run(study, interrupted_at(5), on_batch=lambda _: scored.append(datetime.now()))
    run(make(tmp_path), on_batch=lambda _: scored.append(datetime.now()))
    first, second, third = scored
    starts = [start for start, _ in times(study)]
    assert all(start <= first for start in starts[:4])
    assert first < starts[4] <= second  # the batch is scored again but for what was finished
    assert all(second < start <= third for start in starts[5:])
    ends = [end for _, end in times(study)]
    assert max(starts[:4]) < min(ends[:4])


@pytest.mark.parametrize("sampler", ["policy", "tpe"])
@pytest.mark.parametrize("waiting", [(0,), (2,), (1, 3), (0, 1, 2, 3)])
def test_a_trial_left_waiting_is_finished_as_if_nothing_had_happened(tmp_path, sampler, waiting):
    """A kill may leave one so between two writes; the dashboard leaves all of a dead process."""
    for folder in (unbroken := tmp_path / "unbroken", broken := tmp_path / "broken"):
        folder.mkdir()
    run(make(unbroken, sampler), trials=10)
    with pytest.raises(KeyboardInterrupt):
        run(make(broken, sampler), interrupted_at(4), trials=10)
    study, order = make(broken, sampler), []
    backend, _ = backend_of(study)
    for trial in study.get_trials(deepcopy=False)[4:]:
        assert trial.state is TrialState.RUNNING
        if trial.number - 4 in waiting:
            backend.set_trial_state_values(id_of(trial), TrialState.WAITING)
    assert run(study, trials=10, on_trial=lambda trial: order.append(trial.number)) == 6
    assert order == [4, 5, 6, 7, 8, 9]
    ends, expected = (
        [(t.number, t.params, t.value) for t in finished_trials(one)]
        for one in (study, make(unbroken, sampler))
    )
    assert ends == expected


@pytest.mark.parametrize("before", ["suggest", "score", "tell"])
def test_a_study_that_is_deleted_while_it_runs_is_one_sentence(tmp_path, before):
    study = make(tmp_path)

    def delete(*_):
        optuna.delete_study(study_name="s", storage=open_storage(tmp_path / "study.db"))
        return 1.0

    def score_late(trial):
        delete()
        trial.set_user_attr("scheme", "11-11-11")
        return 1.0

    objective = {"suggest": score, "score": score_late, "tell": delete}[before]
    said = "study 's' was deleted from its database, or renamed, .*run the same command again"
    with pytest.raises(StudyError, match=said):
        run(study, objective, on_batch=delete if before == "suggest" else None)
    assert run(make(tmp_path), trials=3) == 3


@pytest.mark.parametrize("when", ["before its turn", "while it is scored", "before it is told"])
def test_a_trial_that_is_ended_in_the_dashboard_stays_so_and_the_search_goes_on(tmp_path, when):
    study = make(tmp_path)
    ended = {"before its turn": 2}.get(when, 1)

    def objective(trial):
        if trial.number == 1:
            other = open_storage(tmp_path / "study.db")  # as the dashboard's button does it
            number = id_of(study.get_trials(deepcopy=False)[ended])
            other.set_trial_state_values(number, TrialState.FAIL)
        if trial.number == ended and when != "before it is told":
            trial.set_user_attr("scheme", "11-11-11")
        return score(trial)

    said = f"trial {ended} was ended as FAIL while it was being scored"
    with pytest.warns(SatOptunaWarning, match=said):
        assert run(study, objective, trials=8) == 8
    assert [t.number for t in finished_trials(study) if t.state is TrialState.FAIL] == [ended]


@pytest.mark.parametrize("opened", [open_storage, lambda db: RDBStorage(f"sqlite:///{db}")])
def test_a_trial_that_runs_may_wait_and_run_again(tmp_path, opened):
    """Optuna's rule, by which a trial is given its start; two that take it do not both get it."""
    storage = opened(tmp_path / "study.db")
    trial_id = id_of(optuna.create_study(storage=storage).ask())
    started = storage.get_trial(trial_id).datetime_start
    assert storage.set_trial_state_values(trial_id, TrialState.WAITING)
    assert storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    assert not storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    assert storage.get_trial(trial_id).state is TrialState.RUNNING
    assert storage.get_trial(trial_id).datetime_start > started


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_trial_that_another_process_takes_when_its_turn_comes_is_left_to_it(
    tmp_path, number, together
):
    opened = open_storage(tmp_path / "study.db")
    other = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    taken, scored = [], []

    class Taken(SQLiteStorage):
        """Whose trial another process takes as soon as it waits."""

        def set_trial_state_values(self, trial_id, state, values=None):
            done = super().set_trial_state_values(trial_id, state, values)
            if state is TrialState.WAITING and self.get_trial(trial_id).number == number:
                taken.append(other.set_trial_state_values(trial_id, TrialState.RUNNING))
            return done

    def objective(trial):
        scored.append(trial.number)
        if trial.number == 3:
            theirs = id_of(study.get_trials(deepcopy=False)[number])
            other.set_trial_state_values(theirs, TrialState.COMPLETE, [0.25])
        return score(trial)

    study = create_study(
        Taken(opened._rdb),  # type: ignore[union-attr]  # it is of this form
        "s",
        config=StudyConfig(),
        sampler=build_sampler("random", seed=0, batch=4),
    )
    batches = []
    on_batch = (lambda schemes: batches.append(len(schemes))) if together else None
    said = f"trial {number} was taken by another process when its turn came; it is left to that"
    with pytest.warns(SatOptunaWarning, match=said):
        assert run(study, objective, trials=8, on_batch=on_batch) == 7
    assert taken == [True]
    assert scored == [n for n in range(8) if n != number]
    assert batches == ([3, 4] if together else [])
    assert finished_trials(study)[number].value == 0.25
    assert states(study) == ["COMPLETE"] * 8


def test_an_error_of_the_objective_is_not_taken_for_a_deleted_study(tmp_path):
    def objective(_):
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        run(make(tmp_path), objective)


@pytest.mark.parametrize(
    "objectives", [(), ("accuracy", "params"), ("accuracy", "macs", "params")]
)
def test_objectives_have_names(tmp_path, objectives):
    search = replace(StudyConfig().search, objectives=objectives)
    config = replace(StudyConfig(), search=search)
    study = make(tmp_path, "nsga2", config=config)
    assert study.metric_names == list(objectives or ("reward",))


def test_a_study_of_a_version_that_named_nothing_is_named_when_it_is_opened(tmp_path):
    optuna.create_study(
        study_name="s", storage=open_storage(tmp_path / "study.db"), direction="maximize"
    )
    assert make(tmp_path).metric_names == ["reward"]


def test_timeout_begins_no_new_batch(tmp_path):
    assert run(make(tmp_path), trials=40, timeout=1e-6) in (0, 4)


def test_a_diverging_trial_fails_and_the_search_goes_on(tmp_path):
    def objective(trial):
        if trial.number == 2:
            raise TrainingError("the loss is nan; lower train.lr")
        return score(trial)

    study = make(tmp_path)
    assert run(study, objective, trials=6) == 6
    states = [t.state for t in finished_trials(study)]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.FAIL] + [TrialState.COMPLETE] * 3
    assert "lower train.lr" in finished_trials(study)[2].user_attrs["error"]


def states(study):
    return [t.state.name for t in study.get_trials(deepcopy=False)]


def plain_and_full():
    names = Scheme.parameter_names(STAGES)
    return [dict.fromkeys(names, choice) for choice in ("none", "se")]


def test_enqueued_trials_are_run_in_their_places_and_counted(tmp_path):
    """Two wait behind four: a total of six is these six, and eight have two proposals more."""
    study = make(tmp_path)
    run(study, trials=4)
    for asked in plain_and_full():
        study.enqueue_trial(asked)
    assert run(study, trials=6) == 2
    assert [t.params for t in finished_trials(study)][4:] == plain_and_full()
    assert run(study, trials=8) == 2
    assert [t.number for t in finished_trials(study)] == list(range(8))


@pytest.mark.parametrize("enqueued", [3, 7])
def test_more_enqueued_trials_than_are_missing_are_run_all_the_same(tmp_path, enqueued):
    study = make(tmp_path)
    run(study, trials=5)
    for k in range(enqueued):
        study.enqueue_trial({"s1.b00": ("none", "se")[k % 2]})
    batches = []
    assert run(study, trials=5, on_batch=lambda schemes: batches.append(len(schemes))) == enqueued
    assert [t.params["s1.b00"] for t in finished_trials(study)][5:8] == ["none", "se", "none"]
    assert batches == {3: [3], 7: [3, 4]}[enqueued]  # batches of four, the second one begun
    assert run(study, trials=5) == 0


def test_trials_enqueued_before_the_first_and_while_a_batch_is_scored_are_run(tmp_path):
    study = make(tmp_path)
    study.enqueue_trial(plain_and_full()[1])

    def objective(trial):
        if trial.number == 1:
            study.enqueue_trial(plain_and_full()[0])
        return score(trial)

    assert run(study, objective, trials=4) == 5
    assert finished_trials(study)[0].params == plain_and_full()[1]
    assert finished_trials(study)[4].params == plain_and_full()[0]


def test_a_search_with_enqueued_trials_goes_on_after_an_interruption(tmp_path):
    study = make(tmp_path)
    for asked in plain_and_full():
        study.enqueue_trial(asked)

    def objective(trial):
        if trial.number == 1 and not interrupted:
            interrupted.append(1)
            raise KeyboardInterrupt
        return score(trial)

    interrupted = []
    with pytest.raises(KeyboardInterrupt):
        run(study, objective, trials=6)
    assert run(make(tmp_path), objective, trials=6) == 5
    assert [t.params for t in finished_trials(study)][:2] == plain_and_full()
    assert states(study) == ["COMPLETE"] * 6


@pytest.mark.parametrize("wrong", [1, 0, True, "1", "0", "SE", "sge", None, ["se"], 0.5])
def test_an_enqueued_choice_that_no_block_has_fails_and_the_search_goes_on(tmp_path, wrong):
    study = make(tmp_path)
    run(study, trials=2)
    study.enqueue_trial({"s2.b01": wrong})
    study.enqueue_trial({"s2.b01": "se"})
    said = f"trial 2 was given {wrong!r} for block 's2.b01'; give it one of: 'none', 'se'"
    with pytest.warns(SatOptunaWarning, match=re.escape(said + "; the trial becomes FAIL")):
        assert run(study, trials=7) == 5
    assert states(study) == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 4
    assert finished_trials(study)[2].user_attrs["error"] == said


@pytest.mark.parametrize("name", ["s4.b00", "b00", "s1.b0", "1"])
def test_an_enqueued_name_that_is_no_block_fails_and_the_search_goes_on(tmp_path, name):
    study = make(tmp_path)
    study.enqueue_trial({"s1.b00": "se", name: "se"})
    said = (
        f"trial 0 was given a choice for {name!r}, which is no block of this network; its 6 "
        "blocks are s1.b00 to s3.b01"
    )
    with pytest.warns(SatOptunaWarning, match=re.escape(said)):
        assert run(study, trials=3) == 3
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_from_python_a_wrong_enqueued_choice_is_one_sentence_and_the_study_goes_on():
    study = optuna.create_study(
        direction="maximize", sampler=build_sampler("policy", seed=0, batch=1)
    )
    study.enqueue_trial({"s1.b00": 1})
    study.enqueue_trial({"s9.b00": "se"})
    for said in ("was given 1 for block 's1.b00'", "'s9.b00', which is no block"):
        with pytest.raises(ChoiceError, match=said):
            study.optimize(score, n_trials=1)
    study.optimize(score, n_trials=2)
    assert states(study) == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]


def test_a_pruned_trial_keeps_its_last_report(tmp_path):
    def objective(trial):
        suggest_scheme(trial, STAGES, ("se",))
        trial.report(1.5, 0)
        raise optuna.TrialPruned

    study = make(tmp_path, pruner=build_pruner("median"))
    run(study, objective, trials=2)
    assert [(t.state, t.value) for t in finished_trials(study)] == [(TrialState.PRUNED, 1.5)] * 2


def test_any_other_error_is_raised_and_the_trial_can_be_taken_over(tmp_path):
    def objective(trial):
        raise ZeroDivisionError

    study = make(tmp_path)
    with pytest.raises(ZeroDivisionError):
        run(study, objective)
    assert run(make(tmp_path), trials=4) == 4  # by the process itself, under the same numbers
    assert [t.number for t in finished_trials(study)] == [0, 1, 2, 3]


def test_a_key_that_an_objective_lacks_is_no_deleted_study(tmp_path):
    with pytest.raises(KeyError, match="of a user's own"):
        run(make(tmp_path), lambda trial: dict[str, float]()["of a user's own"])


def test_trials_of_another_process_at_work_are_left_to_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        make(tmp_path).ask().set_user_attr(WORKER_KEY, worker_name(other.pid))
        with pytest.raises(StudyError, match=r"trials \[0\] .* run by another process; wait"):
            run(make(tmp_path))
        other.kill()
    assert run(make(tmp_path), trials=1) == 1


def test_trials_are_scored_with_one_thing_alone(tmp_path):
    study = make(tmp_path)
    hold_to(study, {"dataset": "imagefolder", "dataset_fingerprint": "a", "seed": 0})
    hold_to(study, {"dataset": "imagefolder", "dataset_fingerprint": "a", "seed": 0})
    said = "scored with another dataset_fingerprint and seed than is given now; bring that back"
    with pytest.raises(StudyError, match=said):
        hold_to(study, {"dataset": "imagefolder", "dataset_fingerprint": "b", "seed": 1})


def test_a_study_that_minimises_is_refused():
    study = optuna.create_study(study_name="s")  # Optuna's own direction
    with pytest.raises(StudyError, match=r"'s' minimises, .* create it with direction='maximize'"):
        hold_to(study, {})
    assert study.user_attrs == {}


def test_the_configuration_lies_with_the_study_and_is_current(tmp_path):
    config = StudyConfig()
    uuid = make(tmp_path, config=config).user_attrs["sat:uuid"]
    more = replace(config, search=replace(config.search, trials=999, timeout=5.0))
    study = make(tmp_path, config=more)
    assert study.user_attrs["sat:config"]["search"]["trials"] == 999
    assert study.user_attrs["sat:uuid"] == uuid


def test_no_such_study(tmp_path):
    make(tmp_path)
    with pytest.raises(StudyError, match=r"study\.db holds no study 't'; it holds: s; give"):
        load_study(open_storage(tmp_path / "study.db"), "t")
    (tmp_path / "broken.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StudyError, match="cannot open"):
        open_storage(tmp_path / "broken.db")


@pytest.mark.parametrize(
    "name", ["what?", "50%", "my%20project", "%41", "a#b;c", "ünï côdé", "{x}", "a&b=c@d:e"]
)
def test_a_folder_of_any_name_holds_its_study(tmp_path, name):
    """Nothing lands beside it, and the database that is found again is the one that was made."""
    folder = tmp_path / name
    folder.mkdir()
    make(folder).ask()
    assert len(make(folder).trials) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "study.db").stat().st_size > 0
    with sqlite3.connect(folder / "study.db") as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (1,)


def test_best_ticket_is_the_first_of_the_highest(tmp_path):
    study = make(tmp_path, "random")
    with pytest.raises(StudyError, match="no complete trial"):
        best_ticket(study)
    network = {
        "backbone": "resnet20",
        "backbone_settings": {"width": 4},
        "attention": [{"kind": "se", "sharing": "block", "settings": {}}],
        "classes": 10,
        "input_shape": [1, 28, 28],
        "dataset": "mnist5k",
        "dataset_fingerprint": "f",
    }
    study.set_user_attr(NETWORK_KEY, network)
    for value, text in ((1.0, "10-00-00"), (3.0, "01-00-00"), (3.0, "11-00-00")):
        trial = study.ask()
        trial.set_user_attr("scheme", text)
        trial.set_user_attr("params", 5)
        trial.set_user_attr("macs", 6)
        study.tell(trial, value)
    ticket = best_ticket(study)
    assert str(ticket.scheme) == "01-00-00"
    assert (ticket.trial, ticket.params, ticket.macs, ticket.role) == (1, 5, 6, "ticket")
    assert json.loads(ticket.to_json())["config"]["seed"] == 0


FULL = """
    import resource, sys
    from pathlib import Path

    from sat_optuna.config.config import StudyConfig
    from sat_optuna.errors import StudyError
    from sat_optuna.search.space import suggest_scheme
    from sat_optuna.search.storage import open_storage
    from sat_optuna.search.study import (build_sampler, create_study, run_trials)

    sampler = build_sampler("random", seed=0, batch=4)
    storage = open_storage(Path(sys.argv[1]))
    study = create_study(storage, "s", config=StudyConfig(), sampler=sampler)

    def objective(trial):
        if trial.number == 5:  # from here on no file may grow, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        return float(trial.number)

    try:
        run_trials(study, objective, trials=40, batch=4, stages=(2, 2, 2), kinds=("se",))
    except StudyError as error:
        print(error)
        sys.exit(1)
"""


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path / "study.db")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "cannot write the database of study 's'" in ended.stdout
    assert len(ended.stdout.strip().splitlines()) == 1
    kept = finished_trials(load_study(open_storage(tmp_path / "study.db"), "s"))
    assert [t.value for t in kept][:4] == [0.0, 1.0, 2.0, 3.0]
    assert run(make(tmp_path, "random"), trials=8) > 0
