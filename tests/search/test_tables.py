"""SQLiteStorage and Optuna's own RDBStorage: the same file, read and written the same."""

import contextlib
import itertools
import math
import pickle
import sqlite3
import threading

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import create_engine

from sat_optuna.files import sqlite_url
from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.search import tables
from sat_optuna.search.space import suggest_scheme
from sat_optuna.search.storage import UUID_KEY, SQLiteStorage, open_storage, together


def optunas(db):
    """The trials as Optuna itself reads them."""
    return optuna.load_study(study_name="s", storage=RDBStorage(sqlite_url(db))).trials


def made(storage, objectives=1):
    return optuna.create_study(
        storage=storage,
        study_name="s",
        directions=["maximize"] * objectives,
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )


def all_kinds(study):
    """Trials of each state, with each kind of parameter, attribute and number."""
    study.enqueue_trial({"choice": "se"}, user_attrs={"whose": "mine"})
    study.enqueue_trial({"choice": "none"})
    first = study.ask()
    first.suggest_categorical("choice", ("none", "se", None, 1.5, True))
    first.suggest_float("rate", 1e-4, 1.0, log=True)
    first.suggest_int("width", 1, 9, step=2)
    first.set_user_attr("scheme", "100-01")
    first.set_user_attr("scheme", "100-10")  # replaces
    first.set_user_attr("nested", {"a": [1, None, (2, "ü")], 3: math.inf})
    first.set_constraint("limit", 0.5)
    for step, value in enumerate((0.5, math.nan, math.inf, -math.inf)):
        first.report(value, step)
    study.tell(first, -math.inf)
    pruned, failed, running = study.ask(), study.ask(), study.ask()
    pruned.report(2.0, 7)
    study.tell(pruned, state=TrialState.PRUNED)
    study.tell(failed, state=TrialState.FAIL)
    running.suggest_categorical("choice", ("none", "se", None, 1.5, True))
    running.set_user_attr("worker", "a/1/2")
    study.enqueue_trial({"choice": "se"})


@pytest.mark.parametrize("writer", ["ours", "optuna's"])
def test_all_that_a_trial_can_hold_is_read_as_optuna_reads_it(tmp_path, writer):
    db = tmp_path / "study.db"
    storage = open_storage(db) if writer == "ours" else RDBStorage(sqlite_url(db))
    study = made(storage)
    all_kinds(study)
    read = made(open_storage(db)).trials
    assert [t.state.name for t in read] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"]
    # By their texts, for NaN equals nothing.
    assert [repr(t) for t in read] == [repr(t) for t in optunas(db)]
    assert [repr(t) for t in study.trials] == [repr(t) for t in read]
    assert [list(t.params) for t in read] == [list(t.params) for t in optunas(db)]


def test_several_objectives_keep_their_places(tmp_path):
    study = made(open_storage(tmp_path / "study.db"), objectives=3)
    study.tell(study.ask(), (3.0, math.inf, 1.0))
    assert study.trials[0].values == optunas(tmp_path / "study.db")[0].values == [3, math.inf, 1]


def rows(db):
    with sqlite3.connect(db) as connection:
        return [
            connection.execute(f"SELECT count(*) FROM {part}").fetchone()[0]
            for part in ("trial_params", "trial_user_attributes", "trial_system_attributes")
        ]


def test_what_is_written_together_is_in_the_file_whole_or_not_at_all(tmp_path):
    db = tmp_path / "study.db"
    study = made(open_storage(db))
    trial = study.ask()
    with together(study):
        for k in range(54):
            trial.suggest_categorical(f"s1.b{k:02d}", ("none", "se"))
        trial.set_user_attr("scheme", "1")
        assert rows(db) == [0, 0, 0]
        assert len(study.ask().params) == 0  # asks for all trials, so these are written before
        assert rows(db) == [54, 1, 0]
        trial.set_user_attr("late", 1)
        assert rows(db) == [54, 1, 0]
    assert rows(db) == [54, 2, 0]
    trial.set_user_attr("alone", 1)
    assert rows(db) == [54, 3, 0]
    with together(study):
        trial.set_user_attr("before a report", 1)
        trial.report(0.5, 0)
        trial.set_user_attr("after it", 1)
    assert study.trials[0] == optunas(db)[0]
    assert rows(db) == [54, 5, 0]
    assert optunas(db)[0].params == trial.params == study.trials[0].params
    with contextlib.suppress(ZeroDivisionError), together(study):
        trial.set_user_attr("before", 1)
        trial.set_user_attr("after", 1 / 0)
    assert optunas(db)[0].user_attrs["before"] == 1


def test_threads_write_together_and_none_waits_for_another(tmp_path):
    """A block waits for the sampler's lock while the sampler in another thread reads the study."""
    study = optuna.create_study(
        storage=open_storage(tmp_path / "study.db"),
        study_name="s",
        sampler=PolicyGradientSampler(seed=0, batch=4),
        direction="maximize",
    )

    def objective(trial):
        with together(study):
            scheme = suggest_scheme(trial, (3, 3, 3), ("se",))
            trial.set_user_attr("scheme", str(scheme))
        return scheme.sparsity

    def searching():
        study.optimize(objective, n_trials=60, n_jobs=4)

    search = threading.Thread(target=searching, daemon=True)  # a deadlock outlives no test
    search.start()
    search.join(timeout=120)
    assert not search.is_alive()
    found = optunas(tmp_path / "study.db")
    assert [(t.number, t.state) for t in found] == [(k, TrialState.COMPLETE) for k in range(60)]
    assert all(len(t.params) == 9 and "scheme" in t.user_attrs for t in found)
    assert study.trials == found


def test_each_thread_writes_its_own_block_whole(tmp_path):
    db = tmp_path / "study.db"
    study = made(open_storage(db))
    ours, theirs = study.ask(), study.ask()

    def another():
        theirs.set_user_attr("alone", 1)
        with together(study):
            theirs.set_user_attr("in its block", 1)

    with together(study):
        ours.set_user_attr("in our block", 1)
        thread = threading.Thread(target=another, daemon=True)
        thread.start()
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert [t.user_attrs for t in optunas(db)] == [{}, {"alone": 1, "in its block": 1}]
    assert optunas(db)[0].user_attrs == {"in our block": 1}
    assert study.trials == optunas(db)


def test_a_block_that_cannot_be_written_loses_nothing_of_another_thread(tmp_path):
    db = tmp_path / "study.db"
    study, other = made(open_storage(db)), made(RDBStorage(sqlite_url(db)))
    ours, theirs = study.ask(), study.ask()

    def late():
        with together(study):
            theirs.set_user_attr("late", 1)
            other.tell(1, state=TrialState.FAIL)

    def another():
        with pytest.raises(UpdateFinishedTrialError):
            late()
        refused.append(1)

    refused: list[int] = []

    with together(study):
        ours.set_user_attr("before", 1)
        thread = threading.Thread(target=another, daemon=True)
        thread.start()
        thread.join(timeout=60)
        ours.set_user_attr("after", 1)
    assert refused
    assert study.trials[0].user_attrs == {"before": 1, "after": 1}
    assert study.trials[1].state is TrialState.FAIL
    assert study.trials == optunas(db)


@pytest.mark.parametrize("what", ["storage", "study"])
def test_a_pickled_copy_opens_the_file_and_has_all_that_was_written(tmp_path, what):
    db = tmp_path / "study.db"
    study = made(open_storage(db))
    study.tell(study.ask(), 1.0)
    trial = study.ask()
    with together(study):
        trial.set_user_attr("inside", 1)
        copied = pickle.loads(pickle.dumps(study._storage if what == "storage" else study))
        assert rows(db)[1] == 1
        trial.set_user_attr("later", 1)
    storage = copied if what == "storage" else copied._storage
    assert isinstance(storage, SQLiteStorage)
    assert storage.path == db
    assert made(storage).trials == study.trials == optunas(db)
    made(storage).tell(1, 2.0)
    assert study.trials == optunas(db)
    with storage._rdb.engine.connect() as connection:
        for setting, value in (("journal_mode", "wal"), ("synchronous", 1)):
            assert connection.exec_driver_sql(f"PRAGMA {setting}").scalar() == value


@pytest.mark.parametrize(
    ("before", "known_by"),
    [
        ("finished", "times"),  # alone: Optuna's own studies of one name
        *itertools.product(("finished", "running", "waiting"), ("name", "uuid")),
    ],
)
def test_a_study_made_anew_under_the_id_of_a_deleted_one_is_read_anew(tmp_path, before, known_by):
    """SQLite gives the ids of studies and trials again."""
    db = tmp_path / "study.db"
    storage, other = open_storage(db), RDBStorage(sqlite_url(db))

    def anew(name, rate):
        study = optuna.create_study(storage=other, study_name=name, direction="maximize")
        if known_by == "uuid":
            study.set_user_attr(UUID_KEY, f"{rate}")
        study.enqueue_trial({"rate": rate})
        if before != "waiting":
            study.ask().suggest_float("rate", 0, rate)
        if before == "finished":
            study.tell(0, rate)
        return study

    def read():
        return [t.params | t.system_attrs.get("fixed_params", {}) for t in trials()]

    def trials():
        return storage.get_all_trials(1)

    anew("s", 0.25).enqueue_trial({"rate": 0.5})
    assert read() == [{"rate": 0.25}, {"rate": 0.5}]
    if before == "running":
        storage.set_trial_user_attr(1, "ours", 1)  # is kept in memory from here on
    other.delete_study(1)
    anew("another" if known_by == "name" else "s", 1.0)
    assert read() == [{"rate": 1.0}]
    assert storage.get_trial(1).user_attrs == {}
    assert trials() == other.get_all_trials(1)


@pytest.mark.parametrize("asked_by", ["us", "another process"])
@pytest.mark.parametrize("was", ["finished", "running"])
def test_a_trial_that_has_the_id_of_a_deleted_study_s_is_read_anew(tmp_path, was, asked_by):
    db = tmp_path / "study.db"
    storage, other = open_storage(db), RDBStorage(sqlite_url(db))
    study = made(storage)
    gone = optuna.create_study(storage=storage, study_name="gone", direction="maximize")
    gone.ask().set_user_attr("whose", "gone")
    if was == "finished":
        gone.tell(0, 1.0)
    assert [t.user_attrs for t in gone.trials] == [{"whose": "gone"}]
    optuna.delete_study(study_name="gone", storage=other)
    trial = study.ask() if asked_by == "us" else made(other).ask()
    assert trial._trial_id == 1
    trial.set_user_attr("whose", "ours")
    assert [t.user_attrs for t in study.trials] == [{"whose": "ours"}]
    assert storage.get_trial(1).user_attrs == {"whose": "ours"}
    assert study.trials == optunas(db)


@pytest.mark.parametrize("block", [True, False])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FloatDistribution(0, 1), FloatDistribution(0, 2)),
        (IntDistribution(0, 4), IntDistribution(0, 8, step=2)),
        (FloatDistribution(0, 1), FloatDistribution(-1, 1, step=0.5)),
    ],
)
def test_of_a_parameter_the_first_value_and_range_are_kept(tmp_path, first, second, block):
    db = tmp_path / "study.db"
    study = made(open_storage(db))
    storage, trial_id = study._storage, study.ask()._trial_id
    with together(study) if block else contextlib.nullcontext():
        storage.set_trial_param(trial_id, "rate", 1, first)
        storage.set_trial_param(trial_id, "rate", 0, second)
        assert storage.get_trial(trial_id).distributions == {"rate": first}
    assert storage.get_trial(trial_id).params == {"rate": 1}
    assert study.trials == optunas(db)


def test_what_another_process_does_is_seen(tmp_path):
    """It asks, tells, enqueues, and ends a trial of ours, which then takes no more."""
    db = tmp_path / "study.db"
    study, other = made(open_storage(db)), made(RDBStorage(sqlite_url(db)))
    ours, theirs = study.ask(), other.ask()
    ours.set_user_attr("mine", 1)
    assert [t.number for t in study.get_trials(deepcopy=False)] == [0, 1]
    theirs.set_user_attr("policy", 2)
    assert study.trials[1].user_attrs == {"policy": 2}
    other.enqueue_trial({"choice": "se"})
    assert study.trials[2].state is TrialState.WAITING
    other.tell(1, 4.0)
    assert (study.trials[1].value, study.best_value) == (4.0, 4.0)
    other.tell(0, state=TrialState.FAIL)
    assert study.trials[0].state is TrialState.FAIL
    for write in (lambda: ours.set_user_attr("late", 1), lambda: study.tell(ours, 1.0)):
        with pytest.raises((UpdateFinishedTrialError, ValueError)):
            write()
    assert "late" not in optunas(db)[0].user_attrs
    assert study.ask().number == 2  # the enqueued one
    assert study.trials == optunas(db)


def test_a_trial_that_was_ended_behind_our_back_takes_no_more(tmp_path):
    db = tmp_path / "study.db"
    study, other = made(open_storage(db)), made(RDBStorage(sqlite_url(db)))
    ours = study.ask()
    ours.set_user_attr("mine", 1)
    other.tell(0, state=TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError, match="is FAIL and changes no more"):
        ours.set_user_attr("late", 1)
    assert study.trials == optunas(db)


def test_a_parameter_keeps_its_choices_in_all_trials(tmp_path):
    for _ in range(2):  # in the process that first asked for it, and in a later one
        study = made(open_storage(tmp_path / "study.db"))
        study.ask().suggest_categorical("s1.b00", ("none", "se"))
        with pytest.raises(ValueError, match="does not support dynamic value space"):
            study.ask().suggest_categorical("s1.b00", ("none", "sge"))


def test_trials_and_studies_that_are_gone(tmp_path):
    db = tmp_path / "study.db"
    storage = open_storage(db)
    study, other = made(storage), made(RDBStorage(sqlite_url(db)))
    trial = study.ask()
    with pytest.raises(KeyError):
        storage.get_trial(99)
    optuna.delete_study(study_name="s", storage=other._storage)
    for read in (lambda: study.trials, lambda: study.user_attrs):
        with pytest.raises(KeyError, match="there is no study of the id 1"):
            read()
    with pytest.raises(KeyError):
        trial.set_user_attr("late", 1)


def test_tables_of_a_later_optuna_are_left_to_its_own_storage(tmp_path):
    made = open_storage(tmp_path / "study.db")
    assert isinstance(made, SQLiteStorage)
    assert tables_known(tmp_path / "study.db")
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute("UPDATE alembic_version SET version_num = 'v9.0.0.a'")
    assert not tables_known(tmp_path / "study.db")


def tables_known(db):
    """Whether our own storage would open a file; RDBStorage itself refuses what it cannot read."""
    with create_engine(f"sqlite:///{db}").connect() as connection:
        return tables.are_known(connection)
