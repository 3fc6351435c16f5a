"""The ground-truth table of a study: every scheme from scratch, by any number of processes.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from filelock import FileLock
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState, create_trial

from sat_optuna.attention import CONSTANT
from sat_optuna.config.config import decided, differences
from sat_optuna.cost.operations import CostModel
from sat_optuna.errors import StudyError
from sat_optuna.events import Event, OnEvent
from sat_optuna.evidence.constants import constant_ticket
from sat_optuna.evidence.controls import full_roles
from sat_optuna.evidence.effects import noise_of
from sat_optuna.evidence.pages import write_page
from sat_optuna.evidence.retrain import in_processes, metric_of, processes_for
from sat_optuna.evidence.supernet_scores import SupernetScores
from sat_optuna.evidence.truth import TruthTable
from sat_optuna.evidence.truth_page import draw_truth_figures, truth_markdown
from sat_optuna.evidence.truth_runs import TruthJob, TruthResult, seconds_of, train_entries
from sat_optuna.pipeline.latency import hardware_of
from sat_optuna.pipeline.results import CheckedEntry, TruthMade
from sat_optuna.pipeline.truth_supernets import score_supernets, telling_of_kills
from sat_optuna.processes import worker_name
from sat_optuna.sampler.storage import id_of
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import WORKER_KEY, scheme_space, suggest_scheme
from sat_optuna.search.storage import writing
from sat_optuna.search.study import name_objectives
from sat_optuna.search.unfinished import stale_trials
from sat_optuna.seeds import seed_for
from sat_optuna.supernet.materialise import supernet_of
from sat_optuna.ticket import Ticket

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
    study: "StudyFolder", *, workers: int, limit_hours: float, supernets: int, on_event: OnEvent
) -> TruthMade:
    """Train what is missing of a study's truth table, and write it with its page.

    Args:
        study: the folder.
        workers: processes at the same time; 0 for as many as the cores have threads for.
        limit_hours: core-hours that the missing trainings may take.
        supernets: of each recipe, how many score every scheme, to be held against the table.
        on_event: told of each training.

    Raises:
        StudyError: it would take longer; or the table, or what is in study.db, was made with
            another configuration.
        TrainingError: a process was killed.
    """
    plan = _Plan(study)
    # Another process may be making study.db or writing the table; it has made work/ first.
    with _lock(plan) if study.work.is_dir() else nullcontext():
        held, opened = _table_rows(plan), _find(plan)
    rows = held | (_rows(opened) if opened else {})
    _check_size(plan, rows, limit_hours, on_event)
    runs = _Runs(plan, _begin(plan, held))
    try:
        new = _train(plan, runs, workers=workers, on_event=on_event)
    finally:
        table = runs.write_table()
    if supernets:
        score_supernets(study, seeds=supernets, workers=workers, on_event=on_event)
    page = _write_page(study, table)
    result = TruthMade(
        table=table, folder=study.folder, new=new, elsewhere=runs.elsewhere(), page=page
    )
    total = plan.count
    on_event(
        Event(step="truth", done=total - table.missing, total=total, made=result, finished=True)
    )
    return result


def _write_page(study: "StudyFolder", table: TruthTable) -> Path | None:
    """Write what the table tells, once some schemes have two trainings."""
    several = np.isfinite(table.balanced.valid).sum(axis=1) > 1
    if not several.any():
        return None
    held = SupernetScores.load(study.folder)
    command = f"sat-optuna truth {study.argument}"
    scores = held.by_recipe if held else None
    draw_truth_figures(study.folder, table, scores)
    text = truth_markdown(table, scores, command=command)
    return write_page(study.folder / "truth.md", text)


def _train(plan: "_Plan", runs: "_Runs", *, workers: int, on_event: OnEvent) -> int:
    """Train what nobody has begun; return how many."""
    config, total, new = plan.study.config, plan.count, 0
    params = max(ticket.params for ticket in plan.references.values())
    count, together = processes_for(config, params=params, workers=workers)
    done, written = plan.done(runs.rows()), time.monotonic()

    def on_share(share: float) -> None:
        on_event(Event(step="truth", done=done, total=total, share=share))

    with telling_of_kills(count, "the truth table"):
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
                new, done = new + 1, done + 1
                if time.monotonic() > written + _WRITTEN_S:
                    runs.write_table()
                    written = time.monotonic()
                    done = plan.done(runs.rows())  # with those of other processes
                said = f"{result.scheme} seed {result.seed}: "
                said += result.error or plan.metric.measure.text(result.valid)
                on_event(Event(step="truth", done=done, total=total, message=said, made=result))
    return new


def _check_size(
    plan: "_Plan", rows: "Mapping[Key, Row]", limit_hours: float, on_event: OnEvent
) -> None:
    """Refuse a table whose missing trainings take too long; say how long they take.

    Raises:
        StudyError: they do.
    """
    done = plan.done(rows)
    missing = plan.count - done
    if not missing:
        return
    known = [row["seconds"] for row in rows.values() if row["machine"] == plan.machine]
    if (usual := _median(known)) is not None:
        seconds = usual
    else:
        full = plan.references[plan.full_roles[0]]
        job = TruthJob(full, plan.study.config.truth.reference_seeds[0], plan.study.config)
        seconds = seconds_of(job, plan.study.parts.data)
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

    @property
    def full_roles(self) -> tuple[str, ...]:
        """Roles of the full network of each kind."""
        return full_roles(self.kinds)

    @cached_property
    def references(self) -> dict[str, Ticket]:
        """By role: plain, full of each kind, and the constant control of each full."""
        full = {
            role: self.study.parts.ticket(Scheme.uniform(self.stages, choice))
            for choice, role in enumerate(self.full_roles, start=1)
        }
        constants = {}
        for role, ticket in full.items():
            control = constant_ticket(ticket)
            net = supernet_of(control, seed=0)
            cost = CostModel(net, control.input_shape).cost(control.scheme)
            control = replace(control, params=cost.params, macs=cost.macs)
            constants[role.replace("full", "constant", 1)] = control
        plain = self.study.parts.ticket(Scheme.uniform(self.stages, 0))
        return {"plain": plain, **full, **constants}

    @property
    def count(self) -> int:
        """How many trainings there are; there may be too many to list them."""
        truth = self.study.config.truth
        every = (len(self.kinds) + 1) ** sum(self.stages) * len(truth.seeds)
        more = len({*truth.reference_seeds} - {*truth.seeds})
        ordinary = (1 + len(self.kinds)) * more
        return int(every + ordinary + len(self.kinds) * len(truth.reference_seeds))

    @cached_property
    def schemes(self) -> tuple[Scheme, ...]:
        """Every scheme, in the order of the table's rows, without the constant controls."""
        choices = itertools.product(range(len(self.kinds) + 1), repeat=sum(self.stages))
        return tuple(Scheme(row, self.stages) for row in choices)

    @cached_property
    def tickets(self) -> dict[str, Ticket]:
        """The ticket of each row, by its scheme."""
        ordinary = (self.study.parts.ticket(scheme) for scheme in self.schemes)
        listed = [*ordinary, *self.references.values()]
        return {str(ticket.scheme): ticket for ticket in listed}

    @property
    def choices(self) -> tuple[str, ...]:
        """Names of the kinds and of their constant controls, for the parameters of trials."""
        return (*self.kinds, *(CONSTANT + kind for kind in self.kinds))

    def params(self, scheme: Scheme) -> dict[str, str]:
        """Return the parameters of a scheme's trials."""
        names, choices = Scheme.parameter_names(self.stages), ("none", *self.choices)
        return {name: choices[c] for name, c in zip(names, scheme.choices, strict=True)}

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

    def done(self, rows: Iterable[Key]) -> int:
        """Return how many of these trainings belong to the table."""
        truth = self.study.config.truth
        references = {str(ticket.scheme): role for role, ticket in self.references.items()}
        constants = {text for text, role in references.items() if role.startswith("constant")}
        return sum(
            (seed in truth.seeds and scheme not in constants)
            or (seed in truth.reference_seeds and scheme in references)
            for scheme, seed in rows
        )

    def job(self, key: Key) -> TruthJob:
        """Return a training."""
        return TruthJob(self.tickets[key[0]], key[1], self.study.config)

    @cached_property
    def decided(self) -> dict[str, Any]:
        """What decides each training beside its scheme and seed, as JSON keeps it."""
        keys = {
            **decided(self.study.config, "truth"),
            "the data's fingerprint": self._data_fingerprint,
        }
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


def _median(values: "NDArray[np.float64] | Sequence[float]") -> float | None:
    """Return the median of what is no NaN; None where there is none."""
    known = np.asarray(values)[~np.isnan(values)]
    return round(float(np.median(known)), 3) if len(known) else None


def _find(plan: _Plan) -> optuna.Study | None:
    """Return the Optuna study of the trainings; None where none was begun.

    Raises:
        StudyError: something else decided what it holds.
    """
    study = plan.study
    if not study.db.exists() or study.truth_name not in optuna.get_all_study_names(study.storage):
        return None
    opened = optuna.load_study(
        study_name=study.truth_name,
        storage=study.storage,
        sampler=optuna.samplers.RandomSampler(seed=0),  # choices are given to every trial
    )
    if stored := opened.user_attrs.get(_DECIDED_KEY):
        plan.check(stored, f"study {study.truth_name!r} in {study.db}")
    return opened


def _begin(plan: _Plan, held: "Mapping[Key, Row]") -> optuna.Study:
    """Make the Optuna study where there is none, and add the trainings that a table holds."""
    study = plan.study
    study.work.mkdir(parents=True, exist_ok=True)
    with _lock(plan), writing(study.truth_name):
        opened = _find(plan) or optuna.create_study(
            study_name=study.truth_name,
            storage=study.storage,
            sampler=optuna.samplers.RandomSampler(seed=0),
            direction="maximize" if plan.metric.measure.better == "higher" else "minimize",
        )
        name_objectives(opened, (plan.metric.name,))
        if _DECIDED_KEY not in opened.user_attrs:
            opened.set_user_attr(_DECIDED_KEY, plan.decided)
        known = {_key_of(trial) for trial in opened.get_trials(deepcopy=False)}
        space: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution(choices)
            for name, choices in scheme_space(plan.stages, plan.choices).items()
        }
        for (scheme, seed), row in held.items():
            if (scheme, seed) in known:
                continue
            failed = math.isnan(row["valid"])
            trial = create_trial(
                state=TrialState.FAIL if failed else TrialState.COMPLETE,
                value=None if failed else row["valid"],
                params=plan.params(Scheme.parse(scheme)),
                distributions=space,
                user_attrs={"scheme": scheme, "seed": seed, _RESULT_KEY: dict(row)},
            )
            opened.add_trial(trial)
    return opened


def _lock(plan: _Plan) -> FileLock:
    """Return what one process at a time holds; it dies with the process."""
    return FileLock(plan.study.work / "truth.lock")


def _rows(opened: optuna.Study) -> "dict[Key, Row]":
    """Return the trainings that are over."""
    trials = opened.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return {
        _key_of(trial): trial.user_attrs[_RESULT_KEY]
        for trial in trials
        if _RESULT_KEY in trial.user_attrs
    }


class _Runs:
    """The trainings of an Optuna study as one of its processes makes them."""

    def __init__(self, plan: _Plan, opened: optuna.Study) -> None:
        self._plan, self._opened, self._lock = plan, opened, _lock(plan)
        self._name = plan.study.truth_name
        self._trials: dict[Key, optuna.Trial] = {}  # under way here

    def rows(self) -> "dict[Key, Row]":
        """Return the trainings that are over."""
        return _rows(self._opened)

    def groups(self, together: int) -> Iterator[Mapping[int, TruthJob]]:
        """Take trainings, so many at a time, until there is none that nobody has begun."""
        while True:
            with self._lock, writing(self._name):
                taken = [trial for _ in range(together) if (trial := self._take())]
            if not taken:
                return
            yield {trial.number: self._plan.job(_key_of(trial)) for trial in taken}

    def _take(self) -> optuna.Trial | None:
        """Take a training that a dead process left, or else the next one; the lock is held."""
        mine = {trial.number for trial in self._trials.values()}
        left = [trial for trial in stale_trials(self._opened) if trial.number not in mine]
        trial = optuna.trial.Trial(self._opened, id_of(left[0])) if left else self._next()
        if trial:
            trial.set_user_attr(WORKER_KEY, worker_name())
            suggest_scheme(trial, self._plan.stages, self._plan.choices)
            self._trials[_key_of(trial)] = trial
        return trial

    def _next(self) -> optuna.Trial | None:
        known = self._opened.get_trials(deepcopy=False)
        if not any(trial.state is TrialState.WAITING for trial in known):  # as a kill may leave
            begun = {_key_of(trial) for trial in known}
            key = next((key for key in self._plan.jobs if key not in begun), None)
            if key is None:
                return None
            named = dict(zip(("scheme", "seed"), key, strict=True))
            self._opened.enqueue_trial(self._plan.params(Scheme.parse(key[0])), user_attrs=named)
        return self._opened.ask()

    def keep(self, result: TruthResult) -> None:
        """Tell the Optuna study what came of a training."""
        row = {name: getattr(result, name) for name in (*_NUMBERS, "error")}
        row["machine"] = self._plan.machine
        trial = self._trials.pop((str(result.scheme), result.seed))
        with writing(self._name):
            trial.set_user_attr(_RESULT_KEY, row)
            if math.isnan(result.valid):
                self._opened.tell(trial, state=TrialState.FAIL)
            else:
                self._opened.tell(trial, result.valid)

    def write_table(self) -> TruthTable:
        """Write the table of all trainings that are over."""
        with self._lock:
            table = self._plan.table(self.rows())
            table.save(self._plan.study.folder)
        return table

    def elsewhere(self) -> int:
        """Return how many trainings other processes have under way."""
        running = self._opened.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return len(running)


def _key_of(trial: FrozenTrial | optuna.Trial) -> Key:
    return trial.user_attrs["scheme"], trial.user_attrs["seed"]


def _table_rows(plan: _Plan) -> dict[Key, Row]:
    """Return the trainings of the table in the study's folder; none where there is no table.

    Raises:
        StudyError: its bytes have changed, or something else decided it.
    """
    if not any((plan.study.folder / f"truth.{end}").exists() for end in ("npz", "json")):
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
        TrainingError: a process was killed.
    """
    plan = _Plan(study)
    table = _load(plan)
    noise = {name: _noise(getattr(table, name)) for name in ("valid", "test")}
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
    with telling_of_kills(count, "the truth table"), closing(running) as results:
        for result in results:
            at = places[str(result.scheme), result.seed]
            machine = table.manifest["machines"][table.machine[at]]
            entry = CheckedEntry(
                scheme=str(result.scheme),
                seed=result.seed,
                stored={name: float(getattr(table, name)[at]) for name in _BITS},
                again={name: getattr(result, name) for name in _BITS},
                noise={name: float(noise[name][at[0]]) for name in noise},
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


def _noise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation between the seeds of each scheme, of those near it."""
    found, known = np.full(len(values), math.nan), np.isfinite(values).any(axis=1)
    if known.any():
        found[known] = np.sqrt(noise_of(values[known])[0])
    return found
