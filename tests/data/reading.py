"""What lies behind Images, for tests that compare it with what was written."""

from pathlib import Path
from typing import Any

from torch import Tensor

import sat_optuna.data
from sat_optuna.data.folder import FolderImages
from sat_optuna.data.images import Images, TensorImages

# Its parts know labels, mean and deviation, which the type Split does not promise of every part.
load_dataset: Any = sat_optuna.data.load_dataset


def pixels(images: Images) -> Tensor:
    """uint8 (N, C, H, W)."""
    assert isinstance(images, TensorImages)
    return images.images


def paths(images: Images) -> tuple[Path, ...]:
    assert isinstance(images, FolderImages)
    return images.paths
