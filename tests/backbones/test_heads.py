"""Heads whose outputs are maps, and trunks that are dilated for them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from sat_optuna.attention import default_spec
from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.contract import Backbone, BackboneError
from sat_optuna.backbones.heads import HEADS
from sat_optuna.data.images import TensorImages, count_classes
from sat_optuna.errors import DataError
from sat_optuna.evaluate import Evaluator, score_scheme
from sat_optuna.export.weights import load_ticket
from sat_optuna.export.write import export_ticket
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for, seeded
from sat_optuna.supernet.materialise import build_network, materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.supernet.weights import load_weights
from tests.tickets import ticket_of

MAPS = ("fcn", "density")
SMALL: dict[str, Any] = {"in_channels": 3, "classes": 4, "width": 4, "blocks": (1, 1, 1)}


def images(count: int, *, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=generator_for("heads"))


def built(name: str, **settings: Any) -> Backbone:
    with seeded("heads", name):
        backbone = build_backbone(name, **(SMALL | settings))
    assert isinstance(backbone, Backbone)
    return backbone


@pytest.mark.parametrize("head", HEADS.names())
@pytest.mark.parametrize("name", ["resnet20", "resnet164", "preresnet110", "preresnet164"])
def test_maps_have_the_size_of_the_image_whatever_the_output_stride(name, head):
    for settings in ({}, {"stem_stride": 2}, {"dilated_stages": 1}, {"dilated_stages": 2}):
        net = built(name, head=head, **settings).eval()
        wanted = (2, 4) if head == "linear" else (2, 4, 16, 24)
        assert net(torch.zeros(2, 3, 16, 24)).shape == wanted


@pytest.mark.golden
def test_the_fcn_head_is_torchvisions_on_the_last_stage():
    net = built("resnet20", head="fcn").eval()
    theirs = torchvision.models.segmentation.fcn.FCNHead(16, 4).eval()
    theirs.load_state_dict(net.get_submodule("head.0").state_dict())
    x = images(2, side=16)
    with torch.no_grad():
        features = net.stem(x)
        for block in (block for stage in net.blocks for block in stage):
            features = block(features)
        wanted = F.interpolate(theirs(features), size=(16, 16), mode="bilinear")
        assert features.shape[2:] == (4, 4)
        assert torch.equal(net(x), wanted)


def test_a_density_is_enlarged_without_changing_the_count():
    net = built("resnet20", head="density", classes=1).eval()
    x = images(3, side=16)
    small: list[torch.Tensor] = []
    last = net.get_submodule("head.6")
    last.register_forward_hook(lambda _module, _given, made: small.append(made))
    with torch.no_grad():
        found = net(x)
    assert isinstance(last, nn.Conv2d)
    assert small[0].shape == (3, 1, 4, 4)
    # Hundredths of a dot a pixel; each pixel of the small map stands for 4 x 4.
    assert torch.allclose(found.sum((1, 2, 3)), 16 * small[0].sum((1, 2, 3)) / 100, rtol=1e-4)


@pytest.mark.golden
def test_dilated_stages_see_what_a_strided_one_sees():
    """With every weight the same, a dilated network's every fourth pixel is the strided one's."""
    strided = built("resnet20", blocks=(1, 2, 1)).eval()
    dilated = built("resnet20", blocks=(1, 2, 1), dilated_stages=2).eval()
    dilated.load_state_dict(strided.state_dict())
    x, seen = images(1, side=32), []
    with torch.no_grad():
        for net in (strided, dilated):
            features = net.stem(x)
            # The first blocks of dilated stages are dilated as the stage before: one stage alone.
            for block in net.blocks[0]:
                features = block(features)
            seen.append(net.get_submodule("stages.1.0.conv1")(features))
    assert [tuple(made.shape[2:]) for made in seen] == [(16, 16), (32, 32)]
    assert torch.allclose(seen[0], seen[1][:, :, ::2, ::2], atol=1e-6)
    convs = [m for m in dilated.stages.modules() if isinstance(m, nn.Conv2d)]
    assert [m.dilation[0] for m in convs] == [1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"head": "fnc"}, "no head 'fnc'; did you mean 'fcn'?"),
        ({"dilated_stages": 3}, "dilated_stages = 3 given; write 0, 1 or 2: the first stage has"),
        ({"dilated_stages": -1}, "dilated_stages = -1 given; write 0, 1 or 2: the first stage ha"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(settings, said):
    with pytest.raises((BackboneError, LookupError)) as caught:
        built("resnet20", **settings)
    assert said in str(caught.value)


def test_another_backbone_says_that_it_has_no_head_to_choose():
    with pytest.raises(BackboneError, match=r"^backbone 'resnet18' has no setting 'head'; it has"):
        build_backbone("resnet18", in_channels=3, classes=4, head="fcn")


@pytest.mark.parametrize(
    ("head", "side", "targets", "said"),
    [
        (
            "fcn",
            18,
            torch.zeros(2, 18, 18, dtype=torch.uint8),
            "the network returns maps of 20 x 20 for images of 18 x 18; give images whose sides "
            "are multiples of its output stride",
        ),
        (
            "linear",
            16,
            torch.zeros(2, 16, 16, dtype=torch.uint8),
            "the network returns shape (1, 4) for one image, and the images come with masks; give "
            "one that returns (N, outputs, H, W), as a CIFAR ResNet with network.head = 'fcn' "
            "does",
        ),
        (
            "linear",
            16,
            torch.zeros(2, 16, 16),
            "the network returns shape (1, 4) for one image, and the images come with density; "
            "give one that returns (N, outputs, H, W), as a CIFAR ResNet with network.head = "
            "'density' does",
        ),
        (
            "fcn",
            16,
            torch.zeros(2, dtype=torch.int64),
            "the network returns shape (1, 4, 16, 16) for one image; give a classifier, which "
            "returns (N, classes)",
        ),
        (
            "density",
            16,
            torch.zeros(2, 16, 16),
            "the images come with 1 target value each and the network has 4 outputs; build it "
            "with classes=1",
        ),
        (
            "fcn",
            16,
            torch.full((2, 16, 16), 9, dtype=torch.uint8),
            "the images have the label 9 and the network 4 classes; number the classes 0 to 3, or "
            "build the network with more",
        ),
    ],
)
def test_a_head_that_does_not_fit_the_targets_is_one_sentence(head, side, targets, said):
    net = built("resnet20", head=head).eval()
    with pytest.raises(DataError) as caught:
        count_classes(net, TensorImages(torch.rand(2, 3, side, side), targets))
    assert str(caught.value) == said


@pytest.mark.parametrize("head", MAPS)
@pytest.mark.parametrize("kind", ["se", "dia"])
def test_a_ticket_with_maps_is_materialised_scored_built_again_and_exported(tmp_path, head, kind):
    classes, task = (4, "segmentation") if head == "fcn" else (1, "counting")
    settings = {**SMALL, "classes": classes, "head": head, "dilated_stages": 1}
    net = Supernet("resnet20", attention=[default_spec(kind)], seed=0, **settings).eval()
    scheme, x = Scheme.parse("1-0-1"), images(3, side=8)
    own = materialise(net, scheme).eval()
    assert torch.equal(own(x), net(x, scheme))
    targets = (torch.rand(3, 8, 8) * 3).to(torch.uint8 if head == "fcn" else torch.float32)
    data = TensorImages(x, targets)
    calibration = [images(4, side=8)]
    tree = Evaluator(net, data, calibration=calibration, chunk=2, task=task).score(scheme)
    alone = score_scheme(
        net, scheme, calibration=calibration, images=data, batch=2, task=task, metrics=METRIC[task]
    )
    assert tree == alone
    ticket = replace(ticket_of(net, scheme), classes=classes, input_shape=(3, 8, 8), seed=0)
    assert ticket.backbone_settings["head"] == head
    again = build_network(ticket, seed=0).eval()
    assert torch.equal(again(x), own(x))
    for to, suffix in (("safetensors", "safetensors"), ("torch-export", "pt2")):
        written = export_ticket(own, ticket, tmp_path / f"net.{suffix}", to=to)
        assert max(written.differences.values()) == 0
    assert torch.equal(load_ticket(tmp_path / "net.safetensors")(x), own(x))


METRIC = {"segmentation": ["miou"], "counting": ["mae"]}


def test_a_trunk_takes_the_weights_of_a_classifier_but_for_its_head():
    trained = built("resnet20").state_dict()
    net = built("resnet20", head="fcn")
    trunk = {key: value for key, value in trained.items() if key[:4] != "head"}
    load_weights(net, {**net.state_dict(), **trunk})
    assert torch.equal(net.state_dict()["stem.0.weight"], trained["stem.0.weight"])
