"""Which networks `bench inference` compares: attention everywhere, as published, as asked for.

The published schemes were found on ImageNet for ResNet-50 with one module a stage
(arXiv:2207.07858 and its authors' code).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import AttentionError
from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.view import NetworkView, view_of
from sat_optuna.cost.timing import check_rounds
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.placement import placement_faults
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec, Setting
from sat_optuna.training.precision import pick_device

__all__ = ["PUBLISHED", "Contestant", "InferencePlan", "Published", "plan_inference"]

_SEED = 0
# A design of few kinds is small; of ten kinds it would have thousands of schemes.
_MOST_KINDS_A_FIT = 3


@dataclass(frozen=True, slots=True)
class Published:
    """How a module was published with a scheme.

    Attributes:
        scheme: for ResNet-50.
        settings: of the module, on ImageNet.
        note: how sure the scheme is.
    """

    scheme: Scheme
    settings: Mapping[str, Setting]
    note: str = "published"


PUBLISHED: Mapping[str, Published] = {
    "dia": Published(Scheme.parse("110-0011-110010-011"), {"reduction": 20}),
    "se": Published(
        Scheme.parse("010-0010-110011-001"),
        {"reduction": 16},
        "probably published: a comment in the authors' code",
    ),
    "sge": Published(Scheme.parse("100-1011-010011-011"), {"groups": 64}),
}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A network that is measured.

    Attributes:
        spec: its attention.
        network: what it is: plain, full (a module a block), share-full (a module a stage), ticket
            (the published scheme), given (the user's) or cheapest.
        scheme: which blocks carry attention.
        note: where the scheme comes from.
    """

    spec: AttentionSpec
    network: str
    scheme: Scheme
    note: str = ""

    @property
    def name(self) -> str:
        """No other contestant has the same."""
        return f"{self.spec.kind} {self.network} {self.scheme}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InferencePlan:
    """What `bench_inference` measures; made by `plan_inference`.

    Attributes:
        backbone: its name.
        settings: the backbone's own.
        shape: (C, H, W) of an image.
        classes: number of logits.
        batch: images a pass.
        rounds: of all networks.
        plain: the network without attention.
        contestants: by module, the others.
        references: by module, the contestant that the cheapest scheme of as many connections is
            compared with; a module that is not here has no cheapest one.
    """

    backbone: str
    settings: Mapping[str, Any]
    shape: tuple[int, int, int]
    classes: int
    batch: int
    rounds: int
    plain: Contestant
    contestants: Mapping[str, tuple[Contestant, ...]]
    references: Mapping[str, Contestant]

    @property
    def fits(self) -> tuple[tuple[str, ...], ...]:
        """The modules with a reference, those together that share a latency model."""
        kinds = tuple(self.references)
        starts = range(0, len(kinds), _MOST_KINDS_A_FIT)
        return tuple(kinds[start : start + _MOST_KINDS_A_FIT] for start in starts)

    def supernet(self, specs: Iterable[AttentionSpec]) -> Supernet:
        """Build the network with some attention; the weights of the backbone are always the same.

        Args:
            specs: the kinds.
        """
        net = Supernet(
            self.backbone,
            attention=tuple(specs),
            in_channels=self.shape[0],
            classes=self.classes,
            seed=_SEED,
            **self.settings,
        )
        return net.to(pick_device())


def plan_inference(
    backbone: str,
    *,
    modules: Sequence[str],
    resolution: int = 224,
    batch: int = 4,
    rounds: int = 31,
    schemes: Sequence[str] = (),
    cheapest: bool = True,
    classes: int = 1000,
    settings: Mapping[str, Any] | None = None,
) -> InferencePlan:
    """Say what is to be measured; everything is checked and nothing measured.

    Args:
        backbone: its name.
        modules: kinds of attention; with the published settings where they fit the network, else
            with their own defaults.
        resolution: H and W of the images.
        batch: images a pass.
        rounds: of all networks.
        schemes: to be measured beside the published ones, with a module a stage where there can
            be one.
        cheapest: whether to look for the cheapest scheme too, of as many connections as the
            published one has, or else the first of `schemes`.
        classes: number of logits.
        settings: the backbone's own.

    Raises:
        UnknownName: a backbone or module that no registry holds.
        AttentionError: no module, or one that does not fit the network.
        BackboneError: a network that cannot be built, or images too small for it.
        SchemeError: a scheme that does not fit the network.
        TimingError: there are too few rounds for an interval.
    """
    check_rounds(rounds)
    kinds = tuple(dict.fromkeys(modules))
    if not kinds:
        raise AttentionError(f"no module given; name at least one of {', '.join(ATTENTION)}")
    shape, built = (3, resolution, resolution), dict(settings or {})
    specs = {kind: ATTENTION.get(kind).sharings for kind in kinds}  # unknown names first
    with seeded("backbone", _SEED):
        view = view_of(build_backbone(backbone, in_channels=shape[0], classes=classes, **built))
    given = [Scheme.parse(text, stages=view.stage_sizes, kinds=1) for text in schemes]
    contestants = {
        kind: tuple(_contestants(_specs(kind, view), view.stage_sizes, given)) for kind in specs
    }
    every = [members[-1].spec for members in contestants.values()]
    plan = InferencePlan(
        backbone=backbone,
        settings=built,
        shape=shape,
        classes=classes,
        batch=batch,
        rounds=rounds,
        plain=Contestant(every[0], "plain", Scheme.uniform(view.stage_sizes, 0)),
        contestants=contestants,
        references=_references(contestants) if cheapest else {},
    )
    plan.supernet(every).check_input(shape)
    return plan


def _references(contestants: Mapping[str, Sequence[Contestant]]) -> dict[str, Contestant]:
    """Return the published scheme of each module, or else its first given one, if it has any."""
    schemes = {
        kind: [one for one in members if one.network in {"ticket", "given"}]
        for kind, members in contestants.items()
    }
    return {kind: members[0] for kind, members in schemes.items() if members}


def _contestants(
    specs: Mapping[str, AttentionSpec], stages: Sequence[int], given: Iterable[Scheme]
) -> Iterator[Contestant]:
    """Make a module's contestants.

    Args:
        specs: by sharing, the module as this network can have it.
        stages: of the network.
        given: the user's schemes.
    """
    everywhere = Scheme.uniform(stages, 1)
    for sharing, network in (("block", "full"), ("stage", "share-full")):
        if sharing in specs:
            yield Contestant(specs[sharing], network, everywhere)
    spec = specs.get("stage") or specs["block"]
    published = PUBLISHED.get(spec.kind)
    if published and spec.sharing == "stage" and published.scheme.stages == tuple(stages):
        yield Contestant(spec, "ticket", published.scheme, published.note)
    for scheme in dict.fromkeys(given):
        yield Contestant(spec, "given", scheme)


def _specs(kind: str, view: NetworkView) -> dict[str, AttentionSpec]:
    """Return, by sharing, the module with the settings that fit the network.

    Raises:
        AttentionError: neither the published ones nor its own defaults fit.
    """
    published = PUBLISHED[kind].settings if kind in PUBLISHED else {}
    faults: list[str] = []
    for settings in (published, {}):
        asked = [
            AttentionSpec(kind=kind, sharing=sharing, settings=settings)
            for sharing in ATTENTION.get(kind).sharings
        ]
        found = {spec.sharing: placement_faults([spec], view) for spec in asked}
        fitting = {spec.sharing: spec for spec in asked if not found[spec.sharing]}
        if fitting:
            return fitting
        faults = next(iter(found.values()))
    raise AttentionError(faults[0])
