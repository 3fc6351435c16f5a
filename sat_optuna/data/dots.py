"""Dots in images, each made a Gaussian of a density map."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from sat_optuna.data.density import density_map
from sat_optuna.data.maps import MapSource, Size
from sat_optuna.data.pixels import Header
from sat_optuna.data.source import Options

__all__ = ["DotSource", "Dots"]


@dataclass(frozen=True, slots=True)
class Dots:
    """The dots of an image.

    Attributes:
        file: that holds them.
        places: (D, 2) x and y of each as they are in the file, finite, in pixels.
        numbers: (D,) in which line of the file each is, or the how many-th.
    """

    file: Path
    places: NDArray[np.float64]
    numbers: NDArray[np.int64]


class DotSource(MapSource[Dots]):
    """Images with dots."""

    targets = "density"
    outside = 0
    dtype = torch.float32
    corner: ClassVar[float] = 0.0  # x and y of the image's upper left corner
    border: ClassVar[float] = 0.0  # pixels beyond it that still count as on it
    word: ClassVar[str] = "line"  # what `Dots.numbers` count

    def sigma(self, options: Options) -> float | None:
        """Return a Gaussian's sigma in pixels of its file; None makes it as wide as dots lie."""
        return options.sigma

    @override
    def words(self, options: Options) -> tuple[str, ...]:
        sigma = self.sigma(options)
        if sigma is None:
            how = "0.3 of the mean distance to the three nearest others"
        else:
            how = f"{sigma:g} pixels of its file"
        return (f"each dot is a Gaussian whose sigma is {how}",)

    @override
    def target_faults(self, path: Path, target: Dots, header: Header) -> list[str]:
        height, width = header.height, header.width
        turned = ", turned as EXIF says" if header.orientation > 4 else ""
        places = target.places - self.corner
        within = (places >= -self.border) & (places <= np.array([width, height]) + self.border)
        return [
            f"{target.file}, {self.word} {target.numbers[row]}: the dot at x = "
            f"{target.places[row, 0]:g}, y = {target.places[row, 1]:g} lies outside image "
            f"{path.name}, which is {width} pixels wide and {height} high{turned}; "
            "correct or delete it"
            for row in np.flatnonzero(~within.all(axis=1))
        ]

    @override
    def map_of(
        self, target: Dots, size: Size, fitted: Size, classes: int, options: Options
    ) -> NDArray[Any]:
        places = (target.places[:, ::-1] - self.corner).clip(0, size) * np.divide(fitted, size)
        sigma = self.sigma(options)
        return density_map(
            (places - 0.5).clip(-0.5, np.array(fitted) - 0.5),
            fitted,
            sigma=None if sigma is None else sigma * max(fitted) / max(size),
        )
