"""Which modules a stage owns, and which of them a copy keeps."""

import pytest
import torch
from torch import Tensor

from sat_optuna.attention.contract import Attention
from sat_optuna.attention.stage import StageAttention
from sat_optuna.ticket import AttentionSpec

SPECS = (AttentionSpec(kind="se"), AttentionSpec(kind="dia", sharing="stage"))


def weight_of(module: Attention) -> Tensor:
    return module.get_parameter("squeeze.weight")


@pytest.fixture
def stage():
    return StageAttention.build(SPECS, [8, 8, 8], seed=3, stage=1)


def test_one_a_block_or_one_for_all(stage):
    assert [list(stage.slots[kind]) for kind in ("se", "dia")] == [["0", "1", "2"], ["shared"]]
    assert len({stage.module_for(1, block) for block in range(3)}) == 3
    assert len({stage.module_for(2, block) for block in range(3)}) == 1


def test_no_tensor_is_held_twice(stage):
    pointers = [value.data_ptr() for value in stage.state_dict().values()]
    assert len(pointers) == len(set(pointers))


@pytest.mark.parametrize(
    ("choices", "kept"),
    [
        ((0, 0, 0), {}),
        ((0, 1, 0), {"se": ["1"]}),
        ((2, 0, 2), {"dia": ["shared"]}),
        ((1, 2, 1), {"se": ["0", "2"], "dia": ["shared"]}),
    ],
)
def test_a_copy_keeps_what_is_used(stage, choices, kept):
    copy = stage.kept(choices)
    assert {kind: list(slots) for kind, slots in copy.slots.items()} == kept
    for block, choice in enumerate(choices):
        if choice:
            ours, theirs = stage.module_for(choice, block), copy.module_for(choice, block)
            assert ours is not theirs
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert torch.equal(one, other)
                assert one.data_ptr() != other.data_ptr()


def test_weights_depend_on_seed_and_place_alone(stage):
    alone = StageAttention.build(SPECS[:1], [8, 8], seed=3, stage=1)
    here = weight_of(stage.module_for(1, 1))
    assert torch.equal(weight_of(alone.module_for(1, 1)), here)
    other_places = [
        stage.module_for(1, 0),
        StageAttention.build(SPECS, [8, 8, 8], seed=3, stage=2).module_for(1, 1),
        StageAttention.build(SPECS, [8, 8, 8], seed=4, stage=1).module_for(1, 1),
    ]
    assert not any(torch.equal(weight_of(module), here) for module in other_places)
