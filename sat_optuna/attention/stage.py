"""The attention modules that a stage of residual blocks owns."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias, cast

from torch import Tensor, nn

from sat_optuna.attention import ATTENTION, OWN, build_attention
from sat_optuna.attention.contract import Attention, AttentionError, State
from sat_optuna.attention.norm import SharedBatchNorm
from sat_optuna.attention.own import OwnAttention
from sat_optuna.seeds import seeded
from sat_optuna.ticket import AttentionSpec

__all__ = ["Attend", "StageAttention"]

Attend: TypeAlias = Callable[[Tensor, State | None], tuple[Tensor, State | None]]

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
        cls,
        specs: Sequence[AttentionSpec],
        channels: Sequence[int],
        *,
        seed: int,
        stage: int,
        own: Sequence[nn.Module | None] = (),
        like: Tensor | None = None,
    ) -> "StageAttention":
        """Build a module for each block and kind, or one for the stage where the kind is shared.

        Args:
            specs: the study's kinds.
            channels: of the features of each block of this stage.
            seed: of the supernet; the weights of a module depend on it and on its place alone.
            stage: number of the stage, 0 the first.
            own: the blocks' own attention, taken as it is where a kind is `OWN`; None for a block
                that has none.
            like: a tensor of the device and dtype that what is built is moved to.

        Raises:
            UnknownName: a kind that no registry holds.
            AttentionError: a kind that cannot be built as asked, or `OWN` of a block without any.
        """
        blocks = [str(block) for block in range(len(channels))]
        modules: dict[str, dict[str, nn.Module]] = {}
        for spec in specs:
            slots = modules.setdefault(spec.kind, {})
            if spec.kind == OWN:
                slots |= _own_slots(own, len(channels), stage)
                continue
            shared = spec.sharing == "stage"
            sharers = blocks if shared and ATTENTION.get(spec.kind).placed else ()
            for place, width in zip([_SHARED] if shared else blocks, channels, strict=False):
                with seeded("attention", seed, stage, place, spec.kind):
                    module = build_attention(spec.kind, width, places=sharers, **spec.settings)
                slots[place] = module if like is None else module.to(like.device, like.dtype)
        return cls([spec.kind for spec in specs], modules)

    def owner_of(self, choice: int, block: int) -> Attention:
        """Return the module itself of kind `choice` (1 is the first) for a block of this stage.

        Args:
            choice: 1..K.
            block: index within the stage.
        """
        slots = cast("nn.ModuleDict", self.slots[self.kinds[choice - 1]])
        return cast("Attention", slots[_slot(slots, block)])

    def module_for(self, choice: int, block: int) -> Attend:
        """Return what a block calls for kind `choice`: the module, at its place of a shared one.

        Args:
            choice: 1..K.
            block: index within the stage.
        """
        owner = self.owner_of(choice, block)
        if owner.placed and _SHARED in cast("nn.ModuleDict", self.slots[self.kinds[choice - 1]]):
            return partial(owner, place=str(block))
        return owner

    def kept(self, choices: Sequence[int]) -> "StageAttention":
        """Return a copy that holds the modules these choices use, and no others.

        Of a shared module with BatchNorm inside, the statistics of the blocks that do not use it
        are gone too.

        Args:
            choices: one a block of this stage, 0 for none.
        """
        modules: dict[str, dict[str, nn.Module]] = {}
        for number, kind in enumerate(self.kinds, start=1):
            users = [block for block, choice in enumerate(choices) if choice == number]
            if not users:
                continue
            slots = cast("nn.ModuleDict", self.slots[kind])
            for slot in dict.fromkeys(_slot(slots, block) for block in users):
                module = copy.deepcopy(slots[slot])
                if slot == _SHARED:
                    _keep_places(module, [str(block) for block in users])
                modules.setdefault(kind, {})[slot] = module
        return StageAttention(self.kinds, modules)


def _slot(slots: nn.ModuleDict, block: int) -> str:
    return _SHARED if _SHARED in slots else str(block)


def _own_slots(own: Sequence[nn.Module | None], blocks: int, stage: int) -> dict[str, nn.Module]:
    """Return each block's own attention.

    Raises:
        AttentionError: a block has none, or the network runs it twice: it is taken once.
    """
    slots: dict[str, nn.Module] = {}
    for block in range(blocks):
        module = own[block] if block < len(own) else None
        if module is None:
            raise AttentionError(
                f"attention {OWN!r} asked for, and block {block + 1} of stage {stage + 1} brings "
                "none; name another kind"
            )
        slots[str(block)] = OwnAttention(module)
    return slots


def _keep_places(module: nn.Module, places: Sequence[str]) -> None:
    for inner in module.modules():
        if isinstance(inner, SharedBatchNorm):
            inner.keep(places)
