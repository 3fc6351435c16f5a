"""A clock that only moves when it is told to, so that timing can be tested to the digit."""

import pytest


class Clock:
    """Stands in for the clock of `sat_optuna.cost.timing`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr("sat_optuna.cost.timing.perf_counter", lambda: self.seconds)

    def pass_ms(self, milliseconds: float) -> None:
        """Let so much time pass."""
        self.seconds += milliseconds / 1000
