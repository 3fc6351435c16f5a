"""Where a study keeps its things, and how its parts are put together from study.toml."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sat_optuna.config.config import StudyConfig, fingerprint, with_trials
from sat_optuna.errors import CheckpointError, ConfigError, SatOptunaError, StudyError
from sat_optuna.pipeline.open import read_study
from sat_optuna.training.checkpoint import read_record

if TYPE_CHECKING:
    import optuna

    from sat_optuna.data.split import Split
    from sat_optuna.search.objective import SupernetObjective
    from sat_optuna.supernet.supernet import Supernet
    from sat_optuna.training.loop import Checkpoint

__all__ = ["STUDIES", "Workspace", "find_study", "nearest_mlruns"]

STUDIES = Path("studies")


def find_study(text: str) -> Path:
    """Return the folder of a study given as a folder, its study.toml, or a name under studies/.

    Raises:
        StudyError: neither holds a study.toml.
    """
    from sat_optuna.registry import nearest

    given = Path(text)
    for folder in (given.parent if given.name == "study.toml" else given, STUDIES / text):
        if (folder / "study.toml").is_file():
            return folder.resolve()
    known = sorted(path.parent.name for path in STUDIES.glob("*/study.toml"))
    listed = f"known: {', '.join(known)}" if known else "there is none here yet"
    raise StudyError(
        f"no study {text!r}: neither {text}/study.toml nor {STUDIES / text}/study.toml exists"
        f"{nearest(text, known) or ';'} {listed}; make one with: sat-optuna new {Path(text).name}"
    )


def nearest_mlruns(folder: Path) -> Path | None:
    """Return the mlruns/ of a folder or of its nearest parent that has one."""
    for place in (folder, *folder.parents):
        if (place / "mlruns").is_dir():
            return place / "mlruns"
    return None


@dataclass(frozen=True)
class Workspace:
    """A study's folder.

    Attributes:
        folder: holds study.toml; absolute.
        config: its resolved configuration.
    """

    folder: Path
    config: StudyConfig

    @classmethod
    def open(cls, study: str, *, trials: int | None = None) -> "Workspace":
        """Find a study and read its study.toml; names are checked, nothing heavy is imported.

        Args:
            study: folder or name.
            trials: replaces search.trials where given.

        Raises:
            StudyError: there is no such study.
            ConfigError: study.toml has faults.
        """
        folder = find_study(study)
        config = read_study(folder)
        return cls(folder, with_trials(config, trials))

    @property
    def plugins(self) -> tuple[Path, ...]:
        """The files that [plugins] lists."""
        return tuple(self.folder / name for name in self.config.plugins.modules)

    @property
    def name(self) -> str:
        """Name of the study: its folder's."""
        return self.folder.name

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
    def mlruns(self) -> Path:
        """The project's mlruns/: of the nearest parent that has one, else beside studies/."""
        return nearest_mlruns(self.folder.parent) or self.folder.parent.parent / "mlruns"

    @property
    def supernet_path(self) -> Path:
        """Checkpoint of the pretraining."""
        return self.work / "supernet.safetensors"

    @property
    def pretrain_fingerprint(self) -> str:
        """Fingerprint of what decides the supernet's weights."""
        return fingerprint(self.config, without=("search", "retrain", "train.compile"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study for one writing process; the lock dies with the process.

        Raises:
            StudyError: another process holds it.
        """
        from filelock import FileLock, Timeout

        self.work.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.work / "lock", timeout=0):
                yield
        except Timeout as error:
            raise StudyError(
                f"study {self.name!r} is being run by another process; "
                "wait for it, or end it, and run the same command again"
            ) from error

    def pretrained_epochs(self) -> int:
        """Return the finished epochs of the supernet, 0 without a checkpoint; imports no torch.

        Raises:
            CheckpointError: the checkpoint is broken or of another configuration.
        """
        if not self.supernet_path.exists():
            return 0
        record = read_record(self.supernet_path)
        if record.get("fingerprint") != self.pretrain_fingerprint:
            raise CheckpointError(
                f"{self.supernet_path} was trained with another configuration than study.toml's; "
                "restore study.toml, or make a new study for the new one, or move the file away "
                "to train it again"
            )
        return len(record["history"])

    @cached_property
    def data(self) -> "Split":
        """The data set, on the GPU where there is one."""
        from sat_optuna.data import load_configured
        from sat_optuna.training.precision import pick_device

        return load_configured(self.config.data, seed=self.config.seed, device=str(pick_device()))

    def check_network(self) -> tuple[int, ...]:
        """Check that the backbone, and each module at each of its widths, can be built.

        Returns:
            The number of blocks of each stage.

        Raises:
            ConfigError: all faults at once.
        """
        import torch

        from sat_optuna.attention import OWN, attention_faults
        from sat_optuna.backbones import build_backbone
        from sat_optuna.backbones.view import view_of
        from sat_optuna.supernet.placement import placement_faults

        network, kinds = self.config.network, self.config.attention.kinds
        own = OWN in [spec.kind for spec in kinds]
        stages: tuple[int, ...] = ()
        try:
            with torch.device("meta"):  # shapes alone: nothing is allocated or drawn
                backbone = build_backbone(
                    network.backbone, in_channels=3, classes=2, **network.settings
                )
                view = view_of(backbone, own=own)
            stages, faults = view.stage_sizes, placement_faults(kinds, view)
        except SatOptunaError as error:
            others = [spec for spec in kinds if spec.kind != OWN]
            faults = [str(error), *(f for spec in others for f in attention_faults(spec))]
        faults = faults or self._input_faults()
        if faults:
            raise ConfigError(str(self.folder / "study.toml"), faults)
        return stages

    def _input_faults(self) -> list[str]:
        """Return why the data's images do not go through the network, if their size is known."""
        import torch

        from sat_optuna.data import DATASETS

        data = self.config.data
        try:
            shape = DATASETS.get(data.name)().image_shape(data.size or None)
            if shape is None:
                return []
            # Shapes alone; but what a plugin says of its own network is compared in values.
            for device in ("meta", "cpu") if self.plugins else ("meta",):
                with torch.device(device):
                    self._supernet(in_channels=shape[0], classes=2).check_input(shape)
        except SatOptunaError as error:
            return [str(error)]
        return []

    def _supernet(self, *, in_channels: int, classes: int) -> "Supernet":
        from sat_optuna.supernet.supernet import Supernet

        network = self.config.network
        return Supernet(
            network.backbone,
            attention=self.config.attention.kinds,
            in_channels=in_channels,
            classes=classes,
            seed=self.config.seed,
            **network.settings,
        )

    def fresh_supernet(self) -> "Supernet":
        """Build the supernet with fresh weights, on the GPU where there is one."""
        from sat_optuna.training.precision import pick_device

        self.check_network()
        net = self._supernet(in_channels=self.data.shape[0], classes=self.data.classes)
        net.check_input(self.data.shape)
        return net.to(pick_device())

    def trained_supernet(self) -> "Supernet":
        """Build the supernet with the pretrained weights.

        Raises:
            StudyError: it is not pretrained yet.
        """
        from sat_optuna.training.checkpoint import load_tensors

        epochs = self.config.pretrain.epochs
        if (done := self.pretrained_epochs()) < epochs:
            raise StudyError(
                f"the supernet of study {self.name!r} has {done} of {epochs} epochs; "
                f"run: sat-optuna pretrain {self.name}"
            )
        net = self.fresh_supernet()
        tensors = load_tensors(self.supernet_path)
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k[:6] == "model."}
        net.load_state_dict(weights)
        return net

    def supernet_objective(self, **limits: int) -> "SupernetObjective":
        """Return what scores schemes in the pretrained supernet, as study.toml says.

        Args:
            **limits: `cache` and `memory` of the objective, which change no score.

        Raises:
            StudyError: it is not pretrained yet.
        """
        from sat_optuna.search.objective import SupernetObjective

        search = self.config.search
        return SupernetObjective(
            self.trained_supernet(),
            self.data,
            sparsity_weight=search.sparsity_weight,
            calibration=search.calibration if search.recalibrate else 0,
            calibration_chunk=search.calibration_chunk,
            seed=self.config.seed,
            **limits,
        )

    def checkpoint(self) -> "Checkpoint":
        """Checkpoint of the pretraining."""
        from sat_optuna.training.loop import Checkpoint

        return Checkpoint(self.supernet_path, self.pretrain_fingerprint)

    def load_study(self, suffix: str = "") -> "optuna.Study":
        """Open the study, or with a suffix one that belongs to it, for reading.

        Raises:
            StudyError: no search was run yet.
        """
        from sat_optuna.search.study import load_study

        return load_study(self.db, self.name + suffix)
