"""Schemes of a supernet scored together, through the tree of their common prefixes."""

import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sat_optuna.data.images import count_classes, labels_of
from sat_optuna.data.loaders import UserImages, scored_images
from sat_optuna.device import memory_for
from sat_optuna.errors import DataError, SatOptunaWarning, SchemeError
from sat_optuna.evaluate.cache import PrefixCache
from sat_optuna.evaluate.constants import PrefixConstants
from sat_optuna.evaluate.network import Evaluation, check_metric, judge, weights_digest
from sat_optuna.evaluate.parts import Choices, Parts, PrefixStatistics
from sat_optuna.evaluate.plan import EvaluationPlan, Need, node_seconds
from sat_optuna.evaluate.results import SchemeResult
from sat_optuna.evaluate.tree import Activations, walk
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.scheme import ENUMERATION_LIMIT, Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.tasks import Metric, Task, as_metric, as_task
from sat_optuna.tasks.classification import CLASSIFICATION

__all__ = ["UNIT", "Evaluator", "usual_chunk"]

UNIT = 1024  # schemes at most that are scored at once, each with BatchNorm statistics of its own
_KEPT = 2**28  # bytes of a unit's outputs that are kept at most, for a metric that needs them


def usual_chunk(device: str, shape: tuple[int, ...]) -> int:
    """Return how many images a pass are fast on a device.

    100 on a CPU (studies/bench-speed). On a GPU 2,500 images of 32 x 32: all 512 schemes of a
    ResNet-20 took 2.4 s so on an H200, and 9.0 s with 500 (studies/bench-gpu). Of larger images
    as many as have no more pixels, but 100 at least.

    >>> usual_chunk("cpu", (3, 32, 32)), usual_chunk("cuda", (3, 32, 32))
    (100, 2500)
    >>> usual_chunk("cuda", (3, 224, 224))
    100

    Args:
        device: its type.
        shape: (C, H, W) of the images.
    """
    if device == "cpu":
        return 100
    return min(2500, max(100, 2500 * 32 * 32 // (shape[1] * shape[2])))


class Evaluator:
    """Scores schemes of one supernet on one set of images.

    >>> from sat_optuna.data.split import TensorImages
    >>> pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    >>> images = TensorImages(pixels, torch.tensor([0, 1, 2, 3]), (0.5,) * 3, (0.5,) * 3)
    >>> net = Supernet("resnet20", attention=["se"], in_channels=3, classes=4, seed=0, width=4)
    >>> evaluator = Evaluator(net, images)
    >>> evaluator.score(Scheme.parse("110-010-001")).accuracy  # equal images: one is right
    25.0

    Each scheme is scored with the BatchNorm statistics that it has on the calibration set: its
    result is, to the bit, that of `score_scheme` with the same chunks, whatever it is scored
    together with. The network is left as it was, also by an exception.

    Args:
        net: a supernet; its weights may change between calls.
        images: what schemes are scored on, all of it: a part of a Split; or a map-style Dataset
            or a DataLoader of (image, target), which is read once and must not shuffle.
        calibration: (n, C, H, W) each, for example of `calibration_batches`; the chunks are part
            of the scores. Empty: the network's own statistics are used.
        chunk: images a pass at most; 0 for what is fast on the device. Another one changes the
            last bits of a loss.
        memory: bytes that the process may grow by while it scores, beside the results; 0 for no
            limit. Under a limit fewer images a pass and fewer schemes at once are run.
        cache: bytes of activations that may be kept from call to call, part of `memory`.
        estimates: what the calibration set is for: `PrefixStatistics`, BatchNorm's statistics; or
            `PrefixConstants`, what stands for the modules that a scheme drops from a trained
            network.
        task: what the network does, or its name.
        metric: of the task, or its name; the task's usual one if empty. Of the accuracy a bit an
            image is kept, else what the metric needs, until a unit of schemes is scored.

    Attributes:
        way: how schemes are scored, "recalibrated" or "folded".
        classes: number of classes, or of outputs in a task without.
        chunk: images that a pass is run on; the last pass may have fewer.
        unit: schemes at most that are scored at once; no score depends on it.

    Raises:
        DataError: no image, images that cannot be read or do not fit the network or the task, a
            calibration chunk of a single one, or a number below 0.
        UnknownName: no such task, or no such metric of it.
        MetricError: the metric has no value on these images.
        MemoryLimitError: not even one scheme and one image fit in the memory.
        BackboneError: two parts of the network share a BatchNorm, one changes its input in place,
            or a state is no tuple of tensors.
    """

    def __init__(
        self,
        net: Supernet,
        images: UserImages,
        *,
        calibration: Sequence[Tensor] = (),
        chunk: int = 0,
        memory: int = 0,
        cache: int = 0,
        estimates: type[PrefixStatistics | PrefixConstants] = PrefixStatistics,
        task: Task | str = CLASSIFICATION,
        metric: Metric | str = "",
    ) -> None:
        self.task = as_task(task)
        self.metric = as_metric(metric, self.task)
        device = next(net.parameters()).device
        images = scored_images(images, device=device, targets=self.task.targets)
        if not len(images):
            raise DataError("no image given to evaluate on; give at least one")
        self.task.check_targets(images.targets)
        with evaluating(net):
            plain = partial(net, scheme=Scheme.uniform(net.stages, 0))
            self.classes = count_classes(plain, images)
        check_metric(self.metric, self.task, images, outputs=self.classes)
        if min(chunk, memory, cache) < 0:
            raise DataError(
                f"chunk = {chunk}, memory = {memory} and cache = {cache} given; give 0 or more"
            )
        self.net, self.images, self.calibration = net, images, tuple(calibration)
        self.stages, self.kinds, self.way = net.stages, len(net.specs), estimates.way
        self._parts = Parts(net)
        self._statistics = estimates.of(self._parts, self._first(2), self.calibration)
        # Of the last block only the branch is calibrated, unless more is estimated after it.
        self._calibrate_leaves = self._statistics.needs_leaves
        self._cache = PrefixCache(cache, size_of=self._kept_size)
        self.chunk = min(chunk or usual_chunk(images.device.type, images.shape), len(images))
        # All schemes, in units of a power of K + 1, are whole subtrees.
        units, most = [1], _KEPT // max(1, len(images) * self._state_bytes)
        while units[-1] * (self.kinds + 1) <= min(UNIT, most):
            units.append(units[-1] * (self.kinds + 1))
        self.unit = units[-1]
        if memory:
            self.chunk, self.unit = self._need.fit(memory, self.chunk, reversed(units))

    def score(self, scheme: Scheme) -> Evaluation:
        """Score one scheme; see `score_many`."""
        return self.score_many([scheme])[scheme]

    def score_many(
        self, schemes: Iterable[Scheme], *, on_event: OnEvent = ignore
    ) -> dict[Scheme, Evaluation]:
        """Score schemes through one tree.

        Args:
            schemes: any number; one that is given twice is scored once.
            on_event: called after the work of each.

        Returns:
            By scheme, in the order given.

        Raises:
            SchemeError: one does not fit the network.
        """
        asked = tuple(dict.fromkeys(schemes))
        units = self.results(asked, on_event=on_event)
        found = {result.scheme: self._evaluation(result) for unit in units for result in unit}
        return {scheme: found[scheme] for scheme in asked}

    def _evaluation(self, result: SchemeResult) -> Evaluation:
        return Evaluation.of(
            result.mask() if result.right else None,
            self.labels,
            loss=result.loss,
            classes=self.classes,
            scores={} if result.metric is None else {self.metric.name: result.metric},
        )

    def score_all(
        self, *, limit: int = ENUMERATION_LIMIT, on_event: OnEvent = ignore
    ) -> dict[Scheme, Evaluation]:
        """Score all schemes of the network; see `score_many` and `all_schemes`.

        Warns where each of them scores what naming the largest class for every image would.
        """
        scores = self.score_many(self.all_schemes(limit=limit), on_event=on_event)
        counts = self.images.class_counts()
        by_hits = counts and self.metric.name == "accuracy"
        hits = {round(score.accuracy * score.n / 100) for score in scores.values() if by_hits}
        if by_hits and hits == {max(counts)}:
            warnings.warn(
                f"each of the {len(scores)} schemes has the accuracy "
                f"{100 * max(counts) / sum(counts):.2f} %, the majority class's share of these "
                "images, so nothing tells them apart",
                SatOptunaWarning,
                stacklevel=2,
            )
        return scores

    def all_schemes(self, *, limit: int = ENUMERATION_LIMIT) -> tuple[Scheme, ...]:
        """Return all schemes in ascending order of their choices.

        Raises:
            SchemeError: there are more than `limit`.
        """
        blocks = sum(self.stages)
        count = (self.kinds + 1) ** blocks
        if count > limit:
            raise SchemeError(
                f"the network has {count:,} schemes, more than the limit of {limit:,}; raise the "
                "limit, or score a sample of them"
            )
        every = product(range(self.kinds + 1), repeat=blocks)
        return tuple(Scheme(choices, self.stages) for choices in every)

    def plan(self) -> EvaluationPlan:
        """Return what scoring all schemes will take; a pass of a chunk is timed for it."""
        blocks, choices = sum(self.stages), self.kinds + 1
        schemes, calibration = choices**blocks, sum(map(len, self.calibration))
        # Each unit comes down from the stem to its own subtree.
        units = max(1, schemes // self.unit)
        nodes = [max(units, choices**depth) for depth in range(blocks + 1)]
        runs = [len(self.images) + calibration] * blocks
        runs.append(len(self.images) + calibration * self._calibrate_leaves)
        _, timed = (node_seconds(self._parts, self._first(self.chunk)) for _ in range(2))
        seconds = [run / self.chunk * each for run, each in zip(runs, timed, strict=True)]
        return EvaluationPlan(
            schemes=schemes,
            images=len(self.images),
            calibration=calibration,
            chunk=self.chunk,
            unit=self.unit,
            branch_passes=sum(nodes[:-1]),
            naive_passes=schemes * blocks,
            memory=self._need.of(self.chunk, self.unit),
            seconds=sum(count * each for count, each in zip(nodes, seconds, strict=True)),
            naive_seconds=schemes * sum(seconds),
        )

    def results(
        self,
        schemes: Iterable[Scheme],
        *,
        chunk: int = 0,
        done: int = 0,
        on_event: OnEvent = ignore,
    ) -> Iterator[tuple[SchemeResult, ...]]:
        """Yield the results of schemes, a unit at a time, in ascending order of their choices.

        Args:
            schemes: any number; one that is given twice is scored once.
            chunk: images a pass, no more than `self.chunk`; 0 for that.
            done: schemes of the same task that were scored before; the events count them too.
            on_event: called after the work of each scheme.

        Raises:
            DeviceMemoryError: the device has too little memory for such chunks.
            SchemeError: one does not fit the network.
        """
        ordered = self._ordered(schemes)
        total = done + len(ordered)
        for first in range(0, len(ordered), self.unit):
            unit = ordered[first : first + self.unit]
            yield self._score(unit, chunk or self.chunk, done + first, total, on_event)

    def _ordered(self, schemes: Iterable[Scheme]) -> list[Choices]:
        different = set(schemes)
        for scheme in different:
            if not isinstance(scheme, Scheme):
                raise SchemeError(
                    f"{scheme!r} given; give a Scheme, for example Scheme.parse(...)"
                )
            self.net.check(scheme)
        return sorted(scheme.choices for scheme in different)

    def _score(
        self, schemes: Sequence[Choices], chunk: int, done: int, total: int, on_event: OnEvent
    ) -> tuple[SchemeResult, ...]:
        """Score the schemes of a unit."""
        images, device = len(self.images), self.images.device
        passes = math.ceil(images / chunk)
        weights = weights_digest(self.net) if self._cache.limit else ""
        chunks = len(self.calibration) + passes
        wanted = self._cache.admit(schemes, chunks=chunks, decided_by=(chunk, weights))
        found: list[dict[Choices, Activations]] = [{} for _ in self._cache.chunks]
        streams = iter(zip(self._cache.chunks, found, strict=True))
        logits = partial(walk, self._parts, self._statistics, schemes, wanted=wanted)
        # On the device until all of it is fetched: each number would make a GPU wait.
        rows = {choices: row for row, choices in enumerate(schemes)}
        rights = torch.empty((len(schemes), images), dtype=torch.bool, device=device)
        losses = torch.empty((len(schemes), passes), device=device)
        states: Tensor | None = None  # made with the first, whose shape it has
        room = memory_for(
            f"scoring in chunks of {chunk} images", "give a smaller chunk, or a limit of memory"
        )
        context = self._statistics.prepared(schemes)
        with room, evaluating(self.net), torch.inference_mode(), context:
            self._statistics.train(mode=True)
            for x, (known, keep) in zip(self.calibration, streams, strict=False):
                leaves = self._calibrate_leaves
                deque(logits(x, known=known, keep=keep, leaves=leaves), maxlen=0)
            self._statistics.train(mode=False)
            worked, batches = 0, self.images.batches(None, chunk)
            for number, ((x, targets), (known, keep)) in enumerate(
                zip(batches, streams, strict=True)
            ):
                here = slice(number * chunk, number * chunk + len(targets))
                for choices, made in logits(x, known=known, keep=keep):
                    row = rows[choices]
                    right, losses[row, number] = judge(made, targets, task=self.task)
                    rights[row, here] = right
                    if self._state_bytes:
                        state = self.task.state(made.float(), targets)
                        if states is None:
                            shape = (len(schemes), images, *state.shape[1:])
                            states = torch.empty(shape, device=device)
                        states[row, here] = state
                    worked += 1
                    if worked % passes == 0:
                        counted = done + worked // passes
                        on_event(Event(step="enumerate", done=counted, total=total))
            masks, sums = rights.cpu().numpy(), losses.tolist()
            kept = masks if states is None else states.cpu().numpy()
        self._cache.add(found)
        labelled = self.task.targets == "labels"
        by_accuracy = self.metric.name == "accuracy"
        return tuple(
            SchemeResult(
                scheme=Scheme(choices, self.stages),
                right=np.packbits(mask).tobytes() if labelled else b"",
                loss=sum(loss),
                n=images,
                metric=None if by_accuracy else self.metric.value(own, self.labels),
            )
            for choices, mask, loss, own in zip(schemes, masks, sums, kept, strict=True)
        )

    @cached_property
    def _state_bytes(self) -> int:
        """Bytes that are kept of an image for the metric, beside a bit."""
        if self.metric.keeps == "right":
            return 0
        _, targets = next(self.images.batches(torch.zeros(1, dtype=torch.int64), 1))
        shape = self.task.outputs_shape(self.classes, self.images.shape)
        blank = torch.zeros(1, *shape, device=targets.device)
        return 4 * self.task.state(blank, targets).numel()

    @cached_property
    def labels(self) -> NDArray[Any]:
        """The label, or other target, of each image, (N, ...)."""
        return np.asarray(labels_of(self.images).cpu().numpy())

    @property
    def cached_bytes(self) -> int:
        """Bytes of activations that are kept now."""
        return self._cache.size

    def _first(self, count: int) -> Tensor:
        """Return the first images, (N, C, H, W)."""
        rows = torch.arange(min(count, len(self.images)))
        return next(self.images.batches(rows, count))[0]

    @cached_property
    def _need(self) -> Need:
        """Bytes that scoring takes, counted when they are first asked for."""
        return Need(
            self._parts,
            self._first(2),
            calibration_chunk=max(map(len, self.calibration), default=0),
            scheme=self._statistics.size + len(self.images) * (1 + self._state_bytes),
            cache=self._cache.limit,
        )

    def _kept_size(self, depth: int) -> int:
        """Return the bytes of the activations after so many choices, of all images."""
        images = len(self.images) + sum(map(len, self.calibration))
        return math.ceil(images * self._need.entered[depth])
