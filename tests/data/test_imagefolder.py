import numpy as np
import pytest
import torch
from PIL import Image

from sat_optuna.data import get_dataset
from sat_optuna.errors import DataError
from tests.data.formats import write_images
from tests.data.reading import load_dataset, paths


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path, counts={"cat": 10, "dog": 5})
    return write_images(tmp_path, counts={"cat": 2, "dog": 3}, part="test")


def decoded(files) -> np.ndarray:
    return np.stack([np.array(Image.open(path)).transpose(2, 0, 1) for path in files])


def test_folders_are_classes_and_are_split_stratified(root):
    split = load_dataset("imagefolder", root=root, valid=0.4)
    assert (split.class_names, split.shape) == (("cat", "dog"), (3, 8, 6))
    assert torch.bincount(split.train.labels).tolist() == [6, 3]
    assert torch.bincount(split.valid.labels).tolist() == [4, 2]
    assert split.train_and_valid.labels.tolist() == [0] * 10 + [1] * 5
    assert split.test.labels.tolist() == [0] * 2 + [1] * 3
    assert not set(paths(split.train)) & set(paths(split.valid))


@pytest.mark.parametrize("workers", [0, 1])
def test_streaming_equals_loading_all(root, workers):
    split = load_dataset("imagefolder", root=root, workers=workers)
    images = split.train_and_valid
    order = torch.tensor([3, 14, 0, 3, 9])
    got = list(images.batches(order, 2))
    assert [len(x) for x, _ in got] == [2, 2, 1]
    pixels = torch.from_numpy(decoded([paths(images)[row] for row in order.tolist()]))
    mean = torch.tensor(images.mean).view(-1, 1, 1)
    std = torch.tensor(images.std).view(-1, 1, 1)
    torch.testing.assert_close(torch.cat([x for x, _ in got]), (pixels / 255 - mean) / std)
    assert torch.cat([y for _, y in got]).tolist() == [0, 1, 0, 0, 0]


def test_statistics_are_those_of_train_alone(root):
    split = load_dataset("imagefolder", root=root)
    pixels = decoded(paths(split.train)).transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(split.train.mean, pixels.mean(axis=1))
    np.testing.assert_allclose(split.train.std, pixels.std(axis=1))
    for part in (split.valid, split.test, split.train_and_valid):
        assert (part.mean, part.std) == (split.train.mean, split.train.std)


def test_augmentation_sees_raw_bytes(root):
    images = load_dataset("imagefolder", root=root).train
    seen = []

    def look(raw: torch.Tensor) -> torch.Tensor:
        seen.append(raw)
        return raw

    list(images.batches(None, 5, augment=look))
    np.testing.assert_array_equal(torch.cat(seen).numpy(), decoded(paths(images)))


@pytest.mark.parametrize("workers", [0, 1])
def test_streaming_leaves_the_global_generator_alone(root, workers):
    images = load_dataset("imagefolder", root=root, workers=workers).train
    before = torch.random.get_rng_state()
    list(images.batches(None, 5))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_subset_on_a_device_streams_its_own_images(root):
    images = load_dataset("imagefolder", root=root).train_and_valid
    part = images.subset(torch.tensor([12, 2])).to("cpu")
    assert torch.equal(
        next(iter(part.batches(None, 2)))[0],
        next(iter(images.batches(torch.tensor([12, 2]), 2)))[0],
    )


def test_a_size_brings_all_images_to_one(root):
    odd = Image.fromarray(np.full((30, 17), 200, np.uint8))
    odd.save(root / "train" / "dog" / "odd.JPG")
    split = load_dataset("imagefolder", root=root, size=5)
    assert split.shape == split.test.shape == (3, 5, 5)
    images = split.train_and_valid
    last = next(iter(images.batches(torch.tensor([15]), 1)))[0][0]
    grey = (200 / 255 - torch.tensor(images.mean)) / torch.tensor(images.std)
    torch.testing.assert_close(last, grey.view(3, 1, 1).expand(3, 5, 5))


def test_the_fingerprint_sees_names_sizes_and_settings(root):
    seen = [load_dataset("imagefolder", root=root, valid=v).fingerprint for v in (0.2, 0.3, 0.2)]
    assert seen[0] == seen[2]
    first = root / "train" / "cat" / "000.png"
    first.rename(first.with_name("a.png"))
    seen.append(load_dataset("imagefolder", root=root).fingerprint)
    Image.new("RGB", (6, 8)).save(root / "train" / "cat" / "a.png")
    seen.append(load_dataset("imagefolder", root=root).fingerprint)
    assert len(set(seen)) == 4


def test_the_fingerprint_does_not_see_where_the_folder_lies(root):
    before = load_dataset("imagefolder", root=root).fingerprint
    moved = root.rename(root.with_name("elsewhere"))
    assert load_dataset("imagefolder", root=moved).fingerprint == before


@pytest.mark.parametrize(
    ("limit", "kept"), [(4, [2, 2]), (6, [3, 3]), (7, [4, 3]), (13, [8, 5]), (15, [10, 5])]
)
def test_a_limit_keeps_equally_of_each_class_as_far_as_it_goes(root, limit, kept):
    split = load_dataset("imagefolder", root=root, limit=limit, valid=0.5)
    assert torch.bincount(split.train_and_valid.labels).tolist() == kept
    assert all(min(counts.values()) for counts in split.class_counts.values())


def test_a_limit_of_more_than_there_is_is_refused(root):
    with pytest.raises(DataError, match=r"limit = 16 .* has 15 training images in 2 classes"):
        load_dataset("imagefolder", root=root, limit=16)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_when_its_batch_comes(root, workers):
    images = load_dataset("imagefolder", root=root, workers=workers).train_and_valid
    broken = paths(images)[4]
    broken.write_bytes(broken.read_bytes()[:60])
    batches = images.batches(None, 4)
    next(batches)
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value).startswith(f"image {broken} is broken (")
    assert str(caught.value).endswith("); replace it or delete it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 8, 20, 50, 100])
def test_an_image_cut_off_anywhere_is_named(root, keep):
    broken = root / "train" / "dog" / "001.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"image {broken} is broken \(.*\); replace it"):
        list(load_dataset("imagefolder", root=root).train_and_valid.batches(None, 15))


def test_an_image_of_another_size_is_named(root):
    Image.new("RGB", (9, 9)).save(root / "train" / "dog" / "big.png")
    with pytest.raises(DataError, match=r"big.png has 9 x 9 pixels, others have 8 x 6; set size"):
        list(load_dataset("imagefolder", root=root).train_and_valid.batches(None, 99))


def test_an_image_too_large_to_be_true_is_named(root, monkeypatch):
    images = load_dataset("imagefolder", root=root).train
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"image .*.png is too large \(.*exceeds limit"):
        list(images.batches(None, 4))


def test_a_missing_image_is_named(root):
    images = load_dataset("imagefolder", root=root).train
    paths(images)[0].unlink()
    with pytest.raises(DataError, match=rf"image {paths(images)[0]} is missing; replace it or"):
        list(images.batches(None, 4))


def test_a_dead_link_is_named(root):
    (root / "train" / "cat" / "z.png").symlink_to(root / "nowhere")
    with pytest.raises(DataError, match=r"image .*z.png is missing; "):
        load_dataset("imagefolder", root=root)


def test_a_missing_folder_is_named_with_the_layout(tmp_path):
    for ask in (load_dataset, get_dataset):
        with pytest.raises(DataError, match=rf"{tmp_path}/train is missing; .* train/<class>/\*"):
            ask("imagefolder", root=tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=rf"{tmp_path}/train has no folders in it"):
        load_dataset("imagefolder", root=tmp_path)


def test_a_class_without_images_is_named(root):
    (root / "train" / "emu").mkdir()
    (root / "train" / "emu" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"class folder .*/emu has no images \(.bmp, .*delete it"):
        load_dataset("imagefolder", root=root)


def test_without_a_test_folder_only_test_is_refused(tmp_path):
    write_images(tmp_path, counts={"cat": 10, "dog": 5})
    split = load_dataset("imagefolder", root=tmp_path)
    with pytest.raises(DataError, match=rf"{tmp_path}/test is missing"):
        _ = split.test


def test_a_test_folder_of_other_classes_is_refused(root):
    write_images(root, counts={"emu": 1}, part="test")
    split = load_dataset("imagefolder", root=root)
    with pytest.raises(DataError, match=r"should hold the same classes, but emu is in one alone"):
        _ = split.test


def test_getting_a_folder_that_is_there_says_where(root):
    assert get_dataset("imagefolder", root) == root
