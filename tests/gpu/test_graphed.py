"""The graphed loop that ours is measured against trains as plain steps do, on CPU and GPU."""

import copy

import pytest
import torch
from torch.nn import functional as F

from sat_optuna.bench.graphed import GraphedLoop
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.precision import Arithmetic
from sat_optuna.training.step import learning_rate
from tests.gpu.made import CONFIG, images, supernet

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_graphed_step_is_a_step(
    device, exact_floats, same_kernels, monkeypatch, precision, memory_format
):
    arithmetic = Arithmetic(precision, memory_format)
    net = materialise(supernet(device), Scheme.parse("10-1-1"))
    plain = copy.deepcopy(net).train()
    arithmetic.put(plain, device)
    loop = GraphedLoop(net, images(64, device), CONFIG, arithmetic)
    seen = []  # what the loop trains on, in order
    epoch = loop._epoch

    def spy(number, steps, seed):
        seen.append(epoch(number, steps, seed))
        return seen[-1]

    monkeypatch.setattr(loop, "_epoch", spy)
    means = loop.run(epochs=2, seed=0)
    optimizer = torch.optim.SGD(
        plain.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    expected = []
    for number, (x, labels) in enumerate(seen):
        losses = []
        for step in range(len(x)):
            rate = learning_rate(CONFIG, step=number * len(x) + step, steps=2 * len(x))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            mixed = precision != "float32"
            with torch.autocast(device.type, arithmetic.dtype, enabled=mixed):
                logits = plain(x[step].contiguous(memory_format=arithmetic.layout))
                loss = F.cross_entropy(logits, labels[step], label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        expected.append(sum(losses) / len(losses))
    near = 1e-4 if precision == "float32" else 2e-2
    assert means == pytest.approx(expected, rel=near)
    assert means[1] < means[0]
