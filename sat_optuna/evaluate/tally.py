"""What the leaves of a tree come to: which images each scheme gets right, and its losses."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sat_optuna.evaluate.network import judge

__all__ = ["Tally"]


class Tally:
    """Gathers what leaves come to, on the device until all of it is fetched at once.

    Args:
        schemes: how many.
        images: that each is scored on.
        chunk: images a pass.
        device: of the logits.
        on_scheme: called after the work of each scheme.
    """

    def __init__(
        self,
        schemes: int,
        images: int,
        chunk: int,
        device: torch.device,
        on_scheme: Callable[[], None] | None,
    ) -> None:
        # Made before the walk: see `PrefixStatistics.prepare`.
        self._right = torch.empty((schemes, images), dtype=torch.bool, device=device)
        self._loss = torch.empty((schemes, -(-images // chunk)), device=device)
        self._chunk, self._on_scheme, self._leaves = chunk, on_scheme, 0

    def add(self, place: int, logits: Tensor, labels: Tensor) -> None:
        """Judge the next images of one scheme; each scheme's turn comes once a chunk.

        Args:
            place: of the scheme.
            logits: (n, classes) of the chunk.
            labels: (n,) int64.
        """
        schemes, passes = self._loss.shape
        number = self._leaves // schemes
        right, loss = judge(logits, labels)
        self._right[place, number * self._chunk :][: len(right)] = right
        self._loss[place, number] = loss
        self._leaves += 1
        if self._on_scheme and self._leaves % passes == 0:
            self._on_scheme()

    def fetch(self) -> tuple[NDArray[np.bool_], list[list[float]]]:
        """Return which images each scheme gets right, (schemes, n), and its loss of each chunk."""
        losses: list[list[float]] = self._loss.tolist()
        return self._right.cpu().numpy(), losses
