"""Data sets by name; importing this package imports no torch.

A data set is a `Source` (source.py) in a file of its own; `DATASETS` knows it by the text
`"module:class"`, so that listing names costs nothing.
"""

import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sat_optuna.config.config import DataConfig
from sat_optuna.registry import Registry

if TYPE_CHECKING:
    from sat_optuna.data.examined import Examined
    from sat_optuna.data.source import Options, Source
    from sat_optuna.data.split import Split

__all__ = [
    "DATASETS",
    "data_root",
    "examine_configured",
    "get_dataset",
    "load_configured",
    "load_dataset",
]

DATASETS: Registry["type[Source]"] = Registry("data set")
DATASETS.add("mnist5k", "sat_optuna.data.mnist5k:Mnist5k")
DATASETS.add("cued-digits", "sat_optuna.data.cued_digits:CuedDigits")
DATASETS.add("cued-seg", "sat_optuna.data.cued_digits:CuedSeg")
DATASETS.add("fashion-mnist", "sat_optuna.data.fashion_mnist:FashionMnist")
DATASETS.add("cifar10", "sat_optuna.data.cifar:Cifar10")
DATASETS.add("cifar100", "sat_optuna.data.cifar:Cifar100")
DATASETS.add("stl10", "sat_optuna.data.stl10:Stl10")
DATASETS.add("landcover", "sat_optuna.data.tiles:Landcover")
DATASETS.add("landcover-seg", "sat_optuna.data.tiles:LandcoverSeg")
DATASETS.add("coast-seg", "sat_optuna.data.tiles:CoastSeg")
DATASETS.add("trees", "sat_optuna.data.tiles:Trees")
DATASETS.add("voc2012", "sat_optuna.data.voc:Voc2012")
DATASETS.add("cityscapes", "sat_optuna.data.cityscapes:CityscapesFine")
DATASETS.add("shanghaitech-a", "sat_optuna.data.shanghaitech:ShanghaiTechA")
DATASETS.add("shanghaitech-b", "sat_optuna.data.shanghaitech:ShanghaiTechB")
DATASETS.add("imagefolder", "sat_optuna.data.imagefolder:ImageFolder")
DATASETS.add("maskfolder", "sat_optuna.data.maskfolder:MaskFolder")
DATASETS.add("pointfolder", "sat_optuna.data.pointfolder:PointFolder")


def data_root() -> Path:
    """Return the folder data sets lie in: $SAT_OPTUNA_DATA, or ~/.cache/sat_optuna/data."""
    named = os.environ.get("SAT_OPTUNA_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "sat_optuna" / "data"


def load_dataset(
    name: str,
    *,
    seed: int = 0,
    valid: float = 0.2,
    root: str | PathLike[str] | None = None,
    limit: int | None = None,
    size: int | None = None,
    device: str = "cpu",
    workers: int = 0,
    sigma: float | None = None,
) -> "Split":
    """Read a data set and split its training part into train and valid.

    >>> data = load_dataset("mnist5k", seed=0, valid=0.2)
    >>> data.shape, data.classes, len(data.train), len(data.valid)
    ((1, 28, 28), 10, 3200, 800)

    One's own images come in through `Split.from_arrays` and `Split.from_loaders`.

    Args:
        name: one of `DATASETS.names()`.
        seed: draws the split; the test part does not depend on it, but of an image folder without
            `train`, where it is drawn too.
        valid: share of the training part that becomes `valid`, 0 < valid < 1, stratified, with an
            image of each class at least.
        root: folder of the data sets; for `imagefolder`, `maskfolder` and `pointfolder` the folder
            that holds `train`, or all images; `data_root()` if None.
        limit: training images kept before the split, equally from each class as far as it has
            them, the same for every seed; all if None.
        size: side in pixels the images are brought to, at most 4096 (`imagefolder`, `stl10`); of
            images with masks or points in files their longer side, the rest is filled up.
        device: where the tensors shall live.
        workers: processes that decode images (`imagefolder` alone).
        sigma: of each dot's Gaussian, in pixels of its file (`pointfolder` alone); None makes it
            as wide as the dots lie.

    Raises:
        UnknownName: no data set of that name.
        DeviceError: there is no such device here.
        DataError: files are missing or broken, or a setting does not fit the data.
    """
    source = DATASETS.get(name)()
    from sat_optuna.device import known_device

    return source.load(
        _options(
            source,
            root=root,
            seed=seed,
            valid=valid,
            limit=limit,
            size=size,
            device=str(known_device(device)),
            workers=workers,
            sigma=sigma,
        )
    )


def get_dataset(name: str, root: str | PathLike[str] | None = None) -> Path:
    """Bring a data set to `root` (`data_root()` if None) and return where its files lie.

    Nothing is fetched if it is there already.

    Raises:
        UnknownName: no data set of that name.
        DataError: it cannot be fetched; the sentence says which files to put where.
        WriteError: `root` cannot be written.
    """
    return DATASETS.get(name)().get(_root(root))


def load_configured(config: DataConfig, *, seed: int, device: str = "cpu") -> "Split":
    """Read the data set that a study's [data] names; see `load_dataset`."""
    return load_dataset(config.name, device=device, **_configured(config, seed))


def examine_configured(config: DataConfig, *, seed: int) -> "Examined":
    """Say what is wrong with the data set that a study's [data] names, all at once.

    Of a folder of images a sample's pixels are read, of the test part those of more than 8 bits
    alone, to see that they fit the scale.

    Raises:
        UnknownName: no data set of that name.
    """
    source = DATASETS.get(config.name)()
    return source.examine(_options(source, device="cpu", **_configured(config, seed)))


def _configured(config: DataConfig, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "valid": config.valid,
        "root": config.root or None,
        "limit": config.limit or None,
        "size": config.size or None,
        "workers": config.workers,
        "sigma": config.sigma or None,
    }


def _options(
    source: "Source", *, root: str | PathLike[str] | None, sigma: float | None, **settings: Any
) -> "Options":
    from sat_optuna.data.source import Options
    from sat_optuna.errors import DataError

    if sigma is not None and not source.takes_sigma:
        raise DataError(
            f"sigma = {sigma} is for the dots of pointfolder, and {source.name} has none that it "
            "could be for; leave sigma out"
        )
    return Options(root=_root(root), sigma=sigma, **settings)


def _root(given: str | PathLike[str] | None) -> Path:
    return data_root() if given is None else Path(given).expanduser()
