"""A network that is not split as its tables say, and attention that fails, are said beforehand."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Importing the adapters fills the tables, which are copied for each test.
import sat_optuna.backbones.timm
import sat_optuna.backbones.torchvision  # noqa: F401
from sat_optuna.attention import ATTENTION, OWN, attention_faults
from sat_optuna.attention.contract import Attention, AttentionError
from sat_optuna.attention.norm import SharedBatchNorm
from sat_optuna.backbones import BACKBONES, build_backbone, tables
from sat_optuna.backbones.check import check_split
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import (
    BlockEntry,
    BlockSplit,
    NetworkEntry,
    add_block,
    add_network,
)
from sat_optuna.backbones.view import view_of
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from tests.networks import tiny_supernet

SHAPE = (3, 8, 8)


class OneBlock(nn.Module):
    """A residual block, its last normalisation zero as timm starts it."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.short = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += self.short(x)
        return F.relu(out)


class OneNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (4, 4)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        ins = (4, *widths)
        self.blocks = nn.Sequential(*map(OneBlock, ins, widths))
        self.fc = nn.Linear(widths[-1], 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def the_branch(block: Any, x: Tensor) -> Tensor:
    out: Tensor = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    return out


def right(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return the_branch(block, x), block.short(x)


def added(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    features += shortcut  # in place, as many write it
    return F.relu(features)


def on_the_shortcut(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return block.short(x), the_branch(block, x)


def on_a_copy_of_the_shortcut(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return block.short(x) * 1, the_branch(block, x)


def on_the_sum(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return the_branch(block, x) + block.short(x), x


def only_relu(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    return F.relu(features)


def without_relu(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    return features + shortcut


def without_last_norm(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return block.conv2(F.relu(block.bn1(block.conv1(x)))), block.short(x)


def all_in_the_shortcut(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return the_branch(block, x), the_branch(block, x) + block.short(x)


def only_the_shortcut(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    return F.relu(shortcut)


def one_value(block: Any, x: Tensor) -> Tensor:
    return the_branch(block, x)


def flat(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return the_branch(block, x).flatten(1), x


def failing(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return block.conv9(x), x


def failing_merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    raise KeyError("no such key")


def stem(model: Any, x: Tensor) -> Tensor:
    out: Tensor = model.stem(x)
    return out


def stages(model: Any) -> list[list[nn.Module]]:
    return [list(model.blocks)]


def head(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.fc(x.mean((2, 3)))
    return logits


@pytest.fixture(autouse=True)
def own_tables(monkeypatch):
    monkeypatch.setattr(tables, "_BLOCKS", dict(tables._BLOCKS))
    monkeypatch.setattr(tables, "_NETWORKS", dict(tables._NETWORKS))
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    monkeypatch.setattr(ATTENTION, "_entries", dict(ATTENTION._entries))


def register(
    branch: Any = right, merge: Any = added, channels: Any = None, **network: Any
) -> None:
    channels = channels or (lambda block: block.conv2.out_channels)
    add_block(OneBlock, BlockSplit(branch, merge, channels))
    add_network(OneNet, **({"stem": stem, "stages": stages, "head": head} | network))


class TestSplit:
    @pytest.mark.parametrize("widths", [(4, 4), (6, 6, 8)])
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_a_right_one_is_silent_and_the_network_stays_as_it_is(self, widths, device):
        register()
        model = OneNet(widths).to(device)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        slots = check_split(view_of(model), SHAPE, name="one")
        assert [tuple(x.shape) for x in slots[0]] == [(1, width, 8, 8) for width in widths]
        assert model.training
        if device == "cpu":
            for name, value in model.state_dict().items():
                assert torch.equal(value, before[name])
        assert all(value.requires_grad and value.grad is None for value in model.parameters())

    @pytest.mark.parametrize(
        ("branch", "merge", "said"),
        [
            (on_the_shortcut, added, "branch returns its very input as features: attention would"),
            (on_a_copy_of_the_shortcut, added, "shortcut comes from more of its weights than its"),
            (on_the_sum, only_relu, "merge does not add the shortcut: attention would act on the"),
            (right, without_relu, "merge makes something else of its branch than the block's own"),
            (
                without_last_norm,
                added,
                "merge makes something else of its branch than the block's",
            ),
            (all_in_the_shortcut, only_the_shortcut, "merge does not use its features"),
            (one_value, added, "branch returns a tensor of 1x4x8x8 instead of features and short"),
            (flat, added, "branch returns a tensor of 1x256 as features instead of (N, C, H, W)"),
            (failing, added, "split fails (AttributeError: 'OneBlock' object has no attribute"),
            (right, failing_merge, "split fails (KeyError: 'no such key')"),
        ],
    )
    def test_a_wrong_one_is_said(self, branch, merge, said):
        register(branch, merge)
        net = Supernet(OneNet(), attention=["se"], seed=0)
        start = f"network {__name__}.OneNet has a block of type {__name__}.OneBlock whose {said}"
        with pytest.raises(BackboneError, match=re.escape(start)) as caught:
            net.check_input(SHAPE)
        assert str(caught.value).endswith("; correct the branch and merge of that type")

    def test_attention_on_a_projection_is_said(self):
        register(on_the_shortcut)
        with pytest.raises(BackboneError, match="attention would act on the shortcut"):
            check_split(view_of(OneNet((6,))), SHAPE, name="one")

    @pytest.mark.parametrize(
        ("branch", "merge", "said"),
        [
            (on_the_shortcut, added, "very input"),
            (on_the_sum, only_relu, "act on the sum"),
            (one_value, added, "instead of features and shortcut"),
        ],
    )
    def test_much_is_seen_on_meta_too(self, branch, merge, said):
        register(branch, merge)
        with torch.device("meta"):
            net = Supernet(OneNet(), attention=["se"], seed=0)
            with pytest.raises(BackboneError, match=said):
                net.check_input(SHAPE)

    def test_other_channels_than_it_says(self):
        register(channels=lambda block: 8)
        net = Supernet(OneNet(), attention=["se"], seed=0)
        with pytest.raises(BackboneError, match="features of 1x4x8x8 where its channels are 8; c"):
            net.check_input(SHAPE)

    @pytest.mark.parametrize(
        ("part", "function", "said"),
        [
            ("stem", lambda model, x: 2 * model.stem(x), "gives other logits when its stem, stag"),
            ("stages", lambda model: [list(model.blocks)[:1]], "gives other logits when its stem"),
            ("head", lambda model, x: 2 * head(model, x), "gives other logits when its stem, sta"),
            ("stem", lambda model, x: model.no(x), "has a stem that fails (AttributeError: 'OneN"),
            ("head", lambda model, x: model.no(x), "has a head that fails (AttributeError: 'OneN"),
        ],
    )
    def test_a_network_walked_wrongly(self, part, function, said):
        register(**{part: function})
        with pytest.raises(BackboneError, match=re.escape(said)):
            Supernet(OneNet(), attention=["se"], seed=0).check_input(SHAPE)

    def test_other_functions_that_fail_are_quoted(self):
        def fails(given: Any) -> Any:
            raise AttributeError("no such layer")

        register(channels=fails)
        with pytest.raises(BackboneError, match=r"channels of block type .*OneBlock fails \(Attr"):
            Supernet(OneNet(), attention=["se"], seed=0)
        tables._BLOCKS[OneBlock] = BlockEntry(tables._BLOCKS[OneBlock].split, fails)
        with pytest.raises(BackboneError, match=r"has_shortcut of block type .*: no such layer\)"):
            Supernet(OneNet(), attention=["se"], seed=0)
        tables._NETWORKS[OneNet] = NetworkEntry(stem, fails, head)
        with pytest.raises(BackboneError, match=r"stages of network type .*OneNet fails \(Attrib"):
            Supernet(OneNet(), attention=["se"], seed=0)

    def test_a_network_that_cannot_be_copied(self):
        register()
        model = OneNet()
        model.lines = (line for line in "ab")  # type: ignore[assignment]
        with pytest.raises(
            BackboneError, match=r"OneNet cannot be copied \(TypeError: cannot pic"
        ):
            Supernet(model, attention=["se"], seed=0).check_input(SHAPE)

    def test_a_network_that_fails_is_quoted(self, monkeypatch):
        register()

        def forward(self: nn.Module, x: Tensor) -> Tensor:
            raise TypeError("odd\nsecond line")

        monkeypatch.setattr(OneNet, "forward", forward)
        with pytest.raises(BackboneError, match=r"OneNet \(TypeError: odd\); give larger ones"):
            Supernet(OneNet(), attention=["se"], seed=0).check_input(SHAPE)

    @pytest.mark.parametrize("name", ["timm:seresnet50", "timm:regnety_002", "timm:resnet10t"])
    def test_networks_with_attention_of_their_own(self, name):
        kinds = [OWN] if name != "timm:resnet10t" else ["se"]
        net = Supernet(name, attention=kinds, in_channels=3, classes=5, seed=0)
        net.check_input((3, 64, 64))


class Foreign(Attention):
    """Does what it is told."""

    does = ""

    def __init__(self, channels: int, *, blocks: tuple[str, ...] = ("0",)) -> None:
        super().__init__()
        if self.does == "init":
            raise TypeError("unsupported operand")
        if self.does == "norm":
            self.norm: nn.Module = nn.BatchNorm2d(channels)
        if self.does == "shared norm":
            self.norm = SharedBatchNorm(channels, blocks=blocks, kind=nn.BatchNorm2d)

    def forward(self, features: Tensor, state: Any = None, block: str = "0") -> Any:
        if self.does == "fails":
            raise ZeroDivisionError("division by zero")
        if self.does == "reads":
            features.sum().item()
        shown = {"one": features, "pooled": (features.mean((2, 3)), None), "three": (1, 2, 3)}
        return shown.get(self.does, (features, state))


def foreign(does: str, **members: Any) -> None:
    ATTENTION.add("foreign", type("Foreign", (Foreign,), {"does": does, **members}))


class TestForeignAttention:
    @pytest.mark.parametrize(
        ("does", "said"),
        [
            ("fails", "'foreign' fails on features of 1x8x16x16 (ZeroDivisionError: division by"),
            ("one", "'foreign' returns a tensor of 1x8x16x16; return the attended features and"),
            ("three", "'foreign' returns a tuple of 3; return the attended features"),
            ("pooled", "'foreign' makes a tensor of 1x8 of features of 1x8x16x16; keep their s"),
        ],
    )
    def test_what_it_does_wrong_is_said(self, does, said):
        foreign(does)
        with pytest.raises(AttentionError, match=re.escape(said)):
            tiny_supernet(["se", "foreign"]).check_input((2, 16, 16))

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_one_that_reads_values_is_silent(self, device):
        foreign("reads")
        tiny_supernet(["foreign"]).to(device).check_input((2, 16, 16))

    def test_a_constructor_that_fails(self):
        foreign("init")
        (fault,) = attention_faults(AttentionSpec(kind="foreign"), channels=[8])
        assert fault == (
            "foreign cannot be built for 8 channels (TypeError: unsupported operand); choose "
            "other settings, or correct the module"
        )

    def test_a_module_that_cannot_be_imported(self):
        ATTENTION.add("foreign", "no_such_module:Foreign")
        (fault,) = attention_faults(AttentionSpec(kind="foreign"))
        assert fault.startswith("attention 'foreign' cannot be loaded (ModuleNotFoundError: No")

    def test_absurd_numbers(self):
        spec = AttentionSpec(kind="cbam", settings={"kernel": 100000000001})
        (fault,) = attention_faults(spec, channels=[8])
        assert fault.startswith("cbam cannot be built for 8 channels, kernel = 100000000001 (")
        with pytest.raises(AttentionError, match="cbam cannot be built"):
            tiny_supernet([spec])

    def test_batch_norm_cannot_be_shared_as_it_is(self):
        spec = AttentionSpec(kind="foreign", sharing="stage")
        foreign("norm")
        assert attention_faults(AttentionSpec(kind="foreign"), channels=[8]) == []
        (fault,) = attention_faults(spec, channels=[8])
        assert fault.startswith("foreign has sharing = 'stage' and a BatchNorm inside, whose stat")
        assert fault.endswith(
            "set per_block_statistics = True and use attention.norm.SharedBatchNorm in it"
        )
        with pytest.raises(AttentionError, match="would depend on the others"):
            tiny_supernet([spec])

    def test_with_statistics_for_each_block_it_can(self):
        foreign("shared norm", per_block_statistics=True)
        tiny_supernet([AttentionSpec(kind="foreign", sharing="stage")]).check_input((2, 16, 16))


class TestBuilding:
    def test_a_builder_that_fails(self):
        def builder(*, in_channels: int, classes: int, depth: int = 1) -> nn.Module:
            raise IndexError("list index out of range")

        BACKBONES.add("odd", builder)
        with pytest.raises(BackboneError) as caught:
            build_backbone("odd", in_channels=3, classes=2, depth=4)
        assert str(caught.value) == (
            "backbone 'odd' cannot be built with in_channels = 3, classes = 2, depth = 4 "
            "(IndexError: list index out of range); choose other settings, or correct its builder"
        )

    def test_absurd_numbers(self):
        with pytest.raises(BackboneError, match=r"'resnet20' cannot be built with .*10{12} \("):
            build_backbone("resnet20", in_channels=3, classes=2, width=10**12)

    def test_a_constructor_that_reads_values_is_built_for_meta_all_the_same(self):
        register()

        def builder(*, in_channels: int, classes: int) -> nn.Module:
            rates = [rate.item() for rate in torch.linspace(0, 1, 2)]
            return OneNet((4,) * len(rates))

        BACKBONES.add("reads", builder)
        with torch.device("meta"):
            net = Supernet("reads", attention=["se"], in_channels=3, classes=5, seed=0)
            net.check_input(SHAPE)
        assert all(value.is_meta for value in net.state_dict().values())
