"""What is trained on: the loss of a task, and the weights of its classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import sat_optuna as sat
from sat_optuna.config.config import TrainConfig
from sat_optuna.errors import DataError
from sat_optuna.tasks import build_task

CONFIG = TrainConfig(batch=12, shift=0, precision="float32", schedule="cosine", lr=1e-8)
X = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0] * 18 + [1] * 4 + [2] * 2)
HOT = F.one_hot(LABELS, 3).float()
NUMBERS = torch.linspace(0, 1, 24)

WEIGHTS = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy()))


MASKS = torch.randint(0, 3, (24, 8, 8), generator=torch.Generator().manual_seed(0))
MASKS[:, :3] = 255
MASKS[:, 3:5] = 0
PIXEL_WEIGHTS = torch.tensor(
    compute_class_weight("balanced", classes=np.arange(3), y=MASKS[MASKS < 255].numpy())
)
DENSITIES = torch.rand(24, 8, 8, generator=torch.Generator().manual_seed(1)) / 50


def net_of(outputs, maps=False):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        if maps:
            return nn.Sequential(nn.Conv2d(3, outputs, 3, padding=1))
        return nn.Sequential(nn.Flatten(), nn.Linear(192, outputs))


def same(x, maps=None):
    return x if maps is None else (x, maps)


@pytest.mark.parametrize(
    ("task", "y", "config", "loss"),
    [
        (build_task("classification"), LABELS, CONFIG, nn.CrossEntropyLoss()),
        (
            build_task("classification", class_weights="balanced"),
            LABELS,
            CONFIG,
            nn.CrossEntropyLoss(weight=WEIGHTS.float()),
        ),
        (
            build_task("classification", class_weights="balanced"),
            LABELS,
            replace(CONFIG, label_smoothing=0.2),
            nn.CrossEntropyLoss(weight=WEIGHTS.float(), label_smoothing=0.2),
        ),
        (build_task("multi-label"), HOT, CONFIG, nn.BCEWithLogitsLoss()),
        (build_task("regression"), NUMBERS, CONFIG, nn.MSELoss()),
        (build_task("segmentation"), MASKS, CONFIG, nn.CrossEntropyLoss(ignore_index=255)),
        (
            build_task("segmentation", class_weights="balanced"),
            MASKS,
            CONFIG,
            nn.CrossEntropyLoss(weight=PIXEL_WEIGHTS.float(), ignore_index=255),
        ),
        (
            build_task("counting"),
            DENSITIES,
            replace(CONFIG, optimizer="adamw"),  # its steps are small where the loss is large
            lambda z, y: 100**2 * F.mse_loss(z[:, 0], y),
        ),
    ],
    ids=[
        "classification",
        "weighted",
        "weighted and smoothed",
        "multi-label",
        "regression",
        "segmentation",
        "weighted segmentation",
        "counting",
    ],
)
def test_what_is_trained_on_is_torchs_loss(task, y, config, loss):
    data = sat.Split.from_arrays(X, y, targets=task.targets, valid=0.5, classes=None)
    images = data.train_and_valid
    net = net_of(data.classes, maps=task.maps)
    (record,) = sat.fit(net, images, epochs=1, seed=0, config=config, task=task)
    seen = []
    for x, targets in images.epoch(0, seed=0, batch=12, augment=same):
        outputs = net(x)  # so small a rate changes nothing
        seen.append(loss(outputs[:, 0] if task.targets == "numbers" else outputs, targets))
    assert record.loss == pytest.approx(float(torch.stack(seen).mean().detach()), rel=1e-5)
    assert (record.accuracy is None) == (task.targets != "labels")


def test_balanced_weights_are_scikit_learns():
    task = build_task("classification", class_weights="balanced")
    assert np.allclose(task.weights((18, 4, 2), 3), WEIGHTS.numpy())
    assert task.weights((18, 0, 6), 4) == (24 / 36, 0.0, 24 / 12, 0.0)
    assert build_task("classification").weights((18, 4, 2), 3) == ()


def test_a_supernet_is_pretrained_and_its_network_trained_for_any_task():
    data = sat.Split.from_arrays(X, NUMBERS, targets="numbers", valid=0.5)
    net = sat.Supernet(
        "resnet20", attention=["se"], in_channels=3, classes=1, seed=0, width=4, blocks=(1, 1, 1)
    )
    config = TrainConfig(batch=4, lr=0.01)
    records = sat.pretrain(net, data, epochs=2, seed=0, config=config, task="regression")
    assert records[1].accuracy is None
    ticket_net = sat.materialise(net, sat.Scheme.parse("1-0-0"))
    sat.fit(ticket_net, data.train, epochs=1, seed=0, config=config, task="regression")
    found = sat.evaluate_network(ticket_net, data.valid, task="regression", metrics=["r2"])
    assert np.isfinite(found.scores["r2"])


@pytest.mark.parametrize(
    ("given", "task", "config", "said"),
    [
        (
            TensorDataset(X, LABELS),
            build_task("classification", class_weights="balanced"),
            CONFIG,
            "class_weights is 'balanced', and how many images each class of a Dataset or "
            "DataLoader has is not known before it is read; give arrays (sat.Split.from_arrays), "
            "or set it to 'none'",
        ),
        (
            TensorDataset(X, NUMBERS),
            build_task("classification"),
            CONFIG,
            "y of a batch of the Dataset is float32; give whole numbers, the classes numbered "
            "from 0, for example numpy.unique(y, return_inverse=True)[1], or targets='numbers' to "
            "learn the number itself",
        ),
        (
            TensorDataset(X, NUMBERS),
            build_task("regression"),
            TrainConfig(batch=12, label_smoothing=0.1),
            "label_smoothing is 0.1 and the task regression has no labels to smooth; set "
            "train.label_smoothing to 0",
        ),
        (
            TensorDataset(X, NUMBERS),
            build_task("regression"),
            TrainConfig(batch=12, mixup=0.2),
            "mixup is 0.2 and the task is regression, whose loss takes no shares of classes; set "
            "train.mixup and train.cutmix to 0",
        ),
        (
            TensorDataset(X, MASKS),
            build_task("segmentation"),
            TrainConfig(batch=12, mixup=0.2),
            "mixup is 0.2 and the task is segmentation, whose loss takes no shares of classes; "
            "set train.mixup and train.cutmix to 0",
        ),
        (
            TensorDataset(X, MASKS),
            build_task("segmentation"),
            TrainConfig(batch=12, label_smoothing=0.1),
            "label_smoothing is 0.1 and the task segmentation has no labels to smooth; set "
            "train.label_smoothing to 0",
        ),
        (
            TensorDataset(X, DENSITIES),
            build_task("counting"),
            TrainConfig(batch=12, augment="trivialaugment"),
            "augment is 'trivialaugment' and the task is counting, whose maps it would not move "
            "with the images; set train.augment to 'none'",
        ),
        (
            TensorDataset(X, MASKS),
            build_task("segmentation", class_weights="balanced"),
            CONFIG,
            "the network returns shape (1, 1) for one image, and the images come with masks; give "
            "one that returns (N, outputs, H, W), as a ResNet with network.head = 'fcn' "
            "does",
        ),
        (
            TensorDataset(X, LABELS),
            replace(build_task("classification"), name="mine", loss=nn.functional.nll_loss),
            TrainConfig(batch=12, cutmix=1.0),
            "cutmix is 1.0 and the task is mine, whose loss takes no shares of classes; set "
            "train.mixup and train.cutmix to 0",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence(given, task, config, said):
    with pytest.raises(DataError) as caught:
        sat.fit(net_of(1), given, epochs=1, seed=0, config=config, task=task)
    assert str(caught.value) == said
