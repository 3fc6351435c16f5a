"""When something that failed is tried again: after a while, and later each time it fails again."""

import time

__all__ = ["Patience"]

_LONGEST = 3600.0  # seconds


class Patience:
    """How long something that failed is left alone."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it may be tried, for the first time or again."""
        return time.monotonic() >= self._until

    def failed(self, first: float) -> None:
        """Note that it failed.

        Args:
            first: seconds until it is tried again; twice as many for each failure before this one
                without a success between them, an hour at most.
        """
        self._until = time.monotonic() + min(first * 2 ** min(self._failures, 16), _LONGEST)
        self._failures += 1

    def worked(self) -> None:
        """Note that it did not fail."""
        self._failures = 0
