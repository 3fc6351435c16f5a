"""Randomness is an argument: every draw is a function of a key, which holds a seed.

A key says what is drawn: `("order", seed, epoch)` is the order of the images in one epoch. So no
draw depends on what was drawn before it, and a run that was stopped goes on with the same numbers.
"""

import contextlib
import hashlib
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    import torch

__all__ = ["generator_for", "seed_for", "seeded"]


def seed_for(*key: object) -> int:
    """Return the 63-bit seed of a key.

    >>> seed_for("order", 0, 1)
    8639817837933930023

    The same key gives the same seed on every machine; different keys give unrelated seeds.

    Raises:
        TypeError: a part of the key is neither a text nor a whole number (NumPy's are whole
            numbers too); nothing else has the same text on every machine.
    """
    text = "\x1f".join(_text(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(*key: object, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a torch Generator on `device`, seeded by `seed_for(*key)`.

    >>> import torch
    >>> torch.randperm(4, generator=generator_for("order", 0, 1)).tolist()
    [1, 3, 0, 2]
    """
    import torch

    return torch.Generator(device=device).manual_seed(seed_for(*key))


@contextlib.contextmanager
def seeded(*key: object, device: "torch.device | None" = None) -> Iterator[None]:
    """Seed torch's global generators with a key inside the block; restore their states after it.

    >>> import torch
    >>> with seeded("weights", 0):
    ...     first = torch.nn.Linear(2, 2).weight
    >>> with seeded("weights", 0):
    ...     second = torch.nn.Linear(2, 2).weight
    >>> torch.equal(first, second)
    True

    It is for code that takes no Generator: torch's default initialisers and dropout. Nothing else
    in the package may touch a global generator.

    Args:
        key: as `seed_for` takes it.
        device: a GPU whose generator is seeded as well as the CPU's; other GPUs' are left alone.
    """
    import torch

    gpu = device if device is not None and device.type == "cuda" else None
    seed = seed_for(*key)
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
    raise TypeError(f"a seed's key has {part!r}; give texts and whole numbers")
