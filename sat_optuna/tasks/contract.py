"""What a task is: how it is trained, what an evaluation keeps of each image, how good that is.

An evaluation goes through images chunk by chunk, and through a tree of schemes in units, so what
it keeps must add up over images: a task says what it keeps of each image (`Task.state`), rows of
all chunks are put together in the images' order, and a metric is a function of all rows and
targets. So any task that can be told from a row an image is scored by the same tree.

So no map is kept of a task whose outputs are maps: of a segmentation each image's confusion
counts, (N, classes, classes), of which a metric takes the sum over N; of a counting the estimated
and the true count of each image.

This file imports neither torch nor NumPy: study.toml is checked without.
"""

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sat_optuna.errors import DataError, SatOptunaError, errors_as
from sat_optuna.ticket import BETTER, Measure

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Metric", "MetricError", "Task", "no_image_of"]

Values: TypeAlias = "NDArray[Any]"

# What trials hold already, beside their metric.
_TAKEN = frozenset(
    ("elementwise", "error", "loss", "macs", "params", "reward", "scheme", "sparsity", "value")
)
_TARGETS = {
    "labels": "the number of each image's class, (N,) whole numbers",
    "multi-hot": "a column for each class, (N, classes) floats of 0 and 1",
    "numbers": "a number for each image, (N,) floats",
    "masks": "the class of each pixel, (N, H, W) whole numbers",
    "density": "a density whose sum is an image's count, (N, H, W) floats",
}
_MAPS = ("masks", "density")  # of which a network has outputs (N, outputs, H, W)


class MetricError(SatOptunaError, ValueError):
    """A metric that has no value on these images, or cannot be computed."""


def no_image_of(metric: str, number: int, images: int) -> MetricError:
    """Return the error of a metric that needs images of each class."""
    return MetricError(
        f"{metric} needs images of each class, and of these {images} none is of class {number}; "
        "give some (a larger share in data.valid for one), or search for another metric"
    )


def _outputs(outputs: "Tensor", _targets: "Tensor") -> "Tensor":
    return outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How good a network is at a task: a number that is computed from all images.

    >>> import numpy as np
    >>> hits = Metric(
    ...     name="hits", unit="images", better="higher", tasks=("classification",),
    ...     of=lambda right, labels: right.sum(), keeps="right",
    ... )
    >>> hits.value(np.array([True, False, True]), np.array([0, 1, 0]))
    2.0

    Attributes:
        name: its name in METRICS.
        unit: of its values, for example "%"; empty for none.
        better: "higher" or "lower".
        tasks: names of the tasks that it is a metric of, as of all others with the same targets
            and `state`.
        of: from what an evaluation keeps of all images, (N, ...), and their targets to the value.
        keeps: what that is: "state", the rows of `Task.state`, float32; or "right", of labels
            alone: (N,) bool, whether each image is classified right, which takes a bit an image.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    tasks: tuple[str, ...]
    of: Callable[[Values, Values], float]
    keeps: Literal["state", "right"] = "state"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in _TAKEN:
            raise MetricError(
                f"metric {self.name!r} would be a trial's attribute of that name; take another "
                "one, of small letters, digits and _"
            )
        for key, value, known in (
            ("better", self.better, BETTER),
            ("keeps", self.keeps, ("state", "right")),
        ):
            if value not in known:
                raise MetricError(
                    f"metric {self.name!r} has {key} = {value!r}; write {' or '.join(known)}"
                )

    @property
    def measure(self) -> Measure:
        """What its values are in, without the function: what tickets and reports keep."""
        return Measure(self.name, self.unit, self.better)

    def value(self, kept: Values, targets: Values) -> float:
        """Return the value on all images.

        Args:
            kept: (N, ...), as `keeps` says.
            targets: (N, ...), as the task's.

        Raises:
            MetricError: it has none on these images, or its function fails.
        """
        told: list[str] = []
        remedy = "score other images, or search for another metric"
        with (
            errors_as(
                MetricError, f"{self.name} cannot be computed of {len(kept)} images", remedy
            ),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            found = float(self.of(kept, targets))
            told = [" ".join(str(warning.message).split()) for warning in caught]
        if not math.isfinite(found):
            why = f" ({told[0].rstrip('.')})" if told else ""
            raise MetricError(
                f"{self.name} is {found} on these {len(kept)} images{why}; give images on which "
                "it has a value, with some of each class for one, or search for another metric"
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a network learns to do.

    Attributes:
        name: its name in TASKS.
        targets: what each image comes with: "labels", "multi-hot", "numbers", "masks" or
            "density"; a network has an output for each class, or one for a number or a density, of
            the last two as maps of the images' size.
        metric: the metric that is meant where none is named.
        loss: called as `loss(outputs, targets, reduction=...)` with (N, outputs), of maps with
            (N, outputs, H, W), and the targets;
            reduction "mean" trains, "sum" over the images is what evaluations add up.
        state: what an evaluation keeps of each image, from the same two: (N, ...) floats.
        class_weights: "none", or "balanced" for a loss in which all classes weigh the same,
            however many images they have: images / (classes x images of the class); of masks the
            same with pixels. Labels and masks alone have it; `loss` then gets these weights as
            `weight`. Evaluations are not weighted.
    """

    name: str
    targets: Literal["labels", "multi-hot", "numbers", "masks", "density"]
    metric: str
    loss: "Callable[..., Tensor]"
    state: "Callable[[Tensor, Tensor], Tensor]" = _outputs
    class_weights: str = "none"

    def __post_init__(self) -> None:
        if self.targets not in _TARGETS:
            raise DataError(
                f"task {self.name!r} has targets {self.targets!r}; write one of "
                f"{', '.join(_TARGETS)}"
            )
        if self.class_weights not in ("none", "balanced"):
            raise DataError(f"class_weights is {self.class_weights!r}; write 'none' or 'balanced'")
        if self.class_weights != "none" and self.targets not in ("labels", "masks"):
            raise DataError(
                f"class_weights is {self.class_weights!r} and the task {self.name} has no single "
                "class an image to weigh; set it to 'none'"
            )

    def check_targets(self, found: str, *, of: str = "the images") -> None:
        """Make sure that images come with what this task learns from.

        Args:
            found: a kind of targets.
            of: what has them, for the message.

        Raises:
            DataError: they do not.
        """
        if found != self.targets:
            raise DataError(
                f"{of} come with {_TARGETS[found]}, and the task {self.name} learns from "
                f"{_TARGETS[self.targets]}; give such targets, or name another task"
            )

    @property
    def maps(self) -> bool:
        """Whether outputs and targets are maps of the images' size."""
        return self.targets in _MAPS

    def outputs_shape(self, outputs: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what a network returns for one image, without N.

        Args:
            outputs: number of them.
            shape: (C, H, W) of an image.
        """
        return (outputs, *shape[1:]) if self.maps else (outputs,)

    def check_loss(self, outputs: "Tensor", targets: "Tensor") -> None:
        """Make sure that the loss is called as it is meant and returns one number.

        Args:
            outputs: (N, outputs) of a network, whatever they are.
            targets: (N, ...).

        Raises:
            DataError: it is not, or what is kept of an image is not a row an image.
        """
        what = f"the loss of the task {self.name} fails on outputs {tuple(outputs.shape)}"
        remedy = "write it as loss(outputs, targets, *, reduction), for 'mean' and for 'sum'"
        with errors_as(DataError, what, remedy):
            for reduction in ("mean", "sum"):
                made = self.loss(outputs, targets, reduction=reduction)
                if made.ndim:
                    raise ValueError(f"with reduction {reduction!r} it is {tuple(made.shape)}")
        if len(state := self.state(outputs, targets)) != len(targets):
            raise DataError(
                f"the state of the task {self.name} has {len(state)} rows for {len(targets)} "
                "images; return a row for each"
            )

    def weights(self, counts: tuple[int, ...], outputs: int) -> tuple[float, ...]:
        """Return the weight of each class in the loss; empty where all images weigh the same.

        Args:
            counts: images, or pixels, of each class; empty where they are not known.
            outputs: of the network.

        Raises:
            DataError: weights are asked for, and the counts are not known.
        """
        if self.class_weights == "none":
            return ()
        if not counts:
            raise DataError(
                f"class_weights is 'balanced', and how many {'pixels' if self.maps else 'images'} "
                "each class of a Dataset or DataLoader has is not known before it is read; give "
                "arrays (sat.Split.from_arrays), or set it to 'none'"
            )
        classes = sum(count > 0 for count in counts)
        known = [sum(counts) / (classes * count) if count else 0.0 for count in counts]
        return (*known, *[0.0] * (outputs - len(known)))
