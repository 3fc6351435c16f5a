"""Trained weights: read without running anything, fitted to networks of other classes."""

import hashlib
import pickle
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.weights import WeightsError, fetch_weights, head_of, read_weights
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.supernet.weights import load_weights, names_of_body
from sat_optuna.ticket import AttentionSpec
from tests.networks import stirred_module

OURS = {"width": 4, "blocks": (1, 1, 1)}


def ours(classes=5, in_channels=3):
    return stirred_module(
        build_backbone("resnet20", in_channels=in_channels, classes=classes, **OURS)
    )


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("resnet20", "head.2"),
        ("preresnet110", "head.4"),
        ("resnet18", "fc"),
        ("timm:resnet18", "fc"),
        ("timm:regnety_002", "head.fc"),
        ("timm:resnetv2_50", "head.fc"),
        ("timm:convnext_atto", "head.fc"),
        ("timm:mobilenetv3_small_050", "classifier"),
    ],
)
def test_the_head_of_each_family_is_the_layer_whose_outputs_are_the_classes(backbone, head):
    with torch.device("meta"):
        model = build_backbone(backbone, in_channels=3, classes=7)
    assert head_of(model) == head
    layer = model.get_submodule(head)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert len(layer.weight) == 7


def test_a_network_whose_head_has_no_known_name_has_none():
    assert head_of(nn.Sequential(nn.Conv2d(3, 4, 3))) == ""


# As the programs of others leave a state_dict.
WRITTEN = {
    "plain.pth": lambda state, path: torch.save(state, path),
    "old.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "state_dict.pth": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "model.pth": lambda state, path: torch.save({"model": state, "args": {"lr": 0.1}}, path),
    "parallel.pt": lambda state, path: torch.save(
        {f"module.{name}": value for name, value in state.items()}, path
    ),
    "compiled.pt": lambda state, path: torch.save(
        {f"_orig_mod.{name}": value for name, value in state.items()}, path
    ),
    "plain.safetensors": save_file,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_state_dict_is_read_however_it_was_written(name, tmp_path):
    state = dict(ours().state_dict())
    WRITTEN[name](state, tmp_path / name)
    assert equal(read_weights(tmp_path / name), state)


class Touches:
    """What a pickle runs when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_a_pickled_module_is_refused_and_nothing_of_it_is_run(tmp_path):
    torch.save(ours(), tmp_path / "module.pth")
    torch.save(
        {"state_dict": {"a": torch.ones(1)}, "x": Touches(tmp_path / "ran")}, tmp_path / "x.pt"
    )
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(Touches(tmp_path / "ran")))
    for name in ("module.pth", "x.pt", "p.pkl"):
        assert "hold more than tensors, a pickled module perhaps" in refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_state_dict_is_one_sentence(tmp_path):
    state = ours().state_dict()
    torch.save(state, tmp_path / "whole.pth")
    save_file(dict(state), tmp_path / "whole.safetensors")
    for suffix in (".pth", ".safetensors"):
        content = (tmp_path / f"whole{suffix}").read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
        (tmp_path / f"text{suffix}").write_text("no weights at all")
        (tmp_path / f"empty{suffix}").touch()
        for name in ("cut", "text", "empty"):
            assert "cannot be read (" in refusal(tmp_path / f"{name}{suffix}")
    assert "No such file" in refusal(tmp_path / "none.pth")
    assert "Is a directory" in refusal(tmp_path)
    for number, held in enumerate(([torch.ones(1)], {"lr": 0.1}, {}, {"a": [torch.ones(1)]})):
        torch.save(held, tmp_path / f"{number}.pth")
        assert "hold no state_dict" in refusal(tmp_path / f"{number}.pth")


def supernet(**more):
    se = AttentionSpec(kind="se", settings={"identity": True})
    return Supernet("resnet18", attention=[se], in_channels=3, classes=10, seed=0, **more)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """The state_dict of a ResNet-18 of 1,000 classes in a file, as trained ones come."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(stirred_module(torchvision.models.resnet18()).state_dict(), path)
    return path


def test_a_thousand_classes_start_a_network_of_ten_with_a_head_of_its_own(imagenet):
    net = supernet()
    head = {k: v.clone() for k, v in net.backbone.fc.state_dict().items()}
    said = r"resnet18.pth are of 1000 classes and the network is of 10: its head, fc, begins anew"
    with pytest.warns(SatOptunaWarning, match=said):
        loaded = load_weights(net, imagenet)
    trained = read_weights(imagenet)
    has = net.backbone.state_dict()
    assert equal(head, net.backbone.fc.state_dict())
    assert loaded.body == trained.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(has[name], trained[name]) for name in loaded.body)
    # Attention begins as the identity, so nothing of what was trained is lost at first.
    x, net = torch.randn(2, 3, 32, 32), net.eval()
    for choice in (0, 1):
        assert torch.equal(net(x, Scheme.uniform(net.stages, choice)), net.backbone(x))
    ticket = materialise(net, Scheme.parse("10-01-00-11"))
    assert torch.equal(ticket(x), net.backbone(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s | {"extra.bias": torch.ones(1)}, "nothing here is called extra.bias;"),
        (lambda s: {k: s[k] for k in s if k != "bn1.bias"}, "bn1.bias is not in it;"),
        (
            lambda s: s | {"conv1.weight": torch.ones(64, 1, 7, 7)},
            r"conv1.weight has shape \(64, 1, 7, 7\), not \(64, 3, 7, 7\);",
        ),
        (lambda s: s | {"fc.weight": torch.ones(1000, 9)}, r"fc.weight has shape \(1000, 9\)"),
        (
            lambda _: build_backbone("timm:resnet50", in_channels=3, classes=9).state_dict(),
            r"nothing here is called layer1.0.conv3.weight, .*and \d+ more",
        ),
    ],
)
def test_weights_that_do_not_fit_name_the_first_keys_that_differ(imagenet, change, said):
    net = supernet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(WeightsError, match=f"are not of this network: .*{said}") as caught:
        load_weights(net, change(read_weights(imagenet)))
    assert "\n" not in str(caught.value)
    assert equal(before, net.state_dict())  # nothing of them was loaded


def test_as_many_classes_take_the_head_too_and_no_head_leaves_the_networks_own():
    trained = ours().state_dict()
    net = build_backbone("resnet20", in_channels=3, classes=5, **OURS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_weights(net, trained)
    assert equal(net.state_dict(), trained)
    assert not loaded.new_head
    assert loaded.body == trained.keys() - {"head.2.weight", "head.2.bias"}
    # Files of self-supervised trainings have no head, those of old versions no counters.
    bare = {k: v for k, v in trained.items() if "head." not in k and "num_batches" not in k}
    net = build_backbone("resnet20", in_channels=3, classes=5, **OURS)
    with pytest.warns(SatOptunaWarning, match="have no head and the network is of 5: its head, h"):
        load_weights(net, bare)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in bare.items())


@pytest.mark.parametrize("backbone", ["timm:regnety_002", "timm:mobilenetv3_small_050"])
def test_a_networks_own_attention_comes_with_its_weights(backbone):
    def built(classes):
        return build_backbone(backbone, in_channels=3, classes=classes)

    trained = stirred_module(built(9))
    net = Supernet(backbone, attention=["own"], in_channels=3, classes=9, seed=1)
    loaded = load_weights(net, trained.state_dict())
    assert equal(net.backbone_weights(), dict(trained.state_dict()))
    assert loaded.body < trained.state_dict().keys()
    x = torch.randn(2, 3, 32, 32)
    net.eval()
    full = Scheme.uniform(net.stages, 1)
    assert torch.equal(net(x, full), trained.eval()(x))
    # By other names in the supernet, and by its own in a ticket, with or without attention.
    names = {name for name, _ in trained.named_parameters()} & loaded.body
    assert len(names_of_body(net, loaded.body)) == len(names)
    assert names_of_body(materialise(net, full), loaded.body) == names
    plain = materialise(net, Scheme.uniform(net.stages, 0))
    assert names_of_body(plain, loaded.body) == names & plain.state_dict().keys() < names


class Wrapped(nn.Module):
    """Its names begin as those of a supernet do."""

    def __init__(self):
        super().__init__()
        self.backbone = ours()
        self.stem = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.backbone(self.stem(x))


def test_a_network_with_a_backbone_of_its_own_keeps_its_names():
    net = Wrapped()
    body = frozenset({"backbone.stem.0.weight", "stem.weight"})
    assert names_of_body(net, body) == body
    assert names_of_body(net, frozenset({"stem.0.weight"})) == frozenset()


def test_the_digest_is_of_what_was_loaded(tmp_path):
    one, other = tmp_path / "one.pth", tmp_path / "other.pth"
    torch.save(ours().state_dict(), one)
    other.write_bytes(one.read_bytes())
    state = read_weights(one)
    given = (one, other, state, dict(reversed(state.items())))
    digests = [load_weights(ours(), weights).digest for weights in given]
    assert digests[0] == digests[1] == hashlib.sha256(one.read_bytes()).hexdigest()
    assert digests[2] == digests[3] != digests[0]
    changed = state | {"head.2.bias": state["head.2.bias"] + 1}
    assert load_weights(ours(), changed).digest not in digests


def test_weights_that_nobody_offers_or_that_cannot_be_fetched(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="nobody offers trained weights of backbone 'resnet20'"):
        fetch_weights("resnet20", in_channels=3, settings={})
    for name in ("http_proxy", "https_proxy"):  # where nobody listens
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    words = "trained weights of 'resnet18' cannot be fetched .*see to the connection, or set netw"
    with pytest.raises(WeightsError, match=words):
        fetch_weights("resnet18", in_channels=3, settings={})
    with pytest.raises(WeightsError, match=r"'timm:resnet200' cannot be fetched \(RuntimeError"):
        fetch_weights(
            "timm:resnet200", in_channels=3, settings={"head": "fcn", "dilated_stages": 1}
        )
