"""What a report says of networks that answer with maps: some test images, and trivial rules."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.evidence.effects import signed
from sat_optuna.evidence.pages import markdown_table
from sat_optuna.evidence.statistics import summarise
from sat_optuna.evidence.trivial_rules import Masked, TrivialRule, count_rules, mask_rules
from sat_optuna.tasks import METRICS, TASKS, Metric, MetricError, Task, metrics_of
from sat_optuna.ticket import Measure

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sat_optuna.data.images import Images
    from sat_optuna.data.split import Split

__all__ = [
    "MapExamples",
    "MapResults",
    "ShownImage",
    "chosen_ranks",
    "map_examples",
    "picture_of",
    "trivial_rules",
]

_BATCH, _PIXELS = 32, 2**20  # images at once, and their pixels
# By how much of the images is worse; the first ones are kept where there are few images.
_RANKS = (
    (0.0, "worst"),
    (1.0, "best"),
    (0.5, "median"),
    (0.25, "lower quartile"),
    (0.75, "upper quartile"),
)
_PLANES = 9  # of an image that is no colour picture
_DASH = "\N{EN DASH}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    """A test image with its truth and the networks' answers.

    Attributes:
        number: of the image among the test images, from 0.
        rank: among them by the ticket's score, in words.
        picture: (h, w, 3) bytes, as of `picture_of`.
        truth: (H, W), classes or densities.
        answers: by network the same of its answer.
        told: by network the score of its answer on this image; its count, where these count.
        count: in words, of the truth; empty of masks.
    """

    number: int
    rank: str
    picture: NDArray[np.uint8]
    truth: NDArray[Any]
    answers: Mapping[str, NDArray[Any]]
    told: Mapping[str, str]
    count: str = ""

    @property
    def maps(self) -> list[NDArray[Any]]:
        """The truth and the answers."""
        return [self.truth, *self.answers.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapExamples:
    """Test images for a figure, with what networks answer.

    Attributes:
        targets: "masks" or "density".
        shown: the images, the one with the ticket's worst score first.
        class_names: one a class.
        test: by network its score on all test images, in words.
        caption: how the images were chosen, and of which networks the answers are.
        planes: how an image that is no colour picture is shown, in words; empty of one that is.
    """

    targets: str
    shown: Sequence[ShownImage]
    class_names: Sequence[str]
    test: Mapping[str, str]
    caption: str
    planes: str = ""

    def __str__(self) -> str:
        """Say what is shown, for a page."""
        numbers = ", ".join(str(shown.number) for shown in self.shown)
        planes = f" An image stands as its {self.planes}, row by row." if self.planes else ""
        return f"Test images {numbers} (from 0): {self.caption}.{planes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapResults:
    """What a report has beside the scores where networks answer with maps.

    Attributes:
        rules: trivial rules; none for a task of one's own.
        examples: test images; None where the weights of the networks are not there.
        lacking: why there is neither, a sentence; empty where there may be.
    """

    rules: Sequence[TrivialRule] = ()
    examples: MapExamples | None = None
    lacking: str = ""

    def parts(self, scores: Mapping[str, Sequence[float]], measure: Measure) -> tuple[str, ...]:
        """Return the parts of a report: the figure, the rules, whether networks are above them.

        Args:
            scores: by role, a test score a seed; the ticket's among them.
            measure: what they are in.
        """
        shown: tuple[str, ...] = ("## Maps", self.lacking) if self.lacking else ()
        if self.examples:
            shown = ("## Maps", "![maps](figures/maps.png)", str(self.examples))
        rules = [rule for rule in self.rules if measure in rule.scores]
        if not rules:
            return shown
        others = dict.fromkeys(key for rule in rules for key in rule.scores if key != measure)
        mean = summarise(scores["ticket"]).mean
        unit = "points" if measure.unit == "%" else measure.unit or measure.title
        heads = [f"{one.title} {one.unit}".rstrip() for one in (measure, *others)]
        rows = [
            [
                rule.name,
                *(_number(rule.scores.get(one), one) for one in (measure, *others)),
                signed(mean - rule.scores[measure], measure),
            ]
            for rule in rules
        ]
        return (
            *shown,
            "## Against trivial rules",
            markdown_table(["rule", *heads, f"ticket minus rule, {unit}"], rows),
            "What needs no network: rules made of the images that the networks are trained on, "
            "and scored on the same test images, which choose none of them, by the same formula. "
            f"{_verdict(rules, scores, measure, unit)}",
        )


def _number(value: float | None, measure: Measure) -> str:
    return _DASH if value is None else measure.number(value)


def _verdict(
    rules: Sequence[TrivialRule],
    scores: Mapping[str, Sequence[float]],
    measure: Measure,
    unit: str,
) -> str:
    best = max(rules, key=lambda rule: measure.points(rule.scores[measure]))
    least = measure.points(best.scores[measure])
    gains = {role: [measure.points(v) - least for v in of] for role, of in scores.items()}
    spread = summarise(gains["ticket"])
    above = "above" if measure.better == "higher" else "better than"
    which = f"{above} the best of these rules** ({best.name})"
    over = f"95 % interval over {spread.n} seeds {signed(spread.low, measure)} to "
    over += signed(spread.high, measure)
    if spread.n < 2:
        over = "one seed: the noise is not known"
    amount = f"{signed(spread.mean, measure)} {unit} ({over}), positive where the ticket is better"
    if spread.mean > 0 and not spread.low <= 0:
        said = f"The ticket is **{which}: {amount}."
    elif spread.mean > 0:
        said = f"The ticket is **not shown to be {which}: {amount}."
    else:
        said = f"The ticket is **not {which}: {amount}."
    below = [role for role, of in gains.items() if role != "ticket" and summarise(of).mean <= 0]
    others = f" Of the others not {above} it in the mean: {', '.join(below)}."
    return said + others * bool(below)


def trivial_rules(data: "Split", task: Task, metric: Metric) -> list[TrivialRule]:
    """Return what rules without a network reach on the test part.

    Args:
        data: the rules are made of what is trained and validated on, as retrained networks are.
        task: with maps; one with a state of its own has none.
        metric: the study's, which is the first of each rule's scores.
    """
    others = [METRICS.get(name) for name in metrics_of(task)]
    metrics = [metric, *(other for other in others if other.name != metric.name)]
    if task.state is TASKS.get("counting").state:
        train, test = _counts(data.train_and_valid), _counts(data.test)
        return count_rules(train, test, metrics)
    if task.state is not TASKS.get("segmentation").state:
        return []
    levels = _levels(data)

    def masked(images: "Images") -> Masked:
        return lambda: (
            (levels(x.cpu().numpy()), masks.cpu().numpy().astype(np.uint8))
            for x, masks in _batches(images)
        )

    return mask_rules(
        masked(data.train_and_valid),
        masked(data.test),
        class_names=data.class_names,
        metrics=metrics,
    )


def _batches(images: "Images", rows: "Tensor | None" = None) -> "Iterator[tuple[Tensor, Tensor]]":
    """Go through images once, so many at a time as take little memory."""
    _, height, width = images.shape
    return images.batches(rows, max(1, min(_BATCH, _PIXELS // (height * width))))


def _counts(images: "Images") -> NDArray[np.float64]:
    """Return the sum of each image's density, (N,)."""
    parts = (maps.double().sum((1, 2)).cpu().numpy() for _, maps in _batches(images))
    return np.concatenate(list(parts))


def _levels(data: "Split") -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Return what brings images (n, C, H, W), as networks get them, back to bytes.

    Floats that are taken as they are become 256 levels between the lowest and the highest that a
    channel has in what is trained and validated on.
    """
    if data.inputs.mean:
        mean, std = (np.reshape(v, (-1, 1, 1)) for v in (data.inputs.mean, data.inputs.std))
        low, high = -mean / std, (1 - mean) / std
    else:
        ends = [(x.amin((0, 2, 3)), x.amax((0, 2, 3))) for x, _ in _batches(data.train_and_valid)]
        lows, highs = (
            np.stack([one.cpu().numpy() for one in side]) for side in zip(*ends, strict=False)
        )
        low, high = (side.reshape(-1, 1, 1) for side in (lows.min(axis=0), highs.max(axis=0)))
    reach = np.where(high > low, high - low, 1)

    def levels(x: NDArray[Any]) -> NDArray[np.uint8]:
        made: NDArray[np.uint8] = np.rint((255 * (x - low) / reach).clip(0, 255)).astype(np.uint8)
        return made

    return levels


def chosen_ranks(scores: Sequence[float]) -> list[tuple[int, str]]:
    """Return which of some images are shown, and the rank of each in words, the worst first.

    The worst, the best, the median and the quartiles; of equal ones the first comes first. NaN is
    no score.

    >>> chosen_ranks([0.9, 0.1, 0.5, math.nan])
    [(1, 'worst'), (2, 'median'), (0, 'best')]

    Args:
        scores: one an image, the higher the better.
    """
    order = sorted((score, row) for row, score in enumerate(scores) if not math.isnan(score))
    kept: dict[int, str] = {}
    for share, rank in _RANKS if order else ():
        kept.setdefault(round(share * (len(order) - 1)), rank)
    return [(order[place][1], rank) for place, rank in sorted(kept.items())]


def picture_of(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (C, H, W) as a picture (h, w, 3).

    Of one channel it is grey, of three in colour; of others the channels stand side by side, each
    grey, in as many columns as rows or one more, nine at most, with a white line between them.
    """
    channels, height, width = image.shape
    if channels in (1, 3):
        return np.broadcast_to(image.transpose(1, 2, 0), (height, width, 3))
    planes = image[:_PLANES]
    columns = math.ceil(math.sqrt(len(planes)))
    rows, line = math.ceil(len(planes) / columns), max(1, width // 32)
    made = np.full((rows * (height + line) - line, columns * (width + line) - line, 3), 255)
    for number, plane in enumerate(planes):
        top, left = number // columns * (height + line), number % columns * (width + line)
        made[top : top + height, left : left + width] = plane[:, :, None]
    return made.astype(np.uint8)


def map_examples(
    networks: Mapping[str, "nn.Module"],
    data: "Split",
    *,
    task: Task,
    metric: Metric,
    test: Mapping[str, str],
    seed: int,
) -> MapExamples | None:
    """Return test images with what networks answer; None where the metric has no value on any.

    The images are chosen by how good the first network is on each alone: by the metric, of
    densities by how far its count is off. See `chosen_ranks`.

    Args:
        networks: by label; they are moved to where the images are.
        data: of which the test part is shown.
        task: with maps.
        metric: the study's.
        test: by label the score on all test images, in words.
        seed: of the networks' training, for the caption.
    """
    import torch

    from sat_optuna.supernet.batchnorm import evaluating

    counts, images = task.targets == "density", data.test

    def answered(
        network: "nn.Module", rows: "torch.Tensor | None"
    ) -> Iterable[tuple[Any, Any, list[float]]]:
        """Yield images, the answers and the score or count of each, batch by batch."""
        network.to(images.device)
        with evaluating(network), torch.inference_mode():
            for x, targets in _batches(images, rows):
                outputs = network(x).float()
                if counts:
                    yield x, outputs[:, 0], outputs[:, 0].sum((1, 2)).tolist()
                    continue
                state, truth = task.state(outputs, targets).cpu().numpy(), targets.cpu().numpy()
                pairs = zip(state[:, None], truth[:, None], strict=True)
                yield x, outputs.argmax(1), [_value(metric, *pair) for pair in pairs]

    first, *_ = networks.values()
    values = [value for _, _, batch in answered(first, None) for value in batch]
    if counts:
        errors = np.abs(np.array(values) - _counts(images))
        chosen, by = chosen_ranks((-errors).tolist()), "how far the ticket's count is off"
    else:
        chosen = chosen_ranks([metric.measure.points(value) for value in values])
        by = f"the ticket's {metric.measure.title} on each"
    if not chosen:
        return None
    rows = torch.tensor([row for row, _ in chosen])
    found = {
        label: [list(part) for part in zip(*answered(network, rows), strict=True)]
        for label, network in networks.items()
    }
    levels = _levels(data)
    truths = torch.cat([targets for _, targets in _batches(images, rows)]).cpu().numpy()
    pictures = [levels(x.cpu().numpy()) for x in found[next(iter(networks))][0]]
    answers = {label: torch.cat(of[1]).cpu().numpy() for label, of in found.items()}
    told = {label: [value for batch in of[2] for value in batch] for label, of in found.items()}
    channels = images.shape[0]
    return MapExamples(
        targets=task.targets,
        shown=[
            ShownImage(
                number=row,
                rank=rank,
                picture=picture_of(np.concatenate(pictures)[place]),
                truth=truths[place],
                answers={label: of[place] for label, of in answers.items()},
                told={
                    label: f"{of[place]:z.1f}" if counts else _told(metric.measure, of[place])
                    for label, of in told.items()
                },
                count=_dots(float(truths[place].sum(dtype=np.float64))) if counts else "",
            )
            for place, (row, rank) in enumerate(chosen)
        ],
        class_names=data.class_names,
        test=test,
        caption=(
            f"of all {len(images):,} by {by} the worst, the best, the median and the quartiles; "
            f"networks of seed {seed}"
        ),
        planes="" if channels in (1, 3) else _planes(channels),
    )


def _value(metric: Metric, state: NDArray[Any], targets: NDArray[Any]) -> float:
    try:
        return metric.value(state, targets)
    except MetricError:
        return math.nan


def _told(measure: Measure, value: float) -> str:
    return _DASH if math.isnan(value) else measure.text(value)


def _dots(count: float) -> str:
    """Return a count in words, whole where it is; a tile's truth may hold parts of dots."""
    number = f"{round(count, 1):g}"
    return f"{number} dot{'s' * (number != '1')}"


def _planes(channels: int) -> str:
    return f"{'first ' * (channels > _PLANES)}{min(channels, _PLANES)} channels"
