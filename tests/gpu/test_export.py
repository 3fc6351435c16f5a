"""A network on the device is written to each format, and its files compute the same."""

import pytest
import torch

from sat_optuna.config.config import TrainConfig
from sat_optuna.export import SUFFIXES
from sat_optuna.export.weights import load_ticket
from sat_optuna.export.write import export_ticket
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.precision import to_memory_format
from tests.networks import SHAPE, images, tiny_supernet
from tests.tickets import ticket_of

pytestmark = pytest.mark.gpu
SCHEME = Scheme.parse("10-101-1")


def network(device, memory_format="contiguous"):
    net = tiny_supernet().to(device)
    made = materialise(net, SCHEME).eval()
    to_memory_format(made, TrainConfig(memory_format=memory_format), device)
    return net.eval(), made


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_materialised_network_computes_what_the_supernet_does(device, memory_format):
    net, made = network(device, memory_format)
    net.to(memory_format=getattr(torch, memory_format.replace("contiguous", "contiguous_format")))
    x = images(8).to(device)
    with torch.inference_mode():
        torch.testing.assert_close(made(x), net(x, SCHEME), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("to", ["safetensors", "torch-export", "onnx"])
def test_every_format(device, tmp_path, to, memory_format):
    net, made = network(device, memory_format)
    written = export_ticket(made, ticket_of(net, SCHEME), tmp_path / f"file{SUFFIXES[to]}", to=to)
    assert written.size_bytes > 0
    assert next(made.parameters()).device == device
    if to == "safetensors":
        back = load_ticket(written.path).to(device).eval()
        x = torch.randn(3, *SHAPE, device=device)
        with torch.inference_mode():
            torch.testing.assert_close(back(x), made(x), rtol=0, atol=0)
