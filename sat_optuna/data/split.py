"""A data set in its parts, and how a training part is divided into train and valid."""

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Real

import torch
from torch import Tensor

from sat_optuna.data.arrays import UserArray, UserPair, checked_pair
from sat_optuna.data.images import (
    Images,
    IndexedImages,
    TensorImages,
    channel_statistics,
    highest_class,
    pixel_counts,
)
from sat_optuna.data.loaders import UserData, joined_images, read_once, training_images
from sat_optuna.device import known_device, memory_for
from sat_optuna.errors import DataError
from sat_optuna.seeds import generator_for
from sat_optuna.ticket import Inputs

__all__ = [
    "Split",
    "as_split",
    "even_subset",
    "random_split",
    "split_mark",
    "stratified_split",
    "stratified_subset",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A data set in parts; `test` is opened when it is first asked for.

    Named data come from `load_dataset`, one's own from `from_arrays` or `from_loaders`.

    Attributes:
        name: the data set.
        class_names: one a class, in label order, two at least; of numbers one for the number.
        shape: (C, H, W).
        fingerprint: SHA-256 that changes with what is trained and validated on.
        train: training part without `valid`.
        valid: images held back from training, which schemes are scored on.
        train_and_valid: both, for retraining; normalised as `train` is, so that one network sees
            one normalisation.
        load_test: opens the test part; None where there is none.
        find_test: makes sure that the test part is there and whole as far as can be told without
            learning from its pixels; None where there is nothing to look at.
        remarks: what a user should know of how the data are read, a sentence each.
    """

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    fingerprint: str
    train: Images
    valid: Images
    train_and_valid: Images
    load_test: Callable[[], Images] | None = None
    find_test: Callable[[], object] | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.classes < 2 and self.targets in ("labels", "masks"):
            raise DataError(
                f"data {self.name!r} have {self.classes} class, too few to tell apart; give "
                "images of two classes at least"
            )

    @classmethod
    def from_arrays(
        cls,
        x: UserArray,
        y: UserArray | Sequence[int],
        *,
        valid: float | UserPair = 0.2,
        test: UserPair | None = None,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        name: str = "arrays",
        device: torch.device | str | None = None,
        targets: str = "labels",
    ) -> "Split":
        """Make a Split of images in memory.

        >>> import numpy as np
        >>> x, y = np.zeros((50, 3, 32, 32), np.uint8), np.arange(50) % 10
        >>> data = Split.from_arrays(x, y, valid=0.2)
        >>> data.shape, data.classes, len(data.train), len(data.valid)
        ((3, 32, 32), 10, 40, 10)

        Args:
            x: images (N, C, H, W) to train on, NumPy or torch. Bytes (uint8) are normalised by the
                mean and deviation of each channel over the training part, as named data are.
                Floats are taken as they are, in float32.
            y: labels (N,), whole numbers from 0; or what `targets` says.
            valid: share of the images that is held back from training, 0 < valid < 1, drawn by
                `seed`, of labels stratified; or further images and labels (x, y).
            test: images and labels (x, y) to test on; without them the Split has no test part.
            classes: a name for each class, in label order; None counts them and calls them "0",
                "1", ...
            seed: draws `valid`.
            name: what tickets call these data.
            device: where the images shall live; None leaves them where they are. They are copied.
            targets: what `y` holds, by the task: "labels"; "multi-hot", (N, classes) of 0 and 1,
                for an image of several classes; "numbers", (N,), to learn a number; "masks",
                (N, H, W), the class of each pixel, 255 where it has none; or "density", (N, H, W)
                of `density_map`, to count.

        Raises:
            DeviceError: there is no such device here.
            DataError: an array is not what it must be; the sentence says how.
        """
        images, labels = checked_pair(x, y, targets=targets)
        where = images.device if device is None else known_device(device)
        images, labels = _copied(images, where), labels.to("cpu", copy=True)
        if isinstance(valid, tuple | list):
            more, more_labels = _further(valid, "valid", images, labels, targets)
            rows = torch.arange(len(images) + len(more))
            train, held = rows[: len(images)], rows[len(images) :]
            with _room_for(more):
                images = torch.cat([images, more.to(where)])
            labels = torch.cat([labels, more_labels.cpu()])
            names = _class_names(classes, labels[train])
            _check_known(labels[held], names, "valid")
            if classes is None and targets == "labels":
                _check_covers(labels[held], names)
        else:
            names = _class_names(classes, labels)
            train, held = (
                stratified_split(labels, _share(valid), seed, names=names)
                if targets == "labels"
                else random_split(len(labels), _share(valid), seed)
            )
        mean: tuple[float, ...] = ()
        std: tuple[float, ...] = ()
        if images.dtype == torch.uint8:
            mean, std = channel_statistics(pixel_counts(images[train]))
        load_test = None
        if test is not None:
            pixels, numbers = _further(test, "test", images, labels, targets)
            _check_known(numbers, names, "test")
            tested = _copied(pixels, where), numbers.to("cpu", copy=True)
            load_test = partial(TensorImages, *tested, mean, std)
        part = TensorImages(images, labels, mean, std)
        return cls(
            name=name,
            class_names=names,
            shape=part.shape,
            fingerprint=_digest(name, images, labels, held),
            train=part.subset(train),
            valid=part.subset(held),
            train_and_valid=part,
            load_test=load_test,
        )

    @classmethod
    def from_loaders(
        cls,
        train: UserData,
        valid: UserData,
        *,
        test: UserData | None = None,
        classes: Sequence[str] | None = None,
        name: str = "loaders",
        device: torch.device | str = "cpu",
        targets: str = "labels",
    ) -> "Split":
        """Make a Split of Datasets or DataLoaders, whose items are (image, label).

        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> items = TensorDataset(torch.zeros(20, 3, 32, 32), torch.arange(20) % 2)
        >>> data = Split.from_loaders(DataLoader(items, batch_size=8, shuffle=True), items)
        >>> data.shape, data.classes, len(data.train), len(data.valid)
        ((3, 32, 32), 2, 20, 20)

        An image is a float tensor (C, H, W), a label a whole number from 0. The training part is
        read anew in each epoch: a DataLoader's in its own order and batches, a Dataset's in those
        of the configuration. The augmentation of the configuration comes on top of that of the
        transform. The other parts are read once, in order, and kept in memory as float32.
        Retraining reads the training and the validation Dataset as the training part.

        Args:
            train: a map-style Dataset, or a DataLoader of one.
            valid: the same; a DataLoader that shuffles is refused.
            test: the same, read when it is first asked for; without it the Split has no test part.
            classes: a name for each class, in label order; None counts those of `valid` and calls
                them "0", "1", ...
            name: what tickets call these data.
            device: where batches arrive, and where what is read once is kept.
            targets: what stands in the place of labels, as of `from_arrays`.

        Raises:
            DeviceError: there is no such device here.
            DataError: one of them is not what it must be; the sentence says how.
        """
        device = known_device(device)
        training = training_images(train, device=device, targets=targets)
        held = read_once(valid, device=device, targets=targets)
        if training.shape != held.shape:
            raise DataError(
                f"images of shape {training.shape} are trained on and images of shape "
                f"{held.shape} validated on; bring both to one shape"
            )
        names = _class_names(classes, held.labels)
        return cls(
            name=name,
            class_names=names,
            shape=held.shape,
            fingerprint=_digest(f"{name} {len(training)}", held.images, held.labels),
            train=training,
            valid=held,
            train_and_valid=joined_images(train, valid, device=device, targets=targets),
            load_test=None
            if test is None
            else partial(read_once, test, device=device, targets=targets),
        )

    @property
    def classes(self) -> int:
        """The number of classes, or of outputs that a network needs."""
        return len(self.class_names)

    @property
    def inputs(self) -> Inputs:
        """How images become what a network that is trained on these data takes."""
        part = self.train_and_valid
        known = part.inputs() if isinstance(part, IndexedImages) else {}
        return Inputs(class_names=self.class_names, **known)

    @property
    def targets(self) -> str:
        """What each image comes with, one of `arrays.TARGETS`."""
        return self.valid.targets

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """How many images of each class `train` and `valid` hold, by the classes' names.

        >>> x, y = torch.zeros(10, 3, 8, 8), [0] * 6 + [1] * 4
        >>> Split.from_arrays(x, y, valid=0.5, classes=["cat", "dog"]).class_counts
        {'train': {'cat': 3, 'dog': 2}, 'valid': {'cat': 3, 'dog': 2}}

        A part whose labels are not known without reading its images, a Dataset's, is left out, and
        one without labels, such as one of masks.
        The test part is asked itself: `data.test.class_counts()`.
        """
        known = {"train": self.train.class_counts(), "valid": self.valid.class_counts()}
        return {
            part: {
                name: counts[label] if label < len(counts) else 0
                for label, name in enumerate(self.class_names)
            }
            for part, counts in known.items()
            if counts
        }

    @cached_property
    def test(self) -> Images:
        """The test part; no seed changes it.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        if self.load_test is None:
            raise DataError(
                f"data {self.name!r} have no test part; give test=... where the Split is made"
            )
        return self.load_test()

    def check_test(self) -> None:
        """Make sure that there is a test part to open later.

        Its pixels are read where a number may be too high for the scale alone: an image folder's
        of more than 8 bits.

        Raises:
            DataError: it is missing or faulty.
        """
        if self.load_test is None:
            _ = self.test  # says so
        elif self.find_test is not None:
            self.find_test()


def as_split(given: object) -> Split:
    """Return the Split that was given.

    Raises:
        DataError: it is something else.
    """
    if isinstance(given, Split):
        return given
    raise DataError(
        f"a {type(given).__name__} was given where a Split is wanted; make one with "
        "sat.Split.from_arrays(x, y) or sat.Split.from_loaders(train, valid)"
    )


def _share(given: object) -> float:
    if isinstance(given, Real):
        return float(given)
    raise DataError(
        f"valid is a {type(given).__name__}; give a share such as 0.2, or images and labels (x, y)"
    )


def _room_for(images: Tensor) -> AbstractContextManager[None]:
    return memory_for(f"{len(images)} images", "give fewer")


def _copied(images: Tensor, device: torch.device) -> Tensor:
    with _room_for(images):
        return images.to(device, copy=True)


def _further(
    given: object, part: str, images: Tensor, labels: Tensor, targets: str
) -> tuple[Tensor, Tensor]:
    """Return the images and labels of another part, of the shape and type of these images."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise DataError(f"{part} is a {type(given).__name__}; give images and labels (x, y)")
    x, y = checked_pair(*given, of=f" of {part}", targets=targets)
    if targets == "multi-hot" and y.shape[1:] != labels.shape[1:]:
        raise DataError(
            f"y of {part} has {y.shape[1]} columns and that to train on {labels.shape[1]}; give "
            "both the same classes"
        )
    for what, found, wanted in (
        ("shape", tuple(x.shape[1:]), tuple(images.shape[1:])),
        ("type", x.dtype, images.dtype),
    ):
        if found != wanted:
            raise DataError(
                f"the images of {part} have {what} {found} and those to train on {wanted}; bring "
                "both to one"
            )
    return x, y


def _class_names(given: Sequence[str] | None, labels: Tensor) -> tuple[str, ...]:
    """Return a name for each class; counted by these labels where none are given."""
    if labels.is_floating_point():
        outputs = labels.shape[1] if labels.ndim == 2 else 1
        if given is not None and len(given) != outputs:
            raise DataError(
                f"classes names {len(given)} and the targets have {outputs} values an image; give "
                "a name for each"
            )
        usual = {1: ("number",), 2: map(str, range(outputs)), 3: ("density",)}[labels.ndim]
        return tuple(usual if given is None else given)
    where = "image" if labels.ndim == 1 else "pixel"
    counts = torch.bincount(labels.cpu().flatten())[: highest_class(labels) + 1]
    if given is None:
        if missing := (counts == 0).nonzero().flatten().tolist():
            raise DataError(
                f"no {where} has the label {missing[0]} and one has {len(counts) - 1}; number the "
                "classes 0, 1, 2, ... without a gap, or name all in classes"
            )
        return tuple(str(number) for number in range(len(counts)))
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise DataError(f"classes is {given!r}; give a list with a name for each class")
    if len(counts) > len(given):
        raise DataError(
            f"{'an' if where == 'image' else 'a'} {where} has the label {len(counts) - 1} and "
            f"classes names {len(given)}; number them 0 to {len(given) - 1}, or name all in "
            "classes"
        )
    return tuple(given)


def _check_known(labels: Tensor, names: Sequence[str], part: str) -> None:
    if not labels.is_floating_point() and (top := highest_class(labels)) >= len(names):
        raise DataError(
            f"y of {part} has the label {top} and there are {len(names)} classes; number them 0 "
            f"to {len(names) - 1}, or name all in classes"
        )


def _check_covers(labels: Tensor, names: Sequence[str]) -> None:
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    if 0 in counts:
        raise DataError(
            f"y of valid has no image of class {names[counts.index(0)]}, which is trained on; "
            "give some, or name all classes in classes if it shall be so"
        )


def _digest(name: str, images: Tensor, *more: Tensor) -> str:
    digest = hashlib.sha256(f"{name}\n{images.dtype} {tuple(images.shape)}\n".encode())
    for tensor in (images, *more):
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def stratified_subset(labels: Tensor, keep: int, *purpose: object) -> Tensor:
    """Draw `keep` rows so that each class has its share, give or take less than one image.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> labels[stratified_subset(labels, 3, "example")].tolist()
    [0, 0, 1]

    Args:
        labels: (N,) int64.
        keep: how many rows, 0..N.
        purpose: what the draw is for, which seeds it as in `seeds.generator_for`.

    Returns:
        (keep,) int64 rows, ascending. Drawn for the same purpose, a smaller `keep` takes of each
        class the first of the images that a larger one takes.
    """
    return _drawn(labels, _quotas(torch.bincount(labels).tolist(), keep), *purpose)


def even_subset(labels: Tensor, keep: int, *purpose: object) -> Tensor:
    """Draw `keep` rows, equally from each class as far as its images go.

    >>> labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2])
    >>> labels[even_subset(labels, 6, "example")].tolist()
    [0, 0, 0, 1, 1, 2]

    A class that has fewer images than its part gives all of them, and the others share the rest.

    Args:
        labels: (N,) int64.
        keep: how many rows, 0..N.
        purpose: as in `stratified_subset`.

    Returns:
        (keep,) int64 rows, ascending.
    """
    counts = torch.bincount(labels).tolist()
    level, left = max(counts), keep
    for place, count in enumerate(sorted(counts)):
        if count > left // (len(counts) - place):
            level = left // (len(counts) - place)
            break
        left -= count
    quotas = [min(count, level) for count in counts]
    # What the division left over goes to the first of the larger classes, an image each.
    larger = [label for label, count in enumerate(counts) if count > level]
    for label in larger[: keep - sum(quotas)]:
        quotas[label] += 1
    return _drawn(labels, quotas, *purpose)


def stratified_split(
    labels: Tensor,
    share: float,
    seed: int,
    *,
    names: Sequence[str] | None = None,
    purpose: str = "split",
) -> tuple[Tensor, Tensor]:
    """Divide rows into train and valid, class by class; each class is in both.

    Args:
        labels: (N,) int64.
        share: part of the rows that becomes valid, 0 < share < 1.
        seed: draws the rows.
        names: of the classes, for messages; None calls them by their labels.
        purpose: what the draw is for; another one draws other rows.

    Returns:
        The rows of train and of valid, (n,) int64 each, ascending: round(share * N) in valid, of
        each class its share, but an image at least, and an image at least left to train on.

    Raises:
        DataError: `share` is out of range, or too small or too large for an image of each class
            in both parts.
    """
    if not 0 < share < 1:
        raise DataError(f"valid is a share between 0 and 1, got {share}; 0.2 is usual")
    counts = torch.bincount(labels).tolist()
    total, classes = round(share * len(labels)), len(counts) - counts.count(0)
    rarest = min((count, label) for label, count in enumerate(counts) if count)
    if rarest[0] < 2 or not classes <= total <= len(labels) - classes:
        count, label = rarest
        name = repr(names[label]) if names else str(label)
        if purpose == "flat test":
            raise DataError(
                f"{len(labels)} images of {classes} classes are too few to test on {share:.0%} of "
                f"each, class {name} has {count}; add images, or make train/ and test/ folders"
            )
        raise DataError(
            f"{len(labels)} training images of {classes} classes are too few for valid = {share}, "
            f"class {name} has {count}: each class needs an image to train on and one to validate "
            f"on; {_split_advice(count, classes, len(labels))}"
        )
    valid = _drawn(labels, _covering(counts, total), purpose, seed)
    held_back = torch.zeros(len(labels), dtype=torch.bool)
    held_back[valid] = True
    return (~held_back).nonzero().flatten(), valid


def random_split(
    images: int, share: float, seed: int, *, purpose: str = "split"
) -> tuple[Tensor, Tensor]:
    """Divide rows into train and valid, ascending, at least one in each.

    Args:
        images: number of rows.
        share: part of the rows that becomes valid, 0 < share < 1.
        seed: draws the rows.
        purpose: what the draw is for; another one draws other rows.

    Raises:
        DataError: `share` is out of range, or there are less than two rows.
    """
    if not 0 < share < 1:
        raise DataError(f"valid is a share between 0 and 1, got {share}; 0.2 is usual")
    if images < 2:
        raise DataError(
            f"{images} image{'s' * (images != 1)} cannot make two parts; give two at least"
        )
    held = min(max(round(share * images), 1), images - 1)
    order = torch.randperm(images, generator=generator_for(purpose, seed))
    return order[held:].sort().values, order[:held].sort().values


def split_mark(labels: Tensor, valid: Tensor) -> str:
    """Return what a fingerprint must add for a split in which rare classes got more than a share.

    Empty for a split that is by shares alone: that of every data set whose classes are large
    enough, so that its fingerprint is that of version 0.2.0, which knew no other.
    """
    found = torch.bincount(labels[valid]).tolist()
    plain = _quotas(torch.bincount(labels).tolist(), len(valid))
    return "" if found == plain else f"valid {found}\n"


def _split_advice(fewest: int, classes: int, images: int) -> str:
    if fewest < 2:
        return "add images of it or leave the class out"
    # Rounded inwards, so that what is advised is accepted.
    least, most = math.ceil(1000 * classes / images), 1000 - math.ceil(1000 * classes / images)
    if least > most:
        return "add images"
    wanted = f"= {least / 1000}" if least == most else f"from {least / 1000} to {most / 1000}"
    return f"add images or choose valid {wanted}"


def _drawn(labels: Tensor, quotas: list[int], *purpose: object) -> Tensor:
    """Draw so many rows of each class."""
    drawn = []
    for label, quota in enumerate(quotas):
        rows = (labels == label).nonzero().flatten()
        shuffled = rows[torch.randperm(len(rows), generator=generator_for(*purpose, label))]
        drawn.append(shuffled[:quota])
    return torch.cat(drawn).sort().values


def _covering(counts: list[int], total: int) -> list[int]:
    """Return quotas by share, but at least 1 and at most all but 1 of each class."""
    plain = _quotas(counts, total)
    quotas = [
        min(max(quota, 1), count - 1) if count else 0
        for quota, count in zip(plain, counts, strict=True)
    ]
    share = total / sum(counts)
    while (over := sum(quotas) - total) != 0:
        step = -1 if over > 0 else 1
        room = [
            label
            for label, count in enumerate(counts)
            if count and 1 <= quotas[label] + step <= count - 1
        ]
        # The class that is furthest off its share on that side gives or takes.
        furthest = max(room, key=lambda label: step * (share * counts[label] - quotas[label]))
        quotas[furthest] += step
    return quotas


def _quotas(counts: list[int], total: int) -> list[int]:
    # Largest remainders: the sum is exact and no class is off its share by one image or more.
    everything = sum(counts)
    quotas = [total * count // everything for count in counts]
    remainders = [total * count % everything for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda label: -remainders[label])
    for label in by_remainder[: total - sum(quotas)]:
        quotas[label] += 1
    return quotas
