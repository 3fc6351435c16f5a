"""The claims C5 and C6, which take a truth table: how every scheme of the network does."""

from sat_optuna.evidence.claims import Claim

__all__ = ["NEEDS_TABLE", "without_table"]

NEEDS_TABLE = {
    "C5 (a)": "some schemes are truly better than full",
    "C5 (b)": "some schemes are truly worse than plain",
    "C6": "the ticket is as good as the best of all schemes",
}


def without_table(study: str) -> tuple[Claim, ...]:
    """Return these claims of a study that has no table.

    Args:
        study: its name, for the command that makes one.
    """
    why = (
        f"there is no truth table of its network and data; make one with: sat-optuna truth {study}"
    )
    return tuple(Claim(name, sentence, why=why) for name, sentence in NEEDS_TABLE.items())
