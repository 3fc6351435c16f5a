"""Can schemes differ at the beginning of a training?

A residual branch that ends in a norm of weight zero (timm's zero_init_last, torchvision's
zero_init_residual) or in a tiny layer scale adds nothing at first. Attention that starts as the
identity changes what a branch adds, by nothing at first. Where both come together, neither has a
gradient that tells schemes apart until the branch has grown.
"""

import warnings

import torch

from sat_optuna.errors import SatOptunaWarning
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.supernet import Supernet

__all__ = ["blind_blocks", "warn_of_blind_start"]

_NOTHING = 1e-3  # of the block's input: what a branch adds that begins as nothing
_SAME = 1e-6


def blind_blocks(net: Supernet, shape: tuple[int, int, int]) -> dict[str, int]:
    """Return, by kind, in how many blocks the scheme makes no difference with these weights.

    Args:
        net: a supernet, which is left as it was.
        shape: (C, H, W) of an image.
    """
    counts = dict.fromkeys((spec.kind for spec in net.specs), 0)
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(0)
    with evaluating(net), torch.no_grad():
        x = net.view.stem(torch.randn(1, *shape, generator=generator).to(device))
        for blocks, modules in zip(net.view.blocks, net.stage_attention, strict=True):
            for index, block in enumerate(blocks):
                entered = float(x.abs().max())
                features, shortcut = block.branch(x)
                if float(features.abs().max()) <= _NOTHING * entered:
                    probe = torch.randn(features.shape, generator=generator).to(features)
                    for choice, kind in enumerate(counts, start=1):
                        given, _ = modules.module_for(choice, index)(probe.clone(), None)
                        counts[kind] += bool((given - probe).abs().max() <= _SAME)
                x = block.merge(features, shortcut)
    return counts


def warn_of_blind_start(net: Supernet, shape: tuple[int, int, int]) -> None:
    """Warn where for a kind most blocks cannot tell at first whether it is there."""
    blocks = sum(net.stages)
    for kind, count in blind_blocks(net, shape).items():
        if 2 * count > blocks:
            warnings.warn(
                f"{count} of {blocks} blocks of {net.backbone_name} begin with a branch that adds "
                f"nothing (its last norm starts at zero, or the like) and {kind} begins as the "
                "identity, so a short training cannot tell schemes apart; set identity = false, "
                "or train for many epochs",
                SatOptunaWarning,
                stacklevel=3,
            )
