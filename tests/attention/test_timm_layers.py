"""timm's attention as kinds of ours: which of them, their settings, and without timm."""

import copy
import importlib.util
import inspect
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
from timm.layers.create_attn import create_attn, get_attn
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.attention import (
    ATTENTION,
    attention_faults,
    build_attention,
    default_spec,
    describe,
    timm_layers,
)
from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.timm_layers import build
from sat_optuna.attention.timm_names import TIMM_NAMES, TIMM_REFUSED, timm_kinds
from sat_optuna.errors import UnknownName
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.ticket import AttentionSpec
from tests import forks
from tests.networks import images, tiny_supernet

every_name = pytest.mark.parametrize("name", TIMM_NAMES)
SIZES = ((1, 1), (3, 3), (5, 7), (8, 8))


@pytest.fixture
def no_timm(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "timm" else find(name)
    )
    build.cache_clear()
    yield
    build.cache_clear()


def test_every_name_of_timms_factory_is_taken_or_refused():
    known = set(re.findall(r"attn_type == '(\w+)'", inspect.getsource(get_attn)))
    assert len(known) >= 20
    assert known == {*TIMM_NAMES, *TIMM_REFUSED}
    assert not {*TIMM_NAMES} & {*TIMM_REFUSED}


@pytest.mark.parametrize("name", TIMM_REFUSED)
def test_refused_ones_fail_in_timm(name):
    # Each by an assertion or a mistake of its own: at its defaults, or at some size of the maps.
    def runs() -> None:
        module = create_attn(name, 16).eval()
        for size in SIZES:
            module(torch.zeros(1, 16, *size))

    with pytest.raises((AssertionError, TypeError)):
        runs()


@pytest.mark.golden
@every_name
@pytest.mark.parametrize("size", SIZES)
def test_it_is_timms_module(name, size):
    ours, theirs = build_attention(f"timm:{name}", 16).eval(), create_attn(name, 16).eval()
    theirs.load_state_dict(ours.get_submodule("module").state_dict())
    x = images(2, shape=(16, *size))
    torch.testing.assert_close(ours(x)[0], theirs(x), rtol=0, atol=0)


@every_name
def test_shared_only_without_batchnorm(name):
    module = build_attention(f"timm:{name}", 16)
    has_norm = any(isinstance(inner, _BatchNorm) for inner in module.modules())
    assert module.sharings == (("block",) if has_norm else ("block", "stage"))


def test_the_class_is_made_once():
    assert ATTENTION.get("timm:eca") is ATTENTION.get("timm:eca")
    module = build_attention("timm:eca", 8)
    assert type(copy.deepcopy(module)) is type(module)


def test_its_settings_are_timms_numbers_texts_and_booleans():
    parameters = inspect.signature(ATTENTION.get("timm:ecam")).parameters
    assert {name: p.default for name, p in parameters.items() if name != "channels"} == {
        "kernel_size": 3,
        "gamma": 2,
        "beta": 1,
        "gate_layer": "sigmoid",
        "rd_ratio": 0.125,
        "rd_divisor": 8,
        "use_mlp": True,
    }
    module = build_attention("timm:se", 64, rd_ratio=0.5)
    assert module.get_parameter("module.fc1.bias").shape == (32,)
    assert "stride" not in inspect.signature(ATTENTION.get("timm:sk")).parameters


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("timm:eca", {"kernel": 3}, "timm:eca has no setting 'kernel'; did you mean 'kernel_size"),
        ("timm:sk", {"stride": 2}, "timm:sk has no setting 'stride'"),
        ("timm:eca", {"gate_layer": "sigmoida"}, "timm cannot build timm:eca for 16 channels, "),
        ("timm:lambda", {"num_heads": 3}, "timm cannot build timm:lambda for 16 channels, num_he"),
        ("timm:splat", {"padding": 0}, "timm:splat has no setting 'padding'"),
        (
            "timm:sk",
            {"dilation": "x"},
            "timm cannot build timm:sk for 16 channels, dilation = 'x'",
        ),
    ],
)
def test_settings_that_do_not_fit(kind, settings, message):
    faults = attention_faults(AttentionSpec(kind=kind, settings=settings), channels=(16,))
    assert len(faults) == 1
    assert faults[0].startswith(message)
    with pytest.raises(AttentionError, match=re.escape(message)):
        build_attention(kind, 16, **settings)


def test_settings_that_would_change_the_shape_are_refused():
    with pytest.raises(AttentionError) as caught:
        build_attention("timm:splat", 8, kernel_size=4)
    assert str(caught.value) == (
        "timm:splat for 8 channels, kernel_size = 4 makes (1, 8, 7, 8) of (1, 8, 6, 7); "
        "choose settings that keep the shape"
    )


def test_unknown_and_refused_names():
    with pytest.raises(UnknownName, match=r"no attention module 'timm:ecaa'; did you mean 'eca'"):
        ATTENTION.get("timm:ecaa")
    with pytest.raises(UnknownName, match=r"'timm:zzzzzz'; timm has cbam, ceca"):
        ATTENTION.get("timm:zzzzzz")
    (fault,) = attention_faults(AttentionSpec(kind="timm:halo"))
    assert fault.startswith("attention 'timm:halo' cannot stand in a block: it takes only maps")
    assert fault.endswith("; choose one of " + ", ".join(TIMM_NAMES))


def test_without_timm_none_is_listed_and_the_error_says_what_to_install(no_timm):
    assert timm_kinds() == ()
    assert not [name for name in ATTENTION.names() if name.startswith("timm:")]
    message = "attention 'timm:eca' needs timm; install it with: pip install 'sat_optuna[timm]'"
    assert attention_faults(AttentionSpec(kind="timm:eca")) == [message]
    with pytest.raises(AttentionError, match=re.escape(message)):
        default_spec("timm:eca")


def test_listing_imports_neither_torch_nor_timm():
    code = (
        "import sys; from sat_optuna.attention import ATTENTION; "
        "assert 'timm:eca' in ATTENTION.names(); "
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_described_by_timms_class():
    about = describe("timm:ecam")
    assert (about.paper, about.sharings, about.params_at_64) == (
        "timm's EcaModule",
        ("block", "stage"),
        41,
    )


def test_a_network_with_it_is_loaded_in_another_process(tmp_path):
    net = tiny_supernet(["timm:eca", "timm:cbam"]).eval()
    ticket = materialise(net, Scheme.of([1, 2, 1, 0, 2, 1], net.stages)).eval()
    x = images(2)
    torch.save(ticket, tmp_path / "saved")
    (tmp_path / "pickled").write_bytes(pickle.dumps(ticket))
    torch.save((x, ticket(x)), tmp_path / "wanted")
    code = (
        "import pickle, torch; saved = torch.load('saved', weights_only=False); "
        "pickled = pickle.loads(open('pickled', 'rb').read()); x, wanted = torch.load('wanted'); "
        "assert torch.equal(saved(x), wanted) and torch.equal(pickled(x), wanted); "
        "print(len(list(saved.modules())), len(list(pickled.modules())))"
    )
    done = forks.python("-c", code, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == 2 * [str(len(list(ticket.modules())))]


@every_name
def test_every_class_is_found_by_its_own_name(name):
    cls = build(name)
    assert getattr(timm_layers, cls.__qualname__) is cls
    module = pickle.loads(pickle.dumps(build_attention(f"timm:{name}", 64)))
    assert type(module) is cls


def test_other_names_are_no_attributes():
    for name in ("Timm_halo", "Timm_", "eca", "__path__"):
        assert not hasattr(timm_layers, name)
