"""Results of retrainings: what was asked, what came out, where it is kept; no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from sat_optuna.config.config import StudyConfig, fingerprint
from sat_optuna.files import write_text
from sat_optuna.scheme import Scheme
from sat_optuna.training.checkpoint import EpochRecord

__all__ = [
    "RetrainJob",
    "RetrainResult",
    "kept_in",
    "read_result",
    "retrain_fingerprint",
    "write_result",
]


def kept_in(folder: Path, scheme: Scheme, seed: int) -> tuple[Path, Path]:
    """Return where the result and the weights of a retraining are kept in a folder."""
    name = f"{scheme}.seed{seed}"
    return folder / f"{name}.json", folder / f"{name}.safetensors"


@dataclass(frozen=True, slots=True)
class RetrainJob:
    """One network to train with one seed.

    Attributes:
        scheme: which blocks carry attention.
        seed: of weights, order and augmentation.
        config: the study's.
        folder: where its checkpoint and its result are kept.
        split: what it is scored on: "test", trained on train + validation; or "valid", trained on
            the training part alone.
    """

    scheme: Scheme
    seed: int
    config: StudyConfig
    folder: Path
    split: str = "test"

    @property
    def result_path(self) -> Path:
        """Where the result is kept."""
        return kept_in(self.folder, self.scheme, self.seed)[0]

    @property
    def times_path(self) -> Path:
        """Where it is kept when the training was."""
        return self.result_path.with_suffix(".times")

    @property
    def weights_path(self) -> Path:
        """Where the weights are kept."""
        return kept_in(self.folder, self.scheme, self.seed)[1]


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """What one retraining gave on the test images, or on the validation images, as its job says.

    Attributes:
        scheme, seed: which it was.
        accuracy: per cent of these images, after the last epoch; NaN in a task without labels.
        images: how many they are.
        history: a record an epoch.
        class_hits: of each class, those classified right; empty where they were not
            counted.
        class_counts: of each class, all of them.
        metric: what the study's metric is on them; None where that is the accuracy.
        started, ended: when the process that finished it began with it, and ended; seconds since
            1970. They lie in a file of their own, so that the result's bytes are those of any run;
            None where there is none.
    """

    scheme: Scheme
    seed: int
    accuracy: float
    images: int
    history: tuple[EpochRecord, ...]
    class_hits: tuple[int, ...] = ()
    class_counts: tuple[int, ...] = ()
    metric: float | None = None
    started: float | None = field(default=None, compare=False)
    ended: float | None = field(default=None, compare=False)

    @property
    def score(self) -> float:
        """The study's metric on these images."""
        return self.accuracy if self.metric is None else self.metric

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the accuracies on the classes that have images, per cent."""
        both = zip(self.class_hits, self.class_counts, strict=True)
        return fmean(100 * hits / count for hits, count in both if count)


def retrain_fingerprint(config: StudyConfig | Mapping[str, Any]) -> str:
    """Return the fingerprint of what decides a retraining, beside its scheme and seed."""
    return fingerprint(config, "retrain")


def read_result(job: RetrainJob) -> RetrainResult | None:
    """Return the stored result of a job, or None where there is none of this configuration.

    A broken file counts as none: the job is then done again.
    """
    try:
        document = json.loads(job.result_path.read_text(encoding="utf-8"))
        if document["fingerprint"] != retrain_fingerprint(job.config):
            return None
        history = tuple(EpochRecord(**entry) for entry in document["history"])
        return RetrainResult(
            job.scheme,
            job.seed,
            math.nan if document["accuracy"] is None else float(document["accuracy"]),
            int(document["images"]),
            history,
            tuple(document.get("class_hits", ())),
            tuple(document.get("class_counts", ())),
            document.get("metric"),
            *_times(job),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def write_result(job: RetrainJob, result: RetrainResult) -> Path:
    """Write a result where `read_result` finds it."""
    document = {
        "fingerprint": retrain_fingerprint(job.config),
        "scheme": str(result.scheme),
        "seed": result.seed,
        "accuracy": None if math.isnan(result.accuracy) else result.accuracy,
        "images": result.images,
        "class_hits": result.class_hits,
        "class_counts": result.class_counts,
        "history": [asdict(entry) for entry in result.history],
    } | ({} if result.metric is None else {"metric": result.metric})
    times = {"started": result.started, "ended": result.ended}
    write_text(job.times_path, json.dumps(times) + "\n")
    return write_text(job.result_path, json.dumps(document, indent=1) + "\n")


def _times(job: RetrainJob) -> tuple[float | None, float | None]:
    try:
        known = json.loads(job.times_path.read_text(encoding="utf-8"))
        return known["started"], known["ended"]
    except (OSError, ValueError, LookupError, TypeError):
        return None, None
