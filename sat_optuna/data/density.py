"""Density maps of dots, whose sum is the number of dots."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sat_optuna.errors import DataError

__all__ = ["density_map"]

_NEIGHBOURS = 3
_SHARE = 0.3  # of the mean distance to the neighbours


def density_map(
    dots: ArrayLike, size: tuple[int, int], *, sigma: float | None = None
) -> NDArray[np.float32]:
    """Return the density map of an image's dots: a Gaussian for each.

    >>> made = density_map([(2.0, 3.5), (0.0, 0.0)], (8, 12), sigma=1.5)
    >>> made.shape, round(float(made.sum()), 5)
    ((8, 12), 2.0)

    Each Gaussian is divided by its sum within the image, so that one at the border counts as a
    whole dot too. Without `sigma` it is as wide as the dots lie: 0.3 of the mean distance to the
    three nearest others, at least 1 pixel, at most an eighth of the image's longer side, and that
    for a single dot (geometry-adaptive kernels: Zhang et al., CVPR 2016, MCNN).

    Args:
        dots: (D, 2) row and column of each, in pixels from the centre of the first one; D may
            be 0.
        size: (H, W).
        sigma: of every Gaussian, in pixels.

    Returns:
        (H, W), dots a pixel.

    Raises:
        DataError: a dot lies outside the image, or a setting is none that may be.
    """
    places = np.asarray(dots, np.float64)
    if not places.size:
        places = places.reshape(0, 2)
    if places.ndim != 2 or places.shape[1] != 2:
        raise DataError(f"dots have shape {places.shape}; give (D, 2), row and column of each")
    height, width = size
    if sigma is not None and not sigma > 0:
        raise DataError(f"sigma is {sigma}; give a number of pixels above 0")
    inside = ((places >= -0.5) & (places <= np.array(size) - 0.5)).all(axis=1)
    if not inside.all():
        row, column = places[np.flatnonzero(~inside)[0]]
        raise DataError(
            f"a dot lies at row {row:g}, column {column:g} and the image has {height} x {width} "
            "pixels; give (row, column) of each within it"
        )
    widths = _adaptive(places, max(size)) if sigma is None else np.full(len(places), sigma)
    rows, columns = (_bells(places[:, axis], widths, size[axis]) for axis in (0, 1))
    made: NDArray[np.float32] = (rows.T @ columns).astype(np.float32)
    return made


def _bells(centres: NDArray[Any], widths: NDArray[Any], length: int) -> NDArray[np.float64]:
    """Return Gaussians along an axis, (D, length), each of sum 1."""
    away = (np.arange(length) - centres[:, None]) / widths[:, None]
    squares = away**2
    bells = np.exp(0.5 * (squares.min(axis=1, keepdims=True) - squares))  # never all 0
    return np.asarray(bells / bells.sum(axis=1, keepdims=True))


def _adaptive(places: NDArray[Any], side: int) -> NDArray[np.float64]:
    from scipy.spatial import KDTree

    most = max(side / 8, 1.0)
    if len(places) < 2:
        return np.full(len(places), most)
    found, _ = KDTree(places).query(places, min(_NEIGHBOURS + 1, len(places)))
    return np.asarray((_SHARE * found[:, 1:].mean(axis=1)).clip(1.0, most))
