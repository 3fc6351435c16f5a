"""Tickets of small networks, for several tests."""

from pathlib import Path

from torch import nn

from sat_optuna.attention import default_spec
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import Score, Ticket
from tests.networks import SHAPE, tiny_supernet

SMALL = Scheme.parse("1-1-0")


def ticket_of(net: Supernet, scheme: Scheme) -> Ticket:
    """The ticket of a scheme of a tiny supernet."""
    return Ticket(
        role="ticket",
        scheme=scheme,
        backbone=net.backbone_name,
        backbone_settings=net.backbone_settings,
        attention=net.specs,
        classes=5,
        input_shape=SHAPE,
        dataset="mnist5k",
        dataset_fingerprint="abc",
        seed=3,
        scores=(Score(split="test", value=97.5, seed=0, epochs=3),),
        params=1234,
        macs=5678,
    )


def network_and_ticket(*kinds: str, scheme: Scheme = SMALL) -> tuple[nn.Module, Ticket]:
    """A tiny network with these kinds of attention, SE by default, in eval mode; its ticket."""
    specs = [default_spec(kind) for kind in kinds or ("se",)]
    net = tiny_supernet(specs, blocks=scheme.stages)
    return materialise(net, scheme).eval(), ticket_of(net, scheme)


def leftovers(folder: Path) -> list[str]:
    """Names of the files in a folder, temporary ones too."""
    return sorted(path.name for path in folder.iterdir())
