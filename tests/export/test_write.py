"""Files that compute what the network computes, or that are not there."""

import copy
import errno
import json
import logging
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.resnet import BasicBlock

from sat_optuna.attention import ATTENTION, default_spec
from sat_optuna.attention.contract import Attention
from sat_optuna.attention.simam import SimAM
from sat_optuna.errors import SatOptunaError, WriteError
from sat_optuna.export import SUFFIXES, ExportError, weights, write
from sat_optuna.export.weights import load_ticket, read_ticket
from sat_optuna.export.write import export_ticket
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise, scheme_of
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec, Inputs
from sat_optuna.training.checkpoint import read_record
from tests.networks import KINDS, OURS, images, schemes, tiny_supernet
from tests.tickets import leftovers, network_and_ticket, ticket_of

FORMATS = [*SUFFIXES]


def opened(path):
    """Run a file without any of the package's own readers, and return it with its record."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        record = session.get_modelmeta().custom_metadata_map["sat_optuna"]
        return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), record
    extra = {"sat_optuna.json": ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module(), extra["sat_optuna.json"]


@pytest.mark.parametrize("to", FORMATS)
def test_round_trip_of_every_module(to, tmp_path, capfd):
    every = Scheme.of(range(len(OURS) + 1), (4, 4, len(OURS) - 7))  # none, then each kind once
    network, ticket = network_and_ticket(*OURS, scheme=every)
    path = tmp_path / f"file{SUFFIXES[to]}"
    written = export_ticket(network, ticket, path, to=to)
    assert capfd.readouterr() == ("", "")
    assert leftovers(tmp_path) == [path.name]
    assert (written.path, written.format, written.size_bytes) == (path, to, path.stat().st_size)
    assert [*written.differences] == [1, 2, 5]
    if to == "safetensors":
        run, record = load_ticket(path), json.dumps(read_record(path))
    else:
        run, record = opened(path)
    assert json.loads(record)["ticket"] == json.loads(ticket.to_json())
    limit = 1e-5 if to == "onnx" else 0.0
    assert max(written.differences.values()) <= limit
    for batch in (1, 2, 5, 9):
        x = images(batch, seed=batch)
        with torch.no_grad():
            wanted, got = network(x), run(x)
        assert (got - wanted).abs().max() <= limit * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("to", FORMATS)
def test_every_module_on_resnet50(to, tmp_path):
    """Each kind is at a block of its own; the whole network's difference is that of all."""
    specs = [default_spec(kind) for kind in OURS]
    net = Supernet("resnet50", attention=specs, in_channels=3, classes=10, seed=0)
    scheme = Scheme.of([*range(len(OURS) + 1), *[0] * (15 - len(OURS))], net.stages)
    ticket = replace(ticket_of(net, scheme), classes=10, input_shape=(3, 224, 224))
    path = tmp_path / f"file{SUFFIXES[to]}"
    written = export_ticket(materialise(net, scheme).eval(), ticket, path, to=to)
    assert [*written.differences] == [1, 2, 5]
    assert max(written.differences.values()) <= (1e-5 if to == "onnx" else 0.0)


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_round_trip_of_any_scheme(data, tmp_path_factory):
    specs = data.draw(st.sampled_from(KINDS))
    scheme = data.draw(schemes(kinds=len(specs)))
    net = tiny_supernet(specs)
    network, path = (
        materialise(net, scheme).eval(),
        tmp_path_factory.mktemp("any") / "f.safetensors",
    )
    export_ticket(network, ticket_of(net, scheme), path, to="safetensors")
    assert read_ticket(path) == ticket_of(net, scheme)
    loaded = load_ticket(path)
    assert not loaded.training
    assert scheme_of(loaded) == scheme
    had, has = network.state_dict(), loaded.state_dict()
    assert list(has) == list(had)
    assert all(torch.equal(has[name], had[name]) for name in had)
    assert torch.equal(loaded(images(3)), network(images(3)))


@pytest.mark.parametrize("to", [*FORMATS[:-1], pytest.param(FORMATS[-1], marks=pytest.mark.slow)])
def test_the_memory_format_is_kept(to, tmp_path):
    network, ticket = network_and_ticket()
    network.to(memory_format=torch.channels_last)
    path = tmp_path / f"file{SUFFIXES[to]}"
    written = export_ticket(network, ticket, path, to=to)
    assert max(written.differences.values()) <= (1e-5 if to == "onnx" else 0.0)
    record = read_record(path) if to == "safetensors" else json.loads(opened(path)[1])
    assert record["memory_format"] == "torch.channels_last"
    assert record["dtype"] == "float32"
    if to != "onnx":
        run = load_ticket(path) if to == "safetensors" else opened(path)[0]
        kernel = dict(run.named_parameters())["stages.0.0.conv1.weight"]
        assert kernel.is_contiguous(memory_format=torch.channels_last)
        assert not kernel.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_is_kept(dtype, tmp_path):
    network, ticket = network_and_ticket()
    path = tmp_path / "file.safetensors"
    export_ticket(network.to(dtype), ticket, path, to="safetensors")
    assert {value.dtype for value in load_ticket(path).parameters()} == {dtype}


def test_the_network_is_left_as_it_is(tmp_path):
    network, ticket = network_and_ticket()
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_ticket(network, ticket, tmp_path / "f.safetensors", to="safetensors")
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# --- Files that are not left -----------------------------------------------------------------

WRITERS = {"safetensors": "write_weights", "torch-export": "write_program", "onnx": "write_onnx"}


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_with_one_wrong_number_is_not_left(to, tmp_path, monkeypatch):
    real = getattr(write, WRITERS[to])

    def careless(network, *arguments, **more):
        wrong = copy.deepcopy(network)
        with torch.no_grad():
            wrong.get_parameter("stages.1.0.conv2.weight")[0, 0, 0, 0] += 0.01
        return real(wrong, *arguments, **more)

    monkeypatch.setattr(write, WRITERS[to], careless)
    network, ticket = network_and_ticket()
    path = tmp_path / f"file{SUFFIXES[to]}"
    path.write_text("what was there")
    words = rf"was not written: as {to} it differs from the network by \d\S+ of the largest logit"
    with pytest.raises(ExportError, match=words):
        export_ticket(network, ticket, path, to=to)
    assert leftovers(tmp_path) == [path.name]
    assert path.read_text() == "what was there"


def test_a_network_that_computes_nothing_finite_is_not_written(tmp_path):
    network, ticket = network_and_ticket()
    nn.init.constant_(network.get_parameter("head.2.bias"), float("inf"))
    with pytest.raises(ExportError, match="differs from the network by nan"):
        export_ticket(network, ticket, tmp_path / "f.safetensors", to="safetensors")
    assert leftovers(tmp_path) == []


def test_logits_of_zero_are_equal_to_themselves(tmp_path):
    network, ticket = network_and_ticket()
    for name in ("weight", "bias"):
        nn.init.zeros_(network.get_parameter(f"head.2.{name}"))
    written = export_ticket(network, ticket, tmp_path / "f.safetensors", to="safetensors")
    assert set(written.differences.values()) == {0.0}


def test_a_file_for_one_batch_size_alone_is_not_left(tmp_path, monkeypatch):
    monkeypatch.setattr("sat_optuna.export.program.BATCH", None)
    network, ticket = network_and_ticket()
    with pytest.raises(ExportError, match="as torch-export it does not run at batch 1 "):
        export_ticket(network, ticket, tmp_path / "f.pt2", to="torch-export")
    assert leftovers(tmp_path) == []


class Moody(Attention):
    """A module whose way depends on the numbers it sees, which no trace can hold."""

    def __init__(self, channels, *, slope=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), slope))

    def forward(self, features, state=None):
        return (features * self.scale if features.sum() > 0 else features), state


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("torch-export", r"torch.export cannot trace this network \(.*\); write safetensors$"),
        (
            "onnx",
            r"torch.onnx cannot write this network \(.*\); write safetensors or torch-export",
        ),
    ],
)
def test_what_cannot_be_traced_is_told_in_one_sentence(to, words, tmp_path, request):
    request.addfinalizer(partial(ATTENTION.remove, "moody"))
    ATTENTION.add("moody", Moody)
    network, ticket = network_and_ticket("moody")
    with pytest.raises(ExportError, match=words) as caught:
        export_ticket(network, ticket, tmp_path / f"f{SUFFIXES[to]}", to=to)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


def test_an_opset_that_lacks_an_operator_is_refused(tmp_path, capfd):
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    network, ticket = network_and_ticket()
    words = (
        r"^ONNX opset 9 lacks an operator of this network, .*; leave the opset out, or give 18$"
    )
    with pytest.raises(ExportError, match=words):
        export_ticket(network, ticket, tmp_path / "f.onnx", to="onnx", opset=9)
    assert capfd.readouterr() == ("", "")
    assert logger.level == level  # silenced for the export alone
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_what_onnxruntime_cannot_run_is_not_left(tmp_path):
    network, ticket = network_and_ticket()
    with pytest.raises(ExportError, match=r"onnxruntime cannot run this network \(.*"):
        export_ticket(network.to(torch.bfloat16), ticket, tmp_path / "f.onnx", to="onnx")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(missing, tmp_path, monkeypatch):
    network, ticket = network_and_ticket()
    monkeypatch.setitem(sys.modules, missing, None)
    words = r"needs onnx, onnxscript and onnxruntime; .*: pip install 'sat_optuna\[onnx\]'"
    with pytest.raises(ExportError, match=words):
        export_ticket(network, ticket, tmp_path / "f.onnx", to="onnx")


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("f.onnx", {"to": "onxx"}, "to = 'onxx' given; did you mean 'onnx'.*use safetensors, "),
        ("f.onnx", {"to": "safetensors"}, "f.onnx shall be safetensors; give a name that ends in"),
        ("f.pt2", {"to": "torch-export", "opset": 18}, "opset 18 given with torch-export, which"),
    ],
)
def test_what_does_not_go_together_is_refused(name, more, words, tmp_path):
    network, ticket = network_and_ticket()
    with pytest.raises(ExportError, match=words):
        export_ticket(network, ticket, tmp_path / name, **more)


def test_a_ticket_of_another_scheme_is_refused(tmp_path):
    network, _ = network_and_ticket()
    _, ticket = network_and_ticket(scheme=Scheme.parse("1-1-1"))
    with pytest.raises(ExportError, match="scheme 1-1-0 given with the ticket of 1-1-1; give"):
        export_ticket(network, ticket, tmp_path / "f.safetensors", to="safetensors")


def given_as_object():
    """A network whose backbone no registry knows, in eval mode, and its ticket."""
    net = Supernet(
        torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5),
        attention=["se"],
        seed=0,
    )
    scheme = Scheme.parse("1-0-0-1")
    ticket = replace(ticket_of(net, scheme), input_shape=(3, 32, 32))
    return materialise(net, scheme).eval(), ticket


def test_a_network_given_as_an_object_is_written_as_a_program_alone(tmp_path):
    network, ticket = given_as_object()
    words = "of a network given as an object, which no file can rebuild; register it with add_bac"
    with pytest.raises(ExportError, match=words):
        export_ticket(network, ticket, tmp_path / "f.safetensors", to="safetensors")
    assert leftovers(tmp_path) == []
    export_ticket(network, ticket, tmp_path / "f.pt2", to="torch-export")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": 7}, r"head.2.weight has shape \(5, 32\), not \(7, 32\) \(and 1 more\); give"),
        ({"attention": (default_spec("srm"),)}, r"stages.0.0.attention.\w+ is not in it"),
        (
            {"attention": (AttentionSpec(kind="simam", settings={"damping": 0.5}),)},
            "stages.0.0.attention has damping = 0.0001, not 0.5",
        ),
    ],
)
def test_a_ticket_of_another_network_is_refused(change, words, tmp_path):
    network, ticket = network_and_ticket("simam")
    with pytest.raises(ExportError, match="is not the ticket's: .*(" + words + ")"):
        export_ticket(network, replace(ticket, **change), tmp_path / "f.pt2", to="torch-export")
    assert leftovers(tmp_path) == []


def test_a_module_of_another_class_is_refused(tmp_path, request):
    request.addfinalizer(partial(ATTENTION.remove, "mine"))
    ATTENTION.add("mine", SimAM)
    network, ticket = network_and_ticket("mine")
    ATTENTION.remove("mine")
    ATTENTION.add("mine", type("Other", (SimAM,), {}))
    with pytest.raises(ExportError, match=r"stages\.0\.0\.attention is SimAM, not Other"):
        export_ticket(network, ticket, tmp_path / "f.pt2", to="torch-export")


def test_the_path_may_be_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, ticket = network_and_ticket()
    written = export_ticket(network, ticket, "f.safetensors", to="safetensors")
    assert written.path.is_file()


def test_a_file_that_cannot_be_read_back_is_told_without_its_temporary_name(tmp_path, monkeypatch):
    def cut(network, record, path, **_):
        real(network, record, path)
        path.write_bytes(path.read_bytes()[:-20])

    real = weights.write_weights
    monkeypatch.setattr(write, "write_weights", cut)
    network, ticket = network_and_ticket()
    words = "f.safetensors was not written: as safetensors it cannot be read back"
    with pytest.raises(ExportError, match=words) as caught:
        export_ticket(network, ticket, tmp_path / "f.safetensors", to="safetensors")
    assert ".part" not in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("opset", [100, 10**23])
def test_an_opset_that_does_not_exist_is_no_lack_of_the_network(opset, tmp_path):
    network, ticket = network_and_ticket()
    words = rf"opset {opset} given and the installed onnx knows 1 to \d+; give one of them"
    with pytest.raises(ExportError, match=words):
        export_ticket(network, ticket, tmp_path / "f.onnx", to="onnx", opset=opset)


@pytest.mark.slow
def test_an_opset_that_torch_does_not_write_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 100)
    network, ticket = network_and_ticket()
    with pytest.raises(ExportError, match="in opset 100 yet; leave the opset out, or give 18"):
        export_ticket(network, ticket, tmp_path / "f.onnx", to="onnx", opset=100)


class Spectral(Moody):
    """A module with an operator that ONNX has not."""

    def forward(self, features, state=None):
        return features * torch.linalg.eigvals(features).abs().amax() * self.scale, state


def test_the_real_cause_is_named(tmp_path, request):
    request.addfinalizer(partial(ATTENTION.remove, "spectral"))
    ATTENTION.add("spectral", Spectral)
    network, ticket = network_and_ticket("spectral")
    with pytest.raises(ExportError, match=r"\(No ONNX function found for .*linalg_eig") as caught:
        export_ticket(network, ticket, tmp_path / "f.onnx", to="onnx")
    assert "\x1b" not in str(caught.value)


def test_a_full_disk_names_the_file_that_was_meant(tmp_path, monkeypatch):
    def full(path, *_):
        raise WriteError("cannot write a temporary file") from OSError(
            errno.ENOSPC, "No space left"
        )

    monkeypatch.setattr(weights, "save_checkpoint", full)
    network, ticket = network_and_ticket()
    path = tmp_path / "f.safetensors"
    with pytest.raises(WriteError, match=f"^cannot write {path}: No space left; what was there"):
        export_ticket(network, ticket, path, to="safetensors")
    assert leftovers(tmp_path) == []


PIXELS = Inputs(class_names=tuple("abcde"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.mark.parametrize("to", ["torch-export", "onnx"])
@pytest.mark.parametrize(
    "inputs", [PIXELS, replace(PIXELS, numbers="whole", white=4095)], ids=["bytes", "deep"]
)
def test_a_program_with_preprocessing_takes_images_as_they_lie_in_files(tmp_path, to, inputs):
    network, ticket = network_and_ticket()
    ticket = replace(ticket, inputs=inputs)
    path = tmp_path / f"file{SUFFIXES[to]}"
    export_ticket(network, ticket, path, to=to, preprocessing=True)
    run, record = opened(path)
    stored = json.loads(record)
    assert stored["preprocessing"] is True
    assert stored["ticket"]["inputs"]["class_names"] == list("abcde")
    drawn = np.random.default_rng(3).integers(0, inputs.white + 1, (3, *ticket.input_shape))
    mean, std = (np.array(v).reshape(-1, 1, 1) for v in (inputs.mean, inputs.std))
    normal = torch.from_numpy((drawn / inputs.white - mean) / std).float()  # an independent sum
    raw = torch.from_numpy(drawn.astype(np.uint8 if inputs == PIXELS else np.float32))
    with torch.no_grad():
        torch.testing.assert_close(run(raw), network(normal), rtol=1e-4, atol=1e-5)


def test_preprocessing_that_nobody_noted_is_refused(tmp_path):
    network, ticket = network_and_ticket()
    for inputs, to, said in (
        (None, "onnx", "the ticket does not say how images become what its network takes"),
        (Inputs(class_names=tuple("abcde")), "onnx", "takes images as they are, floats"),
        (PIXELS, "safetensors", "preprocessing is asked for in safetensors"),
    ):
        path = tmp_path / f"file{SUFFIXES[to]}"
        with pytest.raises(SatOptunaError, match=said):
            export_ticket(network, replace(ticket, inputs=inputs), path, to=to, preprocessing=True)
    assert leftovers(tmp_path) == []
