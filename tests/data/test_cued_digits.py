"""Cued digits against a second, slow construction of the same images."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sat_optuna.data.mnist5k import Mnist5k
from sat_optuna.errors import DataError
from tests.data.reading import load_dataset, pixels


@cache
def probe() -> Any:
    return load_dataset("cued-digits")


def test_parts_shape_and_one_data_set_for_each_setting():
    split = load_dataset("cued-digits", valid=0.25)
    assert split.shape == (4, 16, 16)
    assert [len(p) for p in (split.train, split.valid, split.test)] == [4500, 1500, 3000]
    assert torch.equal(
        pixels(split.train_and_valid), torch.cat([pixels(split.train), pixels(split.valid)])
    )
    other = load_dataset("cued-digits", valid=0.25, seed=1)
    assert torch.equal(pixels(split.test), pixels(other.test))
    again = load_dataset("cued-digits")
    assert torch.equal(pixels(probe().train), pixels(again.train))
    assert probe().fingerprint == again.fingerprint
    assert len({found.fingerprint for found in (split, other, again)}) == 3


@pytest.mark.parametrize("part", ["train", "valid"])
def test_the_label_is_the_digit_that_the_lamp_asks_for(part):
    split = probe()
    images = getattr(split, part)
    digits, labels = Mnist5k().training_part(Path())
    small = F.interpolate(
        0.9 * torch.from_numpy(digits).float(), (16, 16), mode="bilinear", antialias=True
    )
    x = pixels(images)[:60].float()
    asked = (x[:, 3].amax((1, 2)) / 115).round().long()  # 0, 115 or 230, give or take noise
    assert set(asked.tolist()) == {0, 1, 2}
    plane = x[torch.arange(len(x)), asked]
    found = torch.cdist(plane.flatten(1), small[:, 0].flatten(1))
    assert found.amin(1).max() < 16 * 4  # what noise alone adds, before pixels are averaged
    assert labels[found.argmin(1).numpy()].tolist() == images.labels[:60].tolist()


def test_train_and_valid_are_made_of_different_digits():
    split = probe()
    digits = torch.from_numpy(Mnist5k().training_part(Path())[0]).float()
    small = F.interpolate(0.9 * digits, (16, 16), mode="bilinear", antialias=True)[:, 0].flatten(1)

    def sources(images) -> set[int]:
        planes = pixels(images)[:, :3].float().flatten(2).flatten(0, 1)
        return set(torch.cdist(planes, small).argmin(1).tolist())

    train, valid = sources(split.train), sources(split.valid)
    assert len(train) > 3000
    assert len(valid) > 700
    assert len(train & valid) < 10  # digits of which reduced copies look the same


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limit": 499}, "limit = 499 .* from 500 to 6000"),
        ({"limit": 6001}, "limit = 6001 .* from 500 to 6000"),
        ({"size": 32}, "cued-digits has images of 16 x 16 .* leave"),
    ],
)
def test_what_does_not_fit_is_refused(settings, said):
    with pytest.raises(DataError, match=said):
        load_dataset("cued-digits", **settings)


def test_classes_are_drawn_evenly():
    split = probe()
    counts = np.bincount(split.test.labels.numpy(), minlength=10)
    assert counts.min() > 240
    assert counts.max() < 360


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_mask_is_the_strokes_of_the_digit_that_the_lamp_asks_for(part):
    split = load_dataset("cued-seg")
    assert (split.shape, split.targets, split.class_names[:2]) == (
        (4, 16, 16),
        "masks",
        ("background", "0"),
    )
    images, digits = getattr(split, part), getattr(probe(), part)
    assert torch.equal(pixels(images), pixels(digits))
    masks = images.labels[:200]
    # Nothing but background and the digit's class.
    assert torch.equal(masks.amax((1, 2)), digits.labels[:200] + 1)
    assert set(masks.unique().tolist()) == set(range(11))
    own = digits.labels[:200, None, None] + 1
    assert ((masks == 0) | (masks == own)).all()
    # The plane that is asked for, but for noise, is bright there and dark elsewhere.
    x = pixels(images)[:200].float()
    asked = (x[:, 3].amax((1, 2)) / 115).round().long()
    plane = x[torch.arange(len(x)), asked]
    assert plane[masks > 0].min() > 57 - 12
    assert plane[masks == 0].max() < 57 + 12
    assert 0.15 < (masks > 0).float().mean() < 0.25
