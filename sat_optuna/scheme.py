"""A scheme says which residual blocks carry attention; the whole package is about schemes."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from sat_optuna.errors import SchemeError

__all__ = ["ENUMERATION_LIMIT", "MAX_KINDS", "Scheme"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MAX_KINDS = len(_DIGITS) - 1
ENUMERATION_LIMIT = 2**16  # schemes that are all scored without being told to


@dataclass(frozen=True, slots=True)
class Scheme:
    """Which residual blocks carry attention: one choice for each block, from shallow to deep.

    >>> scheme = Scheme.parse("110-010-001")
    >>> scheme.stages, scheme.choices
    ((3, 3, 3), (1, 1, 0, 0, 1, 0, 0, 0, 1))
    >>> print(scheme)
    110-010-001

    The text form has one digit for each block and a dash between stages. `parse` reads what `str`
    writes.

    Attributes:
        choices: for each block 0 for no attention, or k for the study's k-th kind of attention.
        stages: number of blocks of each stage; their sum is `len(choices)`.
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

    def check_fits(self, stages: Sequence[int], *, kinds: int) -> None:
        """Make sure that this is a scheme of a network.

        Args:
            stages: number of blocks of each stage of the network.
            kinds: number of its kinds of attention.

        Raises:
            SchemeError: it has other stages, or a digit above the number of kinds.
        """
        if self.stages != tuple(stages):
            raise SchemeError(
                f"scheme {self} has stages {self.stages} and the network {tuple(stages)}; "
                "give one digit a block and '-' between stages"
            )
        if max(self.choices) > kinds:
            raise SchemeError(
                f"scheme {self} asks for kind {max(self.choices)} and the network has "
                f"{kinds}; use digits 0..{kinds}"
            )

    @classmethod
    def parse(
        cls, text: str, *, stages: Sequence[int] | None = None, kinds: int | None = None
    ) -> "Scheme":
        """Read the text form.

        Args:
            text: for example `110-010-001`.
            stages: the stages that it must have; None allows any.
            kinds: the number of kinds of attention, which is the largest digit allowed; None
                allows all digits.

        Raises:
            SchemeError: the text has a character that is no digit, a digit above `kinds`, an
                empty stage, or other stages than it must have.
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
        """Return the scheme with the same choice at every block: 0 is plain, 1 is full.

        >>> print(Scheme.uniform((3, 3), 1))
        111-111
        """
        return cls((choice,) * sum(stages), tuple(stages))

    @classmethod
    def of(cls, choices: Iterable[int], stages: Sequence[int]) -> "Scheme":
        """Return the scheme of any iterable of whole numbers, NumPy's and torch's included."""
        return cls(tuple(operator.index(choice) for choice in choices), tuple(stages))

    def __str__(self) -> str:
        return "-".join("".join(_DIGITS[c] for c in stage) for stage in self.by_stage())

    def dots(self, kinds: int = 1) -> str:
        """Return it drawn: a circle a block, filled where it has attention; stage by stage.

        Of several kinds the k-th is the number k in a circle.

        >>> Scheme.parse("110-010").dots(), Scheme.parse("10-02").dots(kinds=2)
        ('●●○ ○●○', '①○ ○②')
        """
        signs = ["○", "●"] if kinds == 1 else ["○", *(chr(ord("①") + k) for k in range(20))]
        return " ".join(
            "".join(signs[c] if c < len(signs) else _DIGITS[c] for c in stage)
            for stage in self.by_stage()
        )

    def by_stage(self) -> tuple[tuple[int, ...], ...]:
        """Return the choices, one tuple for each stage.

        >>> Scheme.parse("110-010").by_stage()
        ((1, 1, 0), (0, 1, 0))
        """
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
        """Share of blocks that carry no attention, in 0..1."""
        return 1.0 - self.density

    @staticmethod
    def parameter_names(stages: Sequence[int]) -> tuple[str, ...]:
        """Return the name of each block's Optuna parameter.

        >>> Scheme.parameter_names((2, 1))
        ('s1.b00', 's1.b01', 's2.b00')
        """
        return tuple(
            f"s{stage}.b{block:02d}"
            for stage, blocks in enumerate(stages, start=1)
            for block in range(blocks)
        )
