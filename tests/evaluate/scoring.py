"""Images, schemes and the score of each scheme alone, for several tests."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sat_optuna.data.images import TensorImages
from sat_optuna.evaluate import Evaluation, evaluate_network, score_scheme
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from tests.networks import SHAPE


def some_images(count: int = 23, shape: Sequence[int] = SHAPE, classes: int = 5) -> TensorImages:
    chance = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=chance)
    labels = torch.randint(0, classes, (count,), generator=chance)
    half = (0.5,) * shape[0]
    return TensorImages(pixels, labels, half, half)


def chunks(*sizes: int, shape: Sequence[int] = SHAPE) -> list[Tensor]:
    """A calibration set in chunks of these sizes."""
    return [x for n in sizes for x, _ in some_images(n, shape).batches(None, n)]


def alone(
    net: Supernet,
    schemes: Iterable[Scheme],
    images: TensorImages,
    calibration: Sequence[Tensor],
    chunk: int,
) -> dict[Scheme, Evaluation]:
    """The score of each scheme, one after the other."""
    return {
        scheme: score_scheme(net, scheme, calibration=calibration, images=images, batch=chunk)
        if calibration
        else evaluate_network(net, images, scheme=scheme, batch=chunk)
        for scheme in schemes
    }
