"""Schemes of a supernet scored together, through the tree of their common prefixes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sat_optuna.data.images import count_classes
from sat_optuna.data.loaders import UserImages, scored_images
from sat_optuna.errors import DataError, SchemeError
from sat_optuna.evaluate.cache import PrefixCache
from sat_optuna.evaluate.digests import weights_digest
from sat_optuna.evaluate.heap import HeapLimit
from sat_optuna.evaluate.network import Evaluation
from sat_optuna.evaluate.norms import PrefixStatistics, find_norms
from sat_optuna.evaluate.parts import HEAD, STEM, Parts, check_parts, merge
from sat_optuna.evaluate.plan import EvaluationPlan, MemoryLimitError
from sat_optuna.evaluate.planner import Layout, Planner
from sat_optuna.evaluate.prefixes import Choices, every_choices, in_units
from sat_optuna.evaluate.results import SchemeResult
from sat_optuna.evaluate.stack import Stack
from sat_optuna.evaluate.tally import Tally
from sat_optuna.evaluate.tree import Activations, Walk
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.supernet import Supernet

__all__ = ["LIMIT", "Evaluator"]

LIMIT = 2**16  # schemes that `score_all` takes on without being told to


class Evaluator:
    """Scores schemes of one supernet on one set of images.

    Each scheme is scored with the BatchNorm statistics that it has on the calibration set: its
    result is, to the bit, that of `score_scheme` with the same chunks, whatever it is scored
    together with. The network is left as it was, also by an exception.

    Args:
        net: a supernet; its weights may change between calls.
        images: what schemes are scored on, all of it: a part of a Split; or a map-style Dataset
            or a DataLoader of (image, label), which is read once and must not shuffle.
        calibration: (n, C, H, W) each, for example of `calibration_batches`; the chunks are part
            of the scores. Empty: the network's own statistics are used.
        chunk: images a pass; 0 for what is fast on the device. Scores differ by rounding between
            two of them.
        memory: bytes that may be taken, 0 for no limit; with less, fewer images and schemes are
            run at a time.
        cache: bytes of activations that may be kept from call to call, part of `memory`.

    Raises:
        DataError: no image, images that cannot be read or do not fit the network, a calibration
            chunk of a single one, or a number below 0.
        MemoryLimitError: the cache alone fills the memory.
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
    ) -> None:
        images = scored_images(images, device=next(net.parameters()).device)
        if not len(images):
            raise DataError("no image given to evaluate on; give at least one")
        with evaluating(net):
            count_classes(partial(net, scheme=Scheme.uniform(net.stages, 0)), images)
        if min(chunk, memory, cache) < 0:
            raise DataError(
                f"chunk = {chunk}, memory = {memory} and cache = {cache} given; give 0 or more"
            )
        if 0 < memory <= cache:
            raise MemoryLimitError(
                f"a cache of {cache:,} bytes given in a memory of {memory:,}; give more memory or "
                "a smaller cache"
            )
        for place, batch in enumerate(calibration, start=1):
            if len(batch) < 2:
                raise DataError(
                    f"calibration chunk {place} has {len(batch)} image(s), and the statistics of "
                    "BatchNorm need two at least; give a larger set or another chunk size"
                )
        self.net, self.images, self.calibration = net, images, tuple(calibration)
        self.stages, self.kinds = net.stages, len(net.specs)
        self._parts = Parts(net)
        tried = next(images.batches(torch.arange(min(2, len(images))), 2))[0]
        check_parts(self._parts, tried)
        norms = find_norms(self._parts, calibration[0][:2]) if calibration else {}
        self._statistics = PrefixStatistics(norms)
        last = len(self._parts.blocks) - 1
        # Of the last block only the branch is calibrated, unless there are norms after it.
        self._calibrate_leaves = any(
            part == HEAD or (part.block == last and part.what != "branch") for part in norms
        )
        self._memory, self._chunk = memory, chunk
        self._growth = memory  # bytes; what was said or allowed, 0 for nothing yet
        self._planner = Planner(
            self._parts,
            tried,
            images=len(images),
            calibration=self.calibration,
            norms=self._statistics.sizes(),
            leaves=self._calibrate_leaves,
            cache=cache,
        )
        self._cache = PrefixCache(cache, size_of=self._kept_size)
        self._caching = cache > 0
        self._filled_with: tuple[int, str] | None = None  # chunk and weights of the cache

    def score(self, scheme: Scheme) -> Evaluation:
        """Score one scheme.

        Raises:
            SchemeError: it does not fit the network.
        """
        return self.score_many([scheme])[scheme]

    def score_many(
        self, schemes: Iterable[Scheme], *, on_scheme: Callable[[], None] | None = None
    ) -> dict[Scheme, Evaluation]:
        """Score schemes through one tree.

        Args:
            schemes: any number; one that is given twice is scored once.
            on_scheme: called after the work of each.

        Returns:
            By scheme, in the order given.

        Raises:
            SchemeError: one does not fit the network.
        """
        asked = tuple(dict.fromkeys(schemes))
        units = self.results(asked, on_scheme=on_scheme)
        found = {result.scheme: result.evaluation for unit in units for result in unit}
        return {scheme: found[scheme] for scheme in asked}

    def score_all(
        self, *, limit: int = LIMIT, on_scheme: Callable[[], None] | None = None
    ) -> dict[Scheme, Evaluation]:
        """Score all schemes of the network, in ascending order of their choices.

        Args:
            limit: the most that may be.
            on_scheme: called after the work of each.

        Raises:
            SchemeError: there are more.
        """
        return self.score_many(self.all_schemes(limit=limit), on_scheme=on_scheme)

    def all_schemes(self, *, limit: int = LIMIT) -> tuple[Scheme, ...]:
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
        every = every_choices(blocks, self.kinds)
        return tuple(Scheme(choices, self.stages) for choices in every)

    def plan(self, schemes: Iterable[Scheme] | None = None) -> EvaluationPlan:
        """Return what scoring schemes will take; a few passes are timed for it.

        Args:
            schemes: None for all there are, however many.

        Raises:
            SchemeError: one does not fit the network.
            MemoryLimitError: not even one scheme fits in the memory.
        """
        ordered = None if schemes is None else self._ordered(schemes)
        plan = self._planner.plan(ordered, self._layout(ordered))
        self._growth = plan.live_bytes
        return plan

    def layout(self, schemes: Iterable[Scheme]) -> Layout:
        """Return how many images and schemes are run at a time.

        Raises:
            SchemeError: a scheme does not fit the network.
            MemoryLimitError: not even one scheme fits in the memory.
        """
        return self._layout(self._ordered(schemes))

    def results(
        self,
        schemes: Iterable[Scheme],
        *,
        layout: Layout | None = None,
        on_scheme: Callable[[], None] | None = None,
    ) -> Iterator[tuple[SchemeResult, ...]]:
        """Yield the results of schemes, a unit at a time, in ascending order of their choices.

        Args:
            schemes: any number; one that is given twice is scored once.
            layout: of these schemes or of more of them; None for their own.
            on_scheme: called after the work of each.

        Raises:
            SchemeError: one does not fit the network.
            MemoryLimitError: not even one scheme fits in the memory.
        """
        ordered = self._ordered(schemes)
        if not ordered:
            return
        chosen = layout or self._layout(ordered)
        with HeapLimit(self._growth) as heap:
            for unit in in_units(ordered, chosen.unit):
                yield self._score(unit, chosen.chunk, heap, on_scheme)

    def _ordered(self, schemes: Iterable[Scheme]) -> list[Choices]:
        different = set(schemes)
        for scheme in different:
            if not isinstance(scheme, Scheme):
                raise SchemeError(
                    f"{scheme!r} given; give a Scheme, for example Scheme.parse(...)"
                )
            self.net.check(scheme)
        return sorted(scheme.choices for scheme in different)

    def _layout(self, ordered: Sequence[Choices] | None) -> Layout:
        if ordered is not None and not ordered:
            return self._planner.usual
        return self._planner.fit(ordered, self._memory, self._chunk)

    def _score(
        self,
        schemes: Sequence[Choices],
        chunk: int,
        heap: HeapLimit,
        on_scheme: Callable[[], None] | None,
    ) -> tuple[SchemeResult, ...]:
        """Score the schemes of a unit, so many images at a time."""
        passes = math.ceil(len(self.images) / chunk)
        if self._caching and (now := (chunk, weights_digest(self.net))) != self._filled_with:
            self._filled_with = now
            self._cache.clear()
        wanted = self._cache.admit(schemes, chunks=len(self.calibration) + passes)
        found: list[dict[Choices, Activations]] = [{} for _ in self._cache.chunks]
        walk = Walk(
            self._parts,
            self._statistics,
            schemes,
            Stack(self.images.device),
            heap,
            known=self._cache.prefixes,
            wanted=wanted,
        )
        device, images = self.images.device, len(self.images)
        tally = Tally(len(schemes), images, chunk, device, on_scheme)
        streams = iter(zip(self._cache.chunks, found, strict=True))
        with evaluating(self.net), self._statistics.borrowed(), torch.inference_mode():
            self._statistics.prepare(schemes)
            self._statistics.train(mode=True)
            for x, (known, keep) in zip(self.calibration, streams, strict=False):
                leaves = self._calibrate_leaves
                for _ in walk.logits(x, known=known, keep=keep, leaves=leaves):
                    pass
            self._statistics.train(mode=False)
            batches = self.images.batches(None, chunk)
            for (x, labels), (known, keep) in zip(batches, streams, strict=True):
                for place, logits in walk.logits(x, known=known, keep=keep):
                    tally.add(place, logits, labels)
            rights, losses = tally.fetch()
        self._cache.add(found)
        return tuple(
            SchemeResult(
                scheme=Scheme(choices, self.stages),
                right=np.packbits(right).tobytes(),
                loss=sum(loss),
                n=len(self.images),
            )
            for choices, right, loss in zip(schemes, rights, losses, strict=True)
        )

    @property
    def cached_bytes(self) -> int:
        """Bytes of activations that are kept now."""
        return self._cache.size

    def _kept_size(self, depth: int) -> int:
        """Return the bytes of the activations after so many choices, of all images."""
        part = merge(depth - 1) if depth else STEM
        images = len(self.images) + sum(map(len, self.calibration))
        return math.ceil(images * self._planner.footprints[part].result)
