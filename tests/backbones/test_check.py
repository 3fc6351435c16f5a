"""A network that is not split as its tables say, or cannot be built, is said beforehand."""

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention import OWN
from sat_optuna.backbones import BACKBONES, build_backbone
from sat_optuna.backbones.check import check_split
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import BlockSplit, add_block, add_network
from sat_optuna.backbones.view import view_of
from sat_optuna.supernet.supernet import Supernet

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
    block = OneBlock

    def __init__(self, widths: tuple[int, ...] = (4, 4)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        ins = (4, *widths)
        self.blocks = nn.Sequential(*map(self.block, ins, widths))
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


def registered(
    branch: Any = right,
    merge: Any = added,
    channels: Any = None,
    has_shortcut: Any = None,
    **network: Any,
) -> type[OneNet]:
    """Enter a new type of block and of network into the tables; return the type of network."""
    block = type("OneBlock", (OneBlock,), {})
    net = type("OneNet", (OneNet,), {"block": block})
    channels = channels or (lambda block: block.conv2.out_channels)
    add_block(block, BlockSplit(branch, merge, channels), has_shortcut=has_shortcut)
    add_network(net, **({"stem": stem, "stages": stages, "head": head} | network))
    return net


class TestSplit:
    @pytest.mark.parametrize("widths", [(4, 4), (6, 6, 8)])
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_a_right_one_is_silent_and_the_network_stays_as_it_is(self, widths, device):
        model = registered()(widths).to(device)
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
        net = Supernet(registered(branch, merge)(), attention=["se"], seed=0)
        start = f"network {__name__}.OneNet has a block of type {__name__}.OneBlock whose {said}"
        with pytest.raises(BackboneError, match=re.escape(start)) as caught:
            net.check_input(SHAPE)
        assert str(caught.value).endswith("; correct the branch and merge of that type")

    def test_attention_on_a_projection_is_said(self):
        model = registered(on_the_shortcut)((6,))
        with pytest.raises(BackboneError, match="attention would act on the shortcut"):
            check_split(view_of(model), SHAPE, name="one")

    @pytest.mark.parametrize(
        ("branch", "merge", "said"),
        [
            (on_the_shortcut, added, "very input"),
            (on_the_sum, only_relu, "act on the sum"),
            (one_value, added, "instead of features and shortcut"),
        ],
    )
    def test_much_is_seen_on_meta_too(self, branch, merge, said):
        one_net = registered(branch, merge)
        with torch.device("meta"):
            net = Supernet(one_net(), attention=["se"], seed=0)
            with pytest.raises(BackboneError, match=said):
                net.check_input(SHAPE)

    def test_other_channels_than_it_says(self):
        net = Supernet(registered(channels=lambda block: 8)(), attention=["se"], seed=0)
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
        one_net = registered(**{part: function})
        with pytest.raises(BackboneError, match=re.escape(said)):
            Supernet(one_net(), attention=["se"], seed=0).check_input(SHAPE)

    def test_other_functions_that_fail_are_quoted(self):
        def fails(given: Any) -> Any:
            raise AttributeError("no such layer")

        for functions, said in (
            ({"channels": fails}, r"channels of block type .*OneBlock fails \(Attr"),
            ({"has_shortcut": fails}, r"has_shortcut of block type .*: no such layer\)"),
            ({"stages": fails}, r"stages of network type .*OneNet fails \(Attrib"),
        ):
            one_net = registered(**functions)
            with pytest.raises(BackboneError, match=said):
                Supernet(one_net(), attention=["se"], seed=0)

    def test_a_network_that_cannot_be_copied(self):
        model = registered()()
        model.lines = (line for line in "ab")  # type: ignore[assignment]
        with pytest.raises(
            BackboneError, match=r"OneNet cannot be copied \(TypeError: cannot pic"
        ):
            Supernet(model, attention=["se"], seed=0).check_input(SHAPE)

    def test_a_network_that_fails_is_quoted(self):
        def forward(self: nn.Module, x: Tensor) -> Tensor:
            raise TypeError("odd\nsecond line")

        one_net = registered()
        one_net.forward = forward  # type: ignore[method-assign]
        with pytest.raises(BackboneError, match=r"OneNet \(TypeError: odd\); give larger ones"):
            Supernet(one_net(), attention=["se"], seed=0).check_input(SHAPE)

    @pytest.mark.parametrize("name", ["timm:seresnet50", "timm:regnety_002", "timm:resnet10t"])
    def test_networks_with_attention_of_their_own(self, name):
        kinds = [OWN] if name != "timm:resnet10t" else ["se"]
        net = Supernet(name, attention=kinds, in_channels=3, classes=5, seed=0)
        net.check_input((3, 64, 64))


class TestBuilding:
    def test_a_builder_that_fails(self, request):
        def builder(*, in_channels: int, classes: int, depth: int = 1) -> nn.Module:
            raise IndexError("list index out of range")

        request.addfinalizer(partial(BACKBONES.remove, "odd"))
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

    def test_a_constructor_that_reads_values_is_built_for_meta_all_the_same(self, request):
        one_net = registered()

        def builder(*, in_channels: int, classes: int) -> nn.Module:
            rates = [rate.item() for rate in torch.linspace(0, 1, 2)]
            return one_net((4,) * len(rates))

        request.addfinalizer(partial(BACKBONES.remove, "reads"))
        BACKBONES.add("reads", builder)
        with torch.device("meta"):
            net = Supernet("reads", attention=["se"], in_channels=3, classes=5, seed=0)
            net.check_input(SHAPE)
        assert all(value.is_meta for value in net.state_dict().values())


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("vgg11", "no residual block with a branch and a shortcut, and the nearest .* 'resnet18'"),
        ("densenet121", "no residual block with a branch and a shortcut, .* 'resnet50'"),
        ("vit_b_16", "no residual block with a branch .* 'timm:convnext_tiny'"),
        ("squeezenet1_0", "no residual block with a branch .* 'resnet18'"),
        ("efficientnet_b0", "its like that works is 'timm:efficientnet_b0'"),
        ("mobilenet_v3_small", "its like that works is 'timm:mobilenetv3_large_100'"),
    ],
)
def test_a_network_without_a_place_for_attention_names_the_nearest_that_has_one(name, instead):
    import torchvision

    from sat_optuna.backbones import BACKBONES
    from sat_optuna.errors import UnknownName

    with pytest.raises(UnknownName, match=f"no backbone '{name}'; .*{instead}"):
        BACKBONES.check(name)
    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    with pytest.raises(BackboneError, match=instead):
        view_of(model)
