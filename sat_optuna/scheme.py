"""Which residual blocks carry attention: the value that everything else is about."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from sat_optuna.errors import SchemeError

__all__ = ["MAX_KINDS", "Scheme"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MAX_KINDS = len(_DIGITS) - 1


@dataclass(frozen=True, slots=True)
class Scheme:
    """One choice a block, grouped by stage, from shallow to deep.

    Its text form has one digit a block and a dash between stages, `110-010-001`; `parse` and
    `str` are each other's inverse.

    Attributes:
        choices: 0 for none, k for the k-th kind of attention of the study.
        stages: number of blocks of each stage; they add up to `len(choices)`.
    """

    choices: tuple[int, ...]
    stages: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.stages or min(self.stages) < 1:
            raise SchemeError(f"stages {self.stages} given; each stage needs at least one block")
        if len(self.choices) != sum(self.stages):
            raise SchemeError(
                f"{len(self.choices)} choices given for {sum(self.stages)} blocks in stages "
                f"{self.stages}; give one choice a block"
            )
        for choice in self.choices:
            if not 0 <= choice <= MAX_KINDS:
                raise SchemeError(f"choice {choice} given; a choice lies in 0..{MAX_KINDS}")

    @classmethod
    def parse(
        cls, text: str, *, stages: Sequence[int] | None = None, kinds: int | None = None
    ) -> "Scheme":
        """Read the text form.

        Args:
            text: for example `110-010-001`.
            stages: the stages it must have, where they are known.
            kinds: the number of kinds of attention, the largest digit allowed, where known.

        Raises:
            SchemeError: a character that is no digit, a digit above `kinds`, an empty stage, or
                stages other than those expected.
        """
        groups = text.strip().split("-")
        for position, digit in enumerate(text.strip().replace("-", ""), start=1):
            if digit not in _DIGITS:
                raise SchemeError(
                    f"scheme {text!r} has {digit!r} at block {position}; "
                    "write a digit 0-9 or a-z a block and '-' between stages"
                )
            if kinds is not None and _DIGITS.index(digit) > kinds:
                raise SchemeError(
                    f"scheme {text!r} has {digit!r} at block {position}; write 0 for none or a "
                    f"digit up to {_DIGITS[kinds]}, one for each kind of attention there is"
                )
        got = tuple(len(group) for group in groups)
        if min(got) < 1 or (stages is not None and got != tuple(stages)):
            wanted = "stages of at least one block" if stages is None else f"{tuple(stages)}"
            raise SchemeError(
                f"scheme {text!r} has stages {got}, not {wanted}; "
                "write one digit a block and '-' between stages"
            )
        return cls(tuple(_DIGITS.index(d) for group in groups for d in group), got)

    @classmethod
    def uniform(cls, stages: Sequence[int], choice: int) -> "Scheme":
        """Return the scheme with the same choice at every block: 0 is plain, 1 is full."""
        return cls((choice,) * sum(stages), tuple(stages))

    @classmethod
    def of(cls, choices: Iterable[int], stages: Sequence[int]) -> "Scheme":
        """Return the scheme of any iterable of choices, also of NumPy's or torch's integers."""
        return cls(tuple(operator.index(choice) for choice in choices), tuple(stages))

    def __str__(self) -> str:
        return "-".join("".join(_DIGITS[c] for c in stage) for stage in self.by_stage())

    def by_stage(self) -> tuple[tuple[int, ...], ...]:
        """Return the choices, a tuple a stage."""
        return tuple(
            self.choices[start:end] for start, end in pairwise(accumulate(self.stages, initial=0))
        )

    @property
    def connections(self) -> int:
        """Number of blocks that carry attention."""
        return sum(choice > 0 for choice in self.choices)

    @property
    def density(self) -> float:
        """Share of blocks that carry attention, in 0..1."""
        return self.connections / len(self.choices)

    @property
    def sparsity(self) -> float:
        """Share of blocks that carry none, in 0..1."""
        return 1.0 - self.density

    @staticmethod
    def parameter_names(stages: Sequence[int]) -> tuple[str, ...]:
        """Return the Optuna parameter names: `s1.b00`, `s1.b01`, ..., `s2.b00`, ..."""
        return tuple(
            f"s{stage}.b{block:02d}"
            for stage, blocks in enumerate(stages, start=1)
            for block in range(blocks)
        )
