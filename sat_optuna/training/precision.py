"""Where a network runs, in which precision and memory format."""

import contextlib
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import nn

from sat_optuna.attention.contract import Attention
from sat_optuna.config.config import TrainConfig
from sat_optuna.device import known_device, visible_devices
from sat_optuna.errors import ConfigError, SatOptunaWarning

__all__ = [
    "BFLOAT16_FLAGS",
    "Arithmetic",
    "arithmetic_for",
    "cpu_flags",
    "fastest_kernels",
    "pick_device",
    "to_memory_format",
]

# A CPU with one of these multiplies bfloat16 by itself; without, it takes several times longer.
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")
_LEAST_WIDTH = 16  # of the first convolution; narrower ones leave bfloat16's lanes empty


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a network is trained, once nothing is left to `auto`; a checkpoint stores it.

    Attributes:
        precision: "float32", or what autocast goes down to: "bfloat16", "float16".
        memory_format: "contiguous" or "channels_last".
    """

    precision: str
    memory_format: str

    @property
    def dtype(self) -> torch.dtype:
        """The dtype to autocast to; float32 means no autocast."""
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def layout(self) -> torch.memory_format:
        """The memory format as torch names it."""
        last = self.memory_format == "channels_last"
        return torch.channels_last if last else torch.contiguous_format

    def put(self, net: nn.Module, device: torch.device) -> None:
        """Put a network on a device in this memory format."""
        net.to(device)
        # Not every torch has this overload in its types.
        cast("Any", net).to(memory_format=self.layout)


def pick_device(asked: str = "auto") -> torch.device:
    """Return the device that is asked for; "auto" is the GPU where there is one, else the CPU.

    A SatOptunaWarning says why a GPU cannot be used.

    Raises:
        DeviceError: there is no such device.
    """
    if asked != "auto":
        return known_device(asked, kinds=("cpu", "cuda"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    for warning in said:  # torch says once that the driver is too old, and why no GPU answers
        reason = str(warning.message).split(" (Triggered")[0].strip().rstrip(".")
        warnings.warn(
            f"torch can use no GPU here ({reason}), so the CPU computes; update the driver, or "
            "install a torch that was built for it",
            SatOptunaWarning,
            stacklevel=2,
        )
    if not found and not said and torch.version.cuda and (named := visible_devices()):
        warnings.warn(  # torch takes it for a machine without a GPU
            f"CUDA_VISIBLE_DEVICES = {named!r} names no GPU, nor a slice of one, that is here, so "
            "the CPU computes; nvidia-smi -L lists those that are",
            SatOptunaWarning,
            stacklevel=2,
        )
    return torch.device("cuda" if found else "cpu")


@cache
def cpu_flags() -> frozenset[str]:
    """Return the names of the instruction sets that torch finds in this CPU."""
    # torch has had this function for a few versions only; without it nothing is assumed.
    probe = getattr(torch.cpu, "get_capabilities", dict)
    return frozenset(name for name, value in probe().items() if value is True)


def arithmetic_for(
    config: TrainConfig,
    net: nn.Module,
    device: torch.device,
    *,
    flags: Collection[str] | None = None,
) -> Arithmetic:
    """Return what the configuration asks for, `auto` resolved.

    `auto` is a function of the device and of the backbone, never of the attention, so that all
    networks of a study are trained alike.

    On a CPU with bfloat16 instructions, for a network whose first convolution has at least 16
    channels, it means channels_last, and bfloat16 unless there are depthwise convolutions; on
    other CPUs, and for a network that channels_last would crash, float32 and contiguous
    (studies/bench-speed).

    On a GPU it means float32, and channels_last unless there are convolutions in groups, which
    were not measured. In float32 channels_last made training by graph 1.44 and 1.48 times as fast
    (ResNet-20 and ResNet-56 of width 16 on an H200), and eager training 1.07 to 1.14 times, within
    its spread. With `precision = "bfloat16"` graphs gained another 1.22 and 1.24 times, eager
    training nothing, 0.78 to 0.90, and contiguous graphs nothing either, 0.89 and 0.88
    (studies/bench-gpu). What bfloat16 does to accuracy was compared on no GPU.

    Args:
        config: the two keys.
        net: what is to be trained.
        device: where.
        flags: instruction sets of the CPU; those of this one if None.

    Raises:
        ConfigError: channels_last is asked for, and would crash on this CPU.
    """
    flags = cpu_flags() if flags is None else flags
    native = not set(BFLOAT16_FLAGS).isdisjoint(flags)
    precision, memory_format = "float32", "contiguous"
    crashing = _crashing(net, flags) if device.type == "cpu" else None
    if crashing is not None and config.memory_format == "channels_last":
        raise ConfigError(
            "TrainConfig",
            [
                "memory_format is 'channels_last', and the network has a 1x1 convolution of "
                f"stride {max(crashing.stride)} with {crashing.in_channels} input channels, whose "
                "backward pass torch can crash in or compute wrong in this format on this CPU "
                "(uxlfoundation/oneDNN issue 6035); set it to 'auto' or 'contiguous'"
            ],
        )
    if device.type == "cpu" and native and crashing is None:
        precision, memory_format = _on_bfloat16_cpu(net)
    elif device.type == "cuda" and {kernel.groups for kernel in _convolutions(net)} == {1}:
        memory_format = "channels_last"
    if config.precision != "auto":
        precision = config.precision
    if config.memory_format != "auto":
        memory_format = config.memory_format
    if precision == "bfloat16" and device.type == "cuda" and not _computes_bfloat16():
        precision = "float16"  # a scaler keeps its gradients from underflowing
        warnings.warn(
            "this GPU does not compute in bfloat16, so training is in float16; set "
            "train.precision to float16 or float32",
            SatOptunaWarning,
            stacklevel=2,
        )
    return Arithmetic(precision, memory_format)


def _computes_bfloat16() -> bool:
    """Return whether the GPU has instructions for bfloat16, and need not imitate them."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def to_memory_format(
    net: nn.Module, config: TrainConfig, device: torch.device
) -> torch.memory_format:
    """Put a network on the device in the configured memory format and return that format."""
    arithmetic = arithmetic_for(config, net, device)
    arithmetic.put(net, device)
    return arithmetic.layout


@contextlib.contextmanager
def fastest_kernels(device: torch.device) -> Iterator[None]:
    """Let a GPU try its convolution kernels and keep the fastest; nothing on other devices.

    Which is the fastest may change from run to run, and with it the last bits, unless
    `torch.backends.cudnn.deterministic` is set.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    if device.type != "cuda" or before or cudnn.deterministic:
        yield
        return
    cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.benchmark = before


def _convolutions(net: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions of a network, but for those of its attention."""
    attention = {m for a in net.modules() if isinstance(a, Attention) for m in a.modules()}
    return [m for m in net.modules() if isinstance(m, nn.Conv2d) and m not in attention]


def _crashing(net: nn.Module, flags: Collection[str]) -> nn.Conv2d | None:
    """Return a convolution whose backward pass in channels_last a CPU cannot compute; else None.

    oneDNN gathers what a strided 1x1 convolution reads into a workspace, and writes past its end
    where there are fewer input channels than lanes (uxlfoundation/oneDNN issue 6035). Tried here
    with torch 2.14.1: on a CPU with AVX2 all crashes of 1,032 convolutions were of such.
    """
    lanes = 16 if any(flag.startswith("avx512") for flag in flags) else 8
    for kernel in _convolutions(net):
        strided = kernel.kernel_size == (1, 1) and max(kernel.stride) > 1
        if strided and kernel.groups == 1 and kernel.in_channels < lanes:
            return kernel
    return None


def _on_bfloat16_cpu(net: nn.Module) -> tuple[str, str]:
    kernels = _convolutions(net)
    if not kernels or kernels[0].out_channels < _LEAST_WIDTH:
        return "float32", "contiguous"
    depthwise = any(kernel.groups == kernel.in_channels > 1 for kernel in kernels)
    return "float32" if depthwise else "bfloat16", "channels_last"
