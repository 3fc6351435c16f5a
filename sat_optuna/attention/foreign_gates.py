"""The gates of modules from elsewhere that multiply each channel by a number, by type.

Such a module computes x * gate(x) in one forward; folding needs the gate alone. A type that is in
no row, also one derived from a type here, counts as no channel gate.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention.contract import AttentionError

__all__ = ["Gate", "gate_in", "gate_of"]

# From features, (N, C, H, W), to the factor of each channel, (N, C).
Gate: TypeAlias = Callable[[Tensor], Tensor]


def gate_of(module: nn.Module) -> Gate | None:
    """Return what computes a module's factor of each channel; None if it is no such module.

    >>> import torch, torchvision
    >>> se = torchvision.ops.SqueezeExcitation(8, 4)
    >>> x = torch.rand(2, 8, 3, 3)
    >>> torch.equal(x * gate_of(se)(x)[:, :, None, None], se(x))
    True
    """
    kind = type(module)
    gate = _GATES.get(f"{kind.__module__}.{kind.__qualname__}")
    return None if gate is None else lambda features: gate(module, features)


def gate_in(module: nn.Module, features: Tensor) -> Tensor:
    """Return a module's (N, C) factor of each channel for (N, C, H, W) features.

    Raises:
        AttentionError: the module is none that multiplies each channel by a number.
    """
    gate = gate_of(module)
    if gate is None:
        raise AttentionError(
            f"{type(module).__name__} is no gate for each channel that is known here; ask one "
            "whose `gated` is true"
        )
    return gate(features)


def _squeezed(module: Any, x: Tensor) -> Tensor:
    """Return timm's (N, C, 1, 1) means, halved with the largest values where it is asked to."""
    means = x.mean((2, 3), keepdim=True)
    return 0.5 * means + 0.5 * x.amax((2, 3), keepdim=True) if module.add_maxpool else means


def _se(module: Any, x: Tensor) -> Tensor:
    excited = module.fc2(module.act(module.bn(module.fc1(_squeezed(module, x)))))
    return cast("Tensor", module.gate(excited)).flatten(1)


def _ese(module: Any, x: Tensor) -> Tensor:
    return cast("Tensor", module.gate(module.fc(_squeezed(module, x)))).flatten(1)


def _eca(module: Any, x: Tensor) -> Tensor:
    mixed = module.conv(x.mean((2, 3))[:, None])
    if module.conv2 is not None:
        mixed = module.conv2(module.act(mixed))
    return cast("Tensor", module.gate(mixed)).flatten(1)


def _circular_eca(module: Any, x: Tensor) -> Tensor:
    around = (module.padding, module.padding)
    padded = F.pad(x.mean((2, 3))[:, None], around, mode="circular")
    return cast("Tensor", module.gate(module.conv(padded))).flatten(1)


def _efficientnet_se(module: Any, x: Tensor) -> Tensor:
    reduced = module.act1(module.conv_reduce(x.mean((2, 3), keepdim=True)))
    return cast("Tensor", module.gate(module.conv_expand(reduced))).flatten(1)


def _torchvision_se(module: Any, x: Tensor) -> Tensor:
    return cast("Tensor", module._scale(x)).flatten(1)


_GATES: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "timm.layers.eca.CecaModule": _circular_eca,
    "timm.layers.eca.EcaModule": _eca,
    "timm.layers.squeeze_excite.EffectiveSEModule": _ese,
    "timm.layers.squeeze_excite.SEModule": _se,
    "timm.models._efficientnet_blocks.SqueezeExcite": _efficientnet_se,
    "torchvision.ops.misc.SqueezeExcitation": _torchvision_se,
}
