"""All schemes of a study scored: the best, where plain and full stand, what each block does.

All schemes are here, so the only chance in a main effect is which images they were scored on.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.errors import SchemeError
from sat_optuna.evaluate import SchemeResult
from sat_optuna.evaluate.journal import Journal
from sat_optuna.evaluate.network import Evaluation
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.evidence.effects import Effect, block_effects, image_counts
from sat_optuna.evidence.pages import markdown_table, write_page
from sat_optuna.evidence.spread import Part, Spread
from sat_optuna.files import write_atomically, write_text
from sat_optuna.scheme import ENUMERATION_LIMIT, Scheme
from sat_optuna.search.objective import SupernetObjective
from sat_optuna.ticket import ACCURACY, Measure

__all__ = ["Enumeration", "Standing", "enumerate_schemes"]

_UNKNOWN: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


def enumerate_schemes(
    objective: SupernetObjective,
    *,
    limit: int = ENUMERATION_LIMIT,
    journal: str | Path | None = None,
    on_event: OnEvent = ignore,
) -> "Enumeration":
    """Score every scheme of a pretrained supernet, as an objective scores them one by one.

    `enumerate_schemes(SupernetObjective(net, data)).best(3)` are the three schemes of the highest
    reward.

    Args:
        objective: says how a scheme is scored; its supernet is left as it was.
        limit: the most schemes that there may be.
        journal: a file that keeps the results, so that a call that was ended goes on.
        on_event: told at the beginning, with what the work will take, and after each scheme.

    Raises:
        SchemeError: there are more schemes than `limit`; the message says what they would take.
        JournalError: the file holds results of another evaluation.
    """
    evaluator = objective.evaluator
    plan = evaluator.plan()
    if plan.schemes > limit:
        raise SchemeError(
            f"the network has {plan.schemes:,} schemes, more than the limit of {limit:,}; all of "
            f"them would take {plan}; raise the limit for that, or search them"
        )
    schemes = evaluator.all_schemes(limit=limit)
    kept = Journal(Path(journal), evaluator) if journal else None
    done = len(kept.held) if kept else 0
    said = f"{plan}; {done:,} of them are there already" if done else str(plan)
    on_event(Event(step="enumerate", done=done, total=plan.schemes, message=said))
    if kept:
        results = [*kept.score(schemes, on_event=on_event).values()]
    else:
        units = evaluator.results(schemes, on_event=on_event)
        results = [result for unit in units for result in unit]
    return Enumeration(
        results,
        kinds=objective.kinds,
        sparsity_weight=objective.sparsity_weight,
        labels=evaluator.labels,
        classes=evaluator.classes,
        measure=evaluator.metric.measure,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """A scheme among all.

    Attributes:
        scheme: its text.
        connections: blocks that carry attention.
        accuracy: per cent; None in a task without labels.
        percentile: per cent of all schemes that are worse by the metric, those equal counted half.
        reward: the metric, negative where lower is better, + weight x sparsity, in its unit.
        reward_percentile: the same of the reward.
        loss: mean loss, of a classification the cross-entropy, nats.
        balanced_accuracy: mean over the classes, per cent; None where the labels are not known.
        score: the metric.
    """

    scheme: str
    connections: int
    accuracy: float | None
    percentile: float
    reward: float
    reward_percentile: float
    loss: float
    balanced_accuracy: float | None
    score: float

    def row(self, measure: Measure) -> dict[str, Any]:
        """Return its values by name, the metric by its own; what there is not is left out."""
        row = asdict(self)
        score = row.pop("score")
        if measure == ACCURACY:
            return row
        known = {name: value for name, value in row.items() if value is not None}
        known.pop(measure.name, None)
        first = {name: known.pop(name) for name in ("scheme", "connections")}
        return first | {measure.name: score} | known


class Enumeration:
    """The scores of all schemes, or of a sample, of which there is no `standing`.

    Args:
        results: of the schemes, each once.
        kinds: names of the kinds of attention.
        sparsity_weight: what dropping all connections is worth, in the metric's unit.
        labels: of the images, or other targets, (n, ...); empty where they are not known.
        classes: number of classes.
        measure: the metric that they were scored by.
    """

    def __init__(
        self,
        results: Sequence[SchemeResult],
        *,
        kinds: Sequence[str],
        sparsity_weight: float,
        labels: NDArray[Any] = _UNKNOWN,
        classes: int = 0,
        measure: Measure = ACCURACY,
    ) -> None:
        ordered = sorted(results, key=lambda result: result.scheme.choices)
        self.stages, self.kinds = ordered[0].scheme.stages, tuple(kinds)
        self.n = ordered[0].n
        self.sparsity_weight, self.measure = sparsity_weight, measure
        self.schemes = np.array([r.scheme.choices for r in ordered], dtype=np.uint8)
        self.hits = np.array([r.hits for r in ordered])
        self.loss = np.array([r.loss for r in ordered]) / self.n
        self.right = np.array([np.frombuffer(r.right, dtype=np.uint8) for r in ordered])
        sparsity = [r.scheme.sparsity for r in ordered]
        self.scores = np.array([r.score for r in ordered])
        self.reward = self.points + sparsity_weight * np.array(sparsity)
        self.labels, self.classes = labels, classes

    @classmethod
    def read(cls, table: Path, *, kinds: Sequence[str], sparsity_weight: float) -> "Enumeration":
        """Return the scores that `write` left in enumeration.npz.

        Args:
            table: that file.
            kinds: names of the kinds of attention.
            sparsity_weight: of the reward, as they were scored.
        """
        read = cls.__new__(cls)
        with np.load(table) as arrays:
            read.stages = tuple(int(size) for size in arrays["stages"])
            read.n, read.schemes = int(arrays["images"]), arrays["schemes"]
            read.hits, read.loss, read.right = arrays["hits"], arrays["loss"], arrays["right"]
            read.reward = arrays["values"]
            known = "labels" in arrays.files  # not in a table of an earlier version
            read.labels = arrays["labels"] if known else _UNKNOWN
            read.classes = int(arrays["classes"]) if known else 0
            by_accuracy = "scores" not in arrays.files
            read.measure = ACCURACY if by_accuracy else Measure(*map(str, arrays["measure"]))
            read.scores = 100 * read.hits / read.n if by_accuracy else arrays["scores"]
        read.kinds, read.sparsity_weight = tuple(kinds), sparsity_weight
        return read

    @property
    def points(self) -> NDArray[np.float64]:
        """The scores as they count, the higher the better."""
        return self.scores if self.measure.better == "higher" else -self.scores

    def standing(self, scheme: Scheme) -> Standing:
        """Return where a scheme stands."""
        sizes = (len(self.kinds) + 1,) * self.schemes.shape[1]
        return self._standing(int(np.ravel_multi_index(scheme.choices, sizes)))

    def best(self, count: int) -> list[Standing]:
        """Return the schemes of the highest reward; of equal ones those of lower loss first."""
        order = np.lexsort((self.loss, -self.reward))
        return [self._standing(int(row)) for row in order[:count]]

    def best_by_density(self) -> list[Standing]:
        """Return, for each number of connections, the scheme of the best score."""
        connections = (self.schemes > 0).sum(axis=1)
        order = np.lexsort((self.loss, -self.points, connections))
        _, firsts = np.unique(connections[order], return_index=True)
        return [self._standing(int(order[first])) for first in firsts]

    def effects(self) -> list[Effect]:
        """Return the main effect of each kind at each block; see `block_effects`."""
        return block_effects(
            self.schemes,
            self.points,
            stages=self.stages,
            kinds=self.kinds,
            images=self.n,
            right=self.right if self.is_sum_over_images else None,
            counts=self._counts,
            measure=self.measure,
        )

    @property
    def is_sum_over_images(self) -> bool:
        """Whether a score is a sum of what each image counts, so that images give intervals."""
        return self.measure == ACCURACY or self._counts is not None

    @property
    def _counts(self) -> NDArray[np.float64] | None:
        return image_counts(self.measure, self.labels)

    def _contexts(self, effect: Effect) -> tuple[float, float]:
        """Return what an effect is in the middle 95 % of the choices of the other blocks."""
        chosen = self.schemes[:, Scheme.parameter_names(self.stages).index(effect.block)]
        # Sorted by their choices, the schemes with and without pair off in order.
        kind = self.kinds.index(effect.kind) + 1
        points = self.points[chosen == kind] - self.points[chosen == 0]
        least, most = np.quantile(points, (0.025, 0.975))
        return float(least), float(most)

    @property
    def is_complete(self) -> bool:
        """Whether all schemes are here, and not a sample of them."""
        choices = len(self.kinds) + 1
        return bool(len(self.schemes) == choices ** sum(self.stages))

    @property
    def spread(self) -> Spread:
        """How far the scores lie apart."""
        texts = (str(Scheme.of(row, self.stages)) for row in self.schemes)
        rows = zip(texts, self.scores.tolist(), strict=True)
        return Spread.of(rows, self._part, self.measure)

    @property
    def _labelled(self) -> bool:
        """Whether the images have labels, and which are right is known."""
        return bool(self.right.shape[1])

    @property
    def _part(self) -> Part | None:
        if not self._labelled:
            return None
        return Part.of(np.bincount(self.labels, minlength=self.classes).tolist())

    def _balanced(self, row: int) -> float | None:
        """Return a balanced accuracy, per cent; None where the labels are not known."""
        if not len(self.labels) or not self._labelled:
            return None
        right = np.unpackbits(self.right[row], count=self.n).astype(np.bool_)
        counted = Evaluation.of(right, self.labels, loss=0.0, classes=self.classes)
        return counted.balanced_accuracy

    def _standing(self, row: int) -> Standing:
        scheme = Scheme.of(self.schemes[row], self.stages)
        return Standing(
            scheme=str(scheme),
            connections=scheme.connections,
            accuracy=100 * int(self.hits[row]) / self.n if self._labelled else None,
            percentile=_percentile(self.points, row),
            reward=float(self.reward[row]),
            reward_percentile=_percentile(self.reward, row),
            loss=float(self.loss[row]),
            balanced_accuracy=self._balanced(row),
            score=float(self.scores[row]),
        )

    def summary(self, *, top: int) -> dict[str, Any]:
        """Return what is written beside the scores, in values that JSON keeps.

        Args:
            top: how many of the best schemes.
        """
        uniform = {"plain": 0} | {
            f"full {kind}": choice for choice, kind in enumerate(self.kinds, start=1)
        }
        part, measure = self._part, self.measure
        named = {} if measure == ACCURACY else {"metric": asdict(measure)}
        return {
            "schemes": len(self.schemes),
            "images": self.n,
            "spread": str(self.spread),
            **named,
            "distinct_accuracies"
            if measure == ACCURACY
            else "distinct_values": self.spread.values,
            "majority": part.majority if part else None,
            "chance": part.chance if part else None,
            "kinds": list(self.kinds),
            "sparsity_weight": self.sparsity_weight,
            "best": [row.row(measure) for row in self.best(top)],
            "controls": {
                name: self.standing(Scheme.uniform(self.stages, choice)).row(measure)
                for name, choice in uniform.items()
            },
            "best_by_density": [row.row(measure) for row in self.best_by_density()],
            "effects": [
                asdict(effect)
                | {"p": None if math.isnan(effect.p) else effect.p}
                | dict(zip(("least", "most"), self._contexts(effect), strict=True))
                for effect in self.effects()
            ],
        }

    def write(
        self, folder: str | Path, *, top: int, scored: str = "in the supernet"
    ) -> tuple[Path, Path, Path]:
        """Write enumeration.npz, .json and .md into a folder and return their paths.

        The npz holds `schemes` (N, blocks), `values` (N,), the rewards, `hits`, `loss`, and
        `right`, a bit an image: `numpy.unpackbits(right, axis=1, count=images)`, and `labels`; of
        another metric than the accuracy also `scores` and its `measure`: name, unit, better.

        Args:
            folder: of a study.
            top: how many of the best schemes the pages show.
            scored: where schemes were scored, for the page.
        """
        folder = Path(folder)
        arrays: dict[str, Any] = {
            "schemes": self.schemes,
            "values": self.reward,
            "hits": self.hits,
            "loss": self.loss,
            "right": self.right,
            "images": np.array(self.n),
            "labels": self.labels,
            "classes": np.array(self.classes),
            "stages": np.array(self.stages),
        }
        if self.measure != ACCURACY:
            named = [self.measure.name, self.measure.unit, self.measure.better]
            arrays |= {"scores": self.scores, "measure": np.array(named)}

        def save(path: Path) -> None:
            with path.open("wb") as stream:  # given a path, NumPy would add to its name
                np.savez_compressed(stream, **arrays)

        summary = self.summary(top=top)
        return (
            write_atomically(folder / "enumeration.npz", save),
            write_text(folder / "enumeration.json", json.dumps(summary, indent=1) + "\n"),
            write_page(
                folder / "enumeration.md",
                enumeration_markdown(
                    folder.name, summary, scored=scored, over_images=self.is_sum_over_images
                ),
            ),
        )


def enumeration_markdown(
    name: str,
    summary: Mapping[str, Any],
    *,
    scored: str = "in the supernet",
    over_images: bool = True,
) -> str:
    """Return the summary as a page of Markdown.

    Args:
        name: of the study.
        summary: of `Enumeration.summary`.
        scored: where schemes were scored.
        over_images: whether the intervals of the effects are over the images.
    """
    measure = Measure(**summary["metric"]) if "metric" in summary else ACCURACY
    title, minus = measure.title, "" if measure.better == "higher" else "-"
    intervals = (
        "95 % interval over the images (Student's t of each image's own effect; where no image "
        "differs at all, Wilson's of none in all)"
        if over_images
        else "95 % interval of the regression over the schemes (Student's t of the residual), not "
        "over the images"
    )
    gains = "Accuracy points that" if measure == ACCURACY else f"Points of {title} that"
    if measure.unit != "%":
        gains = f"What of {title} for the better{measure.unit and ', in '}{measure.unit},"
    standings = tuple(summary["best"][0])
    controls = [{"control": role} | row for role, row in summary["controls"].items()]
    return "\n".join(
        [
            f"# All {summary['schemes']:,} schemes of {name}",
            "",
            f"Scored {scored} on {summary['images']:,} validation images. reward: "
            f"{minus}{title} + {summary['sparsity_weight']:g} x sparsity; percentile: of the "
            f"{title}, reward_percentile: of the reward, among all.",
            "",
            f"{summary['spread']}.",
            "",
            "## Best",
            "",
            *_table(summary["best"], standings),
            "",
            "## Controls",
            "",
            *_table(controls, ("control", *standings)),
            "",
            f"## Best of each density, by {title}",
            "",
            *_table(summary["best_by_density"], standings),
            "",
            "## Main effects",
            "",
            f"{gains} a kind adds at a block, the mean over all choices of the other "
            f"blocks. low to high: {intervals}. p: that it adds "
            "nothing, not corrected. least to most: the middle 95 % of the choices of the other "
            "blocks.",
            "",
            *_table(summary["effects"], tuple(summary["effects"][0])),
            "",
        ]
    )


def _percentile(values: NDArray[np.float64], row: int) -> float:
    """Return the per cent of values below one of them, those equal counted half."""
    below, equal = (values < values[row]).sum(), (values == values[row]).sum()
    return float(100 * (below + equal / 2) / len(values))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    cells = [[_cell(name, row[name]) for name in columns] for row in rows]
    return markdown_table(columns, cells).splitlines()


def _cell(name: str, value: object) -> str:
    if name == "scheme":
        return f"`{value}`"
    return f"{value:z.3f}" if isinstance(value, float) else str(value)
