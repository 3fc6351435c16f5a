import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.data.augment import augment, draw
from sat_optuna.data.images import TensorImages
from sat_optuna.seeds import generator_for


def batch(count: int = 64, *, channels: int = 3, height: int = 9, width: int = 7) -> torch.Tensor:
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator_for("batch"))


def slow(image: np.ndarray, down, right, mirrored, middle, *, shift, cutout) -> np.ndarray:
    """One image, the textbook way: pad, crop, mirror, cut."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (shift, shift), (shift, shift)))
    top, left = shift + down, shift + right
    out = padded[:, top : top + height, left : left + width]
    if mirrored:
        out = out[:, :, ::-1]
    out = out.copy()
    for row in range(height):
        for column in range(width):
            top, left = middle[0] - cutout // 2, middle[1] - cutout // 2
            if top <= row < top + cutout and left <= column < left + cutout:
                out[:, row, column] = 0
    return out


@given(
    shift=st.integers(0, 8),
    flip=st.booleans(),
    cutout=st.integers(0, 10),
    channels=st.sampled_from([1, 3]),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_each_image_is_as_the_slow_way_makes_it(shift, flip, cutout, channels, dtype, seed):
    images = batch(6, channels=channels).to(dtype)
    before = images.clone()
    draws = draw(images, generator_for(seed), shift)
    got = augment(images, generator_for(seed), shift=shift, flip=flip, cutout=cutout)
    assert got.dtype == dtype
    assert torch.equal(images, before)
    for n, image in enumerate(images):
        down, right = draws.shifts[n].tolist()
        expected = slow(
            image.float().numpy(),
            down,
            right,
            flip and draws.flips[n].item(),
            draws.centres[n].tolist(),
            shift=shift,
            cutout=cutout,
        )
        np.testing.assert_array_equal(got[n].float().numpy(), expected)


def test_nothing_switched_on_gives_the_batch_itself_and_draws_nothing():
    images, generator = batch(), generator_for(0)
    before = generator.get_state()
    assert augment(images, generator, shift=0, flip=False, cutout=0) is images
    assert torch.equal(generator.get_state(), before)


def test_draws_take_every_value_about_equally_often():
    draws = draw(torch.zeros(20_000, 1, 9, 7), generator_for(0), 2)
    for values, least, count in (
        (draws.shifts[:, 0], -2, 5),
        (draws.shifts[:, 1], -2, 5),
        (draws.flips.long(), 0, 2),
        (draws.centres[:, 0], 0, 9),
        (draws.centres[:, 1], 0, 7),
    ):
        frequency = torch.bincount(values - least) / len(values)
        assert len(frequency) == count
        torch.testing.assert_close(frequency, torch.full((count,), 1 / count), rtol=0, atol=0.015)


def test_images_are_drawn_for_one_by_one():
    same = batch(1).expand(40, -1, -1, -1)
    out = augment(same, generator_for(0), shift=2, flip=True, cutout=3)
    assert len(torch.unique(out.flatten(1), dim=0)) > 30


def test_switching_one_thing_off_leaves_the_other_draws():
    images = batch()
    both = augment(images, generator_for(3), shift=2, flip=True, cutout=4)
    moved = augment(images, generator_for(3), shift=2, flip=True, cutout=0)
    assert torch.equal(both[both > 0], moved[both > 0])


@pytest.mark.parametrize("shift", [0, 2])
def test_flipping_is_its_own_inverse_and_loses_nothing(shift):
    images = batch()
    mirrored = augment(images, generator_for(0), shift=0, flip=True, cutout=0)
    changed = (mirrored != images).flatten(1).any(dim=1)
    assert 10 < changed.sum() < 54
    assert torch.equal(torch.where(changed[:, None, None, None], mirrored.flip(3), images), images)


@given(
    shift=st.integers(0, 8),
    flip=st.booleans(),
    cutout=st.integers(0, 10),
    kind=st.sampled_from([torch.uint8, torch.int64, torch.float32]),
    seed=st.integers(0, 999),
)
def test_a_map_moves_as_its_image_and_is_not_cut(shift, flip, cutout, kind, seed):
    images = batch(6).clamp(1, 254)
    maps = images[:, 0].to(kind)
    before = maps.clone()
    amounts = {"shift": shift, "flip": flip}
    got, moved = augment(images, generator_for(seed), maps, **amounts, cutout=cutout)
    assert torch.equal(maps, before)
    assert moved.dtype == kind
    # The image as without a map, and the map as a plane of the image that nothing is cut from.
    assert torch.equal(got, augment(images, generator_for(seed), **amounts, cutout=cutout))
    plane = augment(images, generator_for(seed), **amounts, cutout=0)[:, 0].to(kind)
    outside = 0 if kind == torch.float32 else 255
    # The planes have no 0 of their own: a 0 comes in from outside, where a map knows nothing.
    assert torch.equal(moved, torch.where(plane == 0, outside, plane))


def test_the_maps_of_an_epoch_are_moved_by_seed_and_place():
    images = batch(24, channels=1, height=8, width=8) - 1  # 0..254
    data = TensorImages(images, images[:, 0].clone(), (0.0,), (1.0,))

    def change(x, maps):
        return augment(x, generator_for("epoch"), maps, shift=2, flip=True, cutout=0)

    first, again = (list(data.epoch(0, seed=3, batch=8, augment=change)) for _ in range(2))
    for (x, masks), (same_x, same_masks) in zip(first, again, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(masks, same_masks)
        inside = masks != 255
        assert inside.any()
        assert torch.equal((255 * x[:, 0]).round().long()[inside], masks[inside])
