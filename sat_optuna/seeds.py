"""Randomness as an argument: every draw is a function of a seed and of its place."""

import contextlib
import hashlib
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    import torch

__all__ = ["generator_for", "seed_for", "seeded"]


def seed_for(*place: object) -> int:
    """Return a 63-bit seed for a place, for example `seed_for("order", seed, epoch)`.

    The same place gives the same seed on every machine; different places give unrelated ones.

    Raises:
        TypeError: a part is neither a text nor a whole number (NumPy's count as such): nothing
            else has the same text everywhere.
    """
    text = "\x1f".join(_text(part) for part in place)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(*place: object, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a torch Generator on `device`, seeded by `seed_for(*place)`."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_for(*place))


@contextlib.contextmanager
def seeded(*place: object, device: "torch.device | None" = None) -> Iterator[None]:
    """Seed torch's global generators for a place, and give the old states back afterwards.

    For code that takes no Generator: torch's default initialisers, dropout. Nothing else in the
    package may touch a global generator.

    Args:
        place: of `seed_for`.
        device: a GPU whose generator is seeded beside the CPU's; those of others are left alone.
    """
    import torch

    gpu = device if device is not None and device.type == "cuda" else None
    seed = seed_for(*place)
    with torch.random.fork_rng(devices=[] if gpu is None else [gpu]):
        torch.default_generator.manual_seed(seed)
        if gpu is not None:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def _text(part: object) -> str:
    if isinstance(part, str):
        return f"str:{part}"
    if isinstance(part, SupportsIndex):
        return f"int:{operator.index(part)}"
    raise TypeError(f"a seed's place has {part!r}; give texts and whole numbers")
