"""All schemes of a study scored: the best, where plain and full stand, what each block does.

A main effect is the mean, over all choices of the other blocks, of the accuracy with a kind at a
block less the accuracy without. All schemes are here, so its only chance is which images they were
scored on: the interval is Student's over the images, of each image's own effect.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.errors import SchemeError
from sat_optuna.evaluate import SchemeResult
from sat_optuna.evaluate.journal import Journal
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.evidence.statistics import summarise
from sat_optuna.files import write_atomically, write_text
from sat_optuna.scheme import ENUMERATION_LIMIT, Scheme
from sat_optuna.search.objective import SupernetObjective

__all__ = ["Effect", "Enumeration", "Standing", "enumerate_schemes"]

_SLICE = 1024  # schemes whose images are unpacked at a time


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
    return Enumeration(results, kinds=objective.kinds, sparsity_weight=objective.sparsity_weight)


@dataclass(frozen=True, slots=True)
class Standing:
    """A scheme among all.

    Attributes:
        scheme: its text.
        connections: blocks that carry attention.
        accuracy: per cent.
        loss: mean cross-entropy, nats.
        reward: accuracy + weight x sparsity, in points.
        percentile: per cent of all schemes whose reward is lower, those equal counted half.
    """

    scheme: str
    connections: int
    accuracy: float
    loss: float
    reward: float
    percentile: float


@dataclass(frozen=True, slots=True)
class Effect:
    """What a kind does at a block.

    Attributes:
        block: Optuna's name of it.
        kind: of attention.
        points: accuracy points that it adds in the mean.
        low, high: the 95 % interval.
        least, most: points that it adds in the middle 95 % of the choices of the other blocks.
    """

    block: str
    kind: str
    points: float
    low: float
    high: float
    least: float
    most: float


class Enumeration:
    """The scores of all schemes.

    Args:
        results: of all schemes, each once.
        kinds: names of the kinds of attention.
        sparsity_weight: accuracy points for all connections dropped.
    """

    def __init__(
        self, results: Sequence[SchemeResult], *, kinds: Sequence[str], sparsity_weight: float
    ) -> None:
        ordered = sorted(results, key=lambda result: result.scheme.choices)
        self.stages, self.kinds = ordered[0].scheme.stages, tuple(kinds)
        self.n = ordered[0].n
        self.sparsity_weight = sparsity_weight
        self.schemes = np.array([r.scheme.choices for r in ordered], dtype=np.uint8)
        self.hits = np.array([r.hits for r in ordered])
        self.loss = np.array([r.loss for r in ordered]) / self.n
        self.right = np.array([np.frombuffer(r.right, dtype=np.uint8) for r in ordered])
        sparsity = [r.scheme.sparsity for r in ordered]
        self.accuracy = 100 * self.hits / self.n
        self.reward = self.accuracy + sparsity_weight * np.array(sparsity)

    @classmethod
    def read(cls, table: Path, *, kinds: Sequence[str], sparsity_weight: float) -> "Enumeration":
        """Return the scores that `write` left in enumeration.npz.

        Args:
            table: that file.
            kinds: names of the kinds of attention.
            sparsity_weight: accuracy points for all connections dropped, as they were scored.
        """
        read = cls.__new__(cls)
        with np.load(table) as arrays:
            read.stages = tuple(int(size) for size in arrays["stages"])
            read.n, read.schemes = int(arrays["images"]), arrays["schemes"]
            read.hits, read.loss, read.right = arrays["hits"], arrays["loss"], arrays["right"]
            read.reward = arrays["values"]
        read.kinds, read.sparsity_weight = tuple(kinds), sparsity_weight
        read.accuracy = 100 * read.hits / read.n
        return read

    def standing(self, scheme: Scheme) -> Standing:
        """Return where a scheme stands."""
        sizes = (len(self.kinds) + 1,) * self.schemes.shape[1]
        return self._standing(int(np.ravel_multi_index(scheme.choices, sizes)))

    def best(self, count: int) -> list[Standing]:
        """Return the schemes of the highest reward; of equal ones those of lower loss first."""
        order = np.lexsort((self.loss, -self.reward))
        return [self._standing(int(row)) for row in order[:count]]

    def best_by_density(self) -> list[Standing]:
        """Return, for each number of connections, the scheme of the highest accuracy."""
        connections = (self.schemes > 0).sum(axis=1)
        order = np.lexsort((self.loss, -self.accuracy, connections))
        _, firsts = np.unique(connections[order], return_index=True)
        return [self._standing(int(order[first])) for first in firsts]

    def effects(self) -> list[Effect]:
        """Return the main effect of each kind at each block."""
        by_image = self._right_by_choice()
        names = Scheme.parameter_names(self.stages)
        return [
            self._effect(name, block, kind, by_image[block])
            for block, name in enumerate(names)
            for kind in range(1, len(self.kinds) + 1)
        ]

    def _effect(self, name: str, block: int, kind: int, by_image: NDArray[np.float64]) -> Effect:
        spread = summarise((100 * (by_image[kind] - by_image[0])).tolist())
        chosen = self.schemes[:, block]
        # Sorted by their choices, the schemes with and without pair off in order.
        contexts = self.accuracy[chosen == kind] - self.accuracy[chosen == 0]
        least, most = np.quantile(contexts, (0.025, 0.975))
        return Effect(
            name,
            self.kinds[kind - 1],
            spread.mean,
            spread.low,
            spread.high,
            float(least),
            float(most),
        )

    def _right_by_choice(self) -> NDArray[np.float64]:
        """Return (blocks, K + 1, images): the share of a choice's schemes right on each image."""
        count, blocks = self.schemes.shape
        choices = len(self.kinds) + 1
        sums = np.zeros((blocks, choices, self.n))
        for start in range(0, count, _SLICE):
            rows = slice(start, start + _SLICE)
            right = np.unpackbits(self.right[rows], axis=1, count=self.n).astype(np.float32)
            taken = self.schemes[rows, :, None] == np.arange(choices)  # (schemes, blocks, K + 1)
            sums += np.einsum("sbc,si->bci", taken.astype(np.float32), right, optimize=True)
        return np.asarray(sums * choices / count)

    def _standing(self, row: int) -> Standing:
        reward = self.reward[row]
        below, equal = (self.reward < reward).sum(), (self.reward == reward).sum()
        scheme = Scheme.of(self.schemes[row], self.stages)
        return Standing(
            str(scheme),
            scheme.connections,
            float(self.accuracy[row]),
            float(self.loss[row]),
            float(reward),
            float(100 * (below + equal / 2) / len(self.reward)),
        )

    def summary(self, *, top: int) -> dict[str, Any]:
        """Return what is written beside the scores, in values that JSON keeps.

        Args:
            top: how many of the best schemes.
        """
        uniform = {"plain": 0} | {
            f"full {kind}": choice for choice, kind in enumerate(self.kinds, start=1)
        }
        return {
            "schemes": len(self.schemes),
            "images": self.n,
            "kinds": list(self.kinds),
            "sparsity_weight": self.sparsity_weight,
            "best": [asdict(row) for row in self.best(top)],
            "controls": {
                name: asdict(self.standing(Scheme.uniform(self.stages, choice)))
                for name, choice in uniform.items()
            },
            "best_by_density": [asdict(row) for row in self.best_by_density()],
            "effects": [asdict(effect) for effect in self.effects()],
        }

    def write(self, folder: str | Path, *, top: int) -> tuple[Path, Path, Path]:
        """Write enumeration.npz, .json and .md into a folder and return their paths.

        The npz holds `schemes` (N, blocks), `values` (N,), the rewards, `hits`, `loss`, and
        `right`, a bit an image: `numpy.unpackbits(right, axis=1, count=images)`.
        """
        folder = Path(folder)
        arrays: dict[str, Any] = {
            "schemes": self.schemes,
            "values": self.reward,
            "hits": self.hits,
            "loss": self.loss,
            "right": self.right,
            "images": np.array(self.n),
            "stages": np.array(self.stages),
        }

        def save(path: Path) -> None:
            with path.open("wb") as stream:  # given a path, NumPy would add to its name
                np.savez_compressed(stream, **arrays)

        summary = self.summary(top=top)
        return (
            write_atomically(folder / "enumeration.npz", save),
            write_text(folder / "enumeration.json", json.dumps(summary, indent=1) + "\n"),
            write_text(folder / "enumeration.md", enumeration_markdown(folder.name, summary)),
        )


def enumeration_markdown(name: str, summary: Mapping[str, Any]) -> str:
    """Return the summary as a page of Markdown.

    Args:
        name: of the study.
        summary: of `Enumeration.summary`.
    """
    standings = ("scheme", "connections", "accuracy", "loss", "reward", "percentile")
    controls = [{"control": role} | row for role, row in summary["controls"].items()]
    return "\n".join(
        [
            f"# All {summary['schemes']:,} schemes of {name}",
            "",
            f"Scored in the supernet on {summary['images']:,} validation images. reward: accuracy "
            f"+ {summary['sparsity_weight']:g} x sparsity; percentile: of the reward, among all.",
            "",
            "## Best",
            "",
            *_table(summary["best"], standings),
            "",
            "## Controls",
            "",
            *_table(controls, ("control", *standings)),
            "",
            "## Best of each density, by accuracy",
            "",
            *_table(summary["best_by_density"], standings),
            "",
            "## Main effects",
            "",
            "Accuracy points that a kind adds at a block, the mean over all choices of the other "
            "blocks. low to high: 95 % interval over the images (Student's t of each image's own "
            "effect). least to most: the middle 95 % of the choices of the other blocks.",
            "",
            *_table(
                summary["effects"], ("block", "kind", "points", "low", "high", "least", "most")
            ),
            "",
        ]
    )


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in rows]
    return lines


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
