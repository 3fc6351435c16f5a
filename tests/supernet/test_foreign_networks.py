"""Networks of torchvision and timm in a supernet: as they are, with their own weights."""

from collections.abc import Sequence

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from sat_optuna.attention import OWN, default_spec
from sat_optuna.attention.contract import AttentionError
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.cost.operations import CostModel, measure
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.materialise import build_network, materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec, Ticket
from tests.networks import OURS, images, stirred_module


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def identical(kind: str) -> AttentionSpec:
    """A kind that starts as the identity."""
    return AttentionSpec(
        kind=kind, sharing=default_spec(kind).sharing, settings={"identity": True}
    )


@pytest.fixture(scope="module")
def resnet50():
    with seeded("resnet50"):
        model = torchvision.models.resnet50(num_classes=7)
    return stirred_module(model).eval()


@pytest.mark.parametrize("kind", OURS)
def test_resnet50_with_identity_attention_everywhere_has_the_logits_it_had(resnet50, kind):
    x = images(2, shape=(3, 128, 128))
    wanted = resnet50(x)
    net = Supernet(resnet50, attention=[identical(kind)], seed=0).eval()
    same(net(x, Scheme.uniform(net.stages, 1)), wanted)
    same(net(x, Scheme.uniform(net.stages, 0)), wanted)


def test_a_state_dict_is_loaded_by_its_own_names(resnet50):
    x = images(2, shape=(3, 64, 64))
    net = Supernet(
        "resnet50", attention=[identical("se")], in_channels=3, classes=7, seed=1
    ).eval()
    full = Scheme.uniform(net.stages, 1)
    assert not torch.equal(net(x, full), resnet50(x))
    net.backbone.load_state_dict(resnet50.state_dict())
    same(net(x, full), resnet50(x))
    same(materialise(net, full).eval()(x), resnet50(x))
    net.load_backbone(resnet50.state_dict())
    same(net(x, full), resnet50(x))


def test_a_named_backbone_needs_channels_and_classes():
    with pytest.raises(BackboneError, match="in_channels = None and classes = 3; give both"):
        Supernet("resnet18", attention=["se"], classes=3, seed=0)


def test_a_network_without_residual_blocks_is_said(resnet50):
    with pytest.raises(BackboneError, match=r"VGG is in no table; it has no .* 'resnet18'"):
        Supernet(torchvision.models.vgg11(), attention=["se"], seed=0)
    plain = torchvision.models.resnet18()
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        setattr(plain, layer, nn.Sequential())
    with pytest.raises(BackboneError, match=r"ResNet has no residual block with a branch and"):
        Supernet(plain, attention=["se"], seed=0)


def test_settings_of_other_backbones_are_refused():
    with pytest.raises(
        BackboneError, match="'resnet18' has no setting 'width'; it has: head, dilated_stages; dr"
    ):
        Supernet("resnet18", attention=["se"], in_channels=3, classes=3, seed=0, width=8)


@pytest.mark.parametrize("given", [{"classes": 10}, {"in_channels": 1}, {"width": 3}])
def test_a_network_given_as_an_object_takes_no_settings(resnet50, given):
    ((name, value),) = given.items()
    with pytest.raises(BackboneError, match=f"given as an object, and {name} = {value} with it"):
        Supernet(resnet50, attention=["se"], seed=0, **given)


@pytest.mark.parametrize("kind", ["se", "cbam", "timm:eca"])
def test_attention_is_where_the_network_is_and_of_its_dtype(kind):
    model = torchvision.models.resnet18().double()
    net = Supernet(model, attention=[kind], seed=0).eval()
    floating = [v for v in net.state_dict().values() if v.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.float64}
    assert net(images(1, shape=(3, 64, 64)).double(), Scheme.uniform(net.stages, 1)).shape
    net.check_input((3, 64, 64))
    meta = Supernet(torchvision.models.resnet18().to("meta"), attention=[kind], seed=0)
    assert all(value.is_meta for value in meta.state_dict().values())
    same_place = Supernet(torchvision.models.resnet18(), attention=[kind], seed=0)
    ours, theirs = net.attention.state_dict(), same_place.attention.state_dict()
    assert all(torch.equal(ours[key], value.to(ours[key])) for key, value in theirs.items())


def test_a_ticket_of_a_network_given_as_an_object_says_what_to_do():
    net = Supernet(torchvision.models.resnet18(), attention=["se"], seed=0)
    ticket = Ticket(
        role="ticket",
        backbone_settings={},
        dataset="cifar10",
        dataset_fingerprint="0" * 64,
        seed=0,
        params=1,
        macs=1,
        scheme=Scheme.uniform(net.stages, 1),
        backbone=net.backbone_name,
        attention=net.specs,
        input_shape=(3, 64, 64),
        classes=1000,
    )
    with pytest.raises(BackboneError) as caught:
        build_network(ticket, seed=0)
    assert str(caught.value) == (
        "this ticket is of a network given as an object, of type "
        "torchvision.models.resnet.ResNet, which its JSON cannot build; register a builder for it "
        "with add_backbone and give its name to Supernet, or train materialise(supernet, scheme) "
        "with fit"
    )


class TestInput:
    def net(self, kinds: Sequence[str] = ("se",)) -> Supernet:
        return Supernet("resnet18", attention=kinds, in_channels=3, classes=3, seed=0)

    def test_large_enough_is_silent_and_changes_nothing(self):
        net = self.net(["se", "spa"])
        before = {name: value.clone() for name, value in net.state_dict().items()}
        net.check_input((3, 128, 128))
        for name, value in net.state_dict().items():
            same(value, before[name])
        assert net.training

    def test_too_small_for_the_pyramid_of_spa(self):
        with pytest.raises(
            BackboneError,
            match="images of 3x96x96 come to stage 4 of resnet18 with 3 pixels a side and spa ne",
        ):
            self.net(["se", "spa"]).check_input((3, 96, 96))

    def test_other_channels_than_the_stem_takes(self):
        with pytest.raises(BackboneError, match="images of 1x64x64 do not go through resnet18"):
            self.net().check_input((1, 64, 64))

    def test_too_small_for_a_stage(self):
        net = Supernet("timm:convnext_atto", attention=["se"], in_channels=3, classes=3, seed=0)
        with pytest.raises(BackboneError, match="images of 3x8x8 do not go through timm:convnext"):
            net.check_input((3, 8, 8))

    def test_costs_ask_for_it_too(self):
        with pytest.raises(BackboneError, match="needs 4; give larger images"):
            CostModel(self.net(["spa"]), (3, 32, 32))


OWNERS = ["seresnet50", "regnety_002", "mobilenetv3_small_050", "efficientnet_b0"]


class TestOwnAttention:
    def model(self, name: str) -> nn.Module:
        with seeded("timm", name):
            model = timm.create_model(name, num_classes=5, drop_rate=0.0, drop_path_rate=0.0)
        return stirred_module(model)

    @pytest.mark.parametrize("name", OWNERS)
    def test_all_ones_is_the_network_and_all_zeros_the_one_without(self, name):
        model = self.model(name).eval()
        x = images(2, shape=(3, 64, 64))
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        wanted = model(x)
        net = Supernet(f"timm:{name}", attention=[OWN], in_channels=3, classes=5, seed=3).eval()
        net.load_backbone(weights)
        full, plain = (Scheme.uniform(net.stages, choice) for choice in (1, 0))
        same(net(x, full), wanted)
        # The network without it, made by hand: whatever a slot holds is an Identity.
        count = 0
        for module in model.modules():
            for attribute in ("se", "attn_last"):
                own = getattr(module, attribute, None)
                if isinstance(own, nn.Module) and not isinstance(own, nn.Identity):
                    setattr(module, attribute, nn.Identity())
                    count += 1
        assert count == sum(net.stages)
        same(net(x, plain), model(x))
        parts = {scheme: materialise(net, scheme).eval() for scheme in (full, plain)}
        same(parts[full](x), wanted)
        same(parts[plain](x), model(x))
        costs = CostModel(net, (3, 64, 64))
        for scheme, part in parts.items():
            assert costs.cost(scheme) == measure(part, (3, 64, 64))
        assert costs.cost(plain).params == sum(p.numel() for p in model.parameters())

    def test_the_network_that_was_given_stays_whole(self):
        model = self.model("regnety_002").eval()
        x = images(1, shape=(3, 64, 64))
        wanted, keys = model(x), list(model.state_dict())
        net = Supernet(model, attention=[OWN], seed=0).eval()
        assert list(model.state_dict()) == keys
        same(model(x), wanted)
        same(net(x, Scheme.uniform(net.stages, 1)), wanted)
        net.load_backbone(model.state_dict())
        net.check_input((3, 64, 64))

    def test_other_kinds_take_its_place(self):
        net = Supernet(
            "timm:regnety_002", attention=[OWN, "eca"], in_channels=3, classes=5, seed=0
        ).eval()
        x = images(1, shape=(3, 64, 64))
        mixed = Scheme.of([k % 3 for k in range(sum(net.stages))], net.stages)
        same(materialise(net, mixed).eval()(x), net(x, mixed))

    def test_a_network_without_any_is_said(self):
        with pytest.raises(BackboneError, match="has no block that carries attention of its own"):
            Supernet("resnet18", attention=[OWN], in_channels=3, classes=5, seed=0)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"sharing": "stage"}, "own has sharing = 'stage'; it allows 'block' only"),
            ({"settings": {"reduction": 2}}, "own has no setting 'reduction'; known: none"),
        ],
        ids=["sharing", "settings"],
    )
    def test_it_is_as_the_network_has_it(self, wrong, said):
        spec = AttentionSpec(kind=OWN, **wrong)
        with pytest.raises(AttentionError, match=said):
            Supernet("timm:regnety_002", attention=[spec], in_channels=3, classes=5, seed=0)

    def test_slots_of_different_widths_cannot_share(self):
        spec = AttentionSpec(kind="se", sharing="stage")
        with pytest.raises(
            AttentionError, match=r"se has sharing = 'stage' and stage \d has feat"
        ):
            Supernet(
                "timm:mobilenetv3_small_050",
                attention=[OWN, spec],
                in_channels=3,
                classes=5,
                seed=0,
            )
