"""Where does attention pay in a segmentation network? One's own loop and measure, by `attach`.

    python studies/examples/segmentation.py

The model is torchvision's DeepLabV3 with a ResNet-50; the images are made here: bright discs on
noise. The measure is the intersection over union of the discs. Put your own model, batches and
measure in their places.
"""

import argparse
from collections.abc import Sequence

import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import deeplabv3_resnet50

import sat_optuna as sat

SIDE = 64


def batch_of(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return (N, 3, H, W) images and (N, H, W) masks: 1 inside the disc, 0 outside."""
    chance = torch.Generator().manual_seed(seed)
    centre = SIDE * (0.25 + 0.5 * torch.rand(count, 2, 1, 1, generator=chance))
    radius = SIDE * (0.1 + 0.2 * torch.rand(count, 1, 1, generator=chance))
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    distance = (rows - centre[:, 0]).square() + (columns - centre[:, 1]).square()
    masks = (distance < radius.square()).long()
    noise = torch.rand(count, 3, SIDE, SIDE, generator=chance)
    return noise + 0.5 * masks[:, None], masks


def overlap(model: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Return the intersection over union of what is taken for a disc, 0 to 1."""
    with torch.no_grad():
        found = model(images)["out"].argmax(1)
    both, either = (found & masks).sum(), (found | masks).sum()
    return float(both / either.clamp_min(1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train under random schemes, search, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--trials", type=int, default=8)
    given = parser.parse_args(arguments)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2)
        slots = sat.attach(model, attention=["eca"], seed=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        model.train()
        for step in range(given.steps):  # a scheme a step: the model is trained for all of them
            images, masks = batch_of(4, seed=step)
            with slots.using(slots.random_scheme(0, step)):
                loss = F.cross_entropy(model(images)["out"], masks)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    calibration = [batch_of(8, seed=10_000 + number)[0] for number in range(2)]
    valid = batch_of(16, seed=20_000)

    def objective(trial: optuna.Trial) -> float:
        scheme = slots.suggest(trial)
        with slots.recalibrated(scheme, calibration, forward=model):
            return overlap(model, *valid)

    study = optuna.create_study(direction="maximize", sampler=sat.PolicyGradientSampler(seed=0))
    study.optimize(objective, n_trials=given.trials)

    best = slots.suggest(study.best_trial)
    ticket = slots.materialise(best)  # a DeepLabV3 with attention in those blocks alone
    cost = slots.cost(best, valid[0][:1])
    print(f"{type(ticket).__name__} {sat.scheme_of(ticket)}: overlap {study.best_value:.3f}")
    print(f"attention adds {cost.params:,} parameters and {cost.macs:,} multiply-adds an image")


if __name__ == "__main__":
    main()
