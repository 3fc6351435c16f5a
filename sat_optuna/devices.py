"""Where a network runs, in which precision and memory format."""

from typing import Any, cast

import torch
from torch import nn

from sat_optuna.config import TrainConfig

__all__ = ["autocast_dtype", "pick_device", "to_memory_format"]

# What `auto` means on each kind of device, from the measurements in studies/bench-training: a CPU
# without native bfloat16 trains several times slower in it. No GPU was measured, so nothing is
# assumed of it.
_AUTO_PRECISION = {"cpu": "float32"}
_AUTO_FORMAT = {"cpu": "contiguous"}


def pick_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_memory_format(
    net: nn.Module, config: TrainConfig, device: torch.device
) -> torch.memory_format:
    """Put a network on the device in the configured memory format and return that format."""
    name = config.memory_format
    if name == "auto":
        name = _AUTO_FORMAT.get(device.type, "contiguous")
    memory = torch.channels_last if name == "channels_last" else torch.contiguous_format
    net.to(device)
    cast("Any", net).to(memory_format=memory)  # not every torch has this overload in its types
    return memory


def autocast_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the dtype to autocast to; float32 means no autocast."""
    name = config.precision
    if name == "auto":
        name = _AUTO_PRECISION.get(device.type, "float32")
    if name == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        name = "float16"  # older GPUs: the scaler below keeps its gradients from underflowing
    dtype: torch.dtype = getattr(torch, name)
    return dtype
