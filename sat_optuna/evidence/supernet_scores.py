"""What supernets of several seeds and recipes say of every scheme, to hold against a truth table.

A recipe is a way to train and to read a supernet: its draws of schemes, its epochs, and whether
BatchNorm is calibrated for a scheme before it is scored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.config.config import PretrainConfig, StudyConfig, decided
from sat_optuna.data.split import Split
from sat_optuna.evidence.enumeration import enumerate_schemes
from sat_optuna.evidence.truth import load_checked, save_checked
from sat_optuna.search.objective import SupernetObjective
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.tasks import build_task
from sat_optuna.training.loop import pretrain

__all__ = ["SupernetJob", "SupernetScores", "decided_by", "read_keys", "recipes", "scores_of"]

Values = NDArray[np.float64]
_FIXED = "not recalibrated"
_READ = ("calibration", "calibration_chunk", "metric")  # of [search]


@dataclass(frozen=True, slots=True)
class SupernetJob:
    """One supernet to train and to read.

    Attributes:
        recipe: its name, as of `recipes`.
        pretrain: draws and epochs.
        seed: of weights, order and schemes.
        config: the study's.
        data_fingerprint: of the data.
    """

    recipe: str
    pretrain: PretrainConfig
    seed: int
    config: StudyConfig
    data_fingerprint: str


@dataclass(frozen=True, slots=True)
class SupernetScores:
    """The scores of all schemes, in the order of a truth table's rows.

    Attributes:
        scores: by recipe and seed, (S,) validation scores of all schemes, the higher the better.
        decided: what decides them beside recipe and seed.
    """

    scores: Mapping[tuple[str, int], Values]
    decided: Mapping[str, Any]

    @property
    def by_recipe(self) -> dict[str, Values]:
        """By recipe, (G, S) of its G seeds; a supernet read in two ways is in two recipes."""
        found: dict[str, list[Values]] = {}
        for (recipe, _), row in sorted(self.scores.items(), key=lambda item: item[0][1]):
            found.setdefault(recipe, []).append(row)
        return {recipe: np.array(rows) for recipe, rows in found.items()}

    def save(self, folder: Path) -> None:
        """Write supernets.npz and supernets.json; an end between them leaves the old or the new.

        Raises:
            WriteError: the disk is full, the folder cannot be written, or the like.
        """
        arrays = {
            "scores": np.array([*self.scores.values()]),
            "recipes": np.array([recipe for recipe, _ in self.scores]),
            "seeds": np.array([seed for _, seed in self.scores]),
        }
        save_checked(folder / "supernets.npz", arrays, {"decided": dict(self.decided)})

    @classmethod
    def load(cls, folder: Path) -> "SupernetScores | None":
        """Read what `save` wrote; None where there is nothing.

        Raises:
            StudyError: the two files do not belong together.
        """
        npz = folder / "supernets.npz"
        if not npz.exists() and not npz.with_suffix(".json").exists():
            return None
        stored, document = load_checked(npz, "supernet scores")
        rows = document.get("rows", ())  # an earlier version kept the keys of the rows there
        names = stored.get("recipes", [row["recipe"] for row in rows])
        seeds = stored.get("seeds", [row["seed"] for row in rows])
        keys = zip(map(str, names), map(int, seeds), strict=True)
        return cls(dict(zip(keys, stored["scores"], strict=True)), document["decided"])


def recipes(config: StudyConfig) -> dict[str, PretrainConfig]:
    """Return the ways in which supernets are trained: the study's own first.

    The others have half and twice its epochs, and the other draws of schemes.

    >>> [*recipes(StudyConfig(pretrain=PretrainConfig(epochs=40)))]
    ['iid, 40 epochs', 'iid, 20 epochs', 'iid, 80 epochs', 'antithetic, 40 epochs', \
'balanced, 40 epochs']
    """
    own = config.pretrain
    longer = [max(1, own.epochs // 2), 2 * own.epochs]
    others = [draws for draws in ("iid", "antithetic", "balanced") if draws != own.draws]
    asked = [own]
    asked += [replace(own, epochs=epochs) for epochs in longer if epochs != own.epochs]
    asked += [replace(own, draws=draws) for draws in others]
    return {f"{one.draws}, {one.epochs} epochs": one for one in asked}


def decided_by(config: StudyConfig) -> dict[str, Any]:
    """Return the keys that decide `scores_of` and are not at their defaults.

    Of a search only what scores a scheme counts: which schemes it draws does not.

    >>> from sat_optuna.config.config import SearchConfig
    >>> decided_by(StudyConfig(seed=3, search=SearchConfig(sampler="tpe", calibration=64)))
    {'seed': 3, 'search.calibration': 64}
    """
    return read_keys({**decided(config, "pretrain"), **decided(config, "scores")})


def read_keys(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that `scores_of` reads; earlier versions stored all those of a search."""
    read = {f"search.{name}" for name in _READ}
    return {k: v for k, v in stored.items() if not k.startswith("search.") or k in read}


def scores_of(job: SupernetJob, data: Split) -> dict[str, Values]:
    """Train a supernet and return what it says of all schemes.

    Returns:
        (S,) by recipe: with BatchNorm calibrated for each scheme, and "..., not recalibrated".
    """
    config = job.config
    task = build_task(config.task.name, class_weights=config.task.class_weights)
    net = Supernet(
        config.network.backbone,
        attention=config.attention.kinds,
        in_channels=data.shape[0],
        classes=data.classes,
        seed=job.seed,
        **config.network.backbone_settings,
    ).to(data.train.device)
    pretrain(
        net,
        data,
        epochs=job.pretrain.epochs,
        seed=job.seed,
        connect=job.pretrain.connect,
        draws=job.pretrain.draws,
        config=config.train,
        task=task,
    )
    search, found = config.search, {}
    for name, calibration in ((job.recipe, search.calibration), (f"{job.recipe}, {_FIXED}", 0)):
        objective = SupernetObjective(
            net,
            data,
            calibration=calibration,
            calibration_chunk=search.calibration_chunk,
            seed=config.seed,
            task=task,
            metric=search.metric,
            cache=0,
        )
        found[name] = enumerate_schemes(objective).points
    return found
