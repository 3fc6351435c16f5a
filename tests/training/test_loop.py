"""What training must keep: continuation, purity of draws, schedules, the same loop for all."""

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from sat_optuna.config.config import TrainConfig
from sat_optuna.data.images import TensorImages
from sat_optuna.errors import CheckpointError, SatOptunaWarning, TrainingError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for, seeded
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.checkpoint import EpochRecord, load_tensors, read_record, save_checkpoint
from sat_optuna.training.loop import Checkpoint, fit
from sat_optuna.training.precision import Arithmetic
from sat_optuna.training.step import TrainingStep, learning_rate

if TYPE_CHECKING:
    from sat_optuna.events import Event

CONFIG = TrainConfig(batch=8, lr=0.05, shift=1, flip=True, cutout=2, label_smoothing=0.1)


def images(count=40):
    drawn = generator_for("test images")
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=drawn)
    return TensorImages(pixels, labels, (0.5,), (0.5,))


def supernet(seed=0, width=8):
    return Supernet(
        "resnet20",
        attention=("se",),
        in_channels=1,
        classes=3,
        seed=seed,
        width=width,
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
    def on_event(event):
        if isinstance(event.made, EpochRecord) and event.made.epoch == epoch:
            raise Stop

    return on_event


def stopped(net, checkpoint, *, epochs, config, after=0):
    """Train, and stop after an epoch; the checkpoint is what is left."""
    with pytest.raises(Stop):
        fit(
            net,
            images(),
            epochs=epochs,
            seed=1,
            config=config,
            draw=draw,
            checkpoint=checkpoint,
            on_event=stop_after(after),
        )


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
        stopped(supernet(seed=seed), checkpoint, epochs=3, config=config, after=epoch)
    continued = supernet(seed=9)
    told = fit(
        continued, images(), epochs=3, seed=1, config=config, draw=draw, checkpoint=checkpoint
    )
    assert_same(weights(continued), weights(unbroken))
    assert told == history
    assert read_record(checkpoint.path)["environment"]["threads"] == torch.get_num_threads()


def test_dropout_is_drawn_by_the_seed_too(tmp_path):
    def net():
        made = supernet()
        made.backbone.head.insert(-1, torch.nn.Dropout(0.5))
        return made

    runs = []
    for chance in (1, 2):  # what is drawn outside has no part in it
        unbroken = net()
        with seeded("test", chance):
            fit(unbroken, images(), epochs=2, seed=1, config=CONFIG, draw=draw)
        runs.append(weights(unbroken))
    assert_same(*runs)
    before = torch.get_rng_state()
    checkpoint = Checkpoint(tmp_path / "net.safetensors", "mine")
    stopped(net(), checkpoint, epochs=2, config=CONFIG)
    continued = net()
    fit(continued, images(), epochs=2, seed=1, config=CONFIG, draw=draw, checkpoint=checkpoint)
    assert_same(weights(continued), runs[0])
    assert torch.equal(torch.get_rng_state(), before)
    other = net()
    fit(other, images(), epochs=2, seed=2, config=CONFIG, draw=draw)
    assert not torch.equal(
        weights(other)["backbone.stem.0.weight"], runs[0]["backbone.stem.0.weight"]
    )


def test_a_finished_checkpoint_is_loaded_and_no_step_is_made(tmp_path):
    checkpoint = Checkpoint(tmp_path / "net.safetensors", "mine")
    first = supernet()
    fit(first, images(), epochs=1, seed=1, config=CONFIG, draw=draw, checkpoint=checkpoint)
    before = checkpoint.path.stat().st_mtime_ns
    again = supernet(seed=5)
    events: list[Event] = []
    fit(
        again,
        images(),
        epochs=1,
        seed=1,
        config=CONFIG,
        draw=draw,
        checkpoint=checkpoint,
        on_event=events.append,
    )
    assert_same(weights(again), weights(first))
    assert [(event.done, event.finished) for event in events] == [(1, False), (1, True)]
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


def test_a_step_is_that_of_plain_sgd_also_where_gradients_begin_late():
    schemes = [Scheme.parse(text) for text in ("0-0-0", "1-0-0", "0-1-0", "1-1-0")]
    config = TrainConfig(lr=0.05)
    net, plain = supernet(), supernet()
    x, labels = next(images().batches(None, 8))
    step = TrainingStep(net.train(), config, Arithmetic("float32", "contiguous"))
    sgd = torch.optim.SGD(
        plain.train().parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for scheme in schemes:
        step(x, labels, rate=0.05, scheme=scheme)
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(plain(x, scheme), labels).backward()
        sgd.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_without_momentum(precision):
    config = replace(CONFIG, momentum=0.0, nesterov=False, precision=precision)
    net = supernet()
    before = weights(net)
    fit(net, images(), epochs=1, seed=0, config=config, draw=draw)
    assert not torch.equal(before["backbone.stem.0.weight"], net.backbone.stem[0].weight)


def test_a_training_goes_on_in_the_precision_it_was_begun_in(tmp_path):
    config = replace(CONFIG, precision="bfloat16", memory_format="channels_last")
    unbroken = supernet()
    fit(unbroken, images(), epochs=2, seed=1, config=config, draw=draw)
    mine = Checkpoint(tmp_path / "net.safetensors", "mine")
    stopped(supernet(), mine, epochs=2, config=config)
    assert read_record(mine.path)["precision"] == "bfloat16"
    continued = supernet(seed=9)  # narrow: auto is float32 and contiguous on every machine
    with pytest.warns(SatOptunaWarning, match="begun in bfloat16 and channels_last, and goes on"):
        fit(continued, images(), epochs=2, seed=1, config=CONFIG, draw=draw, checkpoint=mine)
    assert_same(weights(continued), weights(unbroken))


@pytest.mark.parametrize(
    ("key", "begun", "asked"),
    [("precision", "bfloat16", "float32"), ("memory_format", "channels_last", "contiguous")],
)
def test_a_training_is_not_continued_in_another_precision_than_asked(tmp_path, key, begun, asked):
    mine = Checkpoint(tmp_path / "net.safetensors", "mine")
    first, other = (replace(CONFIG, **{key: value}) for value in (begun, asked))
    fit(supernet(), images(), epochs=1, seed=1, config=first, draw=draw, checkpoint=mine)
    with pytest.raises(
        CheckpointError,
        match=f"trained with {key} = '{begun}', and train.{key} is '{asked}'; move",
    ):
        fit(supernet(), images(), epochs=2, seed=1, config=other, draw=draw, checkpoint=mine)


def test_a_checkpoint_of_an_older_version_was_float32(tmp_path):
    mine = Checkpoint(tmp_path / "net.safetensors", "mine")
    plain = replace(CONFIG, precision="float32", memory_format="contiguous")
    unbroken = supernet(width=16)
    fit(unbroken, images(), epochs=2, seed=1, config=plain, draw=draw)
    stopped(supernet(width=16), mine, epochs=2, config=plain)
    record = read_record(mine.path)
    del record["precision"]
    save_checkpoint(mine.path, load_tensors(mine.path), record)
    continued = supernet(seed=9, width=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SatOptunaWarning)  # where auto is bfloat16, it says so
        fit(continued, images(), epochs=2, seed=1, config=CONFIG, draw=draw, checkpoint=mine)
    assert_same(weights(continued), weights(unbroken))


@pytest.mark.gpu
def test_float16_scales_its_loss():
    net = supernet().cuda()
    config = replace(CONFIG, precision="float16")
    history = fit(net, images().to("cuda"), epochs=2, seed=0, config=config, draw=draw)
    assert math.isfinite(history[-1].loss)
