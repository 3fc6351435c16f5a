"""The attention modules that a stage of residual blocks owns."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias, cast

from torch import Tensor, nn

from sat_optuna.attention import OWN, build_attention
from sat_optuna.attention.contract import Attention, AttentionError, State
from sat_optuna.attention.norm import SharedBatchNorm
from sat_optuna.attention.own import OwnAttention
from sat_optuna.seeds import seeded
from sat_optuna.ticket import AttentionSpec

__all__ = ["SHARED", "Attend", "StageAttention"]

Attend: TypeAlias = Callable[[Tensor, State | None], tuple[Tensor, State | None]]

SHARED = "shared"  # the slot of a module that the blocks of a stage share


class StageAttention(nn.Module):
    """The attention modules of a stage; a module that blocks share is held once.

    >>> stage = StageAttention.build(
    ...     [AttentionSpec(kind="se"), AttentionSpec(kind="dia", sharing="stage")], [16, 16],
    ...     seed=0, stage=0,
    ... )
    >>> [name for name, module in stage.named_modules() if isinstance(module, Attention)]
    ['slots.se.0', 'slots.se.1', 'slots.dia.shared']

    Attributes:
        slots: the modules, by kind and then by the block's index within the stage, or by "shared".
        kinds: the study's kinds, in the order of a scheme's choices.
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
        """Build a module for each block and kind; a kind with sharing "stage" gets one for all.

        Args:
            specs: the study's kinds.
            channels: of the features of each block of this stage.
            seed: of the supernet. The weights of a module depend on the seed, the stage, the block
                and the kind, and on nothing else.
            stage: index of the stage, 0 for the first.
            own: for the kind `OWN`, the attention that each block carries itself; None for a block
                that carries none.
            like: a tensor; the modules are moved to its device and dtype.

        Raises:
            UnknownName: no registry holds a kind.
            AttentionError: a kind cannot be built as asked, or the kind is `OWN` and a block
                carries no attention.
        """
        blocks = [str(block) for block in range(len(channels))]
        modules: dict[str, dict[str, nn.Module]] = {}
        for spec in specs:
            slots = modules.setdefault(spec.kind, {})
            if spec.kind == OWN:
                slots |= _own_slots(own, len(channels), stage)
                continue
            shared = spec.sharing == "stage"
            sharers = blocks if shared else ()
            for slot, width in zip([SHARED] if shared else blocks, channels, strict=False):
                with seeded("attention", seed, stage, slot, spec.kind):
                    module = build_attention(spec.kind, width, blocks=sharers, **spec.settings)
                slots[slot] = module if like is None else module.to(like.device, like.dtype)
        return cls([spec.kind for spec in specs], modules)

    def module_at(self, choice: int, block: int) -> Attention:
        """Return the module of a kind at a block; blocks that share a module get the same one.

        Args:
            choice: the kind, 1 for the first.
            block: index within the stage.
        """
        slots = cast("nn.ModuleDict", self.slots[self.kinds[choice - 1]])
        return cast("Attention", slots[_slot(slots, block)])

    def module_for(self, choice: int, block: int) -> Attend:
        """Return what a block calls with its features and the state.

        That is the module itself; or, for a shared module with statistics for each block, the
        module with the argument `block` filled in.

        Args:
            choice: the kind, 1 for the first.
            block: index within the stage.
        """
        module, name = self.module_at(choice, block), self.statistics_name(choice, block)
        return module if name is None else partial(module, block=name)

    def statistics_name(self, choice: int, block: int) -> str | None:
        """Return the name by which a shared module knows a block's own statistics.

        None where the module is of one block, or the same for all.

        Args:
            choice: the kind, 1 for the first.
            block: index within the stage.
        """
        shared = SHARED in cast("nn.ModuleDict", self.slots[self.kinds[choice - 1]])
        per_block = self.module_at(choice, block).per_block_statistics
        return str(block) if shared and per_block else None

    def pruned_to(self, choices: Sequence[int]) -> "StageAttention":
        """Return a copy that holds the modules that these choices use, and no others.

        A shared module with BatchNorm inside also loses the statistics of the blocks that do not
        use it.

        Args:
            choices: one for each block of this stage, 0 for no attention.
        """
        modules: dict[str, dict[str, nn.Module]] = {}
        for number, kind in enumerate(self.kinds, start=1):
            users = [block for block, choice in enumerate(choices) if choice == number]
            if not users:
                continue
            slots = cast("nn.ModuleDict", self.slots[kind])
            for slot in dict.fromkeys(_slot(slots, block) for block in users):
                module = copy.deepcopy(slots[slot])
                if slot == SHARED:
                    _keep_statistics(module, [str(block) for block in users])
                modules.setdefault(kind, {})[slot] = module
        return StageAttention(self.kinds, modules)


def _slot(slots: nn.ModuleDict, block: int) -> str:
    return SHARED if SHARED in slots else str(block)


def _own_slots(own: Sequence[nn.Module | None], blocks: int, stage: int) -> dict[str, nn.Module]:
    """Return the attention that each block carries itself, by the block's index.

    Raises:
        AttentionError: a block carries none, also because it was taken for an earlier block: the
            network runs the same block twice.
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


def _keep_statistics(module: nn.Module, blocks: Sequence[str]) -> None:
    for inner in module.modules():
        if isinstance(inner, SharedBatchNorm):
            inner.keep(blocks)
