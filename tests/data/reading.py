"""What lies behind Images, for tests that compare it with what was written."""

from pathlib import Path

from torch import Tensor

from sat_optuna.data.folder import FolderImages
from sat_optuna.data.images import Images, TensorImages


def pixels(images: Images) -> Tensor:
    """uint8 (N, C, H, W)."""
    assert isinstance(images, TensorImages)
    return images.images


def paths(images: Images) -> tuple[Path, ...]:
    assert isinstance(images, FolderImages)
    return images.paths
