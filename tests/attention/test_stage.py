"""Which modules a stage owns, and which of them a copy keeps."""

import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.attention.contract import Attention
from sat_optuna.attention.norm import SharedBatchNorm
from sat_optuna.attention.stage import StageAttention
from sat_optuna.ticket import AttentionSpec
from tests.networks import images

SPECS = (AttentionSpec(kind="se"), AttentionSpec(kind="dia", sharing="stage"))
WITH_NORMS = tuple(AttentionSpec(kind=kind, sharing="stage") for kind in ("cbam", "srm", "bam"))

every_shared = pytest.mark.parametrize("choice", [1, 2, 3], ids=["cbam", "srm", "bam"])


def weight_of(module: Attention) -> Tensor:
    return module.get_parameter("squeeze.weight")


def features(seed: int = 0) -> Tensor:
    return images(4, seed=seed, shape=(8, 5, 5)) + seed


def statistics(stage: StageAttention, block: int) -> dict[str, Tensor]:
    """The running statistics of a block, in all kinds."""
    return {
        name: value.clone()
        for name, value in stage.named_buffers()
        if f"statistics.{block}" in name
    }


@pytest.fixture
def stage():
    return StageAttention.build(SPECS, [8, 8, 8], seed=3, stage=1)


def test_one_a_block_or_one_for_all(stage):
    assert [list(stage.slots[kind]) for kind in ("se", "dia")] == [["0", "1", "2"], ["shared"]]
    assert len({stage.module_at(1, block) for block in range(3)}) == 3
    assert len({stage.module_at(2, block) for block in range(3)}) == 1
    for choice in (1, 2):
        assert stage.module_for(choice, 1) is stage.module_at(choice, 1)


def test_no_tensor_is_held_twice(stage):
    assert_no_tensor_twice(stage)
    assert_no_tensor_twice(StageAttention.build(WITH_NORMS, [8, 8], seed=3, stage=1))


def assert_no_tensor_twice(stage):
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
    copy = stage.pruned_to(choices)
    assert {kind: list(slots) for kind, slots in copy.slots.items()} == kept
    for block, choice in enumerate(choices):
        if choice:
            ours, theirs = stage.module_at(choice, block), copy.module_at(choice, block)
            assert ours is not theirs
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert torch.equal(one, other)
                assert one.data_ptr() != other.data_ptr()


def test_weights_depend_on_seed_stage_block_and_kind_alone(stage):
    alone = StageAttention.build(SPECS[:1], [8, 8], seed=3, stage=1)
    here = weight_of(stage.module_at(1, 1))
    assert torch.equal(weight_of(alone.module_at(1, 1)), here)
    elsewhere = [
        stage.module_at(1, 0),
        StageAttention.build(SPECS, [8, 8, 8], seed=3, stage=2).module_at(1, 1),
        StageAttention.build(SPECS, [8, 8, 8], seed=4, stage=1).module_at(1, 1),
    ]
    assert not any(torch.equal(weight_of(module), here) for module in elsewhere)


@every_shared
def test_statistics_of_a_block_do_not_depend_on_other_blocks(choice):
    alone, among = (StageAttention.build(WITH_NORMS, [8, 8, 8], seed=3, stage=1) for _ in range(2))
    untouched = statistics(among, 2)
    for seed in range(2):
        alone.module_for(choice, 1)(features(seed), None)
        among.module_for(choice, 0)(features(seed + 5), None)
        among.module_for(choice, 1)(features(seed), None)
    here, there = statistics(alone, 1), statistics(among, 1)
    assert all(torch.equal(here[name], value) for name, value in there.items())
    assert all(torch.equal(untouched[name], value) for name, value in statistics(among, 2).items())
    assert any(
        not torch.equal(value, there[name.replace("statistics.2", "statistics.1")])
        for name, value in untouched.items()
    )


@every_shared
def test_statistics_can_be_taken_anew_as_plain_averages(choice):
    stage = StageAttention.build(WITH_NORMS, [8, 8], seed=3, stage=1).eval()
    for norm in stage.modules():
        if isinstance(norm, _BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
    for seed in range(3):
        stage.module_for(choice, 1)(features(seed), None)
    once = []
    for seed in range(3):
        other = StageAttention.build(WITH_NORMS, [8, 8], seed=3, stage=1)
        for norm in other.modules():
            if isinstance(norm, _BatchNorm):
                norm.momentum = 1.0  # the last batch alone
        other.module_for(choice, 1)(features(seed), None)
        once.append(statistics(other, 1))
    kind = stage.kinds[choice - 1]
    means = {n: v for n, v in statistics(stage, 1).items() if f".{kind}." in n and "running" in n}
    assert means
    for name, value in means.items():
        torch.testing.assert_close(value, sum(each[name] for each in once) / 3)


@every_shared
def test_a_copy_keeps_the_statistics_that_are_used(choice):
    stage = StageAttention.build(WITH_NORMS, [8, 8, 8], seed=3, stage=1)
    for block in range(3):
        stage.module_for(choice, block)(features(block), None)
    copy = stage.pruned_to([choice, 0, choice])
    inner = [m for m in copy.modules() if isinstance(m, SharedBatchNorm)]
    assert inner
    assert all([*norm.statistics] == ["0", "2"] for norm in inner)
    for block in (0, 2):
        ours, theirs = (s.eval().module_for(choice, block) for s in (stage, copy))
        x = features(7)
        assert torch.equal(ours(x, None)[0], theirs(x, None)[0])
    with pytest.raises(KeyError):
        copy.module_for(choice, 1)(features(), None)


@pytest.mark.parametrize("kind", ["cbam", "srm", "bam"])
def test_a_module_of_one_block_has_one_set_of_statistics(kind):
    stage = StageAttention.build([AttentionSpec(kind=kind)], [8, 8], seed=3, stage=1)
    assert stage.module_for(1, 1) is stage.module_at(1, 1)
    inner = [m for m in stage.modules() if isinstance(m, SharedBatchNorm)]
    assert all([*norm.statistics] == ["0"] for norm in inner)
    kept = stage.pruned_to([0, 1])
    x = features()
    assert torch.equal(kept.module_for(1, 1)(x, None)[0], stage.module_for(1, 1)(x, None)[0])
