"""Small networks, weights without chance and random schemes, for several tests."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION, default_spec
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec

BLOCKS = (2, 3, 1)
SHAPE = (2, 16, 16)

# Every module of ours in every sharing it allows, and two of timm's, alone; then several kinds at
# once, with DIA among them.
OURS = ATTENTION.single_names()
ALONE = tuple(
    (AttentionSpec(kind=kind, sharing=sharing),)
    for kind in (*OURS, "timm:eca", "timm:coord")
    for sharing in ATTENTION.get(kind).sharings
)
TOGETHER = (
    (default_spec("se"), default_spec("sge"), default_spec("dia")),
    (default_spec("dia"), AttentionSpec(kind="se", sharing="stage", settings={"reduction": 2})),
    (
        AttentionSpec(kind="cbam", sharing="stage"),
        AttentionSpec(kind="srm", sharing="stage"),
        default_spec("gc"),
    ),
)
KINDS = ALONE + TOGETHER


def name_of(specs: Sequence[AttentionSpec]) -> str:
    return "+".join(f"{spec.kind}-{spec.sharing}" for spec in specs)


def tiny_supernet(
    attention: Sequence[AttentionSpec | str] = ("se",),
    *,
    backbone: str = "resnet20",
    seed: int = 0,
    blocks: Sequence[int] = BLOCKS,
) -> Supernet:
    net = Supernet(
        backbone,
        attention=attention,
        in_channels=SHAPE[0],
        classes=5,
        seed=seed,
        width=8,
        blocks=blocks,
    )
    return stirred(net)


def stirred(net: Supernet) -> Supernet:
    """Return a supernet with `stirred_module` done to it."""
    stirred_module(net)
    return net


def stirred_module(net: nn.Module) -> nn.Module:
    """Move what starts at 0 or 1 elsewhere: symmetry would hide mistakes.

    That is each vector or scalar whose values are all 0 or all 1: BatchNorm's, SGE's, layer scale.
    """
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point() and bool(((value == 0) | (value == 1)).all()):
                chance = generator_for("stirred", name)  # parts that two networks share stay equal
                value += 0.4 * torch.rand(value.shape, generator=chance)
    return net


def images(count: int, *, seed: int = 0, shape: Sequence[int] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def ramp_init(module: nn.Module) -> None:
    """Set each parameter to a ramp from -0.5 to 0.75, so that no two of its weights are equal."""
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.linspace(-0.5, 0.75, value.numel()).reshape(value.shape))


def schemes(kinds: int = 1, stages: Sequence[int] = BLOCKS) -> st.SearchStrategy[Scheme]:
    count = sum(stages)
    choices = st.lists(st.integers(0, kinds), min_size=count, max_size=count)
    return choices.map(lambda drawn: Scheme.of(drawn, stages))
