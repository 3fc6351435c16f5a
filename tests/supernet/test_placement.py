"""Attention that fails, or that a network cannot carry, is said beforehand."""

import re
from functools import partial
from typing import Any

import pytest
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION, attention_faults
from sat_optuna.attention.contract import Attention, AttentionError
from sat_optuna.attention.norm import SharedBatchNorm
from sat_optuna.ticket import AttentionSpec
from tests.networks import tiny_supernet


class Foreign(Attention):
    """Does what it is told."""

    does = ""

    def __init__(self, channels: int, *, blocks: tuple[str, ...] = ("0",)) -> None:
        super().__init__()
        if self.does == "init":
            raise TypeError("unsupported operand")
        if self.does == "norm":
            self.norm: nn.Module = nn.BatchNorm2d(channels)
        if self.does == "shared norm":
            self.norm = SharedBatchNorm(channels, blocks=blocks, kind=nn.BatchNorm2d)

    def forward(self, features: Tensor, state: Any = None, block: str = "0") -> Any:
        if self.does == "fails":
            raise ZeroDivisionError("division by zero")
        if self.does == "reads":
            features.sum().item()
        shown = {"one": features, "pooled": (features.mean((2, 3)), None), "three": (1, 2, 3)}
        return shown.get(self.does, (features, state))


@pytest.fixture
def foreign():
    """Registers the kind "foreign", which does what it is told, until the test ends."""

    def add(does: str, **members: Any) -> None:
        ATTENTION.add("foreign", type("Foreign", (Foreign,), {"does": does, **members}))

    yield add
    ATTENTION.remove("foreign")


class TestForeignAttention:
    @pytest.mark.parametrize(
        ("does", "said"),
        [
            ("fails", "'foreign' fails on features of 1x8x16x16 (ZeroDivisionError: division by"),
            ("one", "'foreign' returns a tensor of 1x8x16x16; return the attended features and"),
            ("three", "'foreign' returns a tuple of 3; return the attended features"),
            ("pooled", "'foreign' makes a tensor of 1x8 of features of 1x8x16x16; keep their s"),
        ],
    )
    def test_what_it_does_wrong_is_said(self, foreign, does, said):
        foreign(does)
        with pytest.raises(AttentionError, match=re.escape(said)):
            tiny_supernet(["se", "foreign"]).check_input((2, 16, 16))

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_one_that_reads_values_is_silent(self, foreign, device):
        foreign("reads")
        tiny_supernet(["foreign"]).to(device).check_input((2, 16, 16))

    def test_a_constructor_that_fails(self, foreign):
        foreign("init")
        (fault,) = attention_faults(AttentionSpec(kind="foreign"), channels=[8])
        assert fault == (
            "foreign cannot be built for 8 channels (TypeError: unsupported operand); choose "
            "other settings, or correct the module"
        )

    def test_a_module_that_cannot_be_imported(self, request):
        request.addfinalizer(partial(ATTENTION.remove, "foreign"))
        ATTENTION.add("foreign", "no_such_module:Foreign")
        (fault,) = attention_faults(AttentionSpec(kind="foreign"))
        assert fault.startswith("attention 'foreign' cannot be loaded (ModuleNotFoundError: No")

    def test_absurd_numbers(self):
        spec = AttentionSpec(kind="cbam", settings={"kernel": 100000000001})
        (fault,) = attention_faults(spec, channels=[8])
        assert fault.startswith("cbam cannot be built for 8 channels, kernel = 100000000001 (")
        with pytest.raises(AttentionError, match="cbam cannot be built"):
            tiny_supernet([spec])

    def test_batch_norm_cannot_be_shared_as_it_is(self, foreign):
        spec = AttentionSpec(kind="foreign", sharing="stage")
        foreign("norm")
        assert attention_faults(AttentionSpec(kind="foreign"), channels=[8]) == []
        (fault,) = attention_faults(spec, channels=[8])
        assert fault.startswith("foreign has sharing = 'stage' and a BatchNorm inside, whose stat")
        assert fault.endswith(
            "set per_block_statistics = True and use attention.norm.SharedBatchNorm in it"
        )
        with pytest.raises(AttentionError, match="would depend on the others"):
            tiny_supernet([spec])

    def test_with_statistics_for_each_block_it_can(self, foreign):
        foreign("shared norm", per_block_statistics=True)
        tiny_supernet([AttentionSpec(kind="foreign", sharing="stage")]).check_input((2, 16, 16))
