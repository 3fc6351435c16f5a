"""The ground-truth table of a study: every scheme trained from scratch, by any number of processes.

Processes share the work through an Optuna study of their own in study.db: a trial is a training. A
process takes the next training, or one that a dead process has left, under a file lock. The table
in the study's folder is written from the trials now and then; where study.db is not there, as in a
fresh clone, the trials are made from the table.
"""

import itertools
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from sat_optuna.attention import CONSTANT
from sat_optuna.config.config import decided, differences
from sat_optuna.cost.operations import CostModel
from sat_optuna.errors import StudyError, TrainingError
from sat_optuna.events import Event, OnEvent
from sat_optuna.evidence.constants import constant_ticket
from sat_optuna.evidence.controls import full_roles
from sat_optuna.evidence.retrain import in_processes, metric_of, processes_for
from sat_optuna.evidence.truth import TruthTable
from sat_optuna.evidence.truth_runs import TruthJob, TruthResult, seconds_of, train_entries
from sat_optuna.pipeline.latency import hardware_of
from sat_optuna.pipeline.results import CheckedEntry, TruthMade
from sat_optuna.processes import worker_name
from sat_optuna.sampler.storage import id_of
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import WORKER_KEY, scheme_space, suggest_scheme
from sat_optuna.search.storage import writing
from sat_optuna.search.unfinished import stale_trials
from sat_optuna.seeds import seed_for
from sat_optuna.supernet.materialise import supernet_of
from sat_optuna.ticket import Ticket
from sat_optuna.training.checkpoint import versions

if TYPE_CHECKING:
    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["make_truth", "verify_truth"]

_WRITTEN_S = 60.0  # between two writings of the table
_DECIDED_KEY = "sat:truth"  # study attribute: what decides each training
_RESULT_KEY = "sat:result"  # trial attribute: a TruthResult and what trained it

_BITS = ("valid", "test", "valid_loss", "test_loss", "train_accuracy")
_NUMBERS = (*_BITS, "seconds")

Key = tuple[str, int]  # a scheme's text and a seed
Row = Mapping[str, Any]  # a TruthResult's values by name, and the machine


def make_truth(
    study: "StudyFolder", *, workers: int, limit_hours: float, on_event: OnEvent
) -> TruthMade:
    """Train what is missing of a study's truth table, and write it.

    Args:
        study: the folder.
        workers: processes at the same time; 0 for as many as the cores have threads for.
        limit_hours: core-hours that the missing trainings may take.
        on_event: told of each training.

    Raises:
        StudyError: it would take longer; or the table, or what is in study.db, was made with
            another configuration.
    """
    plan = _Plan(study)
    rows = _table_rows(plan)
    runs = _Runs(plan)
    done = len({*rows, *runs.rows()})
    _check_size(plan, [*rows.values(), *runs.rows().values()], done, limit_hours, on_event)
    runs.begin(rows)
    try:
        new = _train(plan, runs, workers=workers, on_event=on_event)
    finally:
        table = runs.write_table()
    result = TruthMade(table=table, folder=study.folder, new=new, elsewhere=runs.elsewhere())
    total = len(plan.jobs)
    on_event(Event(step="truth", done=total - table.missing, total=total, made=result, finished=True))
    return result


def _train(plan: "_Plan", runs: "_Runs", *, workers: int, on_event: OnEvent) -> int:
    """Train what nobody has begun; return how many."""
    config, total, new = plan.study.config, len(plan.jobs), 0
    params = max(ticket.params for ticket in plan.references.values())
    count, together = processes_for(config, params=params, workers=workers)
    done, written = len(runs.rows()), time.monotonic()

    def on_share(share: float) -> None:
        on_event(Event(step="truth", done=done, total=total, share=share))

    try:
        running = in_processes(
            runs.groups(together),
            partial(train_entries, plugins=plan.study.plugins),
            workers=count,
            threads=config.threads,
            on_share=on_share,
        )
        with closing(running) as results:
            for result in results:
                runs.keep(result)
                new += 1
                if time.monotonic() > written + _WRITTEN_S:
                    runs.write_table()
                    done, written = len(runs.rows()) - 1, time.monotonic()
                done += 1
                said = f"{result.scheme} seed {result.seed}: "
                said += result.error or plan.metric.measure.text(result.valid)
                on_event(Event(step="truth", done=done, total=total, message=said, made=result))
    except BrokenProcessPool as error:
        raise TrainingError(
            f"one of {count} processes of the truth table was killed, for want of memory perhaps; "
            "give fewer --workers and run the same command again, which goes on from here"
        ) from error
    return new


def _check_size(
    plan: "_Plan", rows: list[Row], done: int, limit_hours: float, on_event: OnEvent
) -> None:
    """Refuse a table whose missing trainings take too long; say how long they take.

    Raises:
        StudyError: they do.
    """
    missing = plan.count - done
    known = [row["seconds"] for row in rows if not math.isnan(row["seconds"])]
    if missing <= 0:
        return
    if known:
        seconds = float(np.median(known))
    else:
        full = next(iter(plan.jobs_of(plan.full_roles[0])))
        seconds = seconds_of(full, plan.study.parts.data)
    hours = missing * seconds / 3600
    takes = f"{missing:,} trainings of about {seconds:.3g} s, {_hours(hours)}"
    if hours > limit_hours:
        raise StudyError(
            f"the truth table of study {plan.study.name!r} would take {takes}, more than the "
            f"limit of {limit_hours:g} core-hours; take fewer blocks, seeds or epochs, or raise "
            "--limit-hours"
        )
    on_event(Event(step="truth", done=done, total=plan.count, message=takes))


def _hours(hours: float) -> str:
    """Return core-hours in words; beyond imagination in years.

    >>> _hours(1.84), _hours(1e9)
    ('1.8 core-hours', '114,155 core-years')
    """
    years = hours / (24 * 365)
    return f"{hours:,.1f} core-hours" if years < 10 else f"{years:,.0f} core-years"


class _Plan:
    """Which trainings make a table, in which order, and what decides each of them."""

    def __init__(self, study: "StudyFolder") -> None:
        self.study = study
        self.stages = study.parts.check_fit()
        data, config = study.parts.data, study.config
        self.specs = config.attention.kinds
        self.kinds = tuple(spec.kind for spec in self.specs)
        self.metric = metric_of(config)
        self._data_fingerprint = data.fingerprint
        network = config.network
        self._plain = Ticket(
            role="plain",
            scheme=Scheme.uniform(self.stages, 0),
            backbone=network.backbone,
            backbone_settings=network.backbone_settings,
            attention=self.specs,
            classes=data.classes,
            input_shape=data.shape,
            dataset=data.name,
            dataset_fingerprint=data.fingerprint,
            seed=config.seed,
            params=0,
            macs=0,
            config=config.to_dict(),
        )
        self._costs = CostModel(study.parts.fresh_supernet(), data.shape)

    @property
    def full_roles(self) -> tuple[str, ...]:
        """Roles of the full network of each kind."""
        return full_roles(self.kinds)

    @cached_property
    def references(self) -> dict[str, Ticket]:
        """By role: plain, full of each kind, and the constant control of each full."""
        full = {
            role: self._counted(replace(self._plain, scheme=Scheme.uniform(self.stages, choice)))
            for choice, role in enumerate(self.full_roles, start=1)
        }
        constants = {}
        for role, ticket in full.items():
            control = constant_ticket(ticket)
            costs = CostModel(supernet_of(control, seed=0), control.input_shape)
            constants[role.replace("full", "constant", 1)] = self._counted(control, costs)
        return {"plain": self._counted(self._plain), **full, **constants}

    def _counted(self, ticket: Ticket, costs: CostModel | None = None) -> Ticket:
        cost = (costs or self._costs).cost(ticket.scheme)
        return replace(ticket, params=cost.params, macs=cost.macs)

    @property
    def count(self) -> int:
        """How many trainings there are; there may be too many to list them."""
        truth = self.study.config.truth
        every = (len(self.kinds) + 1) ** len(self._plain.scheme.choices) * len(truth.seeds)
        more = len({*truth.reference_seeds} - {*truth.seeds})
        ordinary = (1 + len(self.kinds)) * more
        return every + ordinary + len(self.kinds) * len(truth.reference_seeds)

    @cached_property
    def schemes(self) -> tuple[Scheme, ...]:
        """Every scheme, in the order of the table's rows, without the constant controls."""
        choices = itertools.product(range(len(self.kinds) + 1), repeat=sum(self.stages))
        return tuple(Scheme(row, self.stages) for row in choices)

    @cached_property
    def tickets(self) -> dict[str, Ticket]:
        """The ticket of each row, by its scheme."""
        ordinary = (self._counted(replace(self._plain, scheme=scheme)) for scheme in self.schemes)
        listed = [*ordinary, *self.references.values()]
        return {str(ticket.scheme): ticket for ticket in listed}

    @cached_property
    def jobs(self) -> tuple[Key, ...]:
        """The trainings in their order: seed by seed, the references of a seed first.

        Schemes come in an order without a system, the same for all seeds, so that a part of the
        table is a fair sample of it.
        """
        truth = self.study.config.truth
        shuffled = sorted(map(str, self.schemes), key=partial(seed_for, "truth order"))
        references = [str(ticket.scheme) for ticket in self.references.values()]
        listed: list[Key] = []
        for seed in dict.fromkeys((*truth.seeds, *truth.reference_seeds)):
            asked = references * (seed in truth.reference_seeds) + shuffled * (seed in truth.seeds)
            listed += [(scheme, seed) for scheme in asked]
        return tuple(dict.fromkeys(listed))

    def jobs_of(self, role: str) -> Iterator[TruthJob]:
        """Yield the trainings of a reference."""
        for seed in self.study.config.truth.reference_seeds:
            yield TruthJob(self.references[role], seed, self.study.config)

    def job(self, key: Key) -> TruthJob:
        """Return a training."""
        return TruthJob(self.tickets[key[0]], key[1], self.study.config)

    @cached_property
    def decided(self) -> dict[str, Any]:
        """What decides each training beside its scheme and seed, as JSON keeps it."""
        keys = {**decided(self.study.config, "truth"), "the data's fingerprint": self._data_fingerprint}
        plain: dict[str, Any] = json.loads(json.dumps(keys))
        return plain

    def check(self, stored: Mapping[str, Any], there: str) -> None:
        """Make sure that trainings were decided as they would be now.

        Raises:
            StudyError: they were not.
        """
        if changed := differences(stored, self.decided):
            raise StudyError(
                f"{there} was made with another configuration: {'; '.join(changed)}; restore that "
                "to continue it, or make a new study (only the seeds of [truth] may change)"
            )

    @cached_property
    def machine(self) -> dict[str, Any]:
        """What the bits of a training depend on beside what decides it."""
        return hardware_of(self.study.config) | {"numpy": np.__version__}

    def table(self, rows: Mapping[Key, Row]) -> TruthTable:
        """Return the table of these trainings."""
        config, data = self.study.config, self.study.parts.data
        truth, schemes = config.truth, [*self.tickets]
        place = {scheme: at for at, scheme in enumerate(schemes)}
        asked = dict.fromkeys((*truth.seeds, *truth.reference_seeds, *(s for _, s in rows)))
        column = {seed: at for at, seed in enumerate(asked)}
        values = {name: np.full((len(schemes), len(asked)), np.nan) for name in _NUMBERS}
        machine = np.full((len(schemes), len(asked)), -1, dtype=np.int16)
        machines: list[Any] = []
        failed = []
        for (scheme, seed), row in rows.items():
            at = place[scheme], column[seed]
            if row["error"]:
                failed.append({"scheme": scheme, "seed": seed, "error": row["error"]})
            for name in _NUMBERS:
                values[name][at] = row[name]
            if row["machine"] not in machines:
                machines.append(row["machine"])
            machine[at] = machines.index(row["machine"])
        tickets = self.tickets.values()
        measure = self.metric.measure
        manifest = {
            "name": self.study.name,
            "what": (
                f"every placement of {' and '.join(self.kinds)} in {config.network.backbone}, "
                f"trained from scratch on {len(data.train):,} images of {data.name}, "
                f"{config.retrain.epochs} epochs; valid and test: {measure} after the last epoch, "
                f"on {len(data.valid):,} validation images, which were not trained on, and on "
                f"{len(data.test):,} test images"
            ),
            "backbone": config.network.backbone,
            "backbone_settings": config.network.backbone_settings,
            "stages": self.stages,
            "kinds": self.kinds,
            "attention": [asdict(spec) for spec in self.specs],
            "seeds": truth.seeds,
            "reference_seeds": truth.reference_seeds,
            "references": {role: str(one.scheme) for role, one in self.references.items()},
            "measure": asdict(measure),
            "images": {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)},
            "classes": data.classes,
            "input_shape": data.shape,
            "epochs": config.retrain.epochs,
            "data_fingerprint": data.fingerprint,
            "decided": self.decided,
            "config": config.to_dict(),
            "failed": failed,
            "machines": machines,
            "core_seconds_a_training": _median(values["seconds"]),
            "versions": versions(),
        }
        return TruthTable(
            choices=np.array([one.scheme.choices for one in tickets], dtype=np.uint8),
            seeds=tuple(asked),
            machine=machine,
            params=np.array([one.params for one in tickets]),
            macs=np.array([one.macs for one in tickets]),
            manifest=json.loads(json.dumps(manifest)),
            **values,
        )


def _median(values: Any) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(np.median(known)), 3) if len(known) else None


class _Runs:
    """The trainings in the Optuna study of a plan."""

    def __init__(self, plan: _Plan) -> None:
        self._plan, self._study = plan, plan.study
        self._trials: dict[Key, optuna.Trial] = {}  # those that this process has under way
        work = plan.study.work
        self._lock = FileLock(work / "truth.lock")
        self._kinds = (*plan.kinds, *(CONSTANT + kind for kind in plan.kinds))
        self._opened: optuna.Study | None = None
        name = plan.study.truth_name
        if plan.study.db.exists() and name in optuna.get_all_study_names(plan.study.storage):
            self._opened = optuna.load_study(
                study_name=name,
                storage=plan.study.storage,
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
            stored = self._opened.user_attrs.get(_DECIDED_KEY)
            if stored is not None:
                plan.check(stored, f"study {name!r} in {plan.study.db}")

    def begin(self, rows: Mapping[Key, Row]) -> None:
        """Make the Optuna study where there is none, and add the trainings that a table holds."""
        plan = self._plan
        self._study.work.mkdir(parents=True, exist_ok=True)
        with self._lock, writing(self._study.truth_name):
            if self._opened is None:
                self._opened = optuna.create_study(
                    study_name=self._study.truth_name,
                    storage=self._study.storage,
                    sampler=optuna.samplers.RandomSampler(seed=0),
                    direction="maximize" if plan.metric.measure.better == "higher" else "minimize",
                    load_if_exists=True,
                )
            self._opened.set_user_attr(_DECIDED_KEY, plan.decided)
            known = {_key_of(trial) for trial in self._opened.get_trials(deepcopy=False)}
            space = scheme_space(plan.stages, self._kinds)
            for (scheme, seed), row in rows.items():
                if (scheme, seed) in known:
                    continue
                choices = self._choices(Scheme.parse(scheme))
                trial = create_trial(
                    state=TrialState.FAIL if row["error"] else TrialState.COMPLETE,
                    value=None if row["error"] else row["valid"],
                    params=choices,
                    distributions={
                        name: optuna.distributions.CategoricalDistribution(values)
                        for name, values in space.items()
                    },
                    user_attrs={"scheme": scheme, "seed": seed, _RESULT_KEY: dict(row)},
                )
                self._opened.add_trial(trial)

    def _choices(self, scheme: Scheme) -> dict[str, str]:
        values = ("none", *self._kinds)
        names = Scheme.parameter_names(self._plan.stages)
        return {name: values[c] for name, c in zip(names, scheme.choices, strict=True)}

    @property
    def optuna_study(self) -> optuna.Study:
        """The Optuna study, once there is one."""
        assert self._opened is not None  # `begin` made it
        return self._opened

    def rows(self) -> dict[Key, Row]:
        """Return the trainings that are over, by scheme and seed."""
        if self._opened is None:
            return {}
        over = (TrialState.COMPLETE, TrialState.FAIL)
        trials = self._opened.get_trials(deepcopy=False, states=over)
        return {
            _key_of(trial): trial.user_attrs[_RESULT_KEY]
            for trial in trials
            if _RESULT_KEY in trial.user_attrs
        }

    def groups(self, together: int) -> Iterator[Mapping[int, TruthJob]]:
        """Take trainings, so many at a time, until nobody has to begin one."""
        while True:
            with self._lock, writing(self._study.truth_name):
                taken = [trial for _ in range(together) if (trial := self._take())]
            if not taken:
                return
            group = {}
            for trial in taken:
                key = _key_of(trial)
                self._trials[key] = trial
                group[trial.number] = self._plan.job(key)
            yield group

    def _take(self) -> optuna.Trial | None:
        """Take a training that a dead process has left, or the next one; the caller has the lock."""
        opened = self.optuna_study
        mine = {trial.number for trial in self._trials.values()}
        left = [trial for trial in stale_trials(opened) if trial.number not in mine]
        if left:
            trial = optuna.trial.Trial(opened, id_of(left[0]))
        else:
            known = opened.get_trials(deepcopy=False)
            if not any(trial.state is TrialState.WAITING for trial in known):
                begun = {_key_of(trial) for trial in known}
                following = next((key for key in self._plan.jobs if key not in begun), None)
                if following is None:
                    return None
                scheme, seed = following
                opened.enqueue_trial(
                    self._choices(self._plan.tickets[scheme].scheme),
                    user_attrs={"scheme": scheme, "seed": seed},
                )
            trial = opened.ask()
        trial.set_user_attr(WORKER_KEY, worker_name())
        suggest_scheme(trial, self._plan.stages, self._kinds)
        return trial

    def keep(self, result: TruthResult) -> None:
        """Tell the Optuna study what came of a training."""
        key = str(result.scheme), result.seed
        row = asdict(result) | {"machine": self._plan.machine}
        del row["scheme"], row["seed"]
        trial = self._trials[key]
        with writing(self._study.truth_name):
            trial.set_user_attr(_RESULT_KEY, row)
            if result.error:
                self.optuna_study.tell(trial, state=TrialState.FAIL)
            else:
                self.optuna_study.tell(trial, result.valid)
        del self._trials[key]

    def write_table(self) -> TruthTable:
        """Write the table of all trainings that are over."""
        with self._lock:
            table = self._plan.table(self.rows())
            table.save(self._study.folder)
        return table

    def elsewhere(self) -> int:
        """Return how many trainings other processes have under way."""
        running = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return len(running)


def _key_of(trial: FrozenTrial | optuna.Trial) -> Key:
    return trial.user_attrs["scheme"], trial.user_attrs["seed"]


def _table_rows(plan: _Plan) -> dict[Key, Row]:
    """Return the trainings of the table in the study's folder; none where there is no table.

    Raises:
        StudyError: its bytes have changed, or something else decided it.
    """
    if not (plan.study.folder / "truth.json").exists():
        return {}
    table = _load(plan)
    rows: dict[Key, Row] = {}
    failed = {(one["scheme"], one["seed"]): one["error"] for one in table.manifest["failed"]}
    for at, scheme in enumerate(map(str, table.schemes)):
        for column, seed in enumerate(table.seeds):
            if table.machine[at, column] < 0:
                continue
            values = {name: float(getattr(table, name)[at, column]) for name in _NUMBERS}
            machine = table.manifest["machines"][table.machine[at, column]]
            error = failed.get((scheme, seed), "")
            rows[scheme, seed] = values | {"error": error, "machine": machine}
    return rows


def _load(plan: _Plan) -> TruthTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is missing is trained now
        table = TruthTable.load(plan.study.folder)
    plan.check(table.manifest["decided"], str(plan.study.folder / "truth.json"))
    return table


def verify_truth(
    study: "StudyFolder", *, entries: int, seed: int, workers: int, on_event: OnEvent
) -> tuple[CheckedEntry, ...]:
    """Train random entries of a study's table again and compare; nothing is written.

    Args:
        study: the folder.
        entries: how many.
        seed: draws them.
        workers: processes at the same time, as of `make_truth`.
        on_event: told of each training.

    Raises:
        StudyError: there is no table, its bytes have changed, or something else decided it.
    """
    plan = _Plan(study)
    table = _load(plan)
    trained = np.argwhere(~np.isnan(table.valid))
    drawn = np.random.default_rng(seed_for("verify", seed)).permutation(len(trained))[:entries]
    schemes = [str(scheme) for scheme in table.schemes]
    places = {(schemes[row], table.seeds[column]): (row, column) for row, column in trained[drawn]}
    jobs = [plan.job(key) for key in places]
    params = max((job.ticket.params for job in jobs), default=0)
    count, _ = processes_for(study.config, params=params, workers=workers)
    running = in_processes(
        ({number: job} for number, job in enumerate(jobs)),
        partial(train_entries, plugins=study.plugins),
        workers=count,
        threads=study.config.threads,
        on_share=lambda share: on_event(
            Event(step="verify", done=len(found), total=len(jobs), share=share)
        ),
    )
    found: list[CheckedEntry] = []
    with closing(running) as results:
        for result in results:
            at = places[str(result.scheme), result.seed]
            machine = table.manifest["machines"][table.machine[at]]
            entry = CheckedEntry(
                scheme=str(result.scheme),
                seed=result.seed,
                stored={name: float(getattr(table, name)[at]) for name in _BITS},
                again={name: getattr(result, name) for name in _BITS},
                noise={name: table.noise_of(name) for name in ("valid", "test")},
                same_machine=machine == plan.machine,
            )
            found.append(entry)
            on_event(
                Event(
                    step="verify",
                    done=len(found),
                    total=len(jobs),
                    made=entry,
                    finished=len(found) == len(jobs),
                )
            )
    return tuple(found)
