"""Settings of backbones that count something."""

from sat_optuna.backbones.contract import BackboneError

__all__ = ["check_counts"]


def check_counts(**settings: object) -> None:
    """Make sure that settings are whole numbers from 1 up.

    Raises:
        BackboneError: one is not.
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BackboneError(
                f"{name} = {value!r} given; give a whole number that is at least 1"
            )
