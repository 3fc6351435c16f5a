"""Data on the device: augmented as on the CPU; batches arrive there, files by pinned memory."""

import pytest
import torch

from sat_optuna.backbones import build_backbone
from sat_optuna.data import load_dataset
from sat_optuna.data.augment import augment
from sat_optuna.seeds import generator_for
from sat_optuna.training.loop import fit
from tests.data.formats import write_images
from tests.gpu.made import CONFIG, images

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize(
    ("shift", "flip", "cutout"), [(2, False, 0), (0, True, 0), (0, False, 5), (2, True, 5)]
)
def test_the_same_draws_change_the_same_pixels(device, floats, shift, flip, cutout):
    pixels = images(40, "cpu").images
    given = pixels.float() if floats else pixels
    theirs, ours = (
        augment(x, generator_for("gpu", 0), shift=shift, flip=flip, cutout=cutout)
        for x in (given, given.to(device))
    )
    assert ours.device == device
    torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=0)


def test_batches_are_the_cpus(device):
    assert_batches_equal(images(40, device), images(40, "cpu"), device)


def assert_batches_equal(there, here, device):
    pairs = zip(there.batches(None, 5), here.batches(None, 5), strict=True)
    for (x, labels), (cpu_x, cpu_labels) in pairs:
        assert x.device == labels.device == device
        torch.testing.assert_close(x.cpu(), cpu_x, rtol=0, atol=1e-6)
        assert labels.cpu().equal(cpu_labels)


# Python 3.12 warns of the fork of a process with threads, which is how torch starts its readers.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_files_arrive_through_pinned_memory(device, tmp_path, workers):
    for part in ("train", "test"):
        write_images(tmp_path, counts={"cat": 12, "dog": 12}, part=part)
    here, there = (
        load_dataset("imagefolder", root=tmp_path, workers=workers, device=str(where)).train
        for where in ("cpu", device)
    )
    assert_batches_equal(there, here, device)
    net = build_backbone("resnet20", in_channels=3, classes=2, width=4, blocks=(1, 1, 1))
    history = fit(net.to(device), there, epochs=1, seed=0, config=CONFIG)
    assert len(history) == 1
