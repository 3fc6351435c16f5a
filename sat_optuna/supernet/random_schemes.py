"""The random schemes of a supernet's training."""

from collections.abc import Sequence

import torch

from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for

__all__ = ["DRAWS", "draw_scheme"]

DRAWS = ("iid", "antithetic", "balanced")


def draw_scheme(
    stages: Sequence[int], kinds: int, *, connect: float, draws: str, seed: int, step: int
) -> Scheme:
    """Draw the scheme of a training step; it depends on the arguments and on nothing else.

    >>> for step in (0, 1):
    ...     print(draw_scheme((3, 3), 1, connect=0.5, draws="antithetic", seed=0, step=step))
    000-001
    111-110

    Args:
        stages: number of blocks of each stage.
        kinds: K, the number of kinds.
        connect: probability that a block carries attention, in 0..1. A balanced draw does not use
            it.
        draws: one of `DRAWS`. "iid": each block carries attention with probability `connect`, each
            kind with the same probability, as published. "antithetic": steps 2j and 2j + 1 take a
            scheme and its complement. "balanced": in steps j (K + 1) to j (K + 1) + K, each block
            takes each of its K + 1 choices once.
        seed: of the whole sequence.
        step: index of the step.

    Raises:
        SchemeError: `connect` is no probability, `draws` is unknown, or antithetic draws are asked
            for with several kinds or with another probability than 0.5.
    """
    if draws not in DRAWS:
        raise SchemeError(f"draws = {draws!r} given; choose one of {', '.join(DRAWS)}")
    if not 0 <= connect <= 1:
        raise SchemeError(f"connect = {connect} given; give a probability in 0..1")
    count = sum(stages)
    if draws == "balanced":
        run, position = divmod(step, kinds + 1)
        keys = torch.rand(count, kinds + 1, generator=generator_for("scheme", seed, run))
        return Scheme.of(keys.argsort(dim=1)[:, position].tolist(), stages)
    if draws == "antithetic":
        if connect != 0.5 or kinds != 1:
            raise SchemeError(
                f"antithetic draws asked for with connect = {connect} and {kinds} kind(s); "
                "they need connect = 0.5 and one kind, choose 'iid' or 'balanced'"
            )
        pair, complement = divmod(step, 2)
        coins = torch.rand(count, generator=generator_for("scheme", seed, pair)) < 0.5
        return Scheme.of((coins ^ bool(complement)).tolist(), stages)
    generator = generator_for("scheme", seed, step)
    connected = torch.rand(count, generator=generator) < connect
    chosen = torch.randint(1, kinds + 1, (count,), generator=generator)
    return Scheme.of((connected * chosen).tolist(), stages)
