"""One's own training loop with a random scheme each step, then a search over placements.

    python studies/examples/plain_loop.py

The task is no classification: a ResNet says how bright a square is, from noisy images made here.
"""

import argparse
from collections.abc import Sequence

import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock, ResNet

import sat_optuna as sat


def squares(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return (N, 3, 24, 24) images and how bright the square of each is, (N, 1), 0 to 1."""
    chance = torch.Generator().manual_seed(seed)
    brightness = torch.rand(count, 1, generator=chance)
    images = torch.rand(count, 3, 24, 24, generator=chance)
    images[:, :, 6:14, 9:17] += brightness[:, :, None, None]
    return images, brightness


def main(arguments: Sequence[str] | None = None) -> None:
    """Train under random schemes, search, train the ticket on, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--trials", type=int, default=8)
    given = parser.parse_args(arguments)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=1)
        slots = sat.attach(model, attention=["se", "simam"], seed=0)
        loader = DataLoader(TensorDataset(*squares(256, seed=1)), batch_size=32, shuffle=True)

        def train(net: nn.Module, *, shared: bool) -> None:
            """Train a ticket; or, `shared`, the model for all schemes at once."""
            optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
            net.train()
            for epoch in range(given.epochs):
                for number, (images, wanted) in enumerate(loader):
                    optimizer.zero_grad()
                    if shared:
                        step = epoch * len(loader) + number
                        with slots.using(slots.random_scheme(0, step)):
                            F.mse_loss(net(images), wanted).backward()
                    else:
                        F.mse_loss(net(images), wanted).backward()
                    optimizer.step()

        train(model, shared=True)
        calibration = squares(128, seed=1)[0].split(64)
        images, wanted = squares(128, seed=2)

        def objective(trial: optuna.Trial) -> float:
            scheme = slots.suggest(trial)
            with slots.recalibrated(scheme, calibration, forward=model), torch.no_grad():
                return float(F.mse_loss(model(images), wanted))

        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        study.optimize(objective, n_trials=given.trials)
        ticket = slots.materialise(slots.suggest(study.best_trial))
        train(ticket, shared=False)  # attention in the chosen blocks alone
        ticket.eval()
        with torch.no_grad():
            error = float(F.mse_loss(ticket(images), wanted))
    print(f"{type(ticket).__name__} {sat.scheme_of(ticket)}: squared error {error:.4f}")


if __name__ == "__main__":
    main()
