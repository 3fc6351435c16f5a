"""What the tables of timm's families share."""

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from sat_optuna.backbones.contract import BackboneError

__all__ = ["foldable", "refuse_checkpointing"]


def foldable(layer: nn.Module) -> nn.Module | None:
    """Return a layer if a factor a channel can be multiplied into its weights.

    Args:
        layer: a normalisation or convolution. Of timm's BatchNorms with an activation only those
            whose activation is switched off are; a standardised convolution is not.
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
        BackboneError: it is on; a walk block by block keeps what it would compute again.
    """
    if any(getattr(module, "grad_checkpointing", False) for module in modules):
        raise BackboneError(
            "the network has gradient checkpointing on, which a walk block by block does not do; "
            "switch it off with set_grad_checkpointing(False)"
        )
