"""A channel gate is its gate times the features: over the registry and networks' own modules."""

from typing import Any, cast

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.own import OwnAttention
from sat_optuna.backbones.view import take_own_attention, view_of
from tests.attention.test_contract import built, every_kind, features
from tests.networks import images, stirred_module

GATED = (
    {"eca", "ie", "se", "spa", "srm"}
    | {f"timm:{name}" for name in ("ceca", "eca", "ecam", "ese", "se")}
    | {"constant:se", "constant:dia"}
)


@every_kind
def test_a_gate_times_the_features_is_the_module(kind):
    assert (kind in GATED) == ATTENTION.get(kind).gated
    if kind in GATED:
        module: Any = stirred_module(built(kind)).eval()
        x = features()
        with torch.no_grad():
            attended, _ = module(x)
            gates = module.gate(x)
        assert gates.shape == x.shape[:2]
        assert torch.equal(x * gates[:, :, None, None], attended)
        # It does depend on the image, or is constant.
        assert (float(gates.detach().std(0).max()) > 0) != kind.startswith("constant:")
    elif kind.startswith("timm:"):
        with pytest.raises(AttentionError, match="is no gate for each channel that is known here"):
            cast("Any", built(kind)).gate(features())


@pytest.mark.parametrize(
    "name", ["seresnet18", "ecaresnet26t", "regnety_002", "regnetv_040", "mobilenetv3_small_050",
             "efficientnet_b0", "torchvision"],
)  # fmt: skip
def test_what_networks_bring_is_a_gate_too(name):
    modules: list[tuple[nn.Module | None, int]] = [(SqueezeExcitation(8, 4), 8)]
    if name != "torchvision":
        view = view_of(timm.create_model(name), own=True)
        taken, channels = take_own_attention(view), view.stage_channels
        modules = [
            pair for row in zip(taken, channels, strict=True) for pair in zip(*row, strict=True)
        ]
    for module, count in modules:
        assert module is not None
        own = OwnAttention(stirred_module(module).eval())
        x = images(2, shape=(count, 3, 3))
        with torch.no_grad():
            assert torch.equal(x * own.gate(x)[:, :, None, None], own(x)[0])
        assert own.gated


def test_a_type_that_is_not_known_is_no_gate():
    class Derived(SqueezeExcitation):  # type: ignore[misc]
        """It may have a forward of its own."""

    own = OwnAttention(Derived(8, 4))
    assert not own.gated
    with pytest.raises(
        AttentionError, match=r"^Derived is no gate for each channel that is known"
    ):
        own.gate(images(1, shape=(8, 3, 3)))
