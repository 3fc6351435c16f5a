"""A network's own attention as a module of ours."""

import pytest
import torch
from torchvision.ops import SqueezeExcitation

from sat_optuna.attention import OWN, attention_faults, default_spec
from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.own import OwnAttention
from sat_optuna.attention.stage import StageAttention
from sat_optuna.ticket import AttentionSpec
from tests.networks import images


def test_it_is_the_module_and_hands_the_state_on():
    module = SqueezeExcitation(8, 4)
    ours = OwnAttention(module)
    x = images(2, shape=(8, 3, 3))
    state = (torch.ones(1),)
    y, after = ours(x, state)
    assert torch.equal(y, module(x))
    assert after is state
    assert ours.module is module


def test_a_stage_takes_it_as_it_is():
    modules = [SqueezeExcitation(8, 4), SqueezeExcitation(16, 4)]
    specs = [default_spec(OWN), default_spec("se")]
    stage = StageAttention.build(specs, [8, 16], seed=0, stage=0, own=modules)
    assert [stage.module_at(1, block).get_submodule("module") for block in (0, 1)] == modules
    kept = stage.pruned_to([2, 1])
    assert {tuple(name.split(".")[1:3]) for name in kept.state_dict()} == {
        ("own", "1"),
        ("se", "0"),
    }


@pytest.mark.parametrize("own", [[SqueezeExcitation(8, 4), None], [SqueezeExcitation(8, 4)], []])
def test_a_block_without_any_is_refused(own):
    message = r"'own' asked for, and block \d of stage 3 brings none; name another kind"
    with pytest.raises(AttentionError, match=message):
        StageAttention.build([default_spec(OWN)], [8, 8], seed=0, stage=2, own=own)


def test_it_has_no_setting_and_is_not_shared():
    assert attention_faults(default_spec(OWN), channels=(8,)) == []
    faults = attention_faults(AttentionSpec(kind=OWN, sharing="stage", settings={"reduction": 4}))
    assert faults == [
        "own has no setting 'reduction'; known: none",
        "own has sharing = 'stage'; it allows 'block' only",
    ]
