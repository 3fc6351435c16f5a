"""The registry of backbones: building by name, and stages without torch."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from sat_optuna.backbones import BACKBONES, add_backbone, backbone_stages, build_backbone
from sat_optuna.backbones.contract import Backbone, BackboneError, Block
from sat_optuna.backbones.tables import BlockSplit, add_block, add_network, add_plain_step
from sat_optuna.backbones.view import view_of
from sat_optuna.errors import SatOptunaError, UnknownName
from sat_optuna.registry import Registry


def test_names_and_stages_import_no_torch():
    code = (
        "import sys; from sat_optuna.backbones import BACKBONES, backbone_stages; "
        "assert 'resnet20' in BACKBONES.names(); "
        "assert backbone_stages('resnet164') == (18, 18, 18); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", BACKBONES.names())
def test_stages_said_are_stages_built(name):
    with torch.device("meta"):
        backbone = build_backbone(name, in_channels=1, classes=2)
    assert view_of(backbone).stage_sizes == backbone_stages(name)


def test_other_blocks_than_the_family_has():
    assert backbone_stages("resnet20", [1, 2, 1]) == (1, 2, 1)
    backbone = build_backbone("resnet20", in_channels=1, classes=2, blocks=[1, 2, 1])
    assert view_of(backbone).stage_sizes == (1, 2, 1)


def test_an_unknown_backbone_points_to_the_nearest_name():
    for ask in (lambda: backbone_stages("resnet21"), lambda: _build("resnet21")):
        with pytest.raises(UnknownName, match=r"'resnet21'; did you mean 'resnet\d+'"):
            ask()


def _build(name: str = "resnet20", /, **settings: Any) -> nn.Module:
    return build_backbone(name, **({"in_channels": 1, "classes": 2} | settings))


@pytest.mark.parametrize("setting", ["in_channels", "classes", "width", "stem_stride"])
def test_settings_are_whole_numbers_from_one_up(setting):
    for value in (0, -3, 1.5, True):
        wrong: dict[str, Any] = {setting: value}
        with pytest.raises(BackboneError, match=f"{setting} = {value}.*at least 1"):
            _build(**wrong)


@pytest.mark.parametrize("blocks", [(3, 3), (3, 3, 3, 3), (3, 0, 3)])
def test_each_of_the_three_stages_has_a_block(blocks):
    with pytest.raises(BackboneError, match="a CIFAR ResNet has 3 stages"):
        _build(blocks=blocks)


def test_backbone_errors_are_ours():
    assert issubclass(BackboneError, SatOptunaError)
    assert issubclass(BackboneError, ValueError)


def test_one_of_ones_own(monkeypatch):
    monkeypatch.setattr("sat_optuna.backbones.BACKBONES", Registry("backbone"))
    add_backbone("own", "sat_optuna.backbones.cifar_resnet:bottleneck_resnet", stages=(1, 1, 2))
    assert view_of(_build("own")).stage_sizes == (1, 1, 2)


def test_the_contract_itself_computes_nothing():
    with pytest.raises(NotImplementedError):
        Block().branch(torch.zeros(1))
    with pytest.raises(NotImplementedError):
        Block().merge(torch.zeros(1), torch.zeros(1))


class OtherForward(Block):
    def forward(self, x):
        return x


class Steps(Backbone):
    def forward(self, x):
        return x


def test_a_forward_that_walking_would_pass_by_is_refused():
    stem, head = nn.Identity(), nn.Identity()
    with pytest.raises(BackboneError, match="OtherForward has a forward of its own, which runni"):
        view_of(Backbone(stem=stem, stages=[[OtherForward()]], head=head))
    with pytest.raises(BackboneError, match="Steps has a forward of its own"):
        view_of(Steps(stem=stem, stages=[[Block()]], head=head))


def test_types_are_registered_once():
    add_plain_step(nn.Identity)  # again changes nothing
    with pytest.raises(BackboneError, match=r"block type .*Block is registered already; register"):
        add_plain_step(Block)
    with pytest.raises(BackboneError, match=r"block type .*Identity is registered already"):
        add_block(nn.Identity, BlockSplit(Block.branch, Block.merge, int))
    with pytest.raises(BackboneError, match=r"network type .*Backbone is registered already"):
        add_network(Backbone, stem=torch.add, stages=list, head=torch.add)
