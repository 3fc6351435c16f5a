"""Every module of ours can be exported with a dynamic batch, whatever the size of the maps."""

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from sat_optuna.attention.contract import Attention
from sat_optuna.attention.spa import SPA
from sat_optuna.attention.stage import StageAttention
from sat_optuna.seeds import seeded
from sat_optuna.ticket import AttentionSpec
from tests.networks import OURS, images, stirred_module

BATCHES = (1, 2, 5)
DYNAMIC = ({0: torch.export.Dim("n", min=1)},)


class Chain(nn.Module):
    """Two blocks of a stage, one after the other, sharing their module."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        spec = AttentionSpec(kind=kind, sharing="stage")
        self.stage = StageAttention.build([spec], [8, 8], seed=0, stage=0)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for block in range(2):
            x, state = self.stage.module_for(1, block)(x, state)
        return x


class Alone(nn.Module):
    """A module's features alone, without a state."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(x)[0]
        return attended


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize(
    "layout",
    [torch.contiguous_format, pytest.param(torch.channels_last, marks=pytest.mark.slow)],
)
def test_torch_export_gives_the_same_bits_at_any_batch(kind, layout):
    chain = stirred_module(Chain(kind)).eval()
    x = images(3, shape=(8, 7, 7)).contiguous(memory_format=layout)
    exported = torch.export.export(chain, (x,), dynamic_shapes=DYNAMIC).module()
    for count in BATCHES:
        x = images(count, seed=count, shape=(8, 7, 7)).contiguous(memory_format=layout)
        assert torch.equal(exported(x), chain(x))


@pytest.mark.parametrize(
    "side", [7, *(pytest.param(side, marks=pytest.mark.slow) for side in (3, 8))]
)
def test_onnx_knows_the_pyramid_of_sides_that_4_does_not_divide(side, tmp_path):
    with seeded("export"):
        module = Alone(SPA(8)).eval()
    x = images(3, shape=(8, side, side))
    exported = torch.export.export(module, (x,), dynamic_shapes=DYNAMIC)
    program = torch.onnx.export(exported, dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "spa.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "spa.onnx")
    for count in BATCHES:
        x = images(count, seed=count, shape=(8, side, side))
        (given,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = module(x).detach()
        assert (torch.from_numpy(given) - expected).abs().max() < 1e-5 * expected.abs().max()
