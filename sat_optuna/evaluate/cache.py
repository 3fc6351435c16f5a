"""Activations kept from call to call, after the prefixes that most calls pass."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from torch.utils._pytree import tree_leaves

from sat_optuna.evaluate.parts import Choices
from sat_optuna.evaluate.tree import Activations

__all__ = ["PrefixCache"]


class PrefixCache:
    """Keeps the activations after some prefixes: of a prefix those of all chunks, or none.

    It keeps the prefixes that most calls passed; of two passed equally often, the shorter one.

    Args:
        limit: bytes that may be held.
        size_of: returns the bytes that a prefix of so many choices takes.

    Attributes:
        chunks: by chunk of images, the activations by prefix.
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
        """Count the prefixes of a call, return those to keep, and forget all others.

        Args:
            schemes: of the call.
            chunks: number of chunks that the images come in.
            decided_by: what the activations depend on; where it changed, all are forgotten.
        """
        if (chunks, decided_by) != (len(self.chunks), self._decided_by):
            self.chunks, self._decided_by = tuple({} for _ in range(chunks)), decided_by
        if self.limit <= 0:
            return frozenset()
        # A whole scheme is no prefix worth keeping: nothing but its score comes after it.
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
        """Hold what a call found, by chunk, after the prefixes that `admit` returned."""
        for chunk, activations in zip(self.chunks, found, strict=True):
            chunk.update(activations)
