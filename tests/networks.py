"""Small networks, weights without chance and random schemes, for several tests."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION, default_spec
from sat_optuna.scheme import Scheme
from sat_optuna.supernet import Supernet
from sat_optuna.ticket import AttentionSpec

BLOCKS = (2, 3, 1)
SHAPE = (2, 12, 12)

# Every module in every sharing it allows, alone; then several kinds at once, with DIA among them.
ALONE = tuple(
    (AttentionSpec(kind=kind, sharing=sharing),)
    for kind in ATTENTION.names()
    for sharing in ATTENTION.get(kind).sharings
)
TOGETHER = (
    (default_spec("se"), default_spec("sge"), default_spec("dia")),
    (default_spec("dia"), AttentionSpec(kind="se", sharing="stage", settings={"reduction": 2})),
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
    """Move what starts at 0 or 1 (BatchNorm, SGE) elsewhere: symmetry would hide mistakes."""
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            for value in (
                own if isinstance(module, nn.BatchNorm2d) or "gamma" in dir(module) else ()
            ):
                if value.is_floating_point():
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
