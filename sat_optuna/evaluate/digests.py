"""Digests of what decides scores."""

import hashlib

import torch
from torch import Tensor, nn

__all__ = ["bytes_of", "weights_digest"]


def bytes_of(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's values, of any dtype, in the order of its indices."""
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def weights_digest(net: nn.Module) -> str:
    """Return hex digits that change with any parameter or buffer of a network.

    Torch's own count of changes, `_version`, misses some: a fused optimiser's steps for one.
    """
    digest = hashlib.sha256()
    for name, value in (net.state_dict() | dict(net.named_buffers())).items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(bytes_of(value))
    return digest.hexdigest()
