"""Where does attention pay in a detector? One's own model, loop and measure, through `attach`.

    python studies/examples/detector.py

The model is torchvision's Faster R-CNN with a ResNet-50 and a feature pyramid; the images are made
here: bright rectangles on noise. The measure is the mean, over all boxes, of the best overlap that
a detection has with it. Put your own model, batches and measure in their places.
"""

import argparse
from collections.abc import Sequence

import optuna
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.ops import box_iou

import sat_optuna as sat

SIDE = 64
Target = dict[str, Tensor]


def batch_of(count: int, *, seed: int) -> tuple[list[Tensor], list[Target]]:
    """Return images (3, H, W), and for each the box of its rectangle."""
    chance = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for _ in range(count):
        image = 0.3 * torch.rand(3, SIDE, SIDE, generator=chance)
        left, top = torch.randint(0, SIDE // 2, (2,), generator=chance).tolist()
        wide, high = torch.randint(SIDE // 4, SIDE // 2, (2,), generator=chance).tolist()
        image[:, top : top + high, left : left + wide] += 0.7
        images.append(image)
        box = torch.tensor([[left, top, left + wide, top + high]], dtype=torch.float32)
        targets.append({"boxes": box, "labels": torch.ones(1, dtype=torch.int64)})
    return images, targets


def detector() -> nn.Module:
    """Return an untrained detector of one class that runs few proposals, for a CPU."""
    model: nn.Module = fasterrcnn_resnet50_fpn(
        weights=None,  # yours has some
        weights_backbone=None,
        num_classes=2,
        min_size=SIDE,
        max_size=SIDE,
        rpn_pre_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=20,
        box_batch_size_per_image=32,
        box_score_thresh=0.0,
    )
    return model


def overlap(model: nn.Module, images: list[Tensor], targets: list[Target]) -> float:
    """Return the mean over the boxes of their best overlap with a detection, 0 to 1."""
    with torch.no_grad():
        found = model(images)
    best = [
        box_iou(target["boxes"], each["boxes"]).amax(1) if len(each["boxes"]) else torch.zeros(1)
        for target, each in zip(targets, found, strict=True)
    ]
    return float(torch.cat(best).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train under random schemes, search, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--trials", type=int, default=8)
    given = parser.parse_args(arguments)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = detector()
        slots = sat.attach(model, attention=["se"], seed=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        model.train()
        for step in range(given.steps):  # a scheme a step: the model is trained for all of them
            with slots.using(slots.random_scheme(0, step)):
                losses = sum(model(*batch_of(2, seed=step)).values())
                optimizer.zero_grad()
                losses.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 10.0)
                optimizer.step()

    calibration = [batch_of(4, seed=10_000 + number)[0] for number in range(2)]
    valid = batch_of(8, seed=20_000)

    def objective(trial: optuna.Trial) -> float:
        scheme = slots.suggest(trial)
        with slots.recalibrated(scheme, calibration, forward=model):
            return overlap(model, *valid)

    study = optuna.create_study(direction="maximize", sampler=sat.PolicyGradientSampler(seed=0))
    study.optimize(objective, n_trials=given.trials)

    best = slots.suggest(study.best_trial)
    ticket = slots.materialise(best)  # a Faster R-CNN with attention in those blocks alone
    cost = slots.cost(best, [valid[0][0]])
    print(f"{type(ticket).__name__} {sat.scheme_of(ticket)}: overlap {study.best_value:.3f}")
    print(f"attention adds {cost.params:,} parameters and {cost.macs:,} multiply-adds an image")


if __name__ == "__main__":
    main()
