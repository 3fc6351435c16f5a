"""The attention modules that a stage of residual blocks owns."""

import copy
from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from sat_optuna.attention import build_attention
from sat_optuna.attention.contract import Attention
from sat_optuna.seeds import seeded
from sat_optuna.ticket import AttentionSpec

__all__ = ["StageAttention"]

_SHARED = "shared"


class StageAttention(nn.Module):
    """The attention modules that a stage owns, each held once.

    Attributes:
        slots: kind, then the block's index within the stage, or "shared", to the module.
        kinds: the study's kinds in the order of a scheme's choices.
    """

    def __init__(
        self, kinds: Sequence[str], modules: Mapping[str, Mapping[str, nn.Module]]
    ) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.slots = nn.ModuleDict({k: nn.ModuleDict(slots) for k, slots in modules.items()})

    @classmethod
    def build(
        cls, specs: Sequence[AttentionSpec], channels: Sequence[int], *, seed: int, stage: int
    ) -> "StageAttention":
        """Build a module for each block and kind, or one for the stage where the kind is shared.

        Args:
            specs: the study's kinds.
            channels: of the features of each block of this stage.
            seed: of the supernet; the weights of a module depend on it and on its place alone.
            stage: number of the stage, 0 the first.
        """
        modules: dict[str, dict[str, nn.Module]] = {}
        for spec in specs:
            shared = spec.sharing == "stage"
            places = [_SHARED] if shared else [str(block) for block in range(len(channels))]
            slots = modules.setdefault(spec.kind, {})
            for place, width in zip(places, channels, strict=False):
                with seeded("attention", seed, stage, place, spec.kind):
                    slots[place] = build_attention(spec.kind, width, **spec.settings)
        return cls([spec.kind for spec in specs], modules)

    def module_for(self, choice: int, block: int) -> Attention:
        """Return the module of kind `choice` (1 is the first) for a block of this stage.

        Args:
            choice: 1..K.
            block: index within the stage.
        """
        slots = cast("nn.ModuleDict", self.slots[self.kinds[choice - 1]])
        return cast("Attention", slots[_place(slots, block)])

    def kept(self, choices: Sequence[int]) -> "StageAttention":
        """Return a copy that holds the modules these choices use, and no others.

        Args:
            choices: one a block of this stage, 0 for none.
        """
        modules: dict[str, dict[str, nn.Module]] = {}
        for block, choice in enumerate(choices):
            if choice:
                kind = self.kinds[choice - 1]
                slots = cast("nn.ModuleDict", self.slots[kind])
                place = _place(slots, block)
                kept = modules.setdefault(kind, {})
                if place not in kept:
                    kept[place] = copy.deepcopy(slots[place])
        return StageAttention(self.kinds, modules)


def _place(slots: nn.ModuleDict, block: int) -> str:
    return _SHARED if _SHARED in slots else str(block)
