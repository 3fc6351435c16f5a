"""What training must keep: continuation, purity of draws, schedules, the same loop for all."""

import math
import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from sat_optuna.backbones.contract import BackboneError
from sat_optuna.config.config import TrainConfig
from sat_optuna.data.images import TensorImages
from sat_optuna.data.split import Split
from sat_optuna.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    SatOptunaWarning,
    TrainingError,
)
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for, seeded
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training import loop
from sat_optuna.training.checkpoint import EpochRecord, load_tensors, read_record, save_checkpoint
from sat_optuna.training.loop import Checkpoint, fit, pretrain
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


def supernet_with_dropout():
    made = supernet()
    made.backbone.head.insert(-1, torch.nn.Dropout(0.5))
    return made


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
    runs = []
    for chance in (1, 2):  # what is drawn outside has no part in it
        unbroken = supernet_with_dropout()
        with seeded("test", chance):
            fit(unbroken, images(), epochs=2, seed=1, config=CONFIG, draw=draw)
        runs.append(weights(unbroken))
    assert_same(*runs)
    before = torch.get_rng_state()
    checkpoint = Checkpoint(tmp_path / "net.safetensors", "mine")
    stopped(supernet_with_dropout(), checkpoint, epochs=2, config=CONFIG)
    continued = supernet_with_dropout()
    fit(continued, images(), epochs=2, seed=1, config=CONFIG, draw=draw, checkpoint=checkpoint)
    assert_same(weights(continued), runs[0])
    assert torch.equal(torch.get_rng_state(), before)
    other = supernet_with_dropout()
    fit(other, images(), epochs=2, seed=2, config=CONFIG, draw=draw)
    assert not torch.equal(
        weights(other)["backbone.stem.0.weight"], runs[0]["backbone.stem.0.weight"]
    )


def test_a_training_stopped_within_an_epoch_goes_on_from_the_epoch_before(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "EVENT_SECONDS", 0.0)
    unbroken = supernet()
    fit(unbroken, images(), epochs=3, seed=1, config=CONFIG, draw=draw)

    def stop(event):
        if event.done == 1 and event.share > 0.5:
            raise Stop

    begun, checkpoint = supernet(), Checkpoint(str(tmp_path / "net.safetensors"), "mine")
    again = partial(fit, epochs=3, seed=1, config=CONFIG, draw=draw, checkpoint=checkpoint)
    before = torch.get_rng_state()
    with pytest.raises(Stop):
        again(begun, images(), on_event=stop)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(read_record(checkpoint.path)["history"]) == 1
    continued = supernet(seed=9)
    again(continued, images())
    assert_same(weights(continued), weights(unbroken))


def test_events_tell_how_far_a_training_is_and_what_each_epoch_made(monkeypatch):
    monkeypatch.setattr(loop, "EVENT_SECONDS", 0.0)
    events: list[Event] = []
    history = fit(
        supernet(), images(), epochs=2, seed=1, config=CONFIG, draw=draw, on_event=events.append
    )
    assert {(event.step, event.total) for event in events} == {("fit", 2)}
    far = [event.done + event.share for event in events]
    assert far == sorted(far)
    first, *middle, last = events
    assert (first.done, first.made, first.finished) == (0, None, False)
    assert (last.done, last.made, last.finished) == (2, history, True)
    made = [event for event in middle if event.made]
    assert [(event.done, event.share, event.made) for event in made] == [
        (1, 0.0, history[0]),
        (2, 0.0, history[1]),
    ]
    accuracy = f"train accuracy {history[0].accuracy:.1f} %"
    assert made[0].message == f"loss {history[0].loss:.3f}, {accuracy}"
    within = [event for event in middle if not event.made]
    assert [event.message for event in within] == [
        f"epoch {epoch}: step {step} of 5" for epoch in (1, 2) for step in range(1, 6)
    ]
    assert all(0 < event.share < 1 for event in within)


def test_what_is_told_changes_no_bit(monkeypatch):
    def draws(event):
        torch.rand(3)  # as dropout does, from torch's own generator

    quiet, told = supernet_with_dropout(), supernet_with_dropout()
    fit(quiet, images(), epochs=1, seed=1, config=CONFIG, draw=draw)
    monkeypatch.setattr(loop, "EVENT_SECONDS", 0.0)
    with seeded("test"):
        fit(told, images(), epochs=1, seed=1, config=CONFIG, draw=draw, on_event=draws)
    assert_same(weights(told), weights(quiet))


@pytest.mark.parametrize("epochs", [-1, 1.5, True])
def test_epochs_that_are_no_number_of_passes_are_refused(epochs):
    told = "write at least 1" if type(epochs) is int else "write a whole number"
    for train, name in ((fit, "fit"), (pretrain, "pretrain")):
        with pytest.raises(ConfigError, match=f"^{name}: epochs is {epochs}; {told}$"):
            train(supernet(), images(), epochs=epochs, seed=0)


@pytest.mark.parametrize("as_loader", [False, True])
@pytest.mark.parametrize(
    ("kind", "channels", "words"),
    [
        ("spa", 1, "images of 1x8x8 come to stage 3 of resnet20 with 2 pixels a side and spa nee"),
        ("sge", 3, r"images of shape \(1, 8, 8\) do not go through the"),
    ],
)
def test_pretraining_checks_the_network_before_its_first_step(kind, channels, words, as_loader):
    settings = {"in_channels": channels, "classes": 3, "width": 8, "blocks": (1, 1, 1)}
    net = Supernet("resnet20", attention=(kind,), seed=0, **settings)
    given: Any = images()
    if as_loader:
        x, y = next(given.batches(None, 40))
        given = DataLoader(TensorDataset(x, y), 8)
    before = [value.clone() for value in net.state_dict().values()]
    told: list[Event] = []
    with pytest.raises((BackboneError, DataError), match=words):
        pretrain(net, given, epochs=1, seed=0, config=CONFIG, on_event=told.append)
    assert told == []
    assert all(map(torch.equal, before, net.state_dict().values()))


@pytest.mark.parametrize("how", ["fit", "pretrain", "the last of a DataLoader"])
def test_a_batch_of_one_image_that_cannot_be_trained_on_is_one_sentence(how):
    x, y = torch.rand(5, 3, 8, 8), torch.arange(5) % 2
    blocks = (1, 1, 1)
    net = Supernet(
        "resnet20", attention=("timm:sk",), in_channels=3, classes=2, seed=0, blocks=blocks
    )
    plain, one = materialise(net, Scheme.uniform(net.stages, 1)), TrainConfig(batch=1)
    data = Split.from_arrays(x, y, valid=0.4)
    loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    train = {
        "fit": partial(fit, plain, data.train, config=one),
        "pretrain": partial(pretrain, net, data, connect=1.0, config=one),
        "the last of a DataLoader": partial(fit, plain, loader),
    }
    with pytest.raises(DataError, match=r"on a batch of one image \(ValueError.*; choose train.b"):
        train[how](epochs=1, seed=0)


def test_settings_of_pretraining_are_checked_before_it_begins():
    with pytest.raises(ConfigError) as caught:
        pretrain(supernet(), images(), epochs=0, seed=0, draws="antithetc", connect=2)
    assert [fault.split(";")[0] for fault in caught.value.faults] == [
        "epochs is 0",
        "connect is 2",
        "draws is 'antithetc'",
    ]


class TestUserImages:
    """Datasets and DataLoaders of (image, label) in place of the package's own images."""

    pixels = torch.randn(40, 1, 8, 8, generator=generator_for("user images"))
    labels = torch.arange(40) % 3
    items = TensorDataset(pixels, labels)

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_a_dataset_is_trained_on_as_its_arrays_are(self, precision):
        config = replace(CONFIG, precision=precision)
        split = Split.from_arrays(self.pixels, self.labels, valid=(self.pixels[:3], [0, 1, 2]))
        given: list[Any] = [split, split.train, self.items]
        nets = [supernet() for _ in given]
        for net, trained_on in zip(nets, given, strict=True):
            pretrain(net, trained_on, epochs=2, seed=1, config=config)
        assert_same(weights(nets[0]), weights(nets[1]))
        assert_same(weights(nets[0]), weights(nets[2]))

    def test_a_dataloader_has_its_own_batches(self):
        loader = DataLoader(self.items, 16, shuffle=True)
        events: list[Event] = []
        net, other = supernet(), supernet()
        (record,) = fit(
            net, loader, epochs=1, seed=1, config=CONFIG, draw=draw, on_event=events.append
        )
        fit(other, loader, epochs=1, seed=1, config=replace(CONFIG, batch=3), draw=draw)
        assert_same(weights(net), weights(other))
        assert record.accuracy is not None
        assert record.accuracy == 100 * round(record.accuracy * 40 / 100) / 40  # of all 40 images

    def test_a_training_on_a_dataloader_says_that_it_may_go_on_otherwise(self, tmp_path):
        loader = DataLoader(self.items, 16, shuffle=True)
        mine = Checkpoint(tmp_path / "net.safetensors", "mine")
        again = partial(fit, supernet(), loader, seed=1, config=CONFIG, draw=draw, checkpoint=mine)
        again(epochs=1)
        with pytest.warns(
            SatOptunaWarning, match="does not store what a DataLoader draws; the tr"
        ):
            again(epochs=2)
        again(epochs=2)  # nothing is left to train: nothing can differ

    def test_a_training_on_a_dataset_goes_on_as_it_was(self, tmp_path):
        unbroken, continued = supernet(), supernet(seed=9)
        fit(unbroken, self.items, epochs=2, seed=1, config=CONFIG, draw=draw)
        mine = Checkpoint(tmp_path / "net.safetensors", "mine")
        again = partial(fit, epochs=2, seed=1, config=CONFIG, draw=draw, checkpoint=mine)
        with pytest.raises(Stop):
            again(supernet(), self.items, on_event=stop_after(0))
        again(continued, self.items)
        assert_same(weights(continued), weights(unbroken))

    @pytest.mark.parametrize("load", [TensorImages, TensorDataset])
    def test_a_label_that_the_network_has_not_is_one_sentence(self, load):
        with pytest.raises(DataError) as caught:
            pretrain(supernet(), load(self.pixels, self.labels + 1), epochs=1, seed=0)
        assert str(caught.value) == (
            "the images have the label 3 and the network 3 classes; number the classes 0 to 2, or "
            "build the network with more"
        )

    def test_images_of_other_channels_are_one_sentence(self):
        items = TensorDataset(torch.zeros(4, 2, 8, 8), torch.arange(4))
        with pytest.raises(DataError, match=r"images of shape \(2, 8, 8\) do not go through the"):
            pretrain(supernet(), items, epochs=1, seed=0)


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


def test_a_checkpoint_with_the_names_of_an_earlier_version_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path / "net.safetensors", "x")
    net = materialise(supernet(width=4), Scheme.parse("1-0-0"))
    fit(net, images(), epochs=1, seed=0, config=CONFIG, checkpoint=checkpoint)
    tensors, record = load_tensors(checkpoint.path), read_record(checkpoint.path)
    old = {name.replace("model.", "model.backbone."): value for name, value in tensors.items()}
    save_checkpoint(checkpoint.path, old, record)
    words = r"net.safetensors and the network differ in backbone\.head.*: an earlier version of"
    with pytest.raises(CheckpointError, match=words):
        fit(net, images(), epochs=2, seed=0, config=CONFIG, checkpoint=checkpoint)


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
    # In the optimiser the attention stands elsewhere; that changes no bit.
    backbone = {name.removeprefix("backbone."): value for name, value in weights(net).items()}
    plain = {name: value for name, value in weights(ticket).items() if "attention" not in name}
    assert len(plain) < len(weights(ticket))
    assert_same(plain, {name: backbone[name] for name in plain})


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


BODY = frozenset(name for name, _ in supernet().backbone.named_parameters() if "head" not in name)


def test_head_and_body_take_rates_of_their_own_and_attention_that_of_the_head():
    net, plain = supernet(), supernet()
    config = TrainConfig(lr=0.05, lr_body=0.01)
    step = TrainingStep(net.train(), config, Arithmetic("float32", "contiguous"), body=BODY)
    parts: dict[bool, list[torch.nn.Parameter]] = {False: [], True: []}
    for name, parameter in plain.named_parameters():
        parts[name.removeprefix("backbone.") in BODY].append(parameter)
    groups = [{"params": parts[False], "lr": 0.05}, {"params": parts[True], "lr": 0.01}]
    sgd = torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=5e-4)
    x, labels = next(images().batches(None, 8))
    for share in (1.0, 0.5, 0.25):
        step(x, labels, rate=0.05 * share, scheme=Scheme.parse("1-0-1"))
        for group, rate in zip(sgd.param_groups, (0.05, 0.01), strict=True):
            group["lr"] = rate * share
        sgd.zero_grad()
        plain.train()
        logits = plain(x, Scheme.parse("1-0-1"))
        torch.nn.functional.cross_entropy(logits, labels).backward()
        sgd.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("kind", ["se", "dia"])
@pytest.mark.parametrize("strategy", ["eager", "graph"])
def test_the_rate_of_the_body_reaches_what_was_loaded_and_nothing_else(kind, strategy):
    """In a network of its own type, in one that is walked (DIA), and in a supernet."""
    whole = Supernet(
        "resnet20", attention=(kind,), in_channels=1, classes=3, seed=0, width=4, blocks=(1, 1, 1)
    )
    scheme = Scheme.parse("1-0-1")
    still = TrainConfig(batch=8, lr=0.1, lr_body=1e-300, weight_decay=0.0, strategy=strategy)
    for net in (materialise(whole, scheme), whole):
        before = {name: value.detach().clone() for name, value in net.named_parameters()}
        way: dict[str, Any] = {"draw": lambda _: scheme} if net is whole else {}
        fit(net, images(), epochs=1, seed=0, config=still, body=BODY, **way)
        moved = {n for n, value in net.named_parameters() if not torch.equal(value, before[n])}
        trained = {name for name in before if "head" in name or "attention" in name}
        # What the scheme leaves out, and what a first state of zero is multiplied by.
        idle = ("attention.1.", "from_state.0.weight")
        trained -= {name for name in trained if any(part in name for part in idle)}
        assert moved == trained
        assert len(before) - len(moved) >= len(BODY)


@pytest.mark.parametrize("rates", [(0.0, 0.01), (0.02, 0.0), (0.02, 0.003)])
def test_a_fine_tuning_goes_on_from_its_checkpoint_as_graph_too(tmp_path, rates):
    config = replace(CONFIG, lr_head=rates[0], lr_body=rates[1])
    ends = []
    for strategy in ("eager", "graph"):
        fine = replace(config, strategy=strategy)
        way: dict[str, Any] = {"epochs": 2, "seed": 1, "config": fine, "body": BODY}
        checkpoint = Checkpoint(tmp_path / strategy, "mine")
        unbroken, net = (materialise(supernet(), Scheme.parse("1-0-1")) for _ in range(2))
        history = fit(unbroken, images(), **way)
        with pytest.raises(Stop):
            fit(net, images(), **way, checkpoint=checkpoint, on_event=stop_after(0))
        assert fit(net, images(), **way, checkpoint=checkpoint) == history
        assert_same(weights(net), weights(unbroken))
        ends.append(weights(net))
        assert history[-1].lr == pytest.approx(0.0, abs=1e-12)
    assert_same(*ends)
    scratch = materialise(supernet(), Scheme.parse("1-0-1"))
    fit(scratch, images(), epochs=2, seed=1, config=config)  # where nothing was loaded
    usual = materialise(supernet(), Scheme.parse("1-0-1"))
    fit(usual, images(), epochs=2, seed=1, config=CONFIG)
    assert_same(weights(scratch), weights(usual))


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
    with pytest.warns(
        SatOptunaWarning, match="begun in bfloat16, channels_last and eager, and goes on"
    ):
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


class _Fetched(TorchDispatchMode):
    """Counts the numbers that are fetched from tensors, each of which makes a GPU wait."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class _Counted(TensorImages):
    """Images that note how many numbers were fetched in each epoch of training."""

    def __init__(self, given, fetched):
        super().__init__(given.images, given.labels, given.mean, given.std)
        self.fetched, self.counts = fetched, []

    def epoch(self, number, *, seed, batch, augment):
        before = self.fetched.count
        yield from super().epoch(number, seed=seed, batch=batch, augment=augment)
        self.counts.append(self.fetched.count - before)


@pytest.mark.parametrize("attention", ["se", "sge", "dia", "cbam", "srm", "bam", "gc", "eca"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_number_is_fetched_within_an_epoch(precision, attention):
    net = Supernet(
        "resnet20",
        attention=(attention,),
        in_channels=1,
        classes=3,
        seed=0,
        width=8,
        blocks=(1, 1, 1),
    )
    with _Fetched() as fetched:
        data = _Counted(images(16), fetched)
        fit(
            net,
            data,
            epochs=2,
            seed=0,
            config=replace(CONFIG, precision=precision),
            draw=draw,
        )
    assert data.counts == [0, 0]
    assert fetched.count >= 2  # of each epoch: its loss, once it is over
