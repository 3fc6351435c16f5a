"""What modules have in common: hidden units, the gate of a channel, settings."""

import inspect

import pytest
import torch

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.gates import ChannelGate, hidden_units
from sat_optuna.attention.srm import SRM
from tests.networks import OURS, images

REDUCING = tuple(
    kind for kind in OURS if "reduction" in inspect.signature(ATTENTION.get(kind)).parameters
)


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"),
    [(64, 16, 4), (96, 16, 6), (8, 16, 4), (2, 16, 4), (8, 8, 4), (8, 1, 8), (64, 64, 4)],
)
def test_never_fewer_than_four_hidden_units(channels, reduction, hidden):
    assert hidden_units("se", channels, reduction) == hidden


def test_the_modules_with_a_reduction():
    assert REDUCING == ("bam", "cbam", "dia", "gc", "se", "spa")


@pytest.mark.parametrize("kind", REDUCING)
@pytest.mark.parametrize(
    ("reduction", "message"),
    [
        (33, " for 32 channels"),
        (0, "; give a whole number that is at least 1"),
        (2.5, "; give a whole number that is at least 1"),
    ],
)
def test_reductions_that_do_not_fit(kind, reduction, message):
    with pytest.raises(AttentionError) as caught:
        ATTENTION.get(kind)(32, reduction=reduction)
    assert str(caught.value).startswith(f"{kind} has reduction = {reduction}{message}")


@pytest.mark.parametrize("kind", [kind for kind in REDUCING if kind != "dia"])
def test_the_published_reduction_is_taken_at_any_width(kind):
    ATTENTION.get(kind)(4, reduction=16)
    with pytest.raises(AttentionError, match=f"^{kind} has reduction = 17 for 4 channels; choose"):
        ATTENTION.get(kind)(4, reduction=17)


def test_which_kinds_gate_channels_alone():
    assert [k for k in OURS if ATTENTION.get(k).gated] == ["eca", "ie", "se", "spa", "srm"]


@pytest.mark.parametrize("kind", [kind for kind in OURS if ATTENTION.get(kind).gated])
def test_features_times_the_gate_is_the_output(kind):
    module = ATTENTION.get(kind)(8).eval()
    x = images(3, shape=(8, 5, 5))
    assert isinstance(module, ChannelGate | SRM)
    gate = module.gate(x)
    assert gate.shape == (3, 8)
    torch.testing.assert_close(module(x)[0], gate[:, :, None, None] * x, rtol=0, atol=0)


def test_a_gate_has_to_say_what_it_computes():
    with pytest.raises(NotImplementedError):
        ChannelGate()(images(1, shape=(8, 2, 2)))
