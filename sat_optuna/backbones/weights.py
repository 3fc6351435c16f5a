"""Trained weights that one has: read without running anything, fitted to a network.

A file holds a state_dict: `torch.save(model.state_dict(), "file.pth")`, or safetensors. Such a
file is data. A pickled module is code that would run when it is read, so it is refused.
"""

import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sat_optuna.backbones import BACKBONES
from sat_optuna.backbones.contract import Backbone
from sat_optuna.backbones.maps import MAP_HEAD
from sat_optuna.errors import SatOptunaError, errors_as, one_line
from sat_optuna.files import check_is_file

__all__ = [
    "FittedWeights",
    "WeightsError",
    "can_fetch",
    "differing_tensors",
    "ending_of",
    "fetch_weights",
    "fitted_weights",
    "head_of",
    "new_head_text",
    "read_weights",
]

_SAFETENSORS = ".safetensors"
# Where training programs put the state_dict, and what wrappers write before each name of it.
_HELD_UNDER = ("state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")
# Attributes that hold what gives the logits: torchvision's, then those of others.
_HEADS = ("fc", "classifier", "head")
# Settings of the backbones of timm's that its own builders do not have.
_NOT_TIMMS = ("head", "dilated_stages")
_COUNTER = "num_batches_tracked"  # of BatchNorm; files from before torch 0.4.1 have none
_SHOWN = 3


class WeightsError(SatOptunaError, ValueError):
    """Weights that cannot be read or had, or are of another network."""


@dataclass(frozen=True, slots=True)
class FittedWeights:
    """Weights as a network takes them.

    Attributes:
        tensors: all of the network's state_dict.
        body: the names of those that were given, without the head's.
        head: path of what gives the outputs, of which not all is of these weights where `new_head`
            says so: the layer that gives the logits, or a whole head.
        classes: of the weights that were given; None where they have no head, or another one.
        outputs: of the network; None where its head is not known.
        new_head: whether the head is not of these weights but the network's own.
        other_head: whether they have a head that is none of this network's.
    """

    tensors: dict[str, Tensor]
    body: frozenset[str]
    head: str
    classes: int | None
    outputs: int | None
    new_head: bool
    other_head: bool


def read_weights(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Return the state_dict that a file holds, on the CPU; nothing in the file is run.

    A state_dict under "state_dict" or "model" is found, as training programs write it, and names
    that begin with "module." or "_orig_mod." lose that.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote.

    Raises:
        WeightsError: there is no such file, it is cut, or it holds something else.
    """
    path = Path(path)
    try:
        check_is_file(path)
    except OSError as error:
        raise WeightsError(
            f"weights {path} cannot be read: {error.strerror or error}; give the file of a "
            "state_dict"
        ) from error
    held = _read_safetensors(path) if path.suffix == _SAFETENSORS else _read_torch(path)
    for key in _HELD_UNDER:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    tensors = isinstance(held, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items()
    )
    if not held or not tensors:
        raise WeightsError(
            f"weights {path} hold no state_dict, which has a name for each tensor; write one with "
            "torch.save(model.state_dict(), ...)"
        )
    weights = dict(held)
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    with errors_as(WeightsError, f"weights {path} cannot be read", "fetch or write them again"):
        return load_file(path)


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says more of what it refuses then
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises any type of error at what is no file of its own
        pickled = isinstance(error, pickle.UnpicklingError) and _begins_as_pickle(path)
        if pickled or "TorchScript" in str(error):
            raise WeightsError(
                f"weights {path} hold more than tensors, a pickled module perhaps, which is code "
                "and not loaded here; write the tensors alone with "
                "torch.save(model.state_dict(), ...)"
            ) from error
        raise WeightsError(
            f"weights {path} cannot be read ({one_line(error)}); give a file that torch.save "
            "wrote, or .safetensors"
        ) from error


def _begins_as_pickle(path: Path) -> bool:
    """Tell whether a file is a pickle, or the zip file around one that torch writes."""
    with path.open("rb") as stream:
        return stream.read(2) in (b"PK", *(bytes([0x80, version]) for version in range(2, 6)))


def head_of(model: nn.Module) -> str:
    """Return the path of the layer that gives a network's logits; "" where it is not known.

    >>> import torchvision
    >>> head_of(torchvision.models.resnet18()), head_of(torchvision.models.mobilenet_v3_small())
    ('fc', 'classifier.3')

    It is the last linear layer or convolution of what timm's `get_classifier` returns, or of the
    attribute `fc`, `classifier` or `head`.
    """
    classifier = getattr(model, "get_classifier", None)
    tops = [getattr(model, MAP_HEAD, None)]
    tops += [classifier()] if callable(classifier) else []
    tops += [getattr(model, name, None) for name in _HEADS]
    top = next((top for top in tops if isinstance(top, nn.Module)), None)
    layers = [m for m in top.modules() if isinstance(m, nn.Linear | nn.Conv2d)] if top else []
    names = {module: name for name, module in model.named_modules()}
    return names.get(layers[-1], "") if layers else ""


def ending_of(model: nn.Module) -> str:
    """Return the path of the head that one chooses by `head`; "" where a network has none.

    >>> from sat_optuna.backbones import build_backbone
    >>> size = {"in_channels": 3, "classes": 2}
    >>> ending_of(build_backbone("resnet20", head="fcn", **size))
    'head'
    >>> ending_of(build_backbone("resnet18", head="fcn", **size))
    'map_head'
    """
    if isinstance(model, Backbone):
        return "head"
    return MAP_HEAD if hasattr(model, MAP_HEAD) else ""


def fitted_weights(
    given: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    head: str,
    source: str,
    ending: str = "",
) -> FittedWeights:
    """Return weights as a network takes them, whose head may be for another number of classes.

    Or another head: of weights of a classifier a segmentation network takes the trunk.

    >>> net, other = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 5))
    >>> fitted_weights(other.state_dict(), net.state_dict(), head="0", source="them").classes
    5

    Args:
        given: the weights.
        wanted: the network's state_dict, which gives the head where theirs is none for it.
        head: path of the layer that gives the logits; "" where it is not known.
        source: what messages call the weights.
        ending: `ending_of` the network.

    Raises:
        WeightsError: names or shapes differ; the sentence says which first.
    """
    heads = {name for name in wanted if head and name.startswith(f"{head}.")}
    of_head = {name: given[name] for name in heads if name in given}
    new_head = bool(heads) and all(
        name not in given or _for_other_classes(given[name], wanted[name]) for name in heads
    )
    # Those of another head are let go, and what they have not of ours is our own.
    others = {name for name in given if name not in wanted and _is_of_head(name, ending)}
    headless = not any(name.startswith(f"{ending}.") for name in given)
    fresh = _other_layers(given, wanted, ending) if others or headless else set()
    whole = not fresh <= heads
    if fresh:
        new_head, heads, of_head = True, heads | fresh, {}
    kept = {
        name: value
        for name, value in given.items()
        if name not in others and not (new_head and name in heads)
    }
    missing = heads if new_head else set()
    missing |= {name for name in wanted if name.endswith(_COUNTER) and name not in kept}
    own = {name: wanted[name] for name in missing}
    faults = differing_tensors(kept | own, wanted)
    if faults:
        more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
        raise WeightsError(
            f"{source} are not of this network: {', '.join(faults[:_SHOWN])}{more}; give those of "
            "this very network"
        )
    return FittedWeights(
        tensors=kept | own,
        body=frozenset(kept) - heads,
        head=ending if whole else head,
        classes=next((len(value) for value in of_head.values()), None),
        outputs=len(wanted[f"{head}.weight"]) if f"{head}.weight" in wanted else None,
        new_head=new_head,
        other_head=bool(others),
    )


def _is_of_head(name: str, ending: str) -> bool:
    """Return whether weights of this name are of a head, as far as a network has one to choose."""
    top = name.split(".")[0]
    return top == MAP_HEAD or (bool(ending) and top in _HEADS)


def _other_layers(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], ending: str
) -> set[str]:
    """Return the names of the layers of a network's head that weights have not, or not so."""
    names = [name for name in wanted if ending and name.startswith(f"{ending}.")]
    differing = [n for n in names if n not in given or given[n].shape != wanted[n].shape]
    layers = {n.rpartition(".")[0] for n in differing if not n.endswith(_COUNTER)}
    return {name for name in names if name.rpartition(".")[0] in layers}


def new_head_text(source: str, fitted: FittedWeights) -> str:
    """Return the sentence that says that the head is not of the weights.

    Args:
        source: what it calls the weights.
        fitted: to a network, whose head they have not.
    """
    if fitted.other_head:
        return f"{source} have another head than the network: its own, {fitted.head}, begins anew"
    of = f"are of {fitted.classes} classes" if fitted.classes else "have no head"
    return (
        f"{source} {of} and the network is of {fitted.outputs}: its head, {fitted.head}, begins "
        "anew"
    )


def _for_other_classes(given: Tensor, wanted: Tensor) -> bool:
    return given.shape[1:] == wanted.shape[1:] and given.shape != wanted.shape


def differing_tensors(has: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return a phrase for each tensor whose name or shape differs from a network's.

    Args:
        has: the tensors, by name.
        wanted: the state_dict of the network.
    """
    return [*_differing(has, wanted)]


def _differing(has: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    yield from (f"{name} is not in it" for name in wanted if name not in has)
    yield from (f"nothing here is called {name}" for name in has if name not in wanted)
    for name, value in wanted.items():
        if name in has and has[name].shape != value.shape:
            yield f"{name} has shape {tuple(has[name].shape)}, not {tuple(value.shape)}"


def can_fetch(backbone: str) -> bool:
    """Return whether torchvision or timm may offer trained weights of a backbone."""
    return _source(backbone) is not None


def fetch_weights(
    backbone: str, *, in_channels: int, settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the trained weights that torchvision or timm offer, fetched where they are not here.

    Args:
        backbone: a name of `BACKBONES`.
        in_channels: channels of the images; timm makes a stem for other than three of its own.
        settings: the backbone's own.

    Raises:
        WeightsError: nobody offers any, or they cannot be fetched.
    """
    source = _source(backbone)
    if source is None:
        raise WeightsError(
            f"nobody offers trained weights of backbone {backbone!r}; take one of torchvision's "
            "or timm's, or set network.weights to a file"
        )
    with errors_as(
        WeightsError,
        f"the trained weights of {backbone!r} cannot be fetched",
        "see to the connection, or set network.weights to a file",
    ):
        weights: dict[str, Tensor] = source(backbone, in_channels, settings)
        return weights


def _source(backbone: str) -> Any:
    if backbone.startswith("timm:"):
        return _of_timm
    builder = cast("Any", BACKBONES.get(backbone))
    home = getattr(getattr(builder, "func", builder), "__module__", "")
    return _of_torchvision if home == "sat_optuna.backbones.torchvision" else None


def _of_torchvision(
    backbone: str, _in_channels: int, _settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(backbone)
    return dict(weights.DEFAULT.get_state_dict(progress=False, check_hash=True))


def _of_timm(backbone: str, in_channels: int, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    import timm

    name = backbone.removeprefix("timm:")
    own = {key: value for key, value in settings.items() if key not in _NOT_TIMMS}
    return dict(timm.create_model(name, pretrained=True, in_chans=in_channels, **own).state_dict())
