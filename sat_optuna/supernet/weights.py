"""Trained weights into a network, or into a supernet's backbone."""

import hashlib
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from sat_optuna.attention import OWN
from sat_optuna.backbones.weights import (
    ending_of,
    fitted_weights,
    head_of,
    new_head_text,
    read_weights,
)
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.files import sha256_of
from sat_optuna.supernet.materialise import TicketNetwork
from sat_optuna.supernet.supernet import Supernet

__all__ = ["LoadedWeights", "load_weights", "names_of_body"]


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What `load_weights` has loaded.

    Attributes:
        digest: SHA-256 of the file, or of the tensors where a state_dict was given.
        body: names of the tensors that were loaded, but for the head's: what `fit` takes as
            `body` for a learning rate of its own.
        head: path of the layer that gives the logits; "" where it is not known.
        new_head: whether the head was left as it was, for the weights have none for it.
    """

    digest: str
    body: frozenset[str]
    head: str
    new_head: bool


def load_weights(
    net: nn.Module, weights: str | PathLike[str] | Mapping[str, Tensor]
) -> LoadedWeights:
    """Load trained weights into a network, whose number of classes may be another.

    >>> import torchvision
    >>> trained = torchvision.models.resnet18(num_classes=3).state_dict()
    >>> loaded = load_weights(torchvision.models.resnet18(num_classes=3), trained)
    >>> loaded.head, loaded.new_head, "conv1.weight" in loaded.body
    ('fc', False, True)

    A head for another number of classes, or none, leaves the network's own, which is warned of.
    Attention of a supernet is left as it is.

    Args:
        net: a `Supernet`, whose backbone is loaded, or any other network.
        weights: a file as of `read_weights`, never a pickled module, or a state_dict.

    Raises:
        WeightsError: the file cannot be read, or names or shapes differ.
    """
    if isinstance(weights, Mapping):
        given, source = dict(weights), "the weights given"
        digest = _digest(given)
    else:
        given, source = read_weights(weights), f"weights {weights}"
        digest = sha256_of(Path(weights))
    model = net.backbone if isinstance(net, Supernet) else net
    wanted = net.backbone_weights() if isinstance(net, Supernet) else net.state_dict()
    fitted = fitted_weights(
        given, wanted, head=head_of(model), ending=ending_of(model), source=source
    )
    if isinstance(net, Supernet):
        net.load_backbone(fitted.tensors)
        net.started_from = digest
    else:
        net.load_state_dict(fitted.tensors)
    if fitted.new_head:
        warnings.warn(new_head_text(source, fitted), SatOptunaWarning, stacklevel=2)
    return LoadedWeights(digest, fitted.body, fitted.head, fitted.new_head)


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def names_of_body(net: nn.Module, body: Collection[str]) -> frozenset[str]:
    """Return which parameters of a network were loaded, by their names in it.

    Args:
        net: the network that was loaded, a `Supernet` of it, or what `materialise` made of that.
        body: of `LoadedWeights`, names in the network that was loaded.
    """
    names = frozenset(name for name, _ in net.named_parameters())
    if not isinstance(net, Supernet | TicketNetwork):
        return names & frozenset(body)  # attention has names that the loaded network has not
    own = f".slots.{OWN}."  # attention of the network's own, which was loaded with it
    return names & {f"backbone.{name}" for name in body} | {n for n in names if own in n}
