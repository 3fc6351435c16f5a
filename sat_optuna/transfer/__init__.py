"""A ticket elsewhere: its scheme on a network of other depth or width, and on other data."""

from sat_optuna.transfer.rule import TransferError, carried, check_told, rule_for

__all__ = ["TransferError", "carried", "check_told", "rule_for"]
