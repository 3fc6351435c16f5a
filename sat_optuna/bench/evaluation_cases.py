"""What the evaluation benchmark scores: schemes of resnets with SE on images of noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from sat_optuna.data.images import TensorImages
from sat_optuna.evaluate import Evaluator
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.precision import pick_device

__all__ = ["CASES", "GROWTH", "Case", "networks_of", "schemes_of"]

_SHAPE, _CLASSES = (3, 32, 32), 10
_CALIBRATED = 0.512  # calibration images for each image, as 512 are for 1,000
_CALIBRATION_CHUNK = 128


@dataclass(frozen=True, slots=True)
class Case:
    """Some schemes of a resnet with SE, of width 16.

    Attributes:
        blocks: of each stage.
        schemes: how many random ones; 0 for all.
        images: part of the images asked for that they are scored on.
    """

    blocks: tuple[int, int, int]
    schemes: int = 0
    images: float = 1.0


CASES = {
    "m8": Case((3, 3, 2)),
    "m9": Case((3, 3, 3)),
    "m12": Case((4, 4, 4)),
    "m16": Case((6, 5, 5), schemes=900, images=0.5),
    "m54": Case((18, 18, 18), schemes=900, images=0.2),
}
# What the time grows with, beside m: half and twice the images, and the number of schemes.
GROWTH = {
    "m8-half": Case((3, 3, 2), images=0.5),
    "m8-double": Case((3, 3, 2), images=2.0),
    "m16-100": Case((6, 5, 5), schemes=100, images=0.5),
    "m16-300": Case((6, 5, 5), schemes=300, images=0.5),
}


def networks_of(
    blocks: tuple[int, int, int], size: int, *, calibrated: bool
) -> tuple[Supernet, TensorImages, list[Tensor]]:
    """Return a supernet, images of noise and the calibration set."""
    device = pick_device()
    net = Supernet(
        "resnet20", attention=("se",), in_channels=3, classes=_CLASSES, seed=0, blocks=blocks
    ).to(device)
    images = _noise(size).to(device)
    needed = round(_CALIBRATED * size) if calibrated else 0
    noise = _noise(max(needed, 2)).to(device)
    chunks = [x for x, _ in noise.batches(None, _CALIBRATION_CHUNK)] if needed else []
    return net, images, chunks


def _noise(size: int) -> TensorImages:
    drawn = generator_for("bench", size)
    pixels = torch.randint(0, 256, (size, *_SHAPE), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(0, _CLASSES, (size,), generator=drawn)
    half = (0.5,) * _SHAPE[0]
    return TensorImages(pixels, labels, half, half)


def schemes_of(evaluator: Evaluator, case: Case) -> Iterator[Scheme]:
    """Yield all schemes, or so many different random ones."""
    if not case.schemes:
        yield from evaluator.all_schemes()
        return
    seen: set[Scheme] = set()
    for step in count():
        if len(seen) == case.schemes:
            return
        scheme = draw_scheme(case.blocks, 1, connect=0.5, draws="iid", seed=0, step=step)
        if scheme not in seen:
            seen.add(scheme)
            yield scheme
