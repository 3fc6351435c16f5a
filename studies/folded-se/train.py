"""Train the SE-ResNet-20 networks that this study folds: python train.py [OPTIONS].

Each has SE after every block. They differ in their seed alone and are trained together, on
Fashion-MNIST's training part without what the study keeps for validation. The same command goes on
after any end.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import safetensors.torch
import torch

import sat_optuna as sat
from sat_optuna.config.config import TrainConfig
from sat_optuna.evaluate import evaluate_network
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.loop import Checkpoint, Training, fit_together
from sat_optuna.training.precision import pick_device, to_memory_format


def main() -> None:
    """Train the networks and write FOLDER/seed-K.safetensors and FOLDER/training.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--limit", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--root", default="", help="folder of the data; empty: the usual one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    asked = parser.parse_args()
    device = pick_device()
    torch.set_num_threads(1)
    data = sat.load_dataset(
        "fashion-mnist",
        seed=0,
        valid=0.1,
        limit=asked.limit or None,
        device=str(device),
        root=asked.root or None,
    )
    cuda = device.type == "cuda"
    config = TrainConfig(
        batch=128,
        flip=True,
        precision="bfloat16" if cuda else "auto",
        memory_format="channels_last" if cuda else "auto",
    )
    networks = []
    for seed in range(asked.seeds):
        net = sat.Supernet(
            "resnet20",
            attention=["se"],
            in_channels=1,
            classes=data.classes,
            seed=seed,
            width=asked.width,
        ).to(device)
        full = sat.Scheme((1,) * sum(net.stages), net.stages)
        model = materialise(net, full)
        to_memory_format(model, config, device)
        networks.append(model)
    asked.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    fit_together(
        Training(
            model,
            data.train,
            epochs=asked.epochs,
            seed=seed,
            config=config,
            checkpoint=Checkpoint(
                asked.out / f"training-{seed}.safetensors",
                f"seed {seed}, {asked.epochs} epochs, width {asked.width}, {data.fingerprint}",
            ),
        )
        for seed, model in enumerate(networks)
    )
    seconds = time.perf_counter() - began
    accuracy = []
    for seed, model in enumerate(networks):
        accuracy.append(evaluate_network(model.eval(), data.valid).accuracy)
        weights = {k: v.cpu().contiguous() for k, v in model.state_dict().items()}
        safetensors.torch.save_file(weights, asked.out / f"seed-{seed}.safetensors")
    report = {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "epochs": asked.epochs,
        "training_images": len(data.train),
        "validation_accuracy": accuracy,
        "train": {"batch": config.batch, "flip": config.flip, "precision": config.precision},
    }
    (asked.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
