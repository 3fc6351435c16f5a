"""Maps stay with their images, whatever is done to both in training."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

import sat_optuna as sat
from sat_optuna.config.config import IGNORED, TrainConfig
from sat_optuna.data.augment import augment, patches
from sat_optuna.data.density import density_map
from sat_optuna.data.images import TensorImages
from sat_optuna.errors import DataError
from sat_optuna.seeds import generator_for
from sat_optuna.tasks import build_task

HEIGHT, WIDTH = 9, 12


def numbered(count: int = 5) -> torch.Tensor:
    """Images whose pixels all differ, (N, 1, H, W), 1 and up."""
    pixels = torch.arange(1, 1 + count * HEIGHT * WIDTH, dtype=torch.int64)
    return pixels.view(count, 1, HEIGHT, WIDTH)


@given(
    side=st.integers(1, HEIGHT),
    shift=st.integers(0, 4),
    flip=st.booleans(),
    cutout=st.integers(0, 6),
    seed=st.integers(0, 999),
)
def test_each_pixel_keeps_its_truth_under_every_augmentation(side, shift, flip, cutout, seed):
    images = numbered()
    chance = generator_for("places", seed)
    x, maps = patches(images, images[:, 0].float(), chance, side=side)
    assert x.shape == (5, 1, side, side)
    x, maps = augment(x, generator_for(seed), maps, shift=shift, flip=flip, cutout=cutout)
    # What is cut out or came in is 0 in the image; what came in has no truth either.
    seen = x[:, 0] > 0
    assert torch.equal(maps[seen].long(), x[:, 0][seen])
    if not cutout:
        assert bool((maps[~seen] == 0).all())


@given(side=st.integers(1, HEIGHT), seed=st.integers(0, 999))
def test_a_patch_is_a_square_of_its_image(side, seed):
    images = numbered()
    x, maps = patches(images, images[:, 0], generator_for(seed), side=side)
    squares = images.unfold(2, side, 1).unfold(3, side, 1)[:, 0]
    for one, of in zip(x[:, 0], squares, strict=True):
        assert bool((of == one).all((2, 3)).sum() == 1)
    assert torch.equal(x[:, 0], maps)


def test_patches_come_from_every_place_about_equally_often():
    images = numbered(1).expand(4_000, 1, HEIGHT, WIDTH)
    x, _ = patches(images, images[:, 0], generator_for(0), side=7)
    places = torch.bincount(x[:, 0, 0, 0] - 1)
    assert int((places > 0).sum()) == 3 * 6
    assert float(places[places > 0].min() / (4_000 / 18)) > 0.6


def test_a_patch_of_a_density_counts_the_dots_in_it():
    density = torch.from_numpy(density_map([(3.0, 3.0), (6.0, 9.0)], (HEIGHT, WIDTH), sigma=0.3))
    images, maps = numbered(50), density.expand(50, HEIGHT, WIDTH)
    x, cut = patches(images, maps, generator_for(0), side=6)
    first = (x[:, 0, 0, 0] - 1) % (HEIGHT * WIDTH)
    tops, lefts = first // WIDTH, first % WIDTH
    for one, top, left in zip(cut, tops.tolist(), lefts.tolist(), strict=True):
        whole = density[top : top + 6, left : left + 6].sum()
        assert float(one.sum()) == pytest.approx(float(whole))


class Seen:
    """A network's inputs in training."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.values: list[torch.Tensor] = []

    def __call__(self, module: Any, given: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            self.shapes.append(tuple(given[0].shape))
            self.values.append(given[0].clone())


SETTINGS: dict[str, Any] = {"in_channels": 1, "width": 4, "blocks": (1, 1, 1), "head": "fcn"}


def trained(seed: int, height: int = 13, **config: Any) -> Seen:
    x = torch.rand(8, 1, height, 11, generator=generator_for("x"))
    images = TensorImages(x, (x[:, 0] > 0.5).to(torch.uint8))
    net = sat.build_backbone("resnet20", classes=2, **SETTINGS)
    net.register_forward_pre_hook(seen := Seen())
    made = TrainConfig(batch=4, **config)
    sat.fit(net, images, epochs=2, seed=seed, config=made, task="segmentation")
    found = sat.evaluate_network(net, images, task="segmentation", metrics=["pixel_accuracy"])
    assert found.n == 8  # whole images, 13 x 11
    return seen


def test_training_is_on_patches_that_a_seed_decides_and_testing_on_whole_images():
    first, again, other = (trained(seed, crop=6) for seed in (0, 0, 1))
    assert first.shapes == [(4, 1, 6, 6)] * 4
    assert all(map(torch.equal, first.values, again.values))
    assert not all(map(torch.equal, first.values, other.values))
    assert not torch.equal(first.values[0], first.values[2])  # anew in each epoch


def test_all_but_the_places_is_drawn_as_of_whole_images():
    whole = trained(0, height=11, shift=1, flip=True, cutout=3)
    patched = trained(0, height=11, shift=1, flip=True, cutout=3, crop=11)
    assert whole.shapes == [(4, 1, 11, 11)] * 4
    assert all(map(torch.equal, whole.values, patched.values))


def test_a_supernet_learns_the_same_from_patches_step_by_step_and_in_pieces():
    """Patches of 7 x 7, and of each a map from an output stride of 4."""
    x = torch.rand(8, 1, 13, 11, generator=generator_for("x"))
    images = TensorImages(x, (x[:, 0] > 0.5).to(torch.uint8))
    made = []
    for strategy in ("eager", "graph"):
        net = sat.Supernet("resnet20", attention=["se"], classes=2, seed=0, **SETTINGS)
        config = TrainConfig(batch=4, crop=7, strategy=strategy)
        sat.pretrain(net, images, epochs=2, seed=0, config=config, task="segmentation")
        made.append(net.state_dict())
    assert all(torch.equal(made[0][key], value) for key, value in made[1].items())


X = torch.rand(6, 1, 8, 10, generator=generator_for("given"))


@pytest.mark.parametrize(
    ("targets", "task", "crop", "said"),
    [
        (
            torch.arange(6) % 2,
            "classification",
            4,
            "crop is 4 and the task is classification, whose target is of a whole image and need "
            "not be that of a patch; set train.crop to 0",
        ),
        (
            torch.rand(6),
            "regression",
            8,
            "crop is 8 and the task is regression, whose target is of a whole image and need not "
            "be that of a patch; set train.crop to 0",
        ),
        (
            torch.zeros(6, 8, 10, dtype=torch.uint8),
            "segmentation",
            9,
            "crop is 9 and the images are 8 x 10; set train.crop to at most 8, or to 0 for whole "
            "images",
        ),
        (
            torch.zeros(6, 8, 10),
            "counting",
            10,
            "crop is 10 and the images are 8 x 10; set train.crop to at most 8, or to 0 for whole "
            "images",
        ),
    ],
)
def test_what_no_patch_can_be_cut_of_is_one_sentence(targets, task, crop, said):
    net = sat.build_backbone("resnet20", in_channels=1, classes=2, width=4, blocks=(1, 1, 1))
    with pytest.raises(DataError) as caught:
        sat.fit(
            net,
            TensorDataset(X, targets),
            epochs=1,
            seed=0,
            config=TrainConfig(batch=2, crop=crop),
            task=build_task(task),
        )
    assert str(caught.value) == said


def test_ignored_pixels_stay_ignored_in_a_patch():
    masks = torch.full((4, 8, 10), IGNORED, dtype=torch.uint8)
    _, cut = patches(X[:4], masks, generator_for(0), side=5)
    assert bool((cut == IGNORED).all())
