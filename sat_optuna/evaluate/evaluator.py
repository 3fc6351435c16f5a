"""Schemes of a supernet scored together, through the tree of their common prefixes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice, product
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sat_optuna.errors import DataError, SchemeError
from sat_optuna.evaluate.cache import PrefixCache
from sat_optuna.evaluate.footprint import Footprint, footprints
from sat_optuna.evaluate.network import Evaluation, judge
from sat_optuna.evaluate.norms import PrefixStatistics, find_norms
from sat_optuna.evaluate.parts import HEAD, STEM, Part, Parts, merge
from sat_optuna.evaluate.prefixes import Choices
from sat_optuna.evaluate.results import SchemeResult
from sat_optuna.evaluate.tree import Activations, Walk
from sat_optuna.recalibration import evaluating
from sat_optuna.scheme import Scheme
from sat_optuna.supernet import Supernet

if TYPE_CHECKING:
    from sat_optuna.data.split import Images

__all__ = ["LIMIT", "Evaluator", "unit_of"]

LIMIT = 2**16  # schemes that `score_all` takes on without being told to
_CHUNK = {"cpu": 100}  # images a pass, by device; see studies/bench-speed
_OTHER_CHUNK = 500
_UNIT = 1024  # schemes at most between two records, and sets of BatchNorm statistics at a time


def unit_of(kinds: int) -> int:
    """Return how many schemes are scored between two records: a whole subtree of all schemes."""
    choices = kinds + 1
    return int(choices ** math.floor(math.log(_UNIT, choices) + 1e-9))


class Evaluator:
    """Scores schemes of one supernet on one set of images.

    Each scheme is scored with the BatchNorm statistics that it has on the calibration set: its
    result is, to the bit, that of `score_scheme` with the same chunks, whatever it is scored
    together with. The network is left as it was, also by an exception.

    Args:
        net: a supernet; its weights may change between calls.
        images: what schemes are scored on, all of it, on the network's device.
        calibration: (n, C, H, W) each, for example of `calibration_batches`; the chunks are part
            of the scores. None: the network's own statistics are used.
        chunk: images a pass; 0 for what is fast on the device. Scores differ by rounding between
            two of them.
        cache: bytes of activations that may be kept from call to call.

    Raises:
        DataError: no image, or a calibration chunk of a single one.
        BackboneError: two parts of the network share a BatchNorm.
    """

    def __init__(
        self,
        net: Supernet,
        images: "Images",
        *,
        calibration: Sequence[Tensor] = (),
        chunk: int = 0,
        cache: int = 0,
    ) -> None:
        if not len(images):
            raise DataError("no image given to evaluate on; give at least one")
        for place, batch in enumerate(calibration, start=1):
            if len(batch) < 2:
                raise DataError(
                    f"calibration chunk {place} has {len(batch)} image(s), and the statistics of "
                    "BatchNorm need two at least; give a larger set or another chunk size"
                )
        self.net, self.images, self.calibration = net, images, tuple(calibration)
        self.chunk = chunk or _CHUNK.get(images.device.type, _OTHER_CHUNK)
        self._parts = Parts(net)
        norms = find_norms(self._parts, calibration[0][:2]) if calibration else {}
        self._statistics = PrefixStatistics(norms)
        last = len(self._parts.blocks) - 1
        # Of the last block only the branch is calibrated, unless there are norms after it.
        self._calibrate_leaves = any(
            part == HEAD or (part.block == last and part.what != "branch") for part in norms
        )
        self._bytes = cache
        self._version = self._weights()
        self._cache = self._empty_cache()

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
        results = self.results(asked, on_scheme=on_scheme)
        found = {result.scheme: result.evaluation for result in results}
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

    def all_schemes(self, *, limit: int = LIMIT) -> Iterator[Scheme]:
        """Yield all schemes in ascending order of their choices.

        Raises:
            SchemeError: there are more than `limit`.
        """
        kinds, stages = self._parts.kinds, self.net.stages
        count = (kinds + 1) ** sum(stages)
        if count > limit:
            raise SchemeError(
                f"the network has {count:,} schemes, more than the limit of {limit:,}; raise the "
                "limit, or score a sample of them"
            )
        every = product(range(kinds + 1), repeat=sum(stages))
        return (Scheme(choices, stages) for choices in every)

    def results(
        self, schemes: Iterable[Scheme], *, on_scheme: Callable[[], None] | None = None
    ) -> Iterator[SchemeResult]:
        """Yield the result of each scheme, in ascending order of their choices.

        Args:
            schemes: any number; one that is given twice is scored once.
            on_scheme: called after the work of each.

        Raises:
            SchemeError: one does not fit the network.
        """
        for unit in self.units(schemes):
            yield from self.score_unit(unit, on_scheme=on_scheme)

    def units(self, schemes: Iterable[Scheme]) -> Iterator[tuple[Choices, ...]]:
        """Yield the choices of different schemes, sorted, so many at a time as are scored at once.

        Raises:
            SchemeError: one does not fit the network.
        """
        different = set(schemes)
        for scheme in different:
            self.net.check(scheme)
        ordered = iter(sorted(scheme.choices for scheme in different))
        while unit := tuple(islice(ordered, unit_of(self._parts.kinds))):
            yield unit

    def score_unit(
        self, schemes: Sequence[Choices], *, on_scheme: Callable[[], None] | None = None
    ) -> list[SchemeResult]:
        """Score the schemes of a unit, in their order.

        Args:
            schemes: of `units`.
            on_scheme: called after the work of each.
        """
        cache = self._kept()
        wanted = cache.admit(schemes)
        found: list[dict[Choices, Activations]] = [{} for _ in cache.chunks]
        walk = Walk(self._parts, self._statistics, schemes, known=cache.prefixes, wanted=wanted)
        tally = _Tally(len(schemes), on_scheme, math.ceil(len(self.images) / self.chunk))
        with evaluating(self.net), self._statistics.borrowed(), torch.inference_mode():
            streams = iter(zip(cache.chunks, found, strict=True))
            self._statistics.train(mode=True)
            for x, (known, keep) in zip(self.calibration, streams, strict=False):
                leaves = self._calibrate_leaves
                for _ in walk.logits(x, known=known, keep=keep, leaves=leaves):
                    pass
            self._statistics.train(mode=False)
            batches = self.images.batches(None, self.chunk)
            for (x, labels), (known, keep) in zip(batches, streams, strict=True):
                for place, logits in walk.logits(x, known=known, keep=keep):
                    tally.add(place, logits, labels)
            rights, losses = tally.fetch()
        cache.add(found)
        return [
            SchemeResult(
                scheme=Scheme(choices, self.net.stages),
                right=np.packbits(right).tobytes(),
                loss=sum(loss),
                n=len(self.images),
            )
            for choices, right, loss in zip(schemes, rights, losses, strict=True)
        ]

    @property
    def cached_bytes(self) -> int:
        """Bytes of activations that are kept now."""
        return self._cache.size

    @cached_property
    def footprints(self) -> dict[Part, Footprint]:
        """The bytes that each part takes for an image."""
        return footprints(self._parts, next(self.images.batches(None, 2))[0])

    def _empty_cache(self) -> PrefixCache:
        """Return what keeps activations from call to call, if any may be."""
        passes = len(self.calibration) + math.ceil(len(self.images) / self.chunk)
        images = len(self.images) + sum(map(len, self.calibration))

        def size_of(depth: int) -> int:
            part = merge(depth - 1) if depth else STEM
            return math.ceil(images * self.footprints[part].result)

        return PrefixCache(self._bytes, size_of=size_of, chunks=passes)

    def _kept(self) -> PrefixCache:
        """Return what is kept, nothing if the network's weights changed since."""
        if (version := self._weights()) != self._version:
            self._version = version
            self._cache.clear()
        return self._cache

    def _weights(self) -> tuple[tuple[int, int], ...]:
        """Return what changes with any weight or statistic."""
        tensors = chain(self.net.parameters(), self.net.buffers())
        return tuple((id(tensor), tensor._version) for tensor in tensors)


class _Tally:
    """Gathers what leaves come to, on the device until all of it is fetched at once."""

    def __init__(self, schemes: int, on_scheme: Callable[[], None] | None, chunks: int) -> None:
        self._rights: list[list[Tensor]] = [[] for _ in range(schemes)]
        self._losses: list[list[Tensor]] = [[] for _ in range(schemes)]
        self._on_scheme, self._chunks, self._leaves = on_scheme, chunks, 0

    def add(self, place: int, logits: Tensor, labels: Tensor) -> None:
        right, loss = judge(logits, labels)
        self._rights[place].append(right)
        self._losses[place].append(loss)
        self._leaves += 1
        if self._on_scheme and self._leaves % self._chunks == 0:
            self._on_scheme()

    def fetch(self) -> tuple[NDArray[np.bool_], list[list[float]]]:
        """Return which images each scheme gets right, (schemes, n), and its loss of each chunk."""
        rights = torch.stack([torch.cat(right) for right in self._rights]).cpu().numpy()
        losses: list[list[float]] = torch.stack(
            [torch.stack(loss) for loss in self._losses]
        ).tolist()
        return rights, losses
