"""The folder of a study: what lies where, who may write, and each step of its road."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sat_optuna.config.config import StudyConfig, decided, with_trials
from sat_optuna.errors import StudyError
from sat_optuna.events import OnEvent, ignore
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.done import Records
from sat_optuna.pipeline.reading import read_study
from sat_optuna.pipeline.threads import computing_with
from sat_optuna.scheme import ENUMERATION_LIMIT

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage

    from sat_optuna.pipeline.parts import StudyParts
    from sat_optuna.pipeline.results import (
        Checked,
        Enumerated,
        Pretrained,
        Reported,
        Retrained,
        RunResult,
        Searched,
    )
    from sat_optuna.ticket import Ticket

__all__ = ["STUDIES", "StudyFolder", "find_study", "nearest_mlruns", "open_study", "run_study"]

STUDIES = Path("studies")


def find_study(study: str | Path) -> Path:
    """Return the folder of a study given as a folder, its study.toml, or a name under studies/.

    Raises:
        StudyError: neither holds a study.toml.
    """
    from sat_optuna.registry import nearest

    given = Path(study)
    given = given.parent if given.name == "study.toml" else given
    text = str(given)
    for folder in (given, STUDIES / given):
        if (folder / "study.toml").is_file():
            return folder.resolve()
    known = sorted(path.parent.name for path in STUDIES.glob("*/study.toml"))
    listed = f"known: {', '.join(known)}" if known else "there is none here yet"
    raise StudyError(
        f"no study {text!r}: neither {text}/study.toml nor {STUDIES / text}/study.toml exists"
        f"{nearest(text, known) or ';'} {listed}; make one with: sat-optuna new {given.name}"
    )


def nearest_mlruns(folder: Path) -> Path | None:
    """Return the mlruns/ of a folder or of its nearest parent that has one, within the project.

    A project's folder holds pyproject.toml, .git or studies/; where none does, the project is
    taken to be the folder's parent.
    """
    upwards = (folder, *folder.parents)
    signs = ("pyproject.toml", ".git", STUDIES)
    projects = (p for p in upwards if any((p / sign).exists() for sign in signs))
    project = next(projects, folder.parent)
    for parent in upwards[: upwards.index(project) + 1]:
        if (parent / "mlruns").is_dir():
            return parent / "mlruns"
    return None


class StudyFolder:
    """A study: its folder, its configuration, and each step of its road.

    Each step is skipped where its result is there, and goes on where it was stopped. While a step
    runs, no other process can run one in the same folder.

    Attributes:
        folder: holds study.toml; absolute.
        config: its resolved configuration.
    """

    def __init__(self, folder: Path, config: StudyConfig) -> None:
        self.folder, self.config = folder, config

    @property
    def name(self) -> str:
        """Name of the study: its folder's."""
        return self.folder.name

    @property
    def plugins(self) -> tuple[Path, ...]:
        """The files that [plugins] lists."""
        return tuple(self.folder / name for name in self.config.plugins.modules)

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
    def supernet_path(self) -> Path:
        """Checkpoint of the pretraining."""
        return self.work / "supernet.safetensors"

    @property
    def mlruns(self) -> Path:
        """The project's mlruns/: of the nearest parent that has one, else beside studies/."""
        return nearest_mlruns(self.folder.parent) or self.folder.parent.parent / "mlruns"

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
        return "supernet" in (self.config.search.objective, self.config.search.start)

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
    def storage(self) -> "RDBStorage":
        """Optuna's storage of this study, opened once; made where there is none."""
        from sat_optuna.search.storage import open_storage

        return open_storage(self.db)

    def has_search(self, suffix: str = "") -> bool:
        """Tell whether the search was begun, or with a suffix one that belongs to it.

        Raises:
            StudyError: study.db holds searches, but not that of this study.
        """
        import optuna

        names = optuna.get_all_study_names(self.storage) if self.db.exists() else []
        if names and self.name not in names:
            raise StudyError(
                f"{self.db} holds no study {self.name!r}; it holds: {', '.join(names)}; give the "
                "folder its old name back, or move study.db away to begin anew"
            )
        return self.name + suffix in names

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
                f"epochs; run: sat-optuna pretrain {self.name}"
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
            state = "holds no study" if self.db.exists() else "does not exist"
            raise StudyError(
                f"no search was run yet: {self.db} {state}; run: sat-optuna run {self.name}"
            )
        if not self.has_search(suffix):
            raise StudyError(
                f"{self.db} holds no random control yet; run: sat-optuna retrain {self.name}"
            )
        return load_study(self.storage, self.name + suffix)

    def waiting(self, suffix: str = "") -> int:
        """Return how many enqueued trials the Optuna study has that nobody has begun."""
        from optuna.trial import TrialState

        opened = self.optuna_study(suffix)
        return len(opened.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def ticket(self, trial: int | None = None) -> "Ticket":
        """Return a trial of the search as a ticket, without retrained scores.

        Args:
            trial: its number; None for the best trial.

        Raises:
            StudyError: there is no search yet, or no finished trial of that number.
        """
        from sat_optuna.search.study import finished_trials
        from sat_optuna.search.tickets import best_ticket, ticket_of

        opened = self.optuna_study()
        if trial is None:
            return best_ticket(opened)
        finished = {t.number: t for t in finished_trials(opened)}
        if trial not in finished or "scheme" not in finished[trial].user_attrs:
            raise StudyError(
                f"study {self.name!r} has no finished trial {trial}; "
                f"look at: sat-optuna trials {self.name}"
            )
        return ticket_of(opened, finished[trial])

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
        for kept in ("records", "storage", "parts"):
            self.__dict__.pop(kept, None)
        try:
            with computing_with(self.config.threads):
                yield
        finally:
            lock.release()

    def check(self) -> "Checked":
        """Make sure that network, data and search fit together; trains nothing.

        Of the test part no pixels are read, of a folder of images a sample's.

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
        self.parts.warn_of_start()
        return Checked(stages=stages, data=data)

    def pretrain(self, *, on_event: OnEvent = ignore) -> "Pretrained":
        """Train the supernet under random schemes; goes on where it was stopped."""
        from sat_optuna.pipeline import steps

        with self.locked():
            return steps.pretrain(self, on_event=on_event)

    def search(self, *, mlflow: bool = True, on_event: OnEvent = ignore) -> "Searched":
        """Bring the Optuna study to its total of finished trials.

        Args:
            mlflow: log each trial to MLflow.
            on_event: told of each trial.
        """
        from sat_optuna.pipeline import steps

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
            StudyError: the supernet is not trained.
        """
        from sat_optuna.pipeline import steps

        with self.locked():
            return steps.score_all(self, top=top, memory=memory, limit=limit, on_event=on_event)

    def retrain(self, *, mlflow: bool = True, on_event: OnEvent = ignore) -> "Retrained":
        """Train the ticket from scratch beside its controls, the same seeds for all.

        Args:
            mlflow: log each retraining to MLflow.
            on_event: told of each network.
        """
        from sat_optuna.pipeline import steps

        with self.locked():
            return steps.retrain(self, mlflow=mlflow, on_event=on_event)

    def report(self, *, on_event: OnEvent = ignore) -> "Reported":
        """Write report.md and its figures."""
        from sat_optuna.pipeline import steps

        with self.locked():
            return steps.report(self, on_event=on_event)

    def run(self, *, mlflow: bool = True, on_event: OnEvent = ignore) -> "RunResult":
        """Go the whole road: pretrain, search, retrain with controls, report.

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
