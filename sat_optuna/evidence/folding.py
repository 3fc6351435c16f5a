"""Which attention modules of a trained network are dead weight: the front, and what may go.

Schemes are chosen on the validation images that they were scored on; what a choice loses is told
on the test images, which chose nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sat_optuna.cost.latency import LatencyModel
from sat_optuna.cost.timing import Estimate, interval_fields, median_of, network_ms
from sat_optuna.data.loaders import scored_images
from sat_optuna.errors import StudyError
from sat_optuna.evaluate import Evaluator
from sat_optuna.evaluate.constants import PrefixConstants
from sat_optuna.events import OnEvent, ignore
from sat_optuna.evidence.enumeration import Enumeration
from sat_optuna.evidence.figures import draw_front
from sat_optuna.evidence.pages import markdown_table, write_page
from sat_optuna.evidence.statistics import Summary, paired_by_image
from sat_optuna.files import write_text
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import FoldedObjective
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import ACCURACY

__all__ = [
    "POINTS",
    "Folding",
    "Kept",
    "costs_of",
    "fewest_within",
    "fold_report",
    "front_of",
    "times_of",
]

POINTS = (0.1, 0.3, 1.0)  # accuracy points that may be lost on the validation images


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The scheme that keeps fewest modules within some points of the full network.

    Attributes:
        points: of validation accuracy that it may lose.
        scheme: which modules stay.
        accuracy: on the validation images, per cent.
        lost: accuracy points of the full network minus its own, on the same validation images,
            with the 95 % interval over them; it was chosen by them.
        test_accuracy: per cent; None where there is no test part.
        test_lost: as `lost`, on the test images, which chose nothing.
    """

    points: float
    scheme: Scheme
    accuracy: float
    lost: Summary
    test_accuracy: float | None = None
    test_lost: Summary | None = None

    @property
    def gone(self) -> int:
        """Number of modules that became constants."""
        return len(self.scheme.choices) - self.scheme.connections


def fewest_within(scores: Enumeration, points: float) -> Scheme:
    """Return the scheme of fewest modules that loses no more than some points on these images.

    Of several it is that of the highest accuracy, and of these that of the lowest loss.

    Args:
        scores: of all schemes, folded.
        points: accuracy points below the full network, 0 or more.
    """
    modules = (scores.schemes > 0).sum(axis=1)
    hits = scores.hits - scores.hits[modules.argmax()]
    # In images, for a share of them is no exact number of points.
    fits = np.flatnonzero(-100 * hits <= points * scores.n + 1e-6)
    order = np.lexsort((scores.loss[fits], -scores.hits[fits], modules[fits]))
    return Scheme.of(scores.schemes[fits[order[0]]], scores.stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """What folding a trained network comes to; made by `fold_report`.

    Attributes:
        scores: of all schemes on the validation images.
        cost: what a scheme costs is, with its unit.
        costs: of each scheme, in the order of `scores.schemes`.
        latency: the model that the costs are of; None where they are multiply-adds.
        kept: a choice for each number of points.
        test_images: number of test images; 0 where there is no test part.
    """

    scores: Enumeration
    cost: str
    costs: tuple[float, ...]
    latency: LatencyModel | None
    kept: tuple[Kept, ...]
    test_images: int

    def _row(self, row: int) -> dict[str, Any]:
        scheme = Scheme.of(self.scores.schemes[row], self.scores.stages)
        return {
            "scheme": str(scheme),
            "modules": scheme.connections,
            "accuracy": float(self.scores.scores[row]),
            "cost": float(self.costs[row]),
        }

    def document(self) -> dict[str, Any]:
        """Return all of it in values of JSON."""
        connections = (self.scores.schemes > 0).sum(axis=1)
        uniform = {"plain": int(connections.argmin()), "full": int(connections.argmax())}
        return {
            "images": self.scores.n,
            "test_images": self.test_images,
            "cost": self.cost,
            "latency": None if self.latency is None else asdict(self.latency),
            "uniform": {role: self._row(row) for role, row in uniform.items()},
            "kept": [
                asdict(kept) | {"scheme": str(kept.scheme), "gone": kept.gone}
                for kept in self.kept
            ],
            "front": [self._row(row) for row in front_of(self.scores, self.costs)],
        }

    def write(
        self, folder: str | Path, *, times: Mapping[Scheme, Estimate] | None = None
    ) -> tuple[Path, Path, Path]:
        """Write folded.json, folded.md and figures/folded.png into a folder; return their paths.

        Args:
            folder: of a study.
            times: of `times_of`, where they were measured.
        """
        folder, document = Path(folder), self.document()
        document["times"] = {
            str(scheme): interval_fields("of_full", estimate, digits=4)
            for scheme, estimate in (times or {}).items()
        }
        figure = draw_front(
            folder / "figures" / "folded.png",
            list(zip(self.scores.scores.tolist(), self.costs, strict=True)),
            {row["scheme"]: (row["accuracy"], row["cost"]) for row in document["front"]},
            {role: (row["accuracy"], row["cost"]) for role, row in document["uniform"].items()},
            objectives=(ACCURACY.name, self.cost),
            measure=ACCURACY,
            ticket="",
        )
        return (
            write_text(folder / "folded.json", json.dumps(document, indent=1) + "\n"),
            write_page(folder / "folded.md", folded_markdown(folder.name, document)),
            figure,
        )


def fold_report(
    objective: FoldedObjective,
    scores: Enumeration,
    *,
    points: Sequence[float] = POINTS,
    latency: LatencyModel | None = None,
) -> Folding:
    """Return the front of a trained network's schemes, and how many modules may go.

    `fold_report(objective, enumerate_schemes(objective)).kept[1].gone` modules of the network are
    dead weight at 0.3 points. Where the data have a test part, it is read.

    Args:
        objective: that scored the schemes.
        scores: of all schemes.
        points: accuracy points that may be lost on the validation images.
        latency: of `fit_latency`; None to count multiply-adds.

    Raises:
        StudyError: not all schemes are there, or they were scored by another metric than accuracy.
    """
    if scores.measure != ACCURACY:
        raise StudyError(
            f"scores of the {scores.measure.title} given, and points to lose are those of the "
            "accuracy; score by that"
        )
    if not scores.is_complete:
        raise StudyError(
            f"{len(scores.schemes):,} scores given, and the fewest modules are found among all "
            "schemes; give those of enumerate_schemes"
        )
    schemes = [Scheme.of(row, scores.stages) for row in scores.schemes]
    full = Scheme.uniform(scores.stages, 1)
    chosen = {allowed: fewest_within(scores, allowed) for allowed in sorted(points)}
    rows = {scheme: row for row, scheme in enumerate(schemes)}
    valid = {
        scheme: np.unpackbits(scores.right[rows[scheme]], count=scores.n).astype(np.bool_)
        for scheme in (full, *chosen.values())
    }
    tested = {}
    if objective.data.load_test is not None:
        images = scored_images(objective.data.test, device=objective.valid.device)
        evaluator = Evaluator(
            objective.net,
            images,
            calibration=objective.evaluator.calibration,
            estimates=PrefixConstants,
        )
        units = evaluator.results(valid)
        tested = {result.scheme: result for unit in units for result in unit}
    kept = tuple(
        Kept(
            points=allowed,
            scheme=scheme,
            accuracy=float(scores.scores[rows[scheme]]),
            lost=paired_by_image(valid[full], valid[scheme]),
            test_accuracy=tested[scheme].evaluation.accuracy if tested else None,
            test_lost=(
                paired_by_image(tested[full].mask(), tested[scheme].mask()) if tested else None
            ),
        )
        for allowed, scheme in chosen.items()
    )
    return Folding(
        scores=scores,
        cost=f"ms a batch of {latency.batch} (model)" if latency else "multiply-adds an image",
        costs=(
            costs_of(scores, latency)
            if latency
            else tuple(float(objective.costs.cost(scheme).macs) for scheme in schemes)
        ),
        latency=latency,
        kept=kept,
        test_images=tested[full].n if tested else 0,
    )


def costs_of(scores: Enumeration, latency: LatencyModel) -> tuple[float, ...]:
    """Return the model's milliseconds of each scheme; no module saves time, as noise may say."""
    added = np.array([max(kinds[0].value, 0.0) for kinds in latency.increments_ms])
    return tuple((latency.plain_ms.value + (scores.schemes > 0) @ added).tolist())


def front_of(scores: Enumeration, costs: Sequence[float]) -> list[int]:
    """Return the rows of the schemes that no other beats in accuracy and cost, cheapest first.

    Of those with equal cost and accuracy it is the one with the lower loss.

    Args:
        scores: of all schemes.
        costs: of each, in their order.
    """
    rows, best = [], -1
    for row in np.lexsort((scores.loss, -scores.hits, np.asarray(costs))).tolist():
        if scores.hits[row] > best:
            best = scores.hits[row]
            rows.append(row)
    return rows


def times_of(
    net: Supernet,
    input_shape: tuple[int, int, int],
    schemes: Iterable[Scheme],
    *,
    batch: int = 128,
    rounds: int = 31,
    on_event: OnEvent = ignore,
) -> dict[Scheme, Estimate]:
    """Return what share of the full network's time the network of each scheme takes.

    The networks take turns and shares are of the same round, so that other work of the machine
    disturbs all alike. Constants that were folded cost nothing, so weights do not matter.

    Args:
        net: with one kind of attention.
        input_shape: (C, H, W) of an image.
        schemes: any number; plain is measured too.
        batch: images of a pass.
        rounds: number of passes of each network.
        on_event: told of each round.

    Raises:
        TimingError: there are too few rounds for an interval.
    """
    plain, full = (Scheme.uniform(net.stages, choice) for choice in (0, 1))
    asked = dict.fromkeys((plain, *schemes, full))
    models = {str(scheme): materialise(net, scheme) for scheme in asked}
    passed = network_ms(models, input_shape, batch=batch, rounds=rounds, on_event=on_event)
    whole = passed[str(full)]
    return {
        scheme: median_of([a / b for a, b in zip(passed[str(scheme)], whole, strict=True)])
        for scheme in asked
        if scheme != full
    }


def folded_markdown(name: str, document: Mapping[str, Any]) -> str:
    """Return a folding as a page of Markdown.

    Args:
        name: of the study.
        document: of `Folding.document`, with `times`.
    """
    uniform = document["uniform"]
    modules, times = uniform["full"]["modules"], document["times"]
    lines = [
        f"# Which of {name}'s {modules} attention modules are dead weight",
        "",
        "The network was trained with attention in all blocks. A module that a scheme drops is a "
        "constant a channel, its mean gate over the calibration images given the same choices "
        "before it, folded into other layers; nothing was trained again. Scored on "
        f"{document['images']:,} validation images: full {uniform['full']['accuracy']:.2f} %, all "
        f"modules constants {uniform['plain']['accuracy']:.2f} %.",
        "",
        "## How many can go",
        "",
        "The rule: the scheme of fewest modules that loses no more than so many points on the "
        "validation images; of several the most accurate, then that of the lowest loss. Intervals "
        "are 95 %, over the images (Student's t of each image's own difference to the full "
        "network). Those of the validation images, which chose, are too narrow; "
        + (
            f"the {document['test_images']:,} test images chose nothing."
            if document["test_images"]
            else "there is no test part."
        ),
        "",
        _kept(document),
    ]
    plain = uniform["plain"]["scheme"]
    if plain in times:
        lines += [
            "",
            f"Without any module it takes {_time(times, plain)} of full's time.",
        ]
    lines += [
        "",
        "## The front",
        "",
        f"Schemes that no other beats in both validation accuracy and cost; cost: "
        f"{document['cost']}.",
        "",
        "![front](figures/folded.png)",
        "",
        markdown_table(
            ("scheme", "modules", "accuracy %", "cost"),
            [
                (
                    f"`{at['scheme']}`",
                    str(at["modules"]),
                    f"{at['accuracy']:.2f}",
                    f"{at['cost']:,.4g}",
                )
                for at in document["front"]
            ],
        ),
        "",
    ]
    return "\n".join(lines)


def _kept(document: Mapping[str, Any]) -> str:
    """Return the table of how many modules may go."""
    heads = ["points", "modules gone", "scheme kept", "lost on validation", "lost on test"]
    heads += ["test %", "time, full = 1"]
    rows = [
        [
            f"{row['points']:g}",
            f"{row['gone']} of {document['uniform']['full']['modules']}",
            f"`{row['scheme']}`",
            _interval(row["lost"]),
            _interval(row["test_lost"]),
            "" if row["test_accuracy"] is None else f"{row['test_accuracy']:.2f}",
            _time(document["times"], row["scheme"]),
        ]
        for row in document["kept"]
    ]
    return markdown_table(heads, rows)


def _interval(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"{spread['mean']:z.2f} ({spread['low']:z.2f} to {spread['high']:z.2f})"


def _time(times: Mapping[str, Mapping[str, float]], scheme: str) -> str:
    row = times.get(scheme)
    if row is None:  # the full network itself
        return "1" if times else ""
    return f"{row['of_full']:.3f} ({row['of_full_low']:.3f} to {row['of_full_high']:.3f})"
