"""Published parameter counts, reproduced from shapes alone (method of arXiv:2207.07858).

The published ResNet-50 counts are of the authors' network, whose convolutions carry biases: 26,560
parameters beside torchvision's, which are added here in the open. The counts of attention are not
touched by that.
"""

import pytest
import torch
from torch import nn

from sat_optuna.cost.operations import CostModel
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec

pytestmark = pytest.mark.golden


def extra(backbone: str, kind: str, sharing: str, classes: int, **settings: int) -> int:
    """Parameters that all blocks' attention adds."""
    with torch.device("meta"):
        net = Supernet(
            backbone,
            attention=[AttentionSpec(kind=kind, sharing=sharing, settings=settings)],
            in_channels=3,
            classes=classes,
            seed=0,
        )
    return sum(value.numel() for value in net.attention.parameters())


def by_stage(backbone: str, kind: str, **settings: int) -> list[int]:
    """Parameters of one module of each stage."""
    with torch.device("meta"):
        net = Supernet(
            backbone,
            attention=[AttentionSpec(kind=kind, settings=settings)],
            in_channels=3,
            classes=100,
            seed=0,
        )
    return [
        sum(value.numel() for value in stage.module_at(1, 0).parameters())
        for stage in net.stage_attention
    ]


class TestResNet164OnCIFAR100:
    def test_se_580_2184_8464_a_block(self):
        assert by_stage("resnet164", "se", reduction=16) == [580, 2184, 8464]

    def test_full_se_0_2021_million(self):
        assert extra("resnet164", "se", "block", 100, reduction=16) == 202_104

    def test_share_se_0_0112_million(self):
        assert extra("resnet164", "se", "stage", 100, reduction=16) == 11_228

    def test_spa_5632_22528_90112_a_block(self):
        assert by_stage("resnet164", "spa", reduction=16) == [5632, 22_528, 90_112]

    def test_full_spa_2_129_million(self):
        assert extra("resnet164", "spa", "block", 100, reduction=16) == 2_128_896

    def test_share_spa_0_118_million(self):
        assert extra("resnet164", "spa", "stage", 100, reduction=16) == 118_272

    def test_dia_0_2188_million(self):
        assert extra("resnet164", "dia", "stage", 100, reduction=4) == 218_848


class TestResNet50OnImageNet:
    def plain(self) -> tuple[int, int]:
        """torchvision's parameters, and the biases that the authors' convolutions have."""
        with torch.device("meta"):
            net = Supernet("resnet50", attention=["se"], in_channels=3, classes=1000, seed=0)
        biases = sum(m.out_channels for m in net.backbone.modules() if isinstance(m, nn.Conv2d))
        return sum(value.numel() for value in net.backbone.parameters()), biases

    def test_plain_25_58_million(self):
        assert self.plain() == (25_557_032, 26_560)
        assert round(sum(self.plain()) / 1e6, 2) == 25.58

    @pytest.mark.parametrize(
        ("kind", "sharing", "settings", "added", "total"),
        [
            ("se", "block", {"reduction": 16}, 2_530_992, 28.11),
            ("se", "stage", {"reduction": 16}, 700_400, 26.28),
            ("sge", "block", {"groups": 64}, 2_048, 25.59),
            ("sge", "stage", {"groups": 64}, 512, 25.58),
            ("dia", "stage", {"reduction": 20}, 2_801_020, 28.38),
        ],
        ids=["full-se", "share-se", "full-sge", "share-sge", "share-dia"],
    )
    def test_totals(self, kind, sharing, settings, added, total):
        counted = extra("resnet50", kind, sharing, 1000, **settings)
        assert counted == added
        assert round((sum(self.plain()) + counted) / 1e6, 2) == total

    @pytest.mark.parametrize(
        ("kind", "text", "settings", "stages"),
        [
            ("se", "010-0010-110011-001", {"reduction": 16}, 4),
            ("sge", "100-1011-010011-011", {"groups": 64}, 4),
            ("dia", "110-0011-110010-011", {"reduction": 20}, 4),
        ],
    )
    def test_a_ticket_that_uses_every_stage_has_all_that_share_has(
        self, kind, text, settings, stages
    ):
        spec = AttentionSpec(kind=kind, sharing="stage", settings=settings)
        net = Supernet("resnet50", attention=[spec], in_channels=3, classes=1000, seed=0)
        model = CostModel(net, (3, 64, 64))
        ticket, share = Scheme.parse(text), Scheme.uniform(net.stages, 1)
        assert sum(any(stage) for stage in ticket.by_stage()) == stages
        assert model.cost(ticket).params == model.cost(share).params
        assert model.cost(ticket).macs < model.cost(share).macs or kind == "sge"
        assert model.cost(ticket).elementwise < model.cost(share).elementwise
