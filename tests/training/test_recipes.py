"""The recipes of [train]: each is torch's or torchvision's own, and goes on after any end."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from sat_optuna.config.config import TrainConfig
from sat_optuna.data.augment import POLICIES, augmented, mixing
from sat_optuna.data.images import TensorImages
from sat_optuna.errors import ConfigError, DataError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for, seeded
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training import step as steps
from sat_optuna.training.checkpoint import EpochRecord, load_tensors
from sat_optuna.training.loop import Checkpoint, Training, fit, fit_together
from sat_optuna.training.precision import Arithmetic
from sat_optuna.training.step import TrainingStep, learning_rate, together_for
from tests.training.test_loop import (
    BODY,
    CONFIG,
    Stop,
    assert_same,
    draw,
    images,
    stop_after,
    supernet,
    weights,
)

USUAL = Arithmetic("float32", "contiguous")
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.05},
    "warmup": {"warmup": 1},
    "clip": {"clip": 0.5},
    "ema": {"ema": 0.7},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0, "mixup": 0.2},
    **{policy: {"augment": policy} for policy in POLICIES},
    "all": {
        "optimizer": "adamw",
        "lr": 0.003,
        "warmup": 1,
        "clip": 0.5,
        "ema": 0.7,
        "mixup": 0.4,
        "augment": "trivialaugment",
    },
}


def network(seed=0):
    return materialise(supernet(seed), Scheme.parse("1-0-1"))


@pytest.mark.parametrize(
    ("recipe", "kind"), [*((recipe, "supernet") for recipe in RECIPES), ("all", "network")]
)
def test_a_recipe_goes_on_from_its_checkpoint_and_draws_by_the_seed(tmp_path, recipe, kind):
    config = replace(CONFIG, **RECIPES[recipe])
    made = {"supernet": supernet, "network": network}[kind]
    way: dict[str, Any] = {"epochs": 2, "seed": 1, "config": config}
    if kind == "supernet":
        way["draw"] = draw
    unbroken, net, other = made(), made(), made(9)
    with seeded("test", 1):
        history = fit(unbroken, images(16), **way)
    checkpoint = Checkpoint(tmp_path / "net", "mine")
    with pytest.raises(Stop):
        fit(net, images(16), **way, checkpoint=checkpoint, on_event=stop_after(0))
    with seeded("test", 2):  # what is drawn outside has no part in it
        before = torch.get_rng_state()
        assert fit(other, images(16), **way, checkpoint=checkpoint) == history
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(weights(other), weights(unbroken))
    finished = made(9)
    assert fit(finished, images(16), **way, checkpoint=checkpoint) == history
    assert_same(weights(finished), weights(unbroken))
    usual = made()
    fit(usual, images(16), **{**way, "config": CONFIG})
    name = next(iter(weights(usual)))
    assert not torch.equal(weights(usual)[name], weights(unbroken)[name])


@pytest.mark.parametrize("recipe", ["adamw", "ema", "all"])
def test_networks_trained_together_are_those_trained_alone(recipe):
    config = replace(CONFIG, **RECIPES[recipe])
    alone, together = [network(0), network(1)], [network(0), network(1)]
    for number, net in enumerate(alone):
        fit(net, images(16), epochs=2, seed=number, config=config)
    fit_together(
        Training(net, images(16), epochs=2, seed=number, config=config)
        for number, net in enumerate(together)
    )
    for one, other in zip(alone, together, strict=True):
        assert_same(weights(one), weights(other))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_recipe_in_half_precision_is_finite_and_goes_on(tmp_path, precision):
    config = replace(CONFIG, **RECIPES["all"], precision=precision)
    unbroken, net = network(), network()
    history = fit(unbroken, images(16), epochs=2, seed=1, config=config)
    checkpoint = Checkpoint(tmp_path / "net", "mine")
    way: dict[str, Any] = {"epochs": 2, "seed": 1, "config": config, "checkpoint": checkpoint}
    with pytest.raises(Stop):
        fit(net, images(16), **way, on_event=stop_after(0))
    assert fit(net, images(16), **way) == history
    assert_same(weights(net), weights(unbroken))


def batch():
    return next(images().batches(None, 8))


def test_a_step_of_adamw_is_torchs_also_where_gradients_begin_late():
    net, plain = supernet(), supernet()
    config = TrainConfig(optimizer="adamw", lr=0.01, weight_decay=0.1)
    step = TrainingStep(net.train(), config, USUAL)
    adamw = torch.optim.AdamW(plain.train().parameters(), lr=0.01, weight_decay=0.1)
    x, labels = batch()
    for text in ("0-0-0", "1-0-0", "0-1-0", "1-1-0"):
        step(x, labels, rate=0.01, scheme=Scheme.parse(text))
        adamw.zero_grad()
        F.cross_entropy(plain(x, Scheme.parse(text)), labels).backward()
        adamw.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("strategy", ["eager", "graph"])
def test_the_gradient_of_a_step_is_cut_to_its_largest_norm(strategy):
    net, plain = network(), network()
    config = TrainConfig(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0, clip=0.05)
    step = TrainingStep(net.train(), config, USUAL, strategy)
    x, labels = batch()
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    step(x, labels, rate=0.1)
    moved = torch.cat([(v.detach() - before[n]).flatten() for n, v in net.named_parameters()])
    assert float(moved.norm()) == pytest.approx(0.1 * 0.05, rel=1e-3)
    F.cross_entropy(plain.train()(x), labels).backward()
    whole = torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None])
    assert float(whole.norm()) > 0.05  # else nothing was cut
    gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient, whole * (0.05 / whole.norm()), rtol=1e-3, atol=1e-6)


def test_a_network_becomes_the_average_of_its_steps_statistics_too():
    """As torch's own AveragedModel has it; whoever is told of an epoch sees the average."""
    config = replace(CONFIG, ema=0.6, shift=0, flip=False, cutout=0)
    seen, expected, net = [], [], network()

    def on_event(event):
        if isinstance(event.made, EpochRecord):
            seen.append(weights(net))

    fit(net, images(16), epochs=2, seed=1, config=config, on_event=on_event)
    raw = network()  # the same steps, and torch's average of them
    average = AveragedModel(raw, multi_avg_fn=get_ema_multi_avg_fn(0.6), use_buffers=True)
    step = TrainingStep(raw.train(), replace(config, ema=0.0), USUAL)
    for epoch in range(2):
        for x, labels in images(16).epoch(epoch, seed=1, batch=8, augment=lambda given: given):
            step(x, labels, rate=learning_rate(config, step=step.taken, steps=4))
            average.update_parameters(raw)
        expected.append({k: v.clone() for k, v in average.module.state_dict().items()})
    for got, wanted in zip(seen, expected, strict=True):
        assert_same(got, wanted)
    assert_same(weights(net), seen[-1])
    name = "stem.1.running_mean"
    assert not torch.equal(seen[-1][name], weights(raw)[name])


def test_the_checkpoint_of_an_average_holds_both_and_the_last_one_the_average(tmp_path):
    config, net = replace(CONFIG, ema=0.6), network()
    checkpoint = Checkpoint(tmp_path / "net", "mine")
    with pytest.raises(Stop):
        fit(
            net,
            images(),
            epochs=2,
            seed=1,
            config=config,
            checkpoint=checkpoint,
            on_event=stop_after(0),
        )
    held, name = load_tensors(checkpoint.path), "stem.0.weight"
    assert torch.equal(held[f"ema.{name}"], weights(net)[name])
    assert not torch.equal(held[f"model.{name}"], held[f"ema.{name}"])
    fit(net, images(), epochs=2, seed=1, config=config, checkpoint=checkpoint)
    held = load_tensors(checkpoint.path)
    assert torch.equal(held[f"model.{name}"], weights(net)[name])
    assert not [key for key in held if key.startswith("ema")]


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step"])
def test_the_rate_climbs_in_a_line_and_then_follows_its_schedule(schedule):
    config = TrainConfig(lr=0.2, schedule=schedule)
    rates = [learning_rate(config, step=step, steps=100, warmup=10) for step in range(100)]
    line = [0.2 * (1 / 25 + 24 / 25 * step / 10) for step in range(11)]
    assert rates[:11] == pytest.approx(line)
    assert max(rates) == pytest.approx(0.2) == rates[10]
    if schedule == "step":
        assert rates[10:] == [learning_rate(config, step=n, steps=100) for n in range(10, 100)]
    else:
        cosine = [0.1 * (1 + math.cos(math.pi * step / 89)) for step in range(90)]
        assert rates[10:] == pytest.approx(cosine)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_is_torchvisions_image_by_image(policy, channels):
    pixels = torch.randint(
        0, 256, (5, channels, 16, 16), generator=generator_for("pixels"), dtype=torch.uint8
    )
    change = augmented(policy, lambda given: given.flip(3), key=("policy", 3, 1))
    got = [change(pixels) for _ in range(2)]
    for number, batch_ in enumerate(got):
        with seeded("policy", 3, 1, number):
            theirs = getattr(v2, POLICIES[policy])()
            wanted = torch.stack([theirs(image) for image in pixels.flip(3)])
        assert torch.equal(batch_, wanted)
    assert not torch.equal(*got)
    assert len({image.numpy().tobytes() for image in torch.cat(got)}) > 5  # draws of their own


def test_a_policy_refuses_what_are_no_pictures():
    config = replace(CONFIG, augment="randaugment")
    words = (
        "augment = 'randaugment' changes bytes in 1 or 3 channels, and these images are float32"
    )
    items = TensorDataset(torch.rand(16, 1, 8, 8), torch.arange(16) % 3)
    with pytest.raises(DataError, match=f"{words} in 1; set"):
        fit(network(), items, epochs=1, seed=0, config=config)
    bands = TensorImages(
        torch.zeros(8, 2, 8, 8, dtype=torch.uint8), torch.arange(8) % 3, (0.5,) * 2, (0.5,) * 2
    )
    with pytest.raises(DataError, match="these images are uint8 in 2"):
        augmented("augmix", lambda given: given, key=("policy",))(bands.images)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing_is_torchvisions_and_labels_are_shares_of_classes(mixup, cutmix):
    mix = mixing(mixup, cutmix, classes=3)
    assert mix is not None
    x, labels = batch()
    kinds = set()
    for number in range(12):
        with seeded("mix", number):
            mixed, shares = mix(x, labels)
        assert mixed.shape == x.shape
        assert shares.shape == (8, 3)
        torch.testing.assert_close(shares.sum(1), torch.ones(8))
        # Of two images pixel by pixel one or the other, or of all pixels a mean.
        other = x.roll(1, 0)
        kinds.add(bool(((mixed == x) | (mixed == other)).all()))
    assert kinds == {kind for kind, alpha in ((False, mixup), (True, cutmix)) if alpha}
    assert mixing(0.0, 0.0, classes=3) is None


@pytest.mark.parametrize("weighed", [(), (1.0, 2.0, 0.5)])
def test_the_loss_of_mixed_images_is_that_of_their_shares(weighed):
    net, plain = network(), network()
    config = replace(CONFIG, label_smoothing=0.0)
    step = TrainingStep(net.train(), config, USUAL, weights=weighed)
    x, labels = batch()
    shares = F.one_hot(labels, 3) * 0.7 + F.one_hot(labels.roll(1), 3) * 0.3
    loss, hits = step(x, shares, rate=0.01)
    logits = plain.train()(x)
    weight, each = torch.tensor(weighed or (1.0,) * 3), F.log_softmax(logits, 1)
    both = -(shares * weight * each).sum(1).mean()
    torch.testing.assert_close(loss, both.detach())
    assert int(hits) == int((logits.argmax(1) == labels).sum())


def test_a_graph_holds_no_adamw_and_auto_knows_it(monkeypatch):
    monkeypatch.setattr(steps, "STRATEGIES", {"cpu": 10**9})
    monkeypatch.setattr(steps, "SUPERNETS", {"cpu": 10**9})
    monkeypatch.setattr(steps, "TOGETHER", {"cpu": (5, 10**9)})
    cpu = torch.device("cpu")
    for config, expected in ((CONFIG, "graph"), (replace(CONFIG, optimizer="adamw"), "eager")):
        way: dict[str, Any] = {"precision": "float32", "drawn": False}
        assert steps.strategy_for(config, network(), cpu, **way) == expected
        assert together_for(config, cpu, params=10) == (5 if expected == "graph" else 1)
    asked = replace(CONFIG, optimizer="adamw", strategy="graph")
    with pytest.raises(ConfigError, match="strategy is 'graph' with optimizer = 'adamw', whose"):
        fit(network(), images(), epochs=1, seed=0, config=asked)
    # The norm of all gradients is known to a graph of all, and to none of a supernet's pieces.
    clip, way = replace(CONFIG, clip=0.5), {"precision": "float32"}
    assert steps.strategy_for(clip, network(), cpu, drawn=False, **way) == "graph"
    assert steps.strategy_for(CONFIG, supernet(), cpu, drawn=True, **way) == "blocks"
    assert steps.strategy_for(clip, supernet(), cpu, drawn=True, **way) == "eager"
    asked = replace(clip, strategy="graph")
    with pytest.raises(ConfigError, match=r"'graph' with clip = 0.5 of a supernet, whose steps"):
        fit(supernet(), images(), epochs=1, seed=0, config=asked, draw=draw)


@pytest.mark.parametrize(
    ("recipe", "made"),
    [
        *((recipe, network) for recipe in ("clip", "ema", "mixup", "warmup")),
        *((recipe, supernet) for recipe in ("ema", "cutmix", "body")),
    ],
)
def test_a_recorded_step_of_a_recipe_is_the_usual_one_to_the_bit(recipe, made):
    """By one graph, and by graphs of pieces."""
    nets, seen = [made(), made()], []
    way: dict[str, Any] = {"epochs": 2, "seed": 1, "draw": draw if made is supernet else None}
    way["body"] = BODY if recipe == "body" else ()
    changes = {"lr_body": 0.003} if recipe == "body" else RECIPES[recipe]
    for net, strategy in zip(nets, ("eager", "graph"), strict=True):
        config = replace(CONFIG, **changes, strategy=strategy)
        seen.append(fit(net, images(), config=config, **way))
    assert_same(*map(weights, nets))
    assert seen[0] == seen[1]
