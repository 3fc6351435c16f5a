"""What the steps of a study come to: frozen values, which the command line prints."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Ticket

if TYPE_CHECKING:
    from sat_optuna.cost.latency import LatencyModel
    from sat_optuna.data.examined import Examined
    from sat_optuna.evidence.claims import Claim
    from sat_optuna.evidence.enumeration import Enumeration
    from sat_optuna.evidence.spread import Spread
    from sat_optuna.evidence.truth import TruthTable

__all__ = [
    "Checked",
    "CheckedEntry",
    "Enumerated",
    "Evidenced",
    "Opened",
    "Pretrained",
    "Reported",
    "Retrained",
    "RunResult",
    "Searched",
    "Timed",
    "TruthMade",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A study without a fault.

    Attributes:
        stages: number of blocks of each stage.
        data: what its data set holds.
        given: the scheme of the ticket that is given; None where it is searched for.
    """

    stages: tuple[int, ...]
    data: "Examined"
    given: Scheme | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A study's data, opened to be trained on.

    Attributes:
        remarks: what a user should know of how they are read, a sentence each.
    """

    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What each module takes at each block, measured before a search.

    Attributes:
        path: of the file that keeps it.
        model: the milliseconds of any scheme.
    """

    path: Path
    model: "LatencyModel"

    @property
    def full_ms(self) -> float:
        """Milliseconds of the first kind in all blocks."""
        return self.model.predict(Scheme.uniform(self.model.stages, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A supernet trained to its configured epochs.

    Attributes:
        path: its checkpoint.
        epochs: how many it was trained for.
        loss: of the last epoch; None where nothing was trained now.
    """

    path: Path
    epochs: int
    loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """The trials of a search, or of its random control.

    Attributes:
        step: "search" or "search random".
        db: Optuna's database.
        trials: finished ones in all.
        new: of these, finished now.
        left: what search.timeout left to do.
        caught_up: whether trials of earlier runs were logged to MLflow now.
        best: the scheme of the highest reward and what it scored, in words.
        spread: how far the accuracies of the complete trials lie apart; None for the control and
            where there is none.
    """

    step: str
    db: Path
    trials: int
    new: int = 0
    left: int = 0
    caught_up: bool = False
    best: str = ""
    spread: "Spread | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Enumerated:
    """All schemes scored in the supernet.

    Attributes:
        scores: of all schemes.
        new: whether they were scored now.
        table: enumeration.npz, the scores.
        page: enumeration.md.
        folded: folded.md, where modules of a trained network were dropped; else None.
        kept: by points that may be lost, the ticket of fewest modules then.
    """

    scores: "Enumeration"
    new: bool
    table: Path
    page: Path
    folded: Path | None = None
    kept: Mapping[float, Ticket] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """The ticket and its controls, retrained.

    Attributes:
        tickets: by role, with their test scores and costs.
        networks: how many were trained in all.
        new: whether anything was trained, measured or logged now.
        folder: where the trainings keep their results.
        table: where MLflow has the table of them, in words; empty where they are not logged.
    """

    tickets: Mapping[str, Ticket]
    networks: int
    new: bool
    folder: Path
    table: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """The report.

    Attributes:
        path: of report.md.
        page: of report.html, the same for a browser.
        tickets: by role, what it tells of.
        new: whether it was written now.
    """

    path: Path
    page: Path
    tickets: Mapping[str, Ticket]
    new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidenced:
    """The claims of a study, judged.

    Attributes:
        claims: C1 to C6 with their parts, and whether the ticket beats plain and constant.
        headline: what they come to, a sentence or two.
        runs: evidence/runs.json, what they are computed from.
        page: evidence.md; evidence.json lies beside it.
        remarks: what else a reader must know, a sentence each.
        theory: what the method's own statements come to on the full network, a line each.
    """

    claims: "tuple[Claim, ...]"
    headline: str
    runs: Path
    page: Path
    remarks: tuple[str, ...]
    theory: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthMade:
    """A ground-truth table, whole or a part of it.

    Attributes:
        table: what is in it.
        folder: where truth.npz and truth.json lie.
        new: trainings made now.
        elsewhere: trainings that other processes have under way.
        page: truth.md; None before some schemes have two trainings.
    """

    table: "TruthTable"
    folder: Path
    new: int
    elsewhere: int
    page: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedEntry:
    """An entry of a ground-truth table, trained again.

    Attributes:
        scheme, seed: which one.
        stored, again: by column of the table, what it holds and what came out now.
        noise: by "valid" and "test", the standard deviation between the seeds of the 33 schemes of
            the table whose means are nearest (`noise_of`); NaN where no scheme has two.
        same_machine: whether the processor, the versions and the number of threads are those that
            made the entry, so that each bit must come out again.
    """

    scheme: str
    seed: int
    stored: Mapping[str, float]
    again: Mapping[str, float]
    noise: Mapping[str, float]
    same_machine: bool

    # Differences of two trainings that share no chance have sqrt(2) times the deviation of one.
    _MOST: ClassVar[float] = 3 * math.sqrt(2)

    @property
    def is_equal(self) -> bool:
        """Whether each bit came out again."""
        return all(
            value == self.again[name] or (math.isnan(value) and math.isnan(self.again[name]))
            for name, value in self.stored.items()
        )

    @property
    def agrees(self) -> bool:
        """Whether it is what it must be: equal on the same machine, else within the noise."""
        return self.is_equal or (
            not self.same_machine
            and all(
                abs(self.again[name] - self.stored[name]) <= self._MOST * noise
                for name, noise in self.noise.items()
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What the whole road came to.

    Attributes:
        ticket: the best scheme found, with its test scores once it was retrained; None where
            search.timeout ended the run before a trial was complete.
        tickets: by role, the ticket and its controls; empty where search.timeout ended the run.
        report: report.md; None where search.timeout ended the run.
    """

    ticket: Ticket | None
    tickets: Mapping[str, Ticket]
    report: Path | None

    @property
    def verdicts(self) -> "tuple[Claim, ...]":
        """Whether the ticket is faster, smaller, keeps the metric, and what attention gave."""
        from sat_optuna.evidence.verdicts import claims_of

        return claims_of(self.tickets) if self.tickets else ()
