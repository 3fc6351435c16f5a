"""Can attention be placed in a network?

A network, its blocks and its attention may come from anybody. Before anything is trained, one
image shows what is wrong with them, and the error says it in one sentence.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sat_optuna.attention import ATTENTION, OWN, attention_faults
from sat_optuna.attention.contract import AttentionError, State
from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones.check import check_split, shape_text, value_text
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.view import NetworkView
from sat_optuna.errors import SatOptunaError, one_line
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.ticket import AttentionSpec

__all__ = ["check_placement", "placement_faults"]


def placement_faults(specs: Iterable[AttentionSpec], widths: Sequence[Sequence[int]]) -> list[str]:
    """Return why kinds of attention cannot be placed in a network, one sentence for each fault.

    No weight is drawn.

    Args:
        specs: the kinds.
        widths: channels of the features of each block, by stage.
    """
    faults: list[str] = []
    for spec in specs:
        faults += attention_faults(spec, channels=[c for stage in widths for c in stage])
        uneven = [n for n, stage in enumerate(widths, start=1) if len(set(stage)) > 1]
        if spec.sharing == "stage" and uneven:
            faults.append(
                f"{spec.kind} has sharing = 'stage' and stage {uneven[0]} has features of "
                f"{sorted(set(widths[uneven[0] - 1]))} channels; choose sharing = 'block' where "
                "the module allows it, or another network"
            )
    return faults


def check_placement(
    view: NetworkView,
    attention: Sequence[StageAttention],
    specs: Sequence[AttentionSpec],
    shape: tuple[int, int, int],
    *,
    name: str,
) -> None:
    """Make sure that a network takes images of a size and that its attention works in it.

    Args:
        view: of the network, which is not changed.
        attention: the modules of each stage.
        specs: the kinds of the modules.
        shape: (C, H, W) of the images.
        name: of the network, for messages.

    Raises:
        BackboneError: `check_split` finds a fault, or the maps are too small for a kind.
        AttentionError: a module fails, or it does not return features of the same shape and a
            state.
    """
    slots = check_split(view, shape, name=name)
    for stage, maps in enumerate(slots, start=1):
        side = min(min(features.shape[2:]) for features in maps)
        for spec in specs:
            least = 1 if spec.kind == OWN else ATTENTION.get(spec.kind).least_side
            if side < least:
                raise BackboneError(
                    f"images of {shape_text(shape)} come to stage {stage} of {name} with {side} "
                    f"pixels a side and {spec.kind} needs {least}; give larger images or a "
                    "smaller stem stride, or choose another module"
                )
    for modules, maps in zip(attention, slots, strict=True):
        with evaluating(modules), torch.no_grad():
            for choice, spec in enumerate(specs, start=1):
                _check_modules(modules, choice, spec.kind, maps)


def _check_modules(
    modules: StageAttention, choice: int, kind: str, maps: Sequence[Tensor]
) -> None:
    """Run a stage's modules of one kind on the features of its blocks, from shallow to deep."""
    state: State | None = None
    for block, features in enumerate(maps):
        try:
            given: Any = modules.module_for(choice, block)(features.clone(), state)
            keeps_state = modules.module_at(choice, block).recurrent
        except SatOptunaError:
            raise
        except Exception as error:
            if features.is_meta and "meta" in str(error):  # it reads values, and meta has none
                return
            raise AttentionError(
                f"attention {kind!r} fails on features of {shape_text(features.shape)} "
                f"({one_line(error)}); correct the module"
            ) from error
        if not isinstance(given, tuple) or len(given) != 2:
            raise AttentionError(
                f"attention {kind!r} returns {value_text(given)}; return the attended features "
                "and the state, which is None for a module that is not recurrent"
            )
        attended, state = given
        if state is not None and not keeps_state:
            raise AttentionError(
                f"attention {kind!r} returns a state, and its class says recurrent = False; set "
                "recurrent = True there, or return the state that was given"
            )
        if not isinstance(attended, Tensor) or attended.shape != features.shape:
            raise AttentionError(
                f"attention {kind!r} makes {value_text(attended)} of features of "
                f"{shape_text(features.shape)}; keep their shape"
            )
