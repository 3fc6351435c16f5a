"""Memory for what is given up in the reverse order in which it came, taken from one end.

Large tensors that live long break up a heap on which others come and go, and nobody can say how
far it grows. What a walk in depth holds open needs no heap: its last is its first to go.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

__all__ = ["Stack"]

_Tree = TypeVar("_Tree")

# Bytes taken at a time, at least. What is above 32 MB glibc maps apart from its heap: it takes no
# memory before it is written to, and all of it goes back in the end. Elsewhere each push gets its
# own, as an end that is not used would be memory lost.
_SLAB = {"cpu": 2**26}
_ALIGNED = 64  # bytes, as torch's own tensors are on a CPU


class _Place(NamedTuple):
    """Where the next bytes go: in which slab, after how many of its bytes; bytes in use so far."""

    slab: int = -1
    end: int = 0
    used: int = 0


class Stack:
    """Holds copies of tensors; those that came last go first.

    Args:
        device: of the tensors; those on another one are not copied.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slabs: list[Tensor] = []
        self._place = _Place()
        self._before: list[_Place] = []  # each push

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._place.used

    def push(self, tree: Any) -> Any:
        """Return a tree with copies in place of its tensors, good until they are popped.

        Sizes and strides stay, and tensors that share memory do so again. Tensors that `pytree`
        does not find, in objects that it does not know, are not copied.

        Args:
            tree: tensors in tuples, lists and dicts, among anything else.
        """
        leaves, spec = tree_flatten(tree)
        extents = _extents(leaf for leaf in leaves if self._takes(leaf))
        self._before.append(self._place)
        moved = {}
        for start, (storage, first, end) in extents.items():
            room = self._room(end - first)
            room.copy_(_view(room, storage, first, (end - first,), (1,)))
            moved[start] = room.untyped_storage(), room.storage_offset() - first
        for place, leaf in enumerate(leaves):
            if self._takes(leaf):
                storage, shift = moved[leaf.untyped_storage().data_ptr()]
                offset = leaf.storage_offset() + shift // leaf.itemsize
                leaves[place] = _view(leaf, storage, offset, leaf.shape, leaf.stride())
        return tree_unflatten(leaves, spec)

    def pop(self) -> None:
        """Give back the bytes of the last push that has not been popped.

        Raises:
            IndexError: there is none.
        """
        self._place = self._before.pop()

    def clear(self) -> None:
        """Pop everything; the memory is kept for what comes next."""
        self._place = _Place()
        self._before.clear()

    def outside(self, tree: _Tree) -> _Tree:
        """Return a tree with copies in place of those tensors that lie in the stack."""
        slabs = {slab.data_ptr() for slab in self._slabs}

        def own(leaf: Any) -> Any:
            inside = self._takes(leaf) and leaf.untyped_storage().data_ptr() in slabs
            return leaf.clone() if inside else leaf

        changed: _Tree = tree_map(own, tree)
        return changed

    def _takes(self, leaf: Any) -> bool:
        return (
            isinstance(leaf, Tensor)
            and leaf.layout == torch.strided
            and leaf.device == self._device
            and leaf.numel() > 0
            and not (leaf.is_conj() or leaf.is_neg())  # their values are not what is stored
        )

    def _room(self, size: int) -> Tensor:
        """Return the next bytes; slabs that are too small for them are given back."""
        slab, end, used = self._place
        taken = -(-size // _ALIGNED) * _ALIGNED
        if slab < 0 or end + taken > len(self._slabs[slab]):
            slab, end = slab + 1, 0
            if slab == len(self._slabs) or taken > len(self._slabs[slab]):
                del self._slabs[slab:]
                least = _SLAB.get(self._device.type, 0)
                self._slabs.append(
                    torch.empty(max(taken, least), dtype=torch.uint8, device=self._device)
                )
        self._place = _Place(slab, end + taken, used + taken)
        return self._slabs[slab][end : end + size]


def _extents(tensors: Iterable[Tensor]) -> dict[int, tuple[torch.UntypedStorage, int, int]]:
    """Return each storage by its address, and which of its bytes, from and to, the tensors span.

    The first byte is where a tensor of any type might begin.
    """
    found: dict[int, tuple[torch.UntypedStorage, int, int]] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        first = int(tensor.storage_offset()) * tensor.itemsize
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        end = first + (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.itemsize
        first -= first % _ALIGNED
        _, least, most = found.get(storage.data_ptr(), (storage, first, end))
        found[storage.data_ptr()] = (storage, min(first, least), max(end, most))
    return found


def _view(
    like: Tensor,
    storage: torch.UntypedStorage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> Tensor:
    """Return a tensor of another's type on given memory; `offset` counts elements."""
    empty = torch.empty(0, dtype=like.dtype, device=like.device)
    return empty.set_(storage, offset, shape, stride)
