"""What training must keep: continuation, purity of draws, schedules, the same loop for all."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

from sat_optuna.checkpoint import EpochRecord, read_record, save_checkpoint
from sat_optuna.config import TrainConfig
from sat_optuna.data.split import TensorImages
from sat_optuna.devices import to_memory_format
from sat_optuna.draws import draw_scheme
from sat_optuna.errors import CheckpointError, SatOptunaWarning, TrainingError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet import Supernet
from sat_optuna.surgery import materialise
from sat_optuna.training import Checkpoint, fit, learning_rate

CPU = torch.device("cpu")
CONFIG = TrainConfig(batch=8, lr=0.05, shift=1, flip=True, cutout=2, label_smoothing=0.1)


def images(count=40):
    drawn = generator_for("test images")
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=drawn)
    return TensorImages(pixels, labels, (0.5,), (0.5,))


def supernet(seed=0):
    return Supernet(
        "resnet20",
        attention=("se",),
        in_channels=1,
        classes=3,
        seed=seed,
        width=8,
        blocks=(1, 1, 1),
    )


def draw(step):
    return draw_scheme((1, 1, 1), 1, connect=0.5, draws="iid", seed=3, step=step)


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, msg=name)


class Stop(Exception):  # noqa: N818
    pass


def stop_after(epoch):
    def on_epoch(record):
        if record.epoch == epoch:
            raise Stop

    return on_epoch


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_continued_training_ends_with_the_weights_of_an_unbroken_one(
    tmp_path, precision, memory_format
):
    config = replace(CONFIG, precision=precision, memory_format=memory_format)
    unbroken = supernet()
    history = fit(unbroken, images(), epochs=3, seed=1, config=config, draw=draw)
    checkpoint = Checkpoint(tmp_path / "net.safetensors", "mine")
    for epoch, seed in ((0, 0), (1, 9)):  # other weights: the checkpoint must bring all of them
        with pytest.raises(Stop):
            fit(
                supernet(seed=seed),
                images(),
                epochs=3,
                seed=1,
                config=config,
                draw=draw,
                checkpoint=checkpoint,
                on_epoch=stop_after(epoch),
            )
    continued = supernet(seed=9)
    told = fit(
        continued, images(), epochs=3, seed=1, config=config, draw=draw, checkpoint=checkpoint
    )
    assert_same(weights(continued), weights(unbroken))
    assert told == history
    assert read_record(checkpoint.path)["environment"]["threads"] == torch.get_num_threads()


def test_a_finished_checkpoint_is_loaded_and_no_step_is_made(tmp_path):
    checkpoint = Checkpoint(tmp_path / "net.safetensors", "mine")
    first = supernet()
    fit(first, images(), epochs=1, seed=1, config=CONFIG, draw=draw, checkpoint=checkpoint)
    before = checkpoint.path.stat().st_mtime_ns
    again = supernet(seed=5)
    epochs: list[EpochRecord] = []
    fit(
        again,
        images(),
        epochs=1,
        seed=1,
        config=CONFIG,
        draw=draw,
        checkpoint=checkpoint,
        on_epoch=epochs.append,
    )
    assert_same(weights(again), weights(first))
    assert epochs == []
    assert checkpoint.path.stat().st_mtime_ns == before


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    mine = Checkpoint(tmp_path / "net.safetensors", "mine")
    fit(supernet(), images(), epochs=1, seed=1, config=CONFIG, draw=draw, checkpoint=mine)
    before = mine.path.read_bytes()
    other = Checkpoint(mine.path, "other")
    with pytest.raises(CheckpointError, match=r"another configuration \(mine, not other\); move"):
        fit(supernet(), images(), epochs=2, seed=1, config=CONFIG, draw=draw, checkpoint=other)
    assert mine.path.read_bytes() == before


def test_other_threads_are_warned_of(tmp_path):
    mine = Checkpoint(tmp_path / "net.safetensors", "mine")
    fit(supernet(), images(), epochs=1, seed=1, config=CONFIG, draw=draw, checkpoint=mine)
    record = read_record(mine.path)
    record["environment"]["threads"] += 1
    from sat_optuna.checkpoint import load_tensors

    save_checkpoint(mine.path, load_tensors(mine.path), record)
    with pytest.warns(SatOptunaWarning, match="last bits may differ"):
        fit(supernet(), images(), epochs=2, seed=1, config=CONFIG, draw=draw, checkpoint=mine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left to train: nothing can differ
        fit(supernet(), images(), epochs=2, seed=1, config=CONFIG, draw=draw, checkpoint=mine)


def test_training_depends_on_the_seed_and_touches_no_global_generator():
    results = []
    for seed in (1, 1, 2):
        torch.rand(3)  # another state of the global generator each time
        net = supernet()
        state = torch.get_rng_state()
        fit(net, images(), epochs=1, seed=seed, config=CONFIG, draw=draw)
        torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
        results.append(weights(net))
    assert_same(results[0], results[1])
    first = next(iter(results[0]))
    assert not torch.equal(results[0][first], results[2][first])


def test_masked_supernet_and_materialised_network_train_alike():
    scheme = Scheme.parse("1-0-0")
    net = supernet()
    ticket = materialise(net, scheme)
    fit(net, images(), epochs=2, seed=1, config=CONFIG, draw=lambda _step: scheme)
    fit(ticket, images(), epochs=2, seed=1, config=CONFIG)
    assert_same(weights(materialise(net, scheme)), weights(ticket))


def test_a_module_no_scheme_uses_is_left_as_it_was():
    net = supernet()
    before = weights(net)
    fit(net, images(), epochs=1, seed=1, config=CONFIG, draw=lambda _step: Scheme.parse("1-0-0"))
    after = weights(net)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("attention.0") for name in changed)
    assert not any(name.startswith("attention.1") for name in changed)


def test_training_learns():
    labels = torch.arange(64) % 2
    pixels = (labels.view(-1, 1, 1, 1) * 200).expand(64, 1, 8, 8).to(torch.uint8)
    data = TensorImages(pixels, labels, (0.4,), (0.4,))
    config = TrainConfig(batch=16, lr=0.05, shift=0)
    history = fit(supernet(), data, epochs=4, seed=0, config=config, draw=draw)
    assert history[-1].accuracy == 100
    assert history[-1].loss < history[0].loss / 4


def test_a_diverging_training_says_so():
    config = replace(CONFIG, lr=1e20)
    with pytest.raises(
        TrainingError, match=r"loss is (nan|inf) in epoch \d with lr 1e\+20; lower"
    ):
        fit(supernet(), images(), epochs=3, seed=0, config=config, draw=draw)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step"])
def test_schedules(schedule):
    config = TrainConfig(lr=0.4, schedule=schedule)
    rates = [learning_rate(config, step=step, steps=100) for step in range(100)]
    assert max(rates) <= 0.4 + 1e-12
    assert min(rates) >= 0
    if schedule == "step":
        assert rates[:50] == [0.4] * 50
        assert rates[50:75] == pytest.approx([0.04] * 25)
        assert rates[75:] == pytest.approx([0.004] * 25)
    elif schedule == "cosine":
        assert rates == pytest.approx([0.2 * (1 + math.cos(math.pi * i / 99)) for i in range(100)])
    else:
        peak = rates.index(max(rates))
        assert 28 <= peak <= 31
        assert rates[0] == pytest.approx(0.4 / 25)
        assert rates[-1] == pytest.approx(0, abs=1e-12)
        assert rates[: peak + 1] == sorted(rates[: peak + 1])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_auto_is_what_the_measurement_says_for_a_cpu():
    net = supernet()
    assert to_memory_format(net, TrainConfig(), CPU) is torch.contiguous_format
    chosen = to_memory_format(net, TrainConfig(memory_format="channels_last"), CPU)
    assert chosen is torch.channels_last


@pytest.mark.gpu
def test_float16_scales_its_loss():
    net = supernet().cuda()
    config = replace(CONFIG, precision="float16")
    history = fit(net, images().to("cuda"), epochs=2, seed=0, config=config, draw=draw)
    assert math.isfinite(history[-1].loss)
