"""Whether attention can be placed in a network.

Backbones, blocks and attention may be anybody's; what is wrong with them is found on one image and
said in a sentence before anything is trained.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION, OWN, attention_faults
from sat_optuna.attention.contract import AttentionError, State
from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.check import check_split, described, sized
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.view import NetworkView
from sat_optuna.errors import SatOptunaError, errors_as, one_line
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.ticket import AttentionSpec

__all__ = ["built_backbone", "check_placement", "check_split", "placement_faults"]


def built_backbone(name: str, *, in_channels: int, classes: int, **settings: Any) -> nn.Module:
    """Build a backbone of the registry; whatever its builder raises becomes one sentence.

    On the device "meta", a network whose constructor reads values (`.item()`) is built on the CPU
    and then moved.

    Args:
        name: a name of `BACKBONES`.
        in_channels: channels of the images.
        classes: number of logits.
        **settings: the backbone's own.

    Raises:
        UnknownName: no such backbone.
        BackboneError: it cannot be built so.
    """

    def build() -> nn.Module:
        return build_backbone(name, in_channels=in_channels, classes=classes, **settings)

    given = "".join(f", {key} = {value!r}" for key, value in settings.items())
    with errors_as(
        BackboneError,
        f"backbone {name!r} cannot be built with in_channels = {in_channels}, classes = "
        f"{classes}{given}",
        "choose other settings, or correct its builder",
    ):
        try:
            return build()
        except SatOptunaError:
            raise
        except Exception:
            if torch.get_default_device().type != "meta":
                raise
            with torch.device("cpu"):
                return build().to("meta")


def placement_faults(specs: Iterable[AttentionSpec], view: NetworkView) -> list[str]:
    """Return why kinds of attention cannot be placed in a network, a sentence each.

    Args:
        specs: the kinds.
        view: of the network; nothing is drawn.
    """
    faults: list[str] = []
    widths = view.stage_channels
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
    """Make sure that a network takes images of a size, is split well, and carries its attention.

    Args:
        view: of the network; it is copied, and stays as it is.
        attention: a stage's modules each.
        specs: the kinds they are of.
        shape: (C, H, W) of the images.
        name: of the network, for messages.

    Raises:
        BackboneError: what `check_split` finds, or maps too small for a kind.
        AttentionError: a module fails, or returns something else than features of the same shape
            and a state.
    """
    slots = check_split(view, shape, name=name)
    for stage, maps in enumerate(slots, start=1):
        side = min(min(features.shape[2:]) for features in maps)
        for spec in specs:
            least = 1 if spec.kind == OWN else ATTENTION.get(spec.kind).least_side
            if side < least:
                raise BackboneError(
                    f"images of {sized(shape)} come to stage {stage} of {name} with {side} pixels "
                    f"a side and {spec.kind} needs {least}; give larger images or a smaller stem "
                    "stride, or choose another module"
                )
    for modules, maps in zip(attention, slots, strict=True):
        with evaluating(modules), torch.no_grad():
            for choice, spec in enumerate(specs, start=1):
                _check_modules(modules, choice, spec.kind, maps)


def _check_modules(
    modules: StageAttention, choice: int, kind: str, maps: Sequence[Tensor]
) -> None:
    """Run a stage's modules of one kind over the features of its blocks, in their order."""
    state: State | None = None
    for block, features in enumerate(maps):
        try:
            given: Any = modules.module_for(choice, block)(features.clone(), state)
        except SatOptunaError:
            raise
        except Exception as error:
            if features.is_meta and "meta" in str(error):  # it reads values: none are there
                return
            raise AttentionError(
                f"attention {kind!r} fails on features of {sized(features.shape)} "
                f"({one_line(error)}); correct the module"
            ) from error
        if not isinstance(given, tuple) or len(given) != 2:
            raise AttentionError(
                f"attention {kind!r} returns {described(given)}; return the attended features "
                "and the state, which is None for a module that is not recurrent"
            )
        attended, state = given
        if not isinstance(attended, Tensor) or attended.shape != features.shape:
            raise AttentionError(
                f"attention {kind!r} makes {described(attended)} of features of "
                f"{sized(features.shape)}; keep their shape"
            )
