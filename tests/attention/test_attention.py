"""The registry of attention modules: building by name, and saying what is wrong."""

import subprocess
import sys

import pytest
import torch

from sat_optuna.attention import (
    ATTENTION,
    attention_faults,
    build_attention,
    default_spec,
    describe,
)
from sat_optuna.attention.contract import AttentionError
from sat_optuna.errors import SatOptunaError, UnknownName
from sat_optuna.ticket import AttentionSpec


def test_listing_names_imports_no_torch():
    code = (
        "import sys; from sat_optuna.attention import ATTENTION; "
        "assert {'dia', 'se', 'sge'} < set(ATTENTION.names()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_reach_the_module():
    assert build_attention("se", 32, reduction=4).get_parameter("squeeze.bias").shape == (8,)


def test_unknown_attention_points_to_the_nearest_name():
    with pytest.raises(UnknownName, match=r"'sgee'.*'sge'.*bam, cbam, dia, eca"):
        build_attention("sgee", 8)


def test_an_unknown_setting_points_to_the_nearest_one():
    with pytest.raises(AttentionError, match="se has no setting 'reducton'; did you mean 'reduct"):
        build_attention("se", 8, reducton=4)
    with pytest.raises(AttentionError, match="sge has no setting 'x'; known: groups, identity"):
        build_attention("sge", 8, x=4)


def test_attention_errors_are_ours():
    assert issubclass(AttentionError, SatOptunaError)
    assert issubclass(AttentionError, ValueError)


@pytest.mark.parametrize("kind", ATTENTION.names())
def test_defaults_have_no_fault(kind):
    spec = default_spec(kind)
    assert spec.kind == kind
    assert attention_faults(spec) == []
    assert attention_faults(spec, channels=(16, 32, 64)) == []


def test_dia_is_shared_by_default_and_cannot_be_otherwise():
    assert default_spec("dia").sharing == "stage"
    assert attention_faults(AttentionSpec(kind="dia", sharing="block")) == [
        "dia has sharing = 'block'; it allows 'stage' only"
    ]


def test_all_faults_come_at_once():
    spec = AttentionSpec(kind="dia", settings={"reduction": 0, "reducton": 2, "groups": 2})
    unknown, other, sharing, value = attention_faults(spec)
    assert "no setting 'reducton'; did you mean 'reduction'?" in unknown
    assert "no setting 'groups'; known: reduction" in other
    assert "allows 'stage' only" in sharing
    assert "reduction = 0; give a whole number" in value


def test_a_settings_size_never_ends_in_anything_but_a_sentence():
    (fault,) = attention_faults(AttentionSpec(kind="se", settings={"reduction": 10**18}))
    assert fault == f"se has reduction = {10**18} for 1048576 channels; choose at most 1048576"


def test_places_are_no_setting():
    (fault,) = attention_faults(AttentionSpec(kind="cbam", settings={"blocks": "0"}))
    assert fault == "cbam has no setting 'blocks'; known: reduction, kernel, identity"


@pytest.mark.golden
@pytest.mark.parametrize(
    ("kind", "sharings", "params"),
    [
        ("bam", ("block", "stage"), 1271),
        ("cbam", ("block", "stage"), 680),
        ("dia", ("stage",), 10_784),
        ("eca", ("block", "stage"), 3),
        ("gc", ("block", "stage"), 653),
        ("ie", ("block", "stage"), 128),
        ("se", ("block", "stage"), 580),
        ("sge", ("block", "stage"), 16),
        ("simam", ("block", "stage"), 0),
        ("spa", ("block", "stage"), 5632),
        ("srm", ("block", "stage"), 256),
    ],
)
def test_a_kind_is_described_before_it_is_built(kind, sharings, params):
    before = torch.random.get_rng_state()
    about = describe(kind)
    assert (about.kind, about.sharings, about.params_at_64) == (kind, sharings, params)
    assert about.paper == ATTENTION.get(kind).paper
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unknown_kind_is_a_fault():
    (fault,) = attention_faults(AttentionSpec(kind="dai"))
    assert "no attention module 'dai'; did you mean 'dia'?" in fault


def test_channels_decide_where_they_are_known():
    spec = AttentionSpec(kind="sge", settings={"groups": 12})
    assert attention_faults(spec) == []
    (fault,) = attention_faults(spec, channels=(16, 24, 24))
    assert "groups = 12, which does not divide 16 channels" in fault


def test_looking_for_faults_draws_no_random_number():
    before = torch.random.get_rng_state()
    attention_faults(default_spec("se"), channels=(8,))
    assert torch.equal(torch.random.get_rng_state(), before)
