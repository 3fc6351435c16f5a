"""A ResNet-20 with SE in some blocks, written by hand for one scheme.

Its forward uses no supernet, scheme or view. The benchmark compares a supernet's forward with it.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import apart, materialise, scheme_of
from sat_optuna.supernet.supernet import Supernet

if TYPE_CHECKING:
    from sat_optuna.attention.se import SE
    from sat_optuna.backbones.cifar_resnet import BasicBlock
    from sat_optuna.backbones.contract import Backbone

__all__ = ["HandWrittenResNet", "hand_written"]


class _Block(nn.Module):
    def __init__(self, block: "BasicBlock", attention: "SE | None") -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        self.padding = block.padding if any(block.padding) else None
        self.stride = block.stride
        self.squeeze = attention.squeeze if attention else None
        self.excite = attention.excite if attention else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.squeeze is not None and self.excite is not None:
            gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
            y = y * gate[:, :, None, None]
        if self.padding is not None:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)
        return F.relu(y + x, inplace=True)


class HandWrittenResNet(nn.Module):
    """A stem, blocks one after the other, a mean and a linear layer."""

    def __init__(self, network: nn.Module) -> None:
        """Use the layers of a ticket's network; both networks share them."""
        super().__init__()
        view, owners = apart(network)
        backbone = cast("Backbone", view.model)
        self.stem, self.head = backbone.stem, backbone.head
        rows = zip(owners, scheme_of(network).by_stage(), view.blocks, strict=True)
        blocks = []
        for owner, choices, members in rows:
            for index, (choice, member) in enumerate(zip(choices, members, strict=True)):
                attention = cast("SE", owner.module_at(choice, index)) if choice else None
                blocks.append(_Block(cast("BasicBlock", member.module), attention))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes) logits of (N, C, H, W) images."""
        logits: Tensor = self.head(self.blocks(self.stem(x)))
        return logits


def hand_written(net: Supernet, scheme: Scheme) -> HandWrittenResNet:
    """Return the hand-written network of a scheme, with a copy of the supernet's weights.

    Args:
        net: resnet20 or another ResNet of basic blocks, with SE as its only kind.
        scheme: which block carries SE.
    """
    return HandWrittenResNet(materialise(net, scheme))
