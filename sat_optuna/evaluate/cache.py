"""Activations after the prefixes that most batches of schemes pass, within a bound of memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from torch.utils._pytree import tree_leaves

from sat_optuna.evaluate.parts import Choices
from sat_optuna.evaluate.tree import Activations

__all__ = ["PrefixCache"]


class PrefixCache:
    """What is kept between calls; of each prefix all chunks of images or none.

    Kept are the prefixes passed by most calls, of equally many the shorter ones.

    Args:
        limit: bytes that may be held.
        size_of: the bytes that a prefix of so many choices takes.
    """

    def __init__(self, limit: int, *, size_of: Callable[[int], int]) -> None:
        self.limit, self._size_of = limit, size_of
        self._passed: Counter[Choices] = Counter()
        self.chunks: tuple[dict[Choices, Activations], ...] = ()
        self._decided_by: object = None

    @property
    def prefixes(self) -> frozenset[Choices]:
        """The prefixes that are held."""
        return frozenset(self.chunks[0]) if self.chunks else frozenset()

    @property
    def size(self) -> int:
        """Bytes of what is held."""
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for chunk in self.chunks
            for tensor in tree_leaves(list(chunk.values()))
        }
        return sum(storages.values())

    def admit(
        self, schemes: Iterable[Choices], *, chunks: int, decided_by: object
    ) -> frozenset[Choices]:
        """Count a call and return the prefixes to keep; those held that are not among them go.

        Args:
            schemes: of the call.
            chunks: that the images come in.
            decided_by: what activations depend on; where it changed, none that is held is of use.
        """
        if (chunks, decided_by) != (len(self.chunks), self._decided_by):
            self.chunks, self._decided_by = tuple({} for _ in range(chunks)), decided_by
        if self.limit <= 0:
            return frozenset()
        # A whole scheme is no prefix worth keeping: its score is all that it leads to.
        passed = {choices[:depth] for choices in schemes for depth in range(len(choices))}
        self._passed.update(passed)
        candidates = sorted(
            self.prefixes | passed, key=lambda prefix: (-self._passed[prefix], len(prefix), prefix)
        )
        kept, room = set(), self.limit
        for prefix in candidates:
            room -= self._size_of(len(prefix))
            if room < 0:
                break
            kept.add(prefix)
        for prefix in self.prefixes - kept:
            for chunk in self.chunks:
                del chunk[prefix]
        return frozenset(kept)

    def add(self, found: Sequence[dict[Choices, Activations]]) -> None:
        """Hold what a call found for the prefixes that it was to keep.

        Args:
            found: by chunk.
        """
        for chunk, activations in zip(self.chunks, found, strict=True):
            chunk.update(activations)
