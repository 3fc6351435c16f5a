"""Both training loops on the device: they learn, go on after a stop, and never make it wait."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from sat_optuna.data.images import TensorImages
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.checkpoint import read_record
from sat_optuna.training.loop import Checkpoint, fit, pretrain
from tests.gpu.made import CONFIG, assert_same, draw, images, split, supernet, weights
from tests.training.test_loop import Stop, stop_after

pytestmark = pytest.mark.gpu
PRECISIONS = ("float32", "bfloat16", "float16")
PLAIN = replace(CONFIG, precision="float32", memory_format="contiguous")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_network_learns_in_every_precision_and_layout(
    device, tmp_path, precision, memory_format
):
    config = replace(CONFIG, precision=precision, memory_format=memory_format)
    net = materialise(supernet(device), Scheme.parse("10-1-1"))
    mine = Checkpoint(tmp_path / "net.safetensors", "mine")
    history = fit(net, images(96, device), epochs=2, seed=0, config=config, checkpoint=mine)
    assert history[-1].loss < history[0].loss
    record = read_record(mine.path)
    assert (record["precision"], record["environment"]["device"]) == (precision, device.type)
    last = memory_format == "channels_last"
    kernel = net.get_parameter("stages.0.0.conv1.weight")
    assert (kernel.device, kernel.is_contiguous(memory_format=torch.channels_last)) == (
        device,
        last,
    )
    if precision == "float16":  # every step was taken with a scaled loss, or the scale was halved
        scaler = record["scaler"]
        assert scaler["_growth_tracker"] == record["steps"] or scaler["scale"] < 2**16


def test_a_supernet_is_pretrained(device):
    net = supernet(device)
    before = weights(net)
    history = pretrain(net, split(160, device), epochs=2, seed=0, config=CONFIG)
    assert history[-1].loss < history[0].loss
    assert all(value.device == device for value in net.state_dict().values())
    changed = [name for name, value in weights(net).items() if not value.equal(before[name])]
    assert len(changed) > len(before) / 2


def test_the_cpu_trains_the_same_network(device, exact_floats):
    """Without augmentation, whose draws come from the device's own generator."""
    plain = replace(PLAIN, shift=0, flip=False, cutout=0)
    losses = [
        fit(supernet(where), images(64, where), epochs=1, seed=0, config=plain, draw=draw)[0].loss
        for where in (device, torch.device("cpu"))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_continued_training_ends_with_the_bits_of_an_unbroken_one(
    device, tmp_path, precision, same_kernels
):
    config = replace(CONFIG, precision=precision)
    data = images(64, device)
    unbroken = supernet(device)
    told = fit(unbroken, data, epochs=3, seed=1, config=config, draw=draw)
    mine = Checkpoint(tmp_path / "net.safetensors", "mine")
    for epoch, seed in ((0, 0), (1, 9)):
        with pytest.raises(Stop):
            fit(
                supernet(device, seed=seed),
                data,
                epochs=3,
                seed=1,
                config=config,
                draw=draw,
                checkpoint=mine,
                on_event=stop_after(epoch),
            )
    continued = supernet(device, seed=9)
    again = fit(continued, data, epochs=3, seed=1, config=config, draw=draw, checkpoint=mine)
    assert again == told
    assert_same(weights(continued), weights(unbroken))


class Watched(TensorImages):
    """Images whose epochs of training are gone through inside a context."""

    def __init__(self, given, context):
        super().__init__(given.images, given.labels, given.mean, given.std)
        self.context, self.epochs = context, 0

    def epoch(self, number, *, seed, batch, augment):
        with self.context():
            yield from super().epoch(number, seed=seed, batch=batch, augment=augment)
        self.epochs += 1


@contextmanager
def no_waiting() -> Iterator[None]:
    """Refuse whatever makes the host wait for the GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("attention", ["se", "sge", "dia", "cbam", "srm"])
def test_no_step_of_an_epoch_waits_for_the_card(card, precision, attention):
    data = Watched(images(64, card), no_waiting)
    config = replace(CONFIG, precision=precision)
    fit(supernet(card, (attention,)), data, epochs=2, seed=0, config=config, draw=draw)
    network = materialise(supernet(card, (attention,)), Scheme.parse("11-1-1"))
    for strategy in ("eager", "graph"):  # in float16 both are eager
        fit(network, data, epochs=1, seed=0, config=replace(config, strategy=strategy))
    assert data.epochs == 4


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_compile(card, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    losses = []
    for asked in (False, True):
        net = materialise(supernet(card, blocks=(1, 1, 1)), Scheme.parse("1-0-0"))
        config = replace(PLAIN, compile=asked)
        losses.append(fit(net, images(64, card), epochs=1, seed=0, config=config)[0].loss)
    torch.compiler.reset()
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
