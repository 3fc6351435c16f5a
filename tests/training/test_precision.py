"""What `auto` means, for each kind of device and network; where a GPU looks for kernels."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from sat_optuna.backbones import build_backbone
from sat_optuna.config.config import TrainConfig
from sat_optuna.errors import ConfigError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.precision import (
    BFLOAT16_FLAGS,
    Arithmetic,
    arithmetic_for,
    cpu_flags,
    fastest_kernels,
    pick_device,
    to_memory_format,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PLAIN = Arithmetic("float32", "contiguous")
FAST = Arithmetic("bfloat16", "channels_last")


def supernet(**settings):
    return Supernet(
        "resnet20",
        attention=("cbam",),  # with a convolution to one channel
        in_channels=1,
        classes=3,
        seed=0,
        blocks=(1, 1, 1),
        **settings,
    )


def depthwise():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16))


def auto(net, flags, device=CPU):
    return arithmetic_for(TrainConfig(), net, device, flags=flags)


@pytest.mark.parametrize("flag", BFLOAT16_FLAGS)
def test_auto_on_a_cpu_with_bfloat16(flag):
    assert auto(supernet(), {"avx2", flag}) == FAST
    assert auto(supernet(width=8), {flag}) == PLAIN
    assert auto(depthwise(), {flag}) == Arithmetic("float32", "channels_last")
    assert auto(nn.Linear(3, 3), {flag}) == PLAIN


@pytest.mark.parametrize("net", [supernet(), supernet(width=8), depthwise()])
def test_auto_on_other_cpus_is_float32_and_contiguous(net):
    assert auto(net, {"avx2", "avx512_f"}) == PLAIN


@pytest.mark.parametrize(
    ("net", "memory_format"),
    [
        (supernet(), "channels_last"),
        (supernet(width=8), "channels_last"),
        (nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=4)), "contiguous"),
        (depthwise(), "contiguous"),
        (nn.Linear(3, 3), "contiguous"),
    ],
    ids=["wide", "narrow", "groups", "depthwise", "no convolution"],
)
def test_auto_on_a_gpu_is_what_was_measured_there(net, memory_format):
    """See studies/bench-gpu; whatever the CPU beside it has."""
    assert auto(net, set(BFLOAT16_FLAGS), GPU) == Arithmetic("float32", memory_format)
    asked = TrainConfig(memory_format="contiguous")
    assert arithmetic_for(asked, net, GPU) == PLAIN


@pytest.mark.parametrize("width", [8, 16])
def test_auto_is_the_same_for_all_networks_of_a_study(width):
    net = supernet(width=width)
    schemes = (Scheme.uniform(net.stages, choice) for choice in (0, 1))
    tickets = [materialise(net, scheme) for scheme in schemes]
    flags = set(BFLOAT16_FLAGS)
    for device in (CPU, GPU):
        assert len({auto(one, flags, device) for one in (net, *tickets)}) == 1


def test_what_is_asked_for_is_what_is_done():
    asked = TrainConfig(precision="float32", memory_format="contiguous")
    assert arithmetic_for(asked, supernet(), CPU, flags=set(BFLOAT16_FLAGS)) == PLAIN
    asked = TrainConfig(precision="bfloat16", memory_format="channels_last")
    assert arithmetic_for(asked, supernet(width=8), CPU, flags=()) == FAST
    assert (FAST.dtype, FAST.layout) == (torch.bfloat16, torch.channels_last)
    assert (PLAIN.dtype, PLAIN.layout) == (torch.float32, torch.contiguous_format)


def strided(inputs, kernel=1, stride=2, groups=1):
    """A network whose first convolution is wide and whose last is the one that is asked about."""
    first = nn.Conv2d(3, max(16, inputs), 3)
    last = nn.Conv2d(inputs, 32, kernel, stride, groups=groups)
    return nn.Sequential(first, nn.Conv2d(max(16, inputs), inputs, 1), last)


def projecting(width):
    """Shortcuts of a 1x1 convolution, the first strided one of 4 times the width."""
    return build_backbone("resnet164", in_channels=3, classes=2, width=width, blocks=(1, 1, 1))


AVX2, AVX512 = {"avx2"}, {"avx2", "avx512_f", "avx512_bf16"}


@pytest.mark.parametrize(
    ("net", "flags", "crashes"),
    [
        (strided(7), AVX2, True),
        (strided(8), AVX2, False),
        (strided(8), AVX512, True),  # what was seen: 8 channels to 16 with stride 2
        (strided(15, stride=(1, 2)), AVX512, True),
        (strided(16), AVX512, False),
        (strided(8, stride=1), AVX512, False),
        (strided(8, kernel=3), AVX512, False),
        (strided(8, groups=2), AVX512, False),
        (projecting(width=2), AVX2, False),
        (projecting(width=1), AVX2, True),
        (supernet(width=4), AVX512, False),  # its shortcuts have no convolution
    ],
)
def test_channels_last_is_not_for_narrow_strided_1x1_convolutions(net, flags, crashes):
    """See uxlfoundation/oneDNN issue 6035; a GPU has no such fault."""
    asked = TrainConfig(memory_format="channels_last")
    assert arithmetic_for(asked, net, GPU, flags=flags).memory_format == "channels_last"
    if not crashes:
        assert arithmetic_for(asked, net, CPU, flags=flags).memory_format == "channels_last"
        return
    with pytest.raises(ConfigError, match=r"^TrainConfig: memory_format is 'channels_last', and"):
        arithmetic_for(asked, net, CPU, flags=flags)
    assert auto(net, flags) == PLAIN


def test_the_sentence_on_channels_last_says_what_to_do():
    with pytest.raises(ConfigError) as caught:
        arithmetic_for(TrainConfig(memory_format="channels_last"), strided(4), CPU, flags=AVX2)
    assert caught.value.faults == (
        "memory_format is 'channels_last', and the network has a 1x1 convolution of stride 2 with "
        "4 input channels, whose backward pass torch can crash in or compute wrong in this format "
        "on this CPU (uxlfoundation/oneDNN issue 6035); set it to 'auto' or 'contiguous'",
    )


BORDER = """
import torch
from torch import nn
flags = torch.cpu.get_capabilities()
lanes = 16 if any(name.startswith("avx512") for name in flags) else 8
for inputs, stride, kernel in ((lanes, 2, 1), (lanes + 4, 4, 1), (4, 2, 3), (4, 1, 1)):
    for side in (16, 33, 64, 128):
        net = nn.Conv2d(inputs, 16, kernel, stride).to(memory_format=torch.channels_last)
        x = torch.randn(8, inputs, side, side).to(memory_format=torch.channels_last)
        for _ in range(3):
            net(x.requires_grad_()).square().mean().backward()
"""


@pytest.mark.slow
def test_what_is_not_refused_does_not_crash_here():
    """In a process of its own, which a crash would end."""
    assert subprocess.run([sys.executable, "-c", BORDER], check=False).returncode == 0


def test_a_network_is_put_into_its_format():
    net = supernet()
    asked = TrainConfig(memory_format="channels_last")
    assert to_memory_format(net, asked, CPU) is torch.channels_last
    kernel = net.backbone.stem[0].weight
    assert kernel.shape[1] == 1  # contiguous in both
    kernel = net.backbone.stages[0][0].conv1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not kernel.is_contiguous()


def test_this_machine():
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert all(isinstance(flag, str) for flag in cpu_flags())
    assert auto(supernet(), None) == auto(supernet(), cpu_flags())


def test_a_gpu_looks_for_kernels_and_leaves_the_setting_as_it_was():
    def looks(device):
        with fastest_kernels(device):
            return torch.backends.cudnn.benchmark

    assert (looks(CPU), looks(GPU), torch.backends.cudnn.benchmark) == (False, True, False)
    torch.backends.cudnn.deterministic = True
    try:
        assert not looks(GPU)
    finally:
        torch.backends.cudnn.deterministic = False
