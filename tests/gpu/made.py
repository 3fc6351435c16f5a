"""Images, networks and schemes for the tests marked gpu."""

import torch

from sat_optuna.config.config import TrainConfig
from sat_optuna.data.images import TensorImages
from sat_optuna.data.split import Split
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet
from tests.networks import stirred

BLOCKS, CLASSES, SHAPE = (2, 1, 1), 4, (3, 16, 16)
CONFIG = TrainConfig(batch=16, lr=0.02, shift=1, flip=True, cutout=2, label_smoothing=0.1)


def arrays(count):
    """Images of noise whose brightness tells the class, and their labels."""
    drawn = generator_for("gpu images", count)
    labels = torch.randint(0, CLASSES, (count,), generator=drawn)
    noise = torch.randint(0, 80, (count, *SHAPE), generator=drawn)
    return (noise + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels


def images(count, device):
    pixels, labels = arrays(count)
    return TensorImages(pixels, labels, (0.5,) * 3, (0.25,) * 3).to(device)


def split(count, device):
    test = arrays(40)
    return Split.from_arrays(*arrays(count), valid=0.25, test=test, device=device)


def supernet(device, attention=("se",), *, seed=0, blocks=BLOCKS):
    net = Supernet(
        "resnet20",
        attention=attention,
        in_channels=3,
        classes=CLASSES,
        seed=seed,
        width=8,
        blocks=blocks,
    )
    return stirred(net).to(device)


def draw(step):
    return draw_scheme(BLOCKS, 1, connect=0.5, draws="iid", seed=3, step=step)


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, msg=name)
