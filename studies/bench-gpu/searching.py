"""Searches as a user runs them: an Optuna study in SQLite, beside the same work without Optuna."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import torch

from sat_optuna.config.config import TrainConfig
from sat_optuna.data.split import Split
from sat_optuna.evaluate import evaluate_network
from sat_optuna.events import Event
from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import SupernetObjective, TrainObjective
from sat_optuna.search.storage import open_storage
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.checkpoint import EpochRecord
from sat_optuna.training.loop import fit
from sat_optuna.training.precision import pick_device, to_memory_format

__all__ = ["studies"]

CONFIG = TrainConfig(batch=128, flip=True)
EPOCHS = 2


def studies(*, cut: bool) -> Iterator[dict[str, Any]]:
    """Time 8 trials that train networks and 32 that score schemes in a supernet.

    Yields:
        A row an objective: seconds of a trial, and the study's time over that of the same work
        without Optuna, which is done after it.
    """
    count, trained, scored = (100, 2, 3) if cut else (5000, 8, 32)
    drawn = generator_for("gpu study")
    side = 16 if cut else 32
    x = torch.randint(0, 256, (count, 3, side, side), generator=drawn, dtype=torch.uint8)
    data = Split.from_arrays(x, torch.arange(count) % 10, device=pick_device())
    net = Supernet(
        "resnet20", attention=("se",), in_channels=3, classes=10, seed=0, width=4 if cut else 16
    ).to(pick_device())
    supernet, train = (
        SupernetObjective(net, data, calibration=min(512, count // 2), cache=0),
        TrainObjective(net, data, epochs=EPOCHS, config=CONFIG),
    )

    def train_alone(scheme: Scheme) -> None:
        model = materialise(net, scheme)
        to_memory_format(model, CONFIG, pick_device())

        def validate(event: Event) -> None:
            if isinstance(event.made, EpochRecord):
                evaluate_network(model, train.valid)

        fit(
            model,
            train.train,
            epochs=EPOCHS,
            seed=0,
            config=CONFIG,
            on_event=validate,
        )

    yield _compared("TrainObjective", train, train_alone, trained)
    yield _compared("SupernetObjective", supernet, supernet.evaluator.score, scored)


def _compared(
    name: str,
    objective: Callable[[optuna.Trial], float | tuple[float, ...]],
    alone: Callable[[Scheme], object],
    trials: int,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(
            storage=open_storage(Path(folder) / "study.db"),
            direction="maximize",
            sampler=PolicyGradientSampler(seed=0),
        )
        study.optimize(objective, n_trials=1)  # kernels are chosen, the database is laid out
        start = time.perf_counter()
        study.optimize(objective, n_trials=trials)
        whole = time.perf_counter() - start
        schemes = [Scheme.parse(t.user_attrs["scheme"]) for t in study.trials[1:]]
    start = time.perf_counter()
    for scheme in schemes:
        alone(scheme)
    bare = time.perf_counter() - start
    passed = [t.duration.total_seconds() for t in study.trials[1:] if t.duration]
    return {
        "objective": name,
        "trials": trials,
        "study_s": round(whole, 2),
        "trial_s": f"{statistics.median(passed):.3f} ({min(passed):.3f} to {max(passed):.3f})",
        "times_without_optuna": round(whole / bare, 2),
    }
