"""Seeds trained in one batched step are the networks that are trained alone."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from sat_optuna.attention import default_spec
from sat_optuna.bench.batched import BatchedStep
from sat_optuna.config.config import TrainConfig
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.precision import Arithmetic
from sat_optuna.training.static import StaticStep
from sat_optuna.training.step import TrainingStep, learning_rate
from tests.networks import SHAPE, tiny_supernet

CONFIG = TrainConfig(lr=0.05, label_smoothing=0.1)
SEEDS = 3
assert_near = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("se", {}),
        ("cbam", {"nesterov": False}),
        ("srm", {"momentum": 0.0, "nesterov": False}),
    ],
)
def test_seeds_in_one_batched_step_are_the_networks_trained_alone(kind, way):
    config, scheme = replace(CONFIG, **way), Scheme.parse("1-0-1")
    supernets = [
        tiny_supernet([default_spec(kind)], seed=seed, blocks=(1, 1, 1)) for seed in range(SEEDS)
    ]
    alone, batched = (
        [materialise(one, scheme).double().train() for one in supernets] for _ in range(2)
    )
    plain = [TrainingStep(net, config, Arithmetic("float32", "contiguous")) for net in alone]
    together = BatchedStep(batched, config)
    static = StaticStep(together, together.state, list(together.weights.values()))
    drawn = torch.Generator().manual_seed(0)
    for number in range(3):
        x = torch.randn(SEEDS, 6, *SHAPE, generator=drawn, dtype=torch.float64)
        labels = torch.randint(0, 5, (SEEDS, 6), generator=drawn)
        rate = learning_rate(config, step=number, steps=3)
        together.rate.fill_(rate)
        made = [step(*one, rate=rate) for step, *one in zip(plain, x, labels, strict=True)]
        losses, hits = static(x, labels)
        assert_near(losses, torch.stack([one[0] for one in made]))
        assert hits.tolist() == [int(one[1]) for one in made]
    together.store()
    for net, other in zip(alone, batched, strict=True):
        assert_near(dict(net.state_dict()), dict(other.state_dict()))
    for number, step in enumerate(plain):
        for name, value in step.momentum().items():
            assert_near(together.momentum[name][number], value)
