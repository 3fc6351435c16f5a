"""What supernets of several seeds and recipes say of every scheme, to hold against a truth table.

A recipe is a way to train and to read a supernet: its draws of schemes, its epochs, and whether
BatchNorm is calibrated for a scheme before it is scored.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.config.config import PretrainConfig, StudyConfig
from sat_optuna.data.split import Split
from sat_optuna.errors import StudyError
from sat_optuna.evidence.enumeration import enumerate_schemes
from sat_optuna.files import write_atomically, write_text
from sat_optuna.search.objective import SupernetObjective
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.tasks import build_task
from sat_optuna.training.loop import pretrain

__all__ = ["SupernetJob", "SupernetScores", "recipes", "scores_of"]

Values = NDArray[np.float64]
_FIXED = "not recalibrated"


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
        """Write supernets.npz, then supernets.json, which holds its checksum."""
        stream = io.BytesIO()
        keys = [*self.scores]
        np.savez_compressed(stream, scores=np.array([self.scores[key] for key in keys]))
        payload = stream.getvalue()
        write_atomically(folder / "supernets.npz", lambda path: path.write_bytes(payload))
        rows = [{"recipe": recipe, "seed": seed} for recipe, seed in keys]
        document = {
            "rows": rows,
            "decided": dict(self.decided),
            "sha256": sha256(payload).hexdigest(),
        }
        write_text(folder / "supernets.json", json.dumps(document, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "SupernetScores | None":
        """Read what `save` wrote; None where there is nothing.

        Raises:
            StudyError: the two files do not belong together.
        """
        npz, path = folder / "supernets.npz", folder / "supernets.json"
        if not path.exists():
            return None
        document = json.loads(path.read_text(encoding="utf-8"))
        payload = npz.read_bytes() if npz.exists() else b""
        if sha256(payload).hexdigest() != document["sha256"]:
            raise StudyError(
                f"{npz} is not what {path.name} was written for; bring both files back from a "
                "copy, or move them away to score the supernets again"
            )
        with np.load(io.BytesIO(payload), allow_pickle=False) as stored:
            rows = stored["scores"]
        keys = [(row["recipe"], row["seed"]) for row in document["rows"]]
        return cls(dict(zip(keys, rows, strict=True)), document["decided"])


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
