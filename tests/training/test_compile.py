"""train.compile: the same training through torch.compile, or a sentence that says why not."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.loop import Checkpoint, fit
from sat_optuna.training.step import CompileError
from tests.training.test_loop import (
    CONFIG,
    Stop,
    assert_same,
    draw,
    images,
    stop_after,
    supernet,
    weights,
)

COMPILED = replace(CONFIG, precision="float32", memory_format="contiguous", compile=True)


def network(scheme="1-0-1", seed=0):
    return materialise(supernet(seed=seed, width=2), Scheme.parse(scheme))


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.slow
def test_a_compiled_training_is_the_plain_one_and_goes_on_after_a_stop(tmp_path):
    plain, unbroken, begun, continued = (network(seed=seed) for seed in (0, 0, 0, 9))
    losses = [
        [record.loss for record in fit(net, images(), epochs=3, seed=1, config=config)]
        for net, config in ((plain, replace(COMPILED, compile=False)), (unbroken, COMPILED))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    checkpoint = Checkpoint(tmp_path / "net.safetensors", "mine")
    again = partial(fit, epochs=3, seed=1, config=COMPILED, checkpoint=checkpoint)
    with pytest.raises(Stop):
        again(begun, images(), on_event=stop_after(0))
    again(continued, images())
    assert_same(weights(continued), weights(unbroken))


@pytest.mark.slow
def test_every_network_is_compiled_however_many_there_were():
    """Torch compiles so many networks of one code, and then no more, without a word."""
    with torch._dynamo.config.patch(recompile_limit=1):
        for scheme in ("1-0-1", "0-0-1"):
            counters.clear()
            fit(network(scheme), images(8), epochs=1, seed=0, config=COMPILED)
            assert counters["stats"]["unique_graphs"] == 1, scheme


def test_a_supernet_is_not_compiled():
    plain, asked = supernet(), supernet()
    fit(plain, images(), epochs=1, seed=0, config=replace(COMPILED, compile=False), draw=draw)
    fit(asked, images(), epochs=1, seed=0, config=COMPILED, draw=draw)
    assert_same(weights(asked), weights(plain))
    assert not counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_a_machine_without_compiler_is_told_so():
    from torch._inductor import config

    with config.patch({"cpp.cxx": (None, "/nonexistent")}), pytest.raises(CompileError) as caught:
        fit(network(), images(), epochs=1, seed=0, config=COMPILED)
    said = str(caught.value)
    assert "torch.compile does not work here" in said
    assert "'/nonexistent'" in said
    assert said.endswith("see to that, or set train.compile to false")
    assert "\n" not in said
