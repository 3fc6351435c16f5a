"""The folder of a study: what lies where, who may write, and each step of its road."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from sat_optuna.config.config import StudyConfig, decided, with_trials
from sat_optuna.errors import SatOptunaWarning, StudyError
from sat_optuna.events import GETTING_READY, Event, OnEvent, ignore
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.done import Records
from sat_optuna.pipeline.reading import given_ticket, plugin_files, read_study
from sat_optuna.pipeline.threads import computing_with
from sat_optuna.scheme import ENUMERATION_LIMIT

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

    from sat_optuna.pipeline.parts import StudyParts
    from sat_optuna.pipeline.results import (
        Checked,
        CheckedEntry,
        Enumerated,
        Evidenced,
        Pretrained,
        Reported,
        Retrained,
        RunResult,
        Searched,
        TruthMade,
    )
    from sat_optuna.ticket import Ticket

__all__ = ["STUDIES", "StudyFolder", "find_study", "nearest_mlruns", "open_study", "run_study"]

STUDIES = Path("studies")
TRUTH = ".truth"  # ends the name of the Optuna study of a truth table


def find_study(study: str | Path) -> Path:
    """Return the folder of a study given as a folder, its study.toml, or a name under studies/.

    Raises:
        StudyError: neither holds a study.toml.
    """
    from sat_optuna.registry import nearest

    given = Path(study)
    given = given.parent if given.name == "study.toml" else given
    text = str(given) if str(study) else ""
    for folder in (given, STUDIES / given) if text else ():
        with suppress(OSError, ValueError):  # a name that is too long, or holds a NUL byte
            if (folder / "study.toml").exists():
                return folder.resolve()
    known = sorted(path.parent.name for path in STUDIES.glob("*/study.toml"))
    listed = f"known: {', '.join(known)}" if known else "there is none here yet"
    raise StudyError(
        f"no study {text!r}: neither {text}/study.toml nor {STUDIES / text}/study.toml exists"
        f"{nearest(text, known) or ';'} {listed}; make one with: sat-optuna new "
        f"{quote(given.name) if 0 < len(given.name) < 256 else 'NAME'}"
    )


def nearest_mlruns(folder: Path) -> Path | None:
    """Return the mlruns/ of a folder or of its nearest parent that has one, within its project.

    A project's own folder is the first that holds studies/, pyproject.toml or .git; what lies
    above it, in the user's home perhaps, is somebody else's.
    """
    nearest: Path | None = None
    for parent in (folder, *folder.parents):
        if nearest is None and (parent / "mlruns").is_dir():
            nearest = parent / "mlruns"
        if any((parent / mark).exists() for mark in (STUDIES, "pyproject.toml", ".git")):
            return nearest
    # In no project at all: the folder's own, or none.
    return nearest if nearest == folder / "mlruns" else None


class StudyFolder:
    """A study: its folder, its configuration, and each step of its road.

    Each step is skipped where its result is there, and goes on where it was stopped. While a step
    runs, no other process can run one in the same folder.

    Args:
        folder: holds study.toml; absolute.
        config: its resolved configuration; None: read when it is first asked for, which runs the
            study's plugins. Looking at a search asks for none.

    Attributes:
        folder: as given.
    """

    def __init__(self, folder: Path, config: StudyConfig | None = None) -> None:
        self.folder = folder
        if config is not None:
            self.__dict__["config"] = config

    @cached_property
    def config(self) -> StudyConfig:
        """The resolved configuration."""
        return read_study(self.folder)

    @property
    def name(self) -> str:
        """Name of the study: its folder's."""
        return self.folder.name

    @property
    def argument(self) -> str:
        """What a command line calls the study, quoted for a shell."""
        known = (STUDIES / self.name).resolve() == self.folder
        return quote(self.name if known else str(self.folder))

    @property
    def plugins(self) -> tuple[Path, ...]:
        """The files that [plugins] lists."""
        return plugin_files(self.folder)

    @property
    def given(self) -> Path | None:
        """The ticket's file where it is given, and not searched for; asks for no plugin."""
        return given_ticket(self.folder)

    def check_searched(self, what: str) -> None:
        """Make sure that the ticket of the study is one that is searched for.

        Args:
            what: what a search would give, as in "nothing to pretrain".

        Raises:
            StudyError: it is given.
        """
        if given := self.given:
            raise StudyError(
                f"the ticket of study {self.name!r} is given, {given.name} of [transfer], so "
                f"there is {what}; run: sat-optuna run {self.argument}, or look at "
                f"{self.folder / 'report.md'}"
            )

    @property
    def db(self) -> Path:
        """Optuna's database."""
        return self.folder / "study.db"

    @property
    def work(self) -> Path:
        """What this machine made and git ignores."""
        return self.folder / "work"

    @property
    def tickets(self) -> Path:
        """The tickets' JSON files."""
        return self.folder / "tickets"

    @property
    def weights_path(self) -> Path:
        """The trained weights that a step starts from: a user's file, or what was fetched."""
        network = self.config.network
        if network.pretrained:
            return self.work / "pretrained.safetensors"
        return self.folder / Path(network.weights).expanduser()

    @property
    def weights_digest(self) -> str | None:
        """SHA-256 of these weights; None where no step starts from any, or they are not here."""
        if not self.config.from_weights:
            return None
        record = self.records.get("weights") if self.config.network.pretrained else None
        made = record.made if record else {}
        return self.config.network.sha256 or made.get(self.weights_path.name)

    @property
    def supernet_path(self) -> Path:
        """Checkpoint of the pretraining."""
        return self.work / "supernet.safetensors"

    @property
    def project(self) -> Path:
        """The folder that holds studies/; of a study outside of one, the folder it lies in."""
        parent = self.folder.parent
        return parent.parent if parent.name == STUDIES.name else parent

    @property
    def mlruns(self) -> Path:
        """The project's mlruns/: of the nearest parent that has one, else beside studies/.

        That of a study outside of a studies/ lies beside the study.
        """
        return nearest_mlruns(self.folder.parent) or self.project / "mlruns"

    @cached_property
    def records(self) -> Records:
        """What is done, by step."""
        return Records(self.work / "done", study=self.name)

    @cached_property
    def parts(self) -> "StudyParts":
        """Data, networks and objective, each built once."""
        from sat_optuna.pipeline.parts import StudyParts

        return StudyParts(self)

    @property
    def uses_supernet(self) -> bool:
        """Whether the search needs a pretrained supernet."""
        search = self.config.search
        return search.objective in ("supernet", "folded") or search.start == "supernet"

    @property
    def search_decided(self) -> Mapping[str, Any]:
        """What decides the search: keys of study.toml and the bytes of the supernet."""
        keys = decided(self.config, "search")
        if not self.uses_supernet:
            return keys
        pretrained = self.records.get("pretrain")
        made = pretrained.made if pretrained else {}
        # Shortened, for messages show it.
        return {**keys, "the supernet's bytes": made.get(self.supernet_path.name, "none")[:16]}

    @cached_property
    def storage(self) -> "BaseStorage":
        """Optuna's storage of this study, opened once; made where there is none."""
        from sat_optuna.search.storage import open_storage

        return open_storage(self.db)

    @cached_property
    def search_name(self) -> str:
        """Name of the search in Optuna and MLflow: the folder's, or what it was at its begin.

        A search is known by its uuid. So that of a folder that was renamed or copied goes on.
        """
        from sat_optuna.search.study import name_of

        record = self.records.get("search")
        uuid = record.made.get("uuid") if record else None
        begun = name_of(self.storage, uuid) if uuid and self.db.exists() else None
        if begun not in (None, self.name):
            warnings.warn(
                f"the search of study {self.name!r} was begun as {begun!r}, in a folder that was "
                f"renamed or copied since; it goes on, as {begun!r} in Optuna and MLflow",
                SatOptunaWarning,
                stacklevel=2,
            )
        return begun or self.name

    @cached_property
    def truth_name(self) -> str:
        """Name of the Optuna study whose trials are the trainings of the truth table.

        That of a folder that was renamed since keeps its name.
        """
        if self.db.exists():
            import optuna

            names = optuna.get_all_study_names(self.storage)
            begun = [name for name in names if name.endswith(TRUTH) and name != self.search_name]
            return begun[0] if begun else f"{self.name}{TRUTH}"
        return f"{self.name}{TRUTH}"

    def has_search(self, suffix: str = "") -> bool:
        """Tell whether the search was begun, or with a suffix one that belongs to it.

        Raises:
            StudyError: study.db holds searches, but not that of this study.
        """
        if not self.db.exists():
            return False
        import optuna

        names = optuna.get_all_study_names(self.storage)
        others = [name for name in names if not name.endswith(TRUTH)]
        if others and self.search_name not in names:
            raise StudyError(
                f"{self.db} holds no study {self.name!r}; it holds: {', '.join(others)}; bring "
                "its work/ along, which says whose it is, give the folder its old name back, or "
                "move study.db away to begin anew"
            )
        return self.search_name + suffix in names

    def check_supernet(self) -> None:
        """Make sure that the supernet's file is the one that the pretraining made.

        Raises:
            StudyError: it is not there, something else decided it, or its bytes have changed.
        """
        from sat_optuna.training.checkpoint import read_record

        path, record = self.supernet_path, None
        if path.exists():
            keys = decided(self.config, "pretrain")
            record = self.records.held("pretrain", keys, there=str(path))
        if record is None or not record.finished:
            done = len(read_record(path)["history"]) if record else 0
            raise StudyError(
                f"the supernet of study {self.name!r} has {done} of {self.config.pretrain.epochs} "
                f"epochs; run: sat-optuna pretrain {self.argument}"
            )
        if sha256_of(path) != record.made[path.name]:
            raise StudyError(
                f"{path} is not what the pretraining of study {self.name!r} made: its bytes have "
                "changed since; bring that file back from a copy, or make a new study"
            )

    def optuna_study(self, suffix: str = "") -> "optuna.Study":
        """Return the Optuna study, or with a suffix one that belongs to it, for reading.

        Raises:
            StudyError: no search was run yet.
        """
        from sat_optuna.search.study import load_study

        if not self.has_search():
            self.check_searched("no search to look at")
            state = "holds no study" if self.db.exists() else "does not exist"
            raise StudyError(
                f"no search was run yet: {self.db} {state}; run: sat-optuna run {self.argument}"
            )
        if not self.has_search(suffix):
            raise StudyError(
                f"{self.db} holds no random control yet; run: sat-optuna retrain {self.argument}"
            )
        return load_study(self.storage, self.search_name + suffix)

    @property
    def search_id(self) -> int:
        """Optuna's number of the search in its database, which the dashboard's pages have."""
        from sat_optuna.sampler.storage import backend_of

        return backend_of(self.optuna_study())[1]

    def unfinished(self, suffix: str = "") -> int:
        """Return how many trials nobody has begun, or a dead process has left unfinished."""
        from optuna.trial import TrialState

        from sat_optuna.search.unfinished import stale_trials

        opened = self.optuna_study(suffix)
        waiting = opened.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return len(waiting) + len(stale_trials(opened))

    def release_dead(self) -> dict[str, list[int]]:
        """Let the trials that dead processes left RUNNING wait for the next run of their step.

        Nothing is done to the trials of a step that another process is at work on.

        Returns:
            Their numbers, by the name of the command that finishes them: search, retrain, truth.
        """
        from filelock import FileLock, Timeout

        from sat_optuna.search.storage import writing
        from sat_optuna.search.study import load_study
        from sat_optuna.search.unfinished import release_stale

        if not self.db.exists():
            return {}
        import optuna

        released = {}
        from sat_optuna.pipeline.outcome import RANDOM

        commands = {
            self.search_name: "search",
            self.search_name + RANDOM: "retrain",
            self.truth_name: "truth",
        }
        self.work.mkdir(parents=True, exist_ok=True)
        # The file may hold studies of somebody's own too.
        for name in commands.keys() & set(optuna.get_all_study_names(self.storage)):
            lock = "truth.lock" if commands[name] == "truth" else "lock"
            with suppress(Timeout), FileLock(self.work / lock, timeout=0), writing(name):
                if numbers := release_stale(load_study(self.storage, name)):
                    released[commands[name]] = numbers
        return released

    def ticket(self, trial: int | None = None) -> "Ticket":
        """Return a trial of the search as a ticket, without retrained scores.

        Args:
            trial: its number; None for the best trial, of several objectives as `best_ticket`
                chooses it.

        Raises:
            StudyError: there is no search yet, or no finished trial of that number.
        """
        from sat_optuna.search.study import finished_trials
        from sat_optuna.search.tickets import best_ticket, ticket_of

        opened = self.optuna_study()
        if trial is None:
            return self._with_weights(best_ticket(opened))
        finished = {t.number: t for t in finished_trials(opened)}
        if trial not in finished or "scheme" not in finished[trial].user_attrs:
            raise StudyError(
                f"study {self.name!r} has no finished trial {trial}; "
                f"look at: sat-optuna trials {self.argument}"
            )
        return self._with_weights(ticket_of(opened, finished[trial]))

    def _with_weights(self, ticket: "Ticket") -> "Ticket":
        """Return a ticket that names the weights which any step of the study starts from."""
        return replace(ticket, weights=ticket.weights or self.weights_digest)

    def front(self) -> "tuple[Ticket, ...]":
        """Return a ticket of each scheme on the front of a search of several objectives.

        Raises:
            StudyError: there is no search yet, no complete trial, or one objective.
        """
        from sat_optuna.search.front import front_trials
        from sat_optuna.search.tickets import ticket_of

        opened = self.optuna_study()
        found = (ticket_of(opened, trial) for trial in front_trials(opened))
        return tuple(map(self._with_weights, found))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study for one writer, who computes with the study's number of threads.

        The lock dies with the process.

        Raises:
            StudyError: somebody else holds it.
        """
        from filelock import FileLock, Timeout

        self.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.work / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise StudyError(
                f"study {self.name!r} is being run by another process, or by another call in this "
                "one; wait for it, or end it, and run the same command again"
            ) from error
        # Others may have written since, or moved files away: nothing is taken from before.
        for kept in ("records", "storage", "search_name", "parts"):
            self.__dict__.pop(kept, None)
        try:
            with computing_with(self.config.threads):
                yield
        finally:
            lock.release()

    def check(self) -> "Checked":
        """Make sure that network, data and search fit together; trains nothing.

        Of a folder of images a sample's pixels are read, of the test part those of more than 8
        bits alone, to see that they fit the scale.

        Returns:
            The number of blocks of each stage, and what the data hold.

        Raises:
            ConfigError: all faults of the network and of the data at once.
            StudyError: no scheme keeps the limits of the search.
            CompileError: train.compile, and torch.compile does not work here.
        """
        from sat_optuna.pipeline.results import Checked

        stages, data = self.parts.check_all()
        self.parts.check_search()
        if self.config.is_given:  # nothing is pretrained
            from sat_optuna.pipeline.given import carried_here

            return Checked(stages=stages, data=data, given=carried_here(self, stages)[0])
        self.parts.warn_of_start()
        return Checked(stages=stages, data=data)

    def pretrain(self, *, on_event: OnEvent = ignore) -> "Pretrained":
        """Train the supernet under random schemes; goes on where it was stopped."""
        from sat_optuna.pipeline import steps

        self.check_searched("nothing to pretrain")
        with self.locked():
            return steps.pretrain(self, on_event=on_event)

    def search(self, *, mlflow: bool = True, on_event: OnEvent = ignore) -> "Searched":
        """Bring the Optuna study to its total of finished trials.

        Args:
            mlflow: log each trial to MLflow.
            on_event: told of each trial.
        """
        from sat_optuna.pipeline import steps

        self.check_searched("nothing to search")
        with self.locked():
            return steps.search(self, mlflow=mlflow, on_event=on_event)

    def enumerate(
        self,
        *,
        top: int = 10,
        memory: int = 0,
        limit: int = ENUMERATION_LIMIT,
        on_event: OnEvent = ignore,
    ) -> "Enumerated":
        """Score all schemes in the pretrained supernet.

        Args:
            top: how many of the best schemes the pages show.
            memory: bytes that scoring may take; 0 for no limit.
            limit: refuse a study of more schemes.
            on_event: told of each scheme.

        Raises:
            SchemeError: there are more schemes than the limit.
            StudyError: the supernet is not trained, or there is none, for the ticket is given.
        """
        from sat_optuna.pipeline import steps

        self.check_searched("no supernet to score schemes in")
        with self.locked():
            return steps.score_all(self, top=top, memory=memory, limit=limit, on_event=on_event)

    def retrain(self, *, mlflow: bool = True, on_event: OnEvent = ignore) -> "Retrained":
        """Train the ticket anew beside its controls, the same seeds for all.

        Args:
            mlflow: log each retraining to MLflow.
            on_event: told of each network.
        """
        from sat_optuna.pipeline import steps

        with self.locked():
            return steps.retrain(self, mlflow=mlflow, on_event=on_event)

    def evidence(self, *, seeds: int | None = None, on_event: OnEvent = ignore) -> "Evidenced":
        """Judge the claims of the study; see `sat_optuna.evidence_of`.

        Args:
            seeds: train what the claims lack, up to this look; None trains nothing.
            on_event: told of each training.
        """
        from sat_optuna.pipeline.evidence import evidence

        with self.locked():
            return evidence(self, seeds=seeds, on_event=on_event)

    def truth(
        self,
        *,
        workers: int = 0,
        limit_hours: float = 20.0,
        supernets: int = 0,
        on_event: OnEvent = ignore,
    ) -> "TruthMade":
        """Train every scheme from scratch with several seeds: truth.npz, truth.json, truth.md.

        Of what [truth] says, it trains what is missing. Several processes may do so at the same
        time: each training is made by one of them.

        Args:
            workers: processes of this call at the same time; 0 for as many as the cores have
                threads for.
            limit_hours: core-hours that the missing trainings may take.
            supernets: of each recipe, the study's own first, how many are trained to score every
                scheme, for how far they rank the truth; at least 5 for an interval.
            on_event: told of each training.

        Raises:
            StudyError: it would take longer, or what is there was decided by something else.
        """
        on_event(Event(step="truth", done=0, total=1, message=GETTING_READY))
        from sat_optuna.pipeline.truth import make_truth

        with computing_with(self.config.threads):
            return make_truth(
                self,
                workers=workers,
                limit_hours=limit_hours,
                supernets=supernets,
                on_event=on_event,
            )

    def verify_truth(
        self, entries: int = 5, *, seed: int = 0, workers: int = 0, on_event: OnEvent = ignore
    ) -> "tuple[CheckedEntry, ...]":
        """Train random entries of the truth table again and compare; nothing is written.

        Args:
            entries: how many.
            seed: draws them.
            workers: as of `truth`.
            on_event: told of each training.

        Raises:
            StudyError: there is no table, or not of this configuration, or its bytes have changed.
        """
        on_event(Event(step="verify", done=0, total=entries, message=GETTING_READY))
        from sat_optuna.pipeline.truth import verify_truth

        with computing_with(self.config.threads):
            return verify_truth(
                self, entries=entries, seed=seed, workers=workers, on_event=on_event
            )

    def report(self, *, on_event: OnEvent = ignore) -> "Reported":
        """Write report.md and its figures."""
        from sat_optuna.pipeline import steps

        with self.locked():
            return steps.report(self, on_event=on_event)

    def run(self, *, mlflow: bool = True, on_event: OnEvent = ignore) -> "RunResult":
        """Go the whole road: pretrain, search, retrain with controls, report.

        Where the ticket is given the road begins with its retraining.

        Args:
            mlflow: log trials and retrainings to MLflow.
            on_event: told of each step.
        """
        from sat_optuna.pipeline import steps

        with self.locked():
            return steps.run(self, mlflow=mlflow, on_event=on_event)


def open_study(study: str | Path, *, trials: int | None = None) -> StudyFolder:
    """Open a study's folder; its study.toml is checked, nothing heavy is imported.

    Args:
        study: the folder, its study.toml, or the name of a folder under studies/.
        trials: total of finished trials in place of study.toml's `search.trials`.

    Raises:
        StudyError: there is no such study.
        ConfigError: study.toml has faults.
        PluginError: a file of [plugins] is missing or fails.
    """
    folder = find_study(study)
    return StudyFolder(folder, with_trials(read_study(folder), trials))


def run_study(
    study: str | Path,
    *,
    trials: int | None = None,
    mlflow: bool = True,
    on_event: OnEvent = ignore,
) -> "RunResult":
    """Go the whole road of a study, as `sat-optuna run` does; what is done is not done again.

    It may be called from a script without a main guard and from a notebook.

    Args:
        study: the folder, its study.toml, or the name of a folder under studies/.
        trials: total of finished trials in place of study.toml's `search.trials`.
        mlflow: log trials and retrainings to MLflow.
        on_event: told of each step, for example `sat_optuna.progress_bar()`.

    Returns:
        The ticket, its controls, the verdicts and the report's path.

    Raises:
        StudyError: there is no such study, or it cannot be continued.
        ConfigError: study.toml has faults.
    """
    return open_study(study, trials=trials).run(mlflow=mlflow, on_event=on_event)
