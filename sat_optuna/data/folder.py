"""Images that stay in their files and are decoded batch by batch, by workers if wanted."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from sat_optuna.data.images import IndexedImages
from sat_optuna.errors import DataError

__all__ = ["FolderImages", "read_image"]


class FolderImages(IndexedImages):
    """Images read from files as they are needed, in exactly the order asked for.

    Args:
        paths: (N,) the files.
        labels: (N,) int64.
        shape: (3, H, W) each image has or is brought to.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
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
        resize: bool,
        workers: int,
        device: torch.device,
    ) -> None:
        super().__init__(labels, shape=shape, mean=mean, std=std, device=device)
        self.paths = paths
        self._resize = resize
        self._workers = workers

    @override
    def subset(self, index: Tensor) -> "FolderImages":
        paths = tuple(self.paths[row] for row in index.tolist())
        return self._like(paths, self.labels[index.to(self.device)])

    @override
    def to(self, device: torch.device | str) -> "FolderImages":
        return self._like(self.paths, self.labels, device=torch.device(device))

    def normalised_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> "FolderImages":
        """Return the same images under another normalisation."""
        return self._like(self.paths, self.labels, mean=mean, std=std)

    def raw(self, batch_size: int) -> Iterator[Tensor]:
        """Yield all images as they are in their files: uint8 (n, C, H, W) on `device`.

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
            _Decoder(self.paths, self.shape, resize=self._resize),
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
    """Rows of a batch in, uint8 (n, 3, H, W) out.

    A fault comes out as its message: an exception would reach the user as the worker's traceback.
    """

    def __init__(
        self, paths: tuple[Path, ...], shape: tuple[int, int, int], *, resize: bool
    ) -> None:
        self._paths = paths
        self._shape = shape
        self._resize = resize

    @override
    def __getitem__(self, rows: list[int]) -> Tensor | str:
        batch = torch.empty((len(rows), *self._shape), dtype=torch.uint8)
        try:
            for index, row in enumerate(rows):
                batch[index] = read_image(self._paths[row], self._shape, resize=self._resize)
        except DataError as error:
            return str(error)
        return batch


def read_image(path: Path, shape: tuple[int, int, int] | None, *, resize: bool) -> Tensor:
    """Read one image file as red, green and blue; grey images become three equal channels.

    Args:
        path: a file in any format Pillow reads.
        shape: (3, H, W) wanted; None takes the image as it is.
        resize: bring it to `shape`: scaled until it covers it, then the middle is cut out.

    Returns:
        (3, H, W) uint8.

    Raises:
        DataError: it is missing or broken, or of another size and not to be resized.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    # Pillow's decoders raise SyntaxError, zlib.error and more for the same broken file.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, zlib.error) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"broken ({error})"
        raise DataError(f"image {path} is {reason}; replace it or delete it") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"image {path} is too large ({error}); replace it or delete it") from error
    if shape is not None:
        height, width = shape[1:]
        if resize:
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        elif image.size != (width, height):
            raise DataError(
                f"image {path} has {image.height} x {image.width} pixels, others have {height} x "
                f"{width}; set size to bring all images to one size"
            )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
