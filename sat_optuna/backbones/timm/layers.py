"""What the tables of several of timm's families use."""

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from sat_optuna.backbones.contract import BackboneError

__all__ = ["foldable", "refuse_checkpointing"]


def foldable(layer: nn.Module) -> nn.Module | None:
    """Return a layer if a factor for each channel can be multiplied into its weights, else None.

    Args:
        layer: a normalisation or convolution. A BatchNorm of timm's with an activation qualifies
            only if the activation is switched off; a standardised convolution does not qualify.
    """
    if type(layer) is BatchNormAct2d:
        bare = type(layer.drop) is nn.Identity and type(layer.act) is nn.Identity
        return layer if bare and layer.affine else None
    if type(layer) is nn.BatchNorm2d:
        return layer if layer.affine else None
    return layer if type(layer) in (nn.Conv2d, Conv2dSame) else None


def refuse_checkpointing(*modules: nn.Module) -> None:
    """Make sure that gradient checkpointing is off.

    Raises:
        BackboneError: it is on. Running block by block would keep all activations, not recompute
            them.
    """
    if any(getattr(module, "grad_checkpointing", False) for module in modules):
        raise BackboneError(
            "the network has gradient checkpointing on, which running it block by block ignores; "
            "switch it off with set_grad_checkpointing(False)"
        )
