"""Networks out of exported files, and a sentence for every file that is none."""

import json
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from sat_optuna.attention import default_spec
from sat_optuna.errors import CheckpointError, SatOptunaError, TicketError, UnknownName
from sat_optuna.export.weights import load_ticket, load_weights, memory_format_of
from sat_optuna.export.write import export_ticket
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from sat_optuna.training.checkpoint import load_tensors, read_record, save_checkpoint
from tests.networks import SHAPE, images, stirred
from tests.tickets import network_and_ticket, ticket_of


@pytest.fixture
def exported(tmp_path):
    network, ticket = network_and_ticket()
    path = tmp_path / "file.safetensors"
    export_ticket(network, ticket, path, to="safetensors")
    return path


def changed(path, tensors=lambda tensors: None, **more):
    """Write a file again with other tensors or another record."""
    held, record = load_tensors(path), read_record(path) | more
    tensors(held)
    return save_checkpoint(path, held, {k: v for k, v in record.items() if v is not None})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file .*none; give one that is there"):
        load_ticket(tmp_path / "none")


def test_a_ticket_without_weights_says_how_to_write_both(tmp_path):
    path = network_and_ticket()[1].save(tmp_path / "ticket.json")
    words = f"is a ticket without weights; .*: sat-optuna export {path} --to safetensors"
    with pytest.raises(TicketError, match=words):
        load_ticket(str(path))


def test_weights_without_a_ticket_say_how_to_write_both(exported):
    changed(exported, ticket=None)
    words = "holds weights without a ticket, .*: sat-optuna export TICKET --to safetensors --weig"
    with pytest.raises(TicketError, match=words):
        load_ticket(exported)


def test_a_foreign_file_is_told_apart(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(TicketError, match="holds neither a ticket nor a training of this program"):
        load_ticket(tmp_path / "other.safetensors")


def test_a_cut_file(exported):
    exported.write_bytes(exported.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"cannot read .*; fetch or write it again"):
        load_ticket(exported)


def test_a_later_schema(exported):
    changed(exported, schema=99)
    with pytest.raises(
        TicketError, match="has schema 99 and this version reads schemas 1 and 2; install"
    ):
        load_ticket(exported)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("backbone", "mynet", "no backbone 'mynet'"),
        ("attention", [{"kind": "mine", "sharing": "block", "settings": {}}], "module 'mine'"),
    ],
)
def test_what_is_not_registered_here(part, value, words, exported):
    changed(exported, ticket=read_record(exported)["ticket"] | {part: value})
    end = r"; register it before loading, or name the file that does under \[plugins\]"
    with pytest.raises(UnknownName, match=words + ".*" + end):
        load_ticket(exported)


NAME = "head.2.bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held.pop(NAME), f"{NAME} is not in it; give"),
        (lambda held: held.update(more=torch.ones(1)), "nothing here is called more; give"),
        (
            lambda held: held.update({NAME: torch.ones(3)}),
            rf"{NAME} has shape \(3,\), not \(5,\); give",
        ),
        (lambda held: held.clear(), r"is not in it \(and \d+ more\); give those of this very"),
    ],
    ids=["missing", "unknown", "shape", "many"],
)
def test_tensors_of_another_network(change, words, exported):
    changed(exported, change)
    with pytest.raises(
        CheckpointError, match=f"does not hold the weights of scheme 1-1-0: .*{words}"
    ):
        load_ticket(exported)


def test_a_training_checkpoint_gives_the_weights_of_a_ticket(tmp_path):
    network, ticket = network_and_ticket()
    tensors = {f"model.{name}": value for name, value in network.state_dict().items()}
    tensors["momentum.head.2.bias"] = torch.ones(5)
    record = {"memory_format": "torch.channels_last", "fingerprint": "x"}
    path = save_checkpoint(tmp_path / "training.safetensors", tensors, record)
    loaded = load_weights(ticket, path)
    assert memory_format_of(loaded) is torch.channels_last
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])


@pytest.mark.parametrize(
    ("specs", "text", "backbone", "training"),
    [
        (["se", "gc"], "01-012-1", "resnet20", False),
        ([AttentionSpec(kind="srm", sharing="stage"), "eca"], "11-022-0", "resnet20", True),
        (["own", "eca"], "1-2-1111-1111112", "timm:regnety_002", False),
        (["dia", "se"], "01-121-1", "resnet20", True),
    ],
    ids=["block", "stage", "own", "recurrent"],
)
def test_a_file_of_version_0_2_gives_the_same_network(specs, text, backbone, training, tmp_path):
    scheme = Scheme.parse(text)
    settings = {} if ":" in backbone else {"width": 8, "blocks": scheme.stages}
    net = Supernet(backbone, attention=specs, in_channels=SHAPE[0], classes=5, seed=0, **settings)
    stirred(net).eval()
    ticket = replace(ticket_of(net, scheme), input_shape=(2, 32, 32))
    connected = [
        f"attention.{stage}.slots.{net.specs[choice - 1].kind}.{slot}."
        for stage, choices in enumerate(scheme.by_stage())
        for block, choice in enumerate(choices)
        if choice
        for slot in (block, "shared")
    ]
    # A supernet has the names of 0.2.0 still, which kept backbone and attention apart.
    old = {
        name: value
        for name, value in net.state_dict().items()
        if name.startswith(("backbone.", *connected))
    }
    record: dict[str, Any] = {"memory_format": "torch.contiguous_format"}
    if training:
        old = {f"model.{name}": value for name, value in old.items()}
    else:
        record |= {"schema": 1, "dtype": "float32", "ticket": json.loads(ticket.to_json())}
    path = save_checkpoint(tmp_path / "old.safetensors", old, record)
    network = load_weights(ticket, path) if training else load_ticket(path)
    x = images(2, shape=(2, 32, 32))
    assert torch.equal(network(x), net(x, scheme))


def test_loading_warns_of_nothing_and_draws_nothing(exported):
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_ticket(exported)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("scheme", Scheme.parse("0-1-1"), "with scheme 1-1-0 and not 0-1-1; give"),
        ("attention", (default_spec("eca"),), r'with attention \[\{"kind": "simam".* and not \['),
        ("classes", 7, "with classes 5 and not 7; give"),
        ("input_shape", (2, 8, 8), r"with input_shape \[2, 16, 16\] and not \[2, 8, 8\]; give"),
    ],
)
def test_an_export_gives_its_weights_to_its_own_network_alone(field, value, words, tmp_path):
    network, ticket = network_and_ticket("simam")  # without tensors, so that no name tells it
    path = tmp_path / "file.safetensors"
    export_ticket(network, ticket, path, to="safetensors")
    load_weights(replace(ticket, scores=(), trial=3), path)
    with pytest.raises(CheckpointError, match="weights of another network, " + words):
        load_weights(replace(ticket, **{field: value}), path)


@pytest.mark.parametrize(
    ("key", "value"), [("dtype", [1]), ("dtype", "int8"), ("memory_format", {})]
)
def test_what_a_file_says_of_its_numbers_is_known_or_refused(key, value, exported):
    changed(exported, **{key: value})
    with pytest.raises(CheckpointError, match=f"has {key} .* and this version knows .*; fetch or"):
        load_ticket(exported)


@pytest.mark.parametrize("width", [10**5, 10**9, 10**30])
def test_an_absurd_width_allocates_nothing(width, exported):
    ticket = read_record(exported)["ticket"]
    ticket["backbone_settings"]["width"] = width
    changed(exported, ticket=ticket)
    with pytest.raises(SatOptunaError, match=r"has shape|cannot be built|more than 64 bits"):
        load_ticket(exported)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path} is a folder; give a file in it"):
        load_ticket(tmp_path)
