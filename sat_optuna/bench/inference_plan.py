"""Which networks `bench inference` measures: attention everywhere, published schemes, given ones.

The published schemes were found on ImageNet for a ResNet-50 with one module for each stage
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

__all__ = [
    "FIT_ROUNDS",
    "PUBLISHED",
    "InferencePlan",
    "MeasuredNetwork",
    "Published",
    "plan_inference",
]

FIT_ROUNDS = 9  # of a latency model; a 95 % interval of 9 leaves out one round on either side

_SEED = 0
# The design of a latency model with ten kinds would have thousands of schemes.
_MOST_KINDS_A_FIT = 3


@dataclass(frozen=True, slots=True)
class Published:
    """A scheme that was published for a module.

    Attributes:
        scheme: for ResNet-50.
        settings: of the module, on ImageNet.
        note: how certain it is that this scheme was published.
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
class MeasuredNetwork:
    """A network that is measured.

    Attributes:
        spec: its attention.
        role: plain, full (each block has its module), share-full (each stage has one module),
            ticket (the published scheme), given (a scheme of the user) or cheapest.
        scheme: which blocks carry attention.
        note: where the scheme comes from.
    """

    spec: AttentionSpec
    role: str
    scheme: Scheme
    note: str = ""

    @property
    def name(self) -> str:
        """Its kind, role and scheme; no two networks of a plan have the same name."""
        return f"{self.spec.kind} {self.role} {self.scheme}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InferencePlan:
    """What `bench_inference` measures; made by `plan_inference`.

    Attributes:
        backbone: its name.
        settings: of the backbone.
        shape: (C, H, W) of an image.
        classes: number of logits.
        batch: number of images of a pass.
        rounds: number of measurements of each network.
        plain: the network without attention.
        networks: by module, the networks with attention.
        references: by module, a network with a sparse scheme. The cheapest scheme with as many
            connections is looked for and compared with it. A module that has no entry here gets no
            cheapest scheme.
    """

    backbone: str
    settings: Mapping[str, Any]
    shape: tuple[int, int, int]
    classes: int
    batch: int
    rounds: int
    plain: MeasuredNetwork
    networks: Mapping[str, tuple[MeasuredNetwork, ...]]
    references: Mapping[str, MeasuredNetwork]

    @property
    def fits(self) -> tuple[tuple[str, ...], ...]:
        """The modules with a reference, grouped: each group shares a latency model."""
        kinds = tuple(self.references)
        starts = range(0, len(kinds), _MOST_KINDS_A_FIT)
        return tuple(kinds[start : start + _MOST_KINDS_A_FIT] for start in starts)

    @property
    def turns(self) -> int:
        """Number of events that `bench_inference` reports in all."""
        return FIT_ROUNDS * len(self.fits) + self.rounds

    def supernet(self, specs: Iterable[AttentionSpec]) -> Supernet:
        """Build the supernet with some kinds of attention; the backbone's weights never differ."""
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
    """Choose what is measured; everything is checked and nothing is measured yet.

    Args:
        backbone: its name.
        modules: kinds of attention. A kind has the settings it was published with if they fit the
            network, else its default ones.
        resolution: H and W of the images.
        batch: number of images of a pass.
        rounds: number of measurements of each network.
        schemes: further schemes to measure, with one module for each stage if the kind allows it.
        cheapest: whether to look for the cheapest scheme as well, with as many connections as the
            published scheme; without a published one, as the first of `schemes`.
        classes: number of logits.
        settings: of the backbone.

    Raises:
        UnknownName: no registry holds the backbone or a module.
        AttentionError: there is no module, or one does not fit the network.
        BackboneError: the network cannot be built, or the images are too small for it.
        SchemeError: a scheme does not fit the network.
        TimingError: there are too few rounds for an interval.
    """
    check_rounds(rounds)
    kinds = tuple(dict.fromkeys(modules))
    if not kinds:
        raise AttentionError(f"no module given; name at least one of {', '.join(ATTENTION)}")
    shape, built = (3, resolution, resolution), dict(settings or {})
    for kind in kinds:  # an unknown name is said before anything is built
        ATTENTION.get(kind)
    with seeded("backbone", _SEED):
        view = view_of(build_backbone(backbone, in_channels=shape[0], classes=classes, **built))
    given = [Scheme.parse(text, stages=view.stage_sizes, kinds=1) for text in schemes]
    networks = {
        kind: tuple(_networks(_specs(kind, view), view.stage_sizes, given)) for kind in kinds
    }
    every = [members[-1].spec for members in networks.values()]
    plan = InferencePlan(
        backbone=backbone,
        settings=built,
        shape=shape,
        classes=classes,
        batch=batch,
        rounds=rounds,
        plain=MeasuredNetwork(every[0], "plain", Scheme.uniform(view.stage_sizes, 0)),
        networks=networks,
        references=_references(networks) if cheapest else {},
    )
    plan.supernet(every).check_input(shape)
    return plan


def _references(
    networks: Mapping[str, Sequence[MeasuredNetwork]],
) -> dict[str, MeasuredNetwork]:
    """Return for each module its published scheme, or without one the first given scheme."""
    schemes = {
        kind: [one for one in members if one.role in {"ticket", "given"}]
        for kind, members in networks.items()
    }
    return {kind: members[0] for kind, members in schemes.items() if members}


def _networks(
    specs: Mapping[str, AttentionSpec], stages: Sequence[int], given: Iterable[Scheme]
) -> Iterator[MeasuredNetwork]:
    """Make the networks of a module.

    Args:
        specs: by sharing, the module with settings that fit the network.
        stages: number of blocks of each stage.
        given: the user's schemes.
    """
    everywhere = Scheme.uniform(stages, 1)
    for sharing, role in (("block", "full"), ("stage", "share-full")):
        if sharing in specs:
            yield MeasuredNetwork(specs[sharing], role, everywhere)
    spec = specs.get("stage") or specs["block"]
    published = PUBLISHED.get(spec.kind)
    if published and spec.sharing == "stage" and published.scheme.stages == tuple(stages):
        yield MeasuredNetwork(spec, "ticket", published.scheme, published.note)
    for scheme in dict.fromkeys(given):
        yield MeasuredNetwork(spec, "given", scheme)


def _specs(kind: str, view: NetworkView) -> dict[str, AttentionSpec]:
    """Return, by sharing, the module with settings that fit the network.

    Raises:
        AttentionError: neither its published nor its default settings fit.
    """
    published = PUBLISHED[kind].settings if kind in PUBLISHED else {}
    faults: list[str] = []
    for settings in (published, {}):
        asked = [
            AttentionSpec(kind=kind, sharing=sharing, settings=settings)
            for sharing in ATTENTION.get(kind).sharings
        ]
        found = {spec.sharing: placement_faults([spec], view.stage_channels) for spec in asked}
        fitting = {spec.sharing: spec for spec in asked if not found[spec.sharing]}
        if fitting:
            return fitting
        faults = next(iter(found.values()))
    raise AttentionError(faults[0])
