"""Images that stay in their files and are decoded batch by batch, by workers if wanted."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from sat_optuna.data.images import IndexedImages
from sat_optuna.data.pixels import Numbers, read_pixels
from sat_optuna.errors import DataError

__all__ = ["BYTES", "FolderImages", "Scale", "read_image"]

_WHITES: dict[Numbers, tuple[int, ...]] = {
    "bytes": (255,),
    "whole": (255, 1023, 4095, 16383, 65535),
    "floats": (1, 255),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """What the numbers of a data set's files mean: one scale for all of its parts.

    >>> Scale.holding("whole", 3900.0)
    Scale(numbers='whole', white=4095)

    Attributes:
        numbers: what all files hold.
        white: the number that is white, which the network gets as 1 before it is normalised.
    """

    numbers: Numbers
    white: int

    @classmethod
    def holding(cls, numbers: Numbers, highest: float) -> "Scale | None":
        """Return the smallest usual scale that holds a number, None where there is none."""
        fits = [white for white in _WHITES[numbers] if highest <= white]
        return cls(numbers, fits[0]) if fits else None

    @property
    def dtype(self) -> type[np.uint8 | np.float32]:
        """The type that images are handed on in."""
        return np.uint8 if self.numbers == "bytes" else np.float32

    def check(self, path: Path, array: NDArray[Any]) -> None:
        """Make sure that an image's numbers fit.

        Raises:
            DataError: they are of another kind or too high.
        """
        kind = {"u": "whole", "i": "whole", "f": "floats"}[array.dtype.kind]
        kind = "bytes" if array.dtype == np.uint8 else kind
        if kind != self.numbers:
            raise DataError(
                f"image {path} holds {NUMBERS[kind]}, those to train on {NUMBERS[self.numbers]}; "
                "bring all to one"
            )
        if (highest := array.max()) > self.white:
            raise DataError(
                f"image {path} has the number {highest}, and those to train on are read from 0 to "
                f"{self.white}; bring all images to one range"
            )

    def __str__(self) -> str:
        return f"{NUMBERS[self.numbers]}, read as 0 to {self.white}"


NUMBERS = {"bytes": "8-bit numbers", "whole": "whole numbers", "floats": "floats"}
BYTES = Scale("bytes", 255)


class FolderImages(IndexedImages):
    """Images read from files as they are needed, in exactly the order asked for.

    Args:
        paths: (N,) the files.
        labels: (N,) int64.
        shape: (C, H, W) each image has or is brought to.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        scale: what their numbers mean.
        resize: bring each image to H x W (scaled, middle cut out); if not, another size is an
            error.
        workers: processes that decode; 0 decodes in this one.
        device: where batches arrive.
    """

    def __init__(
        self,
        paths: tuple[Path, ...],
        labels: Tensor,
        *,
        shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        scale: Scale = BYTES,
        resize: bool,
        workers: int,
        device: torch.device,
    ) -> None:
        super().__init__(labels, shape=shape, mean=mean, std=std, device=device, white=scale.white)
        self.paths, self.scale = paths, scale
        self._resize = resize
        self._workers = workers

    @override
    def subset(self, index: Tensor) -> "FolderImages":
        paths = tuple(self.paths[row] for row in index.tolist())
        return self._like(paths, self.labels[index.to(self.device)])

    @override
    def to(self, device: torch.device | str) -> "FolderImages":
        return self._like(self.paths, self.labels, device=torch.device(device))

    @override
    def inputs(self) -> dict[str, Any]:
        return {**super().inputs(), "numbers": self.scale.numbers, "resize": self._resize}

    def normalised_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> "FolderImages":
        """Return the same images under another normalisation."""
        return self._like(self.paths, self.labels, mean=mean, std=std)

    def raw(self, batch_size: int) -> Iterator[Tensor]:
        """Yield all images in the numbers of their files: (n, C, H, W) on `device`.

        They are uint8, or float32 where the files hold more than bytes.

        Raises:
            DataError: an image file is missing or broken.
        """
        return self._raw(torch.split(torch.arange(len(self)), batch_size))

    def _like(
        self,
        paths: tuple[Path, ...],
        labels: Tensor,
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        device: torch.device | None = None,
    ) -> "FolderImages":
        return FolderImages(
            paths,
            labels,
            shape=self.shape,
            mean=mean or self.mean,
            std=std or self.std,
            scale=self.scale,
            resize=self._resize,
            workers=self._workers,
            device=device or self.device,
        )

    @override
    def _raw(self, chunks: tuple[Tensor, ...]) -> Iterator[Tensor]:
        # One element of the sampler is a whole batch, so the order is the caller's, not a
        # sampler's; the Generator keeps the loader from drawing on torch's global one.
        on_gpu = self.device.type == "cuda"
        loader = DataLoader(
            _Decoder(self.paths, self.shape, self.scale, resize=self._resize),
            batch_size=None,
            sampler=[chunk.tolist() for chunk in chunks],
            num_workers=self._workers,
            pin_memory=on_gpu,
            generator=torch.Generator(),
        )
        for batch in loader:
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch.to(self.device, non_blocking=on_gpu)


class _Decoder(Dataset["Tensor | str"]):
    """Rows of a batch in, (n, C, H, W) out, uint8 or float32.

    A fault comes out as its message: an exception would reach the user as the worker's traceback.
    """

    def __init__(
        self,
        paths: tuple[Path, ...],
        shape: tuple[int, int, int],
        scale: Scale,
        *,
        resize: bool,
    ) -> None:
        self._paths = paths
        self._shape, self._scale = shape, scale
        self._resize = resize

    @override
    def __getitem__(self, rows: list[int]) -> Tensor | str:
        bytes_alone = self._scale.numbers == "bytes"
        dtype = torch.uint8 if bytes_alone else torch.float32
        batch = torch.empty((len(rows), *self._shape), dtype=dtype)
        try:
            for index, row in enumerate(rows):
                batch[index] = read_image(
                    self._paths[row], self._shape, self._scale, resize=self._resize
                )
        except DataError as error:
            return str(error)
        return batch


def read_image(
    path: Path, shape: tuple[int, int, int] | None, scale: Scale = BYTES, *, resize: bool
) -> Tensor:
    """Read one image file; grey images become three equal channels where C is not 1.

    Args:
        path: the file.
        shape: (C, H, W) wanted; None takes the image as it is.
        scale: of the data set's numbers.
        resize: bring it to `shape`: scaled until it covers it, then the middle is cut out.

    Returns:
        (C, H, W), uint8 of bytes, else float32 in the file's own numbers.

    Raises:
        DataError: it is missing or broken, of another size and not to be resized, of other
            channels, or its numbers do not fit the scale.
    """
    array = read_pixels(path)
    scale.check(path, array)
    if shape is not None:
        channels, height, width = shape
        if channels == 1 and array.shape[2] == 3 and (array == array[:, :, :1]).all():
            array = array[:, :, :1]  # grey, for a network that takes it so
        if array.shape[2] != channels:
            raise DataError(
                f"image {path} has {array.shape[2]} channels, others have {channels}; bring all "
                "to one number"
            )
        if resize:
            array = _fitted(array.astype(scale.dtype, copy=False), height, width)
        elif array.shape[:2] != (height, width):
            raise DataError(
                f"image {path} has {array.shape[0]} x {array.shape[1]} pixels, others have "
                f"{height} x {width}; set size to bring all images to one size"
            )
    # A copy that may be written: of mapped, mirrored or repeated pixels.
    return torch.from_numpy(np.array(array, scale.dtype, order="C")).permute(2, 0, 1)


def _fitted(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Bring (H, W, C) to another height and width as ImageOps.fit does."""
    colour = array.dtype == np.uint8 and array.shape[2] == 3
    bands = [array] if colour else [array[:, :, band] for band in range(array.shape[2])]
    fitted = [
        np.array(
            ImageOps.fit(
                Image.fromarray(np.ascontiguousarray(band)),
                (width, height),
                Image.Resampling.BILINEAR,
            )
        )
        for band in bands
    ]
    return fitted[0] if colour else np.stack(fitted, axis=2)
