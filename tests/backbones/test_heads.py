"""Heads whose outputs are maps, and trunks that are dilated for them."""

import copy
import pickle
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from sat_optuna.attention import default_spec
from sat_optuna.attention.contract import Attention
from sat_optuna.backbones import BACKBONES, add_backbone, build_backbone
from sat_optuna.backbones.check import check_split
from sat_optuna.backbones.cifar_stages import output_stride
from sat_optuna.backbones.contract import Backbone, BackboneError
from sat_optuna.backbones.heads import HEADS
from sat_optuna.backbones.view import view_of
from sat_optuna.backbones.weights import ending_of
from sat_optuna.config.config import TrainConfig
from sat_optuna.data.images import TensorImages, count_classes
from sat_optuna.errors import DataError, SatOptunaWarning
from sat_optuna.evaluate import Evaluator, score_scheme
from sat_optuna.export.fold import fold_constant
from sat_optuna.export.onnx import read_onnx
from sat_optuna.export.weights import load_ticket
from sat_optuna.export.write import export_ticket
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for, seeded
from sat_optuna.supernet.materialise import build_network, materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.supernet.weights import load_weights
from sat_optuna.ticket import Ticket
from sat_optuna.training.loop import fit
from tests.tickets import ticket_of

MAPS = tuple(name for name in HEADS.names() if name != "linear")
SMALL: dict[str, Any] = {"in_channels": 3, "classes": 4, "width": 4, "blocks": (1, 1, 1)}


def images(count: int, *, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=generator_for("heads"))


def built(name: str, **settings: Any) -> Backbone:
    with seeded("heads", name):
        backbone = build_backbone(name, **(SMALL | settings))
    assert isinstance(backbone, Backbone)
    return backbone


CIFAR = ("resnet20", "resnet164", "preresnet110", "preresnet164")
# A network of each family that a head for maps can be put on, in every output stride.
TRUNKS = (
    "resnet18",
    "resnet50",
    "timm:seresnet18",
    pytest.param("timm:resnetv2_50", marks=pytest.mark.slow),
    pytest.param("timm:regnetx_002", marks=pytest.mark.slow),
    "timm:convnext_atto",
    pytest.param("timm:efficientnet_b0", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("head", HEADS.names())
@pytest.mark.parametrize("name", CIFAR)
def test_maps_have_the_size_of_the_image_whatever_the_output_stride(name, head):
    for settings in ({}, {"stem_stride": 2}, {"stem_stride": 3, "dilated_stages": 1}):
        net = built(name, head=head, **settings).eval()
        for side in ((16, 24), (17, 13)):
            wanted = (2, 4) if head == "linear" else (2, 4, *side)
            assert net(torch.zeros(2, 3, *side)).shape == wanted


@pytest.mark.parametrize("dilated", [0, 1, 2])
@pytest.mark.parametrize("stem", [1, 2, 3, 4])
def test_the_output_stride_is_that_of_the_features(stem, dilated):
    """2, 4 and 8 by the stem or by dilation, and what else comes of both."""
    stride = output_stride(stem, dilated)
    assert stride == stem * 2 ** (2 - dilated)
    for name in CIFAR:
        with torch.device("meta"):
            settings = {"stem_stride": stem, "dilated_stages": dilated}
            net = build_backbone(name, **SMALL, head="fcn", **settings).eval()
            assert features_of(net, torch.zeros(1, 3, 48, 48))[2:] == (48 // stride, 48 // stride)
        assert net.map_stride == stride


def features_of(net: nn.Module, x: torch.Tensor) -> tuple[int, ...]:
    """The shape of what a head for maps is given."""
    view, shapes = view_of(net), []
    head = view.model.get_submodule(ending_of(net))
    hook = head.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    net(x)
    hook.remove()
    (shape,) = shapes
    return shape


@pytest.mark.parametrize("name", TRUNKS)
def test_other_trunks_have_output_strides_of_32_16_and_8(name):
    size = {"in_channels": 4, "classes": 5}
    with torch.device("meta"):
        plain = net = build_backbone(name, **size)
        for dilated in (0, 2) if name.startswith("timm") else (0, 1, 2):
            net = build_backbone(name, **size, head="fcn", dilated_stages=dilated).eval()
            stride = 32 // 2**dilated
            assert features_of(net, torch.zeros(1, 4, 64, 96))[2:] == (64 // stride, 96 // stride)
            assert net(torch.zeros(2, 4, 65, 70)).shape == (2, 5, 65, 70)
    trunk = {key for key in net.state_dict() if not key.startswith("map_head")}
    assert trunk <= plain.state_dict().keys()
    lost = {key.split(".")[0] for key in plain.state_dict().keys() - trunk}
    assert lost <= {"fc", "classifier", "head"}


def test_a_trunk_that_cannot_be_dilated_says_so():
    with torch.device("meta"):
        net = build_backbone("timm:mobilenetv3_small_050", in_channels=3, classes=5, head="fcn")
        assert net.eval()(torch.zeros(1, 3, 33, 40)).shape == (1, 5, 33, 40)
    with pytest.raises(BackboneError) as caught:
        build_backbone("timm:mobilenetv3_small_050", in_channels=3, classes=5, dilated_stages=1)
    assert str(caught.value) == (
        "backbone 'timm:mobilenetv3_small_050' is of timm's MobileNetV3, which has no dilation; "
        "write dilated_stages = 0, or take another, such as 'timm:resnet50' or "
        "'timm:efficientnet_b0'"
    )


def small_trunk(name: str, **settings: Any) -> nn.Module:
    with seeded("trunk", name):
        return build_backbone(name, **({"in_channels": 3, "classes": 4} | settings)).eval()


@pytest.mark.parametrize("head", MAPS)
@pytest.mark.parametrize("name", ["resnet20", "preresnet110"])
def test_the_contract_of_heads(name, head):
    """Sizes, gradients, rows that do not meet, numbers, and a copy by state_dict."""
    net, x = built(name, head=head, stem_stride=2), images(4, side=20)[:, :, :19]
    wanted = (4, 4, 19, 20)
    loss = net.train()(x).square().mean()
    loss.backward()
    for key, weight in net.named_parameters():
        assert weight.grad is not None, key
        assert bool(weight.grad.isfinite().all()), key
        assert bool(weight.grad.any()), key
    net.eval()
    with torch.no_grad():
        made = net(x)
        assert made.shape == wanted
        assert bool(made.isfinite().all())
        for row in range(4):
            assert torch.allclose(net(x[row : row + 1])[0], made[row], atol=1e-5)
        again = build_backbone(name, **SMALL, head=head, stem_stride=2).eval()
        again.load_state_dict(net.state_dict())
        assert torch.equal(again(x), made)
        assert torch.equal(copy.deepcopy(net)(x), made)
        assert torch.equal(torch.fx.symbolic_trace(net)(x), made)


@pytest.mark.parametrize("name", ["resnet20", "preresnet164", "resnet18", "timm:convnext_atto"])
def test_an_image_of_any_size_is_padded_and_its_map_cropped(name):
    head = {"head": "fcn", "dilated_stages": 2}
    net = built(name, **head).eval() if name in (*CIFAR,) else small_trunk(name, **head)
    x = images(1, side=32)[:, :, :21, :27]
    stride = cast("int", net.map_stride)
    below, right = -21 % stride, -27 % stride
    with torch.no_grad():
        whole = net(F.pad(x, (0, right, 0, below)))
        assert whole.shape[2:] == (21 + below, 27 + right)
        assert torch.equal(net(x), whole[:, :, :21, :27])
        check_split(view_of(net), (3, 21, 27), name=name)


@pytest.mark.golden
@pytest.mark.parametrize("dilated", [1, 2])
def test_a_dilated_bottleneck_trunk_is_torchvisions(dilated):
    net = small_trunk("resnet50", dilated_stages=dilated)
    replaced = [False, dilated == 2, True]
    theirs = torchvision.models.resnet50(num_classes=4, replace_stride_with_dilation=replaced)
    theirs.eval().load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(net(images(1, side=40)), theirs(images(1, side=40)))


@pytest.mark.golden
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_a_dilated_basic_trunk_sees_at_every_place_what_the_strided_one_sees(name):
    strided, x = small_trunk(name), images(1, side=64)
    with torch.no_grad():
        few = trunk_features(strided, x)
        for dilated in (1, 2):
            dense = small_trunk(name, dilated_stages=dilated)
            dense.load_state_dict(strided.state_dict())
            many, step = trunk_features(dense, x), 2**dilated
            assert many.shape[2] == step * few.shape[2]
            assert torch.allclose(many[:, :, ::step, ::step], few, atol=1e-4)


def trunk_features(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    view = view_of(net)
    x = view.stem(x)
    for block in (block for stage in view.blocks for block in stage):
        x = block.merge(*block.branch(x))
    return x


@pytest.mark.golden
@pytest.mark.parametrize(("dilated", "rate"), [(2, 12), (1, 6), (0, 3)])
def test_the_deeplabv3_head_is_torchvisions(dilated, rate):
    with torch.device("meta"):
        settings: dict[str, Any] = {"head": "deeplabv3", "dilated_stages": dilated}
        net = build_backbone("resnet50", in_channels=3, classes=21, **settings)
        theirs = torchvision.models.segmentation.deeplabv3_resnet50(
            num_classes=21, weights_backbone=None
        )
    head = net.get_submodule("map_head.0")
    shapes = {key: value.shape for key, value in head.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.classifier.state_dict().items()}
    rates = [m.dilation[0] for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [r for r in rates if r > 1] == [rate, 2 * rate, 3 * rate]


def test_resnet18_with_deeplabv3_is_trained_by_a_step():
    net = small_trunk("resnet18", head="deeplabv3", dilated_stages=2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    masks = torch.randint(4, (3, 33, 40), dtype=torch.uint8, generator=generator_for("masks"))
    data = TensorImages(images(3, side=40)[:, :, :33], masks)
    config = TrainConfig(batch=2, lr=0.01)  # a last batch of one image is left out
    (record,) = fit(net, data, epochs=1, seed=0, config=config, task="segmentation")
    assert record.loss > 0
    changed = [
        key for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    ]
    assert {key.split(".")[0] for key in changed} >= {"conv1", "layer4", "map_head"}
    assert len(changed) == len(before)


@pytest.mark.parametrize(
    ("head", "side"), [("deeplabv3", 16), ("fcn", 4), ("density", 3)], ids=str
)
def test_a_batch_of_one_value_a_channel_is_refused_in_one_sentence(head, side):
    """The last batch that is not full is left out; a batch of one image alone cannot be learnt."""
    classes, targets = (
        (1, torch.rand(1, side, side))
        if head == "density"
        else (
            4,
            torch.zeros(1, side, side, dtype=torch.uint8),
        )
    )
    net = built("resnet20", head=head, classes=classes)
    task = "counting" if head == "density" else "segmentation"
    data = TensorImages(images(1, side=side), targets)
    with pytest.raises(DataError) as caught:
        fit(net, data, epochs=1, seed=0, config=TrainConfig(batch=1), task=task)
    assert str(caught.value).startswith("the network cannot be trained on a batch of one image (")
    assert str(caught.value).endswith(
        "choose train.batch = 2 at least, or drop_last=True of a DataLoader"
    )


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
        ({"name": "resnet18", "head": "fnc"}, "no head 'fnc'; did you mean 'fcn'?"),
        ({"name": "timm:resnet18", "head": "fnc"}, "no head 'fnc'; did you mean 'fcn'?"),
        (
            {"name": "resnet18", "dilated_stages": 3},
            "dilated_stages = 3 given; write 0, 1 or 2: an output stride of 32, 16 or 8",
        ),
        (
            {"name": "timm:resnet18", "dilated_stages": -1},
            "dilated_stages = -1 given; write 0, 1 or 2: an output stride of 32, 16 or 8",
        ),
        ({"dilated_stages": -1}, "dilated_stages = -1 given; write 0, 1 or 2: the first stage ha"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(settings, said):
    given = {"name": "resnet20", "in_channels": 3, "classes": 4, **settings}
    with pytest.raises((BackboneError, LookupError)) as caught:
        build_backbone(**given)
    assert said in str(caught.value)


def test_maps_of_another_size_than_the_image_are_one_sentence():
    images_of_6 = TensorImages(torch.rand(2, 3, 6, 6), torch.zeros(2, 6, 6, dtype=torch.uint8))
    with pytest.raises(DataError) as caught:
        count_classes(nn.Conv2d(3, 4, 3), images_of_6)
    assert str(caught.value) == (
        "the network returns maps of 4 x 4 for images of 6 x 6; let it enlarge them to the "
        "images' size"
    )


def test_a_backbone_without_a_head_to_choose_says_which_have_one(request):
    add_backbone("bare", lambda *, in_channels, classes: nn.Identity(), stages=(1,))
    request.addfinalizer(lambda: BACKBONES.remove("bare"))
    with pytest.raises(BackboneError) as caught:
        build_backbone("bare", in_channels=3, classes=4, head="fcn")
    assert str(caught.value) == (
        "backbone 'bare' has no setting 'head'; it has: none; drop it, or take one of the CIFAR "
        "ResNets, torchvision's or timm's networks, which have it"
    )


@pytest.mark.parametrize(
    ("head", "side", "targets", "said"),
    [
        (
            "linear",
            16,
            torch.zeros(2, 16, 16, dtype=torch.uint8),
            "the network returns shape (1, 4) for one image, and the images come with masks; give "
            "one that returns (N, outputs, H, W), as a ResNet with network.head = 'fcn' "
            "does",
        ),
        (
            "linear",
            16,
            torch.zeros(2, 16, 16),
            "the network returns shape (1, 4) for one image, and the images come with density; "
            "give one that returns (N, outputs, H, W), as a ResNet with network.head = "
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


METRIC = {"segmentation": ["miou"], "counting": ["mae"]}


@pytest.mark.parametrize(
    ("head", "kind", "side"),
    [
        ("fcn", "se", (8, 8)),
        ("fcn", "dia", (7, 10)),
        ("density", "se", (7, 10)),
        pytest.param("deeplabv3", "se", (9, 10), marks=pytest.mark.slow),
    ],
)
def test_a_ticket_with_maps_is_materialised_scored_built_again_and_exported(
    tmp_path, head, kind, side
):
    task = "counting" if head == "density" else "segmentation"
    classes = 1 if head == "density" else 4
    settings = {**SMALL, "classes": classes, "head": head, "dilated_stages": 1}
    net = Supernet("resnet20", attention=[default_spec(kind)], seed=0, **settings).eval()
    scheme, x = Scheme.parse("1-0-1"), images(3, side=10)[:, :, : side[0], : side[1]]
    own = materialise(net, scheme).eval()
    assert torch.equal(own(x), net(x, scheme))
    targets = (torch.rand(3, *side) * 3).to(torch.float32 if head == "density" else torch.uint8)
    data = TensorImages(x, targets)
    calibration = [images(4, side=10)[:, :, : side[0], : side[1]]]
    tree = Evaluator(net, data, calibration=calibration, chunk=2, task=task).score(scheme)
    alone = score_scheme(
        net, scheme, calibration=calibration, images=data, batch=2, task=task, metrics=METRIC[task]
    )
    assert tree == alone
    ticket = replace(ticket_of(net, scheme), classes=classes, input_shape=(3, *side), seed=0)
    assert ticket.backbone_settings["head"] == head
    again = build_network(ticket, seed=0).eval()
    assert torch.equal(again(x), own(x))
    for to, suffix in (("safetensors", "safetensors"), ("torch-export", "pt2")):
        written = export_ticket(own, ticket, tmp_path / f"net.{suffix}", to=to)
        assert max(written.differences.values()) == 0
    assert torch.equal(load_ticket(tmp_path / "net.safetensors")(x), own(x))


def test_a_map_of_an_odd_size_is_written_as_onnx_and_folded(tmp_path):
    settings = {**SMALL, "head": "fcn", "dilated_stages": 1}
    net = Supernet("resnet20", attention=[default_spec("se")], seed=0, **settings).eval()
    full, x = Scheme.parse("1-1-1"), images(3, side=10)[:, :, :7]
    own = materialise(net, full).eval()
    for stage in (0, 2):  # gates that depend on nothing are constants
        nn.init.zeros_(own.get_parameter(f"stages.{stage}.0.attention.excite.weight"))
    folded, report = fold_constant(own, Scheme.parse("0-1-0"), [x])
    assert folded(x).shape == (3, 4, 7, 10)
    assert report.change_max < 1e-5
    ticket = replace(ticket_of(net, full), classes=4, input_shape=(3, 7, 10), seed=0)
    written = export_ticket(own, ticket, tmp_path / "net.onnx", to="onnx")
    assert max(written.differences.values()) <= 1e-5
    assert read_onnx(tmp_path / "net.onnx")(x).shape == (3, 4, 7, 10)


@pytest.mark.parametrize("scheme", ["0-0-0", "1-0-2", "2-1-1"])
@pytest.mark.parametrize("head", HEADS.names())
def test_a_trunk_built_from_a_ticket_holds_exactly_its_modules(head, scheme):
    kinds = [default_spec("se"), default_spec("eca")]
    net = Supernet("resnet20", attention=kinds, seed=0, **SMALL, head=head)
    ticket = replace(ticket_of(net, Scheme.parse(scheme)), classes=4, seed=0)
    again = build_network(Ticket.from_json(ticket.to_json()), seed=0)
    held = [type(m).__name__ for m in again.modules() if isinstance(m, Attention)]
    kind_of = {"1": "SE", "2": "ECA"}
    assert held == [kind_of[choice] for choice in scheme if choice in kind_of]
    bare = build_backbone("resnet20", **SMALL, head=head)
    plain = {key for key in again.state_dict() if ".attention." not in key}
    assert plain == bare.state_dict().keys()


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet10t"])
def test_other_trunks_with_maps_go_the_whole_road(tmp_path, name):
    settings: dict[str, Any] = {"in_channels": 3, "classes": 4, "head": "fcn", "dilated_stages": 1}
    net = Supernet(name, attention=[default_spec("se")], seed=0, **settings).eval()
    scheme = Scheme.parse("-".join("10"[:size] for size in net.stages))
    x = images(3, side=20)[:, :, :19]
    with torch.no_grad():
        own = materialise(net, scheme).eval()
        assert torch.equal(own(x), net(x, scheme))
    assert type(own) is type(net.backbone)
    data = TensorImages(x, (torch.rand(3, 19, 20) * 3).to(torch.uint8))
    tree = Evaluator(net, data, calibration=[x], chunk=3, task="segmentation").score(scheme)
    alone = score_scheme(
        net,
        scheme,
        calibration=[x],
        images=data,
        batch=3,
        task="segmentation",
        metrics=["miou"],
    )
    assert tree == alone
    ticket = replace(ticket_of(net, scheme), classes=4, input_shape=(3, 19, 20), seed=0)
    assert ticket.backbone_settings == {"head": "fcn", "dilated_stages": 1}
    written = export_ticket(own, ticket, tmp_path / "net.safetensors", to="safetensors")
    assert max(written.differences.values()) == 0
    loaded = load_ticket(tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(x), own(x))
    assert torch.equal(pickle.loads(pickle.dumps(own)).eval()(x), own(x))


@pytest.mark.parametrize("own", [True, False], ids=["map head", "classifier"])
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet20", "fcn"),
        ("preresnet110", "density"),
        ("resnet18", "fcn"),
        ("timm:resnet10t", "fcn"),
    ],
)
def test_weights_of_another_head_leave_the_trunk_and_a_head_that_begins_anew(name, head, own):
    """Of a classifier to maps, and back; of headless ones too."""
    size = SMALL if name in CIFAR else {"in_channels": 3, "classes": 4}
    heads = ("linear", head) if own else (head, "linear")
    trained, net = (build_backbone(name, **size, head=one) for one in heads)
    fresh = copy.deepcopy(net.state_dict())
    ending = ending_of(net) or "fc"
    for weights in (trained.state_dict(), headless(trained)):
        net.load_state_dict(fresh)
        given = "have another head than the network: its own, "
        given = given if weights.keys() == trained.state_dict().keys() else "have no head and the"
        with pytest.warns(SatOptunaWarning, match=f"weights given {given}.*{ending}.*begins anew"):
            loaded = load_weights(net, weights)
        assert loaded.new_head
        for key, value in net.state_dict().items():
            of_trunk = key in weights
            assert torch.equal(value, weights[key] if of_trunk else fresh[key]), key
        assert all(key in weights for key in loaded.body)


def headless(net: nn.Module) -> dict[str, torch.Tensor]:
    ends = ("fc.", "map_head.", "head.")
    return {key: value for key, value in net.state_dict().items() if not key.startswith(ends)}


def test_a_map_head_for_other_classes_loses_its_last_layer_alone():
    trained = built("resnet20", head="fcn", classes=9).state_dict()
    net = built("resnet20", head="fcn", classes=4)
    with pytest.warns(SatOptunaWarning, match="are of 9 classes and the network is of 4: "):
        loaded = load_weights(net, trained)
    assert loaded.head == "head.0.4"
    same = torch.equal(net.state_dict()["head.0.0.weight"], trained["head.0.0.weight"])
    assert same
