"""Schemes scored on the device: the tree, recalibration, and the CPU's scores beside them."""

import pytest
import torch

from sat_optuna.evaluate import (
    Evaluator,
    calibration_batches,
    evaluate_network,
    score_scheme,
)
from sat_optuna.evidence.enumeration import enumerate_schemes
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import SupernetObjective
from sat_optuna.supernet.batchnorm import recalibrated
from sat_optuna.training.loop import fit
from tests.gpu.made import CONFIG, assert_same, draw, images, split, supernet, weights

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("attention", [("se",), ("sge", "dia")])
def test_the_tree_scores_as_each_scheme_alone(device, same_kernels, calibrated, attention):
    net = supernet(device, attention)
    given = calibration_batches(images(70, device), count=48, chunk=20, seed=0)
    chunks = given if calibrated else []
    data, before = images(50, device), weights(net)
    evaluator = Evaluator(net, data, calibration=chunks, chunk=16)
    found = evaluator.score_all()
    assert len(found) == (len(attention) + 1) ** 4
    for scheme in list(found)[::5]:
        if calibrated:
            alone = score_scheme(net, scheme, calibration=chunks, images=data, batch=16)
        else:
            alone = evaluate_network(net, data, scheme=scheme, batch=16)
        assert found[scheme] == alone
    assert_same(weights(net), before)


def test_all_schemes_of_a_study_are_enumerated(device):
    objective = SupernetObjective(supernet(device), split(120, device), calibration=32)
    found = enumerate_schemes(objective)
    best = found.best(3)
    assert len(best) == 3
    again = objective.evaluator.score(Scheme.parse(best[0].scheme))
    assert again.accuracy == best[0].accuracy


def test_the_cpu_and_the_device_agree(device, exact_floats):
    """Logits within 1e-4, accuracies within 2 of 1,000 images."""
    trained = supernet(device)
    fit(trained, images(128, device), epochs=1, seed=0, config=CONFIG, draw=draw)
    data = images(1000, device)
    chunks = calibration_batches(data, count=128, chunk=64, seed=0)
    cpu = supernet("cpu")
    cpu.load_state_dict(trained.state_dict())
    x = next(data.batches(None, 200))[0]
    for scheme in (draw(step) for step in range(4)):
        with recalibrated(trained, scheme, chunks), torch.inference_mode():
            ours = trained(x, scheme).cpu()
        with recalibrated(cpu, scheme, [c.cpu() for c in chunks]), torch.inference_mode():
            theirs = cpu(x.cpu(), scheme)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    scheme = draw(0)
    one = Evaluator(trained, data, calibration=chunks).score(scheme)
    other = Evaluator(cpu, data.to("cpu"), calibration=[c.cpu() for c in chunks]).score(scheme)
    assert abs(one.accuracy - other.accuracy) <= 0.2


def test_recalibration_is_put_back(device):
    net, scheme = supernet(device), draw(0)
    before = weights(net)
    chunks = calibration_batches(images(64, device), count=64, chunk=32, seed=0)
    with recalibrated(net, scheme, chunks):
        inside = weights(net)
        assert any(not inside[name].equal(value) for name, value in before.items())
    assert_same(weights(net), before)
