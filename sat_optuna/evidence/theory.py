"""What the method's own statements come to on one trained network: T1 and T4, computed.

T1, the removal bound. v_l(x) = M(F_l(x)) is the gate of block l, c_l its mean over images, per
channel. Modules are replaced by their means from the last block to the first, so that v_l and F_l
are the full network's. Then for each image

    ||out(full) - out(ticket)|| <= sum over dropped l of L_l max over channels |v_l - c_l| ||F_l||

L_l is the Lipschitz constant of all that follows block l, with the constants in it, on the ball
around the image's own features whose radius is what stands right of it (`lipschitz.Ball`). So a
sparse equivalent exists wherever the dispersion d_l = sup |v_l - c_l| is small.

T4, redundancy. How much the attention maps of the blocks of a stage are alike.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, cast

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import State
from sat_optuna.attention.stage import Attend, StageAttention
from sat_optuna.backbones.view import BlockView, NetworkView
from sat_optuna.data.split import Split
from sat_optuna.errors import SatOptunaError
from sat_optuna.evaluate import calibration_batches, evaluate_network
from sat_optuna.evidence.lipschitz import Ball, LipschitzError, Norms
from sat_optuna.export.fold import FoldError, fold_constant
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.folding import gate_at
from sat_optuna.supernet.materialise import apart, kinds_of, scheme_of
from sat_optuna.supernet.supernet import walk
from sat_optuna.tasks import Metric, Task, as_metric, as_task
from sat_optuna.tasks.classification import CLASSIFICATION

__all__ = [
    "Redundancy",
    "RemovalBound",
    "Removed",
    "Single",
    "Theory",
    "TheoryError",
    "dispersion_ticket",
    "redundancy",
    "removal_bound",
    "single_removals",
    "theory",
]

VACUOUS = 100.0  # a bound of so many times the error says nothing


class TheoryError(SatOptunaError, ValueError):
    """A network that a statement of the theory does not speak of."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A module that became a constant, and what the bound says of it; maxima over the images.

    Attributes:
        block: Optuna's name of it.
        dispersion: d_l, the largest distance of a gate from its mean.
        radius: of the ball: max over channels of |v_l - c_l|, times ||F_l||.
        lipschitz: of all that follows, on that ball.
        bound: of what replacing this module changes in the outputs, Euclidean norm.
        error: what it changes.
    """

    block: str
    dispersion: float
    radius: float
    lipschitz: float
    bound: float
    error: float


@dataclass(frozen=True, slots=True)
class RemovalBound:
    """T1 for one network and one scheme; norms of outputs, maxima over the images.

    Attributes:
        scheme: what is kept.
        images: number of them.
        bound: of ||out(full) - out(ticket)||.
        error: measured, of the network that `fold_constant` made.
        holds: whether no image's error exceeds its own bound.
        removed: each dropped module, from the last one to the first.
    """

    scheme: Scheme
    images: int
    bound: float
    error: float
    holds: bool
    removed: tuple[Removed, ...]

    @property
    def ratio(self) -> float:
        """Bound over error; 1 where both are 0."""
        if self.error:
            return self.bound / self.error
        return math.inf if self.bound else 1.0

    @property
    def is_vacuous(self) -> bool:
        """Whether the bound is so far above the error that it says nothing."""
        return self.ratio > VACUOUS

    @property
    def line(self) -> str:
        """All of it in one line."""
        kept = "never exceeded" if self.holds else "EXCEEDED"
        tell = sum(step.bound <= VACUOUS * step.error for step in self.removed)
        alone = f"; {tell} of the modules have one within {VACUOUS:g} times of their own"
        said = f" (vacuous{alone})" if self.is_vacuous else ""
        return (
            f"T1: {len(self.removed)} modules became constants (`{self.scheme}` stays); the "
            f"outputs change by {self.error:.3g}, the bound is {self.bound:.3g}, {self.ratio:.3g} "
            f"times as much{said}, {kept} on {self.images:,} images"
        )


@dataclass(frozen=True, slots=True)
class Single:
    """One module made a constant, all others kept.

    Attributes:
        block: Optuna's name of it.
        dispersion: d_l over the images that gave the mean.
        drop: points of the metric that the network loses, below 0 where it gets better.
    """

    block: str
    dispersion: float
    drop: float


@dataclass(frozen=True, slots=True)
class Redundancy:
    """T4: Pearson correlations of the attention maps of the blocks of one stage.

    A map is a number for each image and channel: <M(F), F> / <F, F>, which of a channel gate is
    the gate itself. Pairs are within a stage, where channels are as many.

    Attributes:
        pairs: the correlation by the names of two blocks; NaN where a map does not vary.
        density: of the best ticket.
    """

    pairs: dict[tuple[str, str], float]
    density: float

    @property
    def mean(self) -> float:
        """The mean correlation; NaN where there is no pair."""
        known = [value for value in self.pairs.values() if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    @property
    def line(self) -> str:
        """All of it in one line."""
        known = [value for value in self.pairs.values() if not math.isnan(value)]
        if not known:
            return "T4: no stage has two blocks whose attention maps vary, so none can be alike"
        return (
            f"T4: attention maps of two blocks of a stage correlate by {self.mean:z.2f} in the "
            f"mean ({min(known):z.2f} to {max(known):z.2f}, {len(known)} pairs); the best ticket "
            f"keeps {self.density:.0%} of the blocks"
        )


@dataclass(frozen=True, slots=True)
class Theory:
    """What the theory comes to on one trained network; made by `theory`.

    Attributes:
        metric: its name in words, which singles are measured in.
        bound: T1 for the searched ticket; None where T1 does not speak of the network.
        refused: why not, a sentence; empty where there is a bound.
        singles: of each module alone, from shallow to deep.
        tau, p: Kendall's tau-b between dispersion and drop, and that it is 0; NaN where
            there are too few blocks.
        rival: the dispersion ticket of as many modules as the searched one; None without T1.
        redundancy: T4.
    """

    metric: str
    bound: RemovalBound | None
    refused: str
    singles: tuple[Single, ...]
    tau: float
    p: float
    rival: Scheme | None
    redundancy: Redundancy

    def lines(self) -> list[str]:
        """Return what `sat-optuna evidence` prints, a line a statement."""
        if self.bound is None:
            return [f"T1: not computed: {self.refused}", self.redundancy.line]
        order = (
            "T1: too few blocks to tell whether dispersion orders the losses"
            if math.isnan(self.tau)
            else f"T1: dispersion against {self.metric} lost when one module becomes a constant: "
            f"Kendall's tau {self.tau:z.2f} (p = {self.p:.2g}, {len(self.singles)} blocks)"
        )
        return [
            self.bound.line,
            order,
            f"T1: the dispersion ticket, which needs no search, is `{self.rival}`",
            self.redundancy.line,
        ]


def theory(
    network: nn.Module,
    data: Split,
    keep: Scheme,
    *,
    images: int = 256,
    seed: int = 0,
    task: Task | str = CLASSIFICATION,
    metric: Metric | str = "",
) -> Theory:
    """Return what T1 and T4 come to on a network trained with attention in all blocks.

        full = sat.retrain(full_ticket, data, seed=0)         # or load_ticket of its weights
        found = theory(full, data, ticket.scheme)
        print(*found.lines(), sep="; ")
        found.rival                                           # a scheme to retrain beside others

    Constants, dispersions, bound and maps are of images of the training part, without
    augmentation; the metric is of the test part, or of the validation part where there is none.
    The network is left as it was. It takes a pass of the images for each pair of blocks, in
    double precision, and an evaluation for each block: seconds for networks of CIFAR's size.

    Args:
        network: trained; of `retrain`, `load_ticket` or `materialise`.
        data: that it was trained on.
        keep: the best ticket.
        images: how many of the training part.
        seed: draws these.
        task: what the network does, or its name.
        metric: of the task, or its name; empty for the task's own.

    Raises:
        SchemeError: `keep` is of another network.
        DataError: there are fewer than two images, or their targets are another task's.
        MetricError: the metric has no value on these images.
        UnknownName: no such task, or no such metric of it.
    """
    keep.check_fits(scheme_of(network).stages, kinds=len(kinds_of(network)))
    task = as_task(task)
    metric = as_metric(metric, task)
    measure = metric.measure
    device = next(network.parameters()).device
    drawn = calibration_batches(data.train, count=images, seed=seed)
    batches = [x.to(device) for x in drawn]
    alike = redundancy(network, batches, density=keep.density)
    try:
        bound = removal_bound(network, keep, batches)
    except (TheoryError, LipschitzError, FoldError) as error:
        return Theory(measure.title, None, str(error), (), math.nan, math.nan, None, alike)
    scored = data.valid if data.load_test is None else data.test

    def points(net: nn.Module) -> float:
        found = evaluate_network(net, scored, task=task, metrics=[metric])
        return measure.points(found.score(measure.name))

    before = points(network)
    singles = tuple(
        Single(block, dispersion, before - points(folded))
        for block, dispersion, folded in single_removals(network, batches)
    )
    columns = [[s.dispersion for s in singles], [s.drop for s in singles]]
    varied = all(len(set(column)) > 1 for column in columns)
    tau = stats.kendalltau(*columns) if varied else None
    return Theory(
        metric=measure.title,
        bound=bound,
        refused="",
        singles=singles,
        tau=float(tau.statistic) if tau else math.nan,
        p=float(tau.pvalue) if tau else math.nan,
        rival=dispersion_ticket(
            scheme_of(network), [s.dispersion for s in singles], keep.connections
        ),
        redundancy=alike,
    )


def removal_bound(network: nn.Module, keep: Scheme, batches: Sequence[Tensor]) -> RemovalBound:
    """Bound what replacing modules by their mean gates changes in the outputs, and measure it.

    Outputs are logits, or maps of all pixels of an image together.

    Args:
        network: has attention in all blocks, or at least in those of `keep`; it is not changed.
        keep: the scheme that remains.
        batches: images that the means, suprema and errors are over, (n, C, H, W) each.

    Raises:
        TheoryError: it has attention that is no channel gate without state.
        LipschitzError: it has an operation that no bound is known for.
        FoldError: `keep` has attention that the network has not, a block has no layer that can
            contain a factor, or there are no images.
    """
    _check_gates(network)
    exact = copy.deepcopy(network).double().eval()
    given = [x.double() for x in batches]
    folded, _ = fold_constant(exact, keep, given)
    blocks = _blocks(exact, keep)
    view, _ = apart(exact)
    norms: Norms = {}
    with torch.no_grad():
        traces = [_traced(view, blocks, x) for x in given]
        dropped = [n for n, block in enumerate(blocks) if block.dropped]
        for n in dropped:
            blocks[n].constant = torch.cat([trace[n].gate for trace in traces]).mean(0)
        images = sum(map(len, given))
        total = torch.zeros(images, dtype=torch.float64, device=given[0].device)
        removed = []
        for n in reversed(dropped):
            steps = [_step(view, blocks, n, trace[n], norms) for trace in traces]
            spread, radius, bound, error = (torch.cat(part) for part in zip(*steps, strict=True))
            total += bound
            removed.append(
                Removed(
                    blocks[n].name,
                    float(spread.max()),
                    float(radius.max()),
                    float((bound / radius).nan_to_num(0).max()),
                    float(bound.max()),
                    float(error.max()),
                )
            )
        off = torch.cat([(exact(x) - folded(x)).flatten(1).norm(dim=1) for x in given])
        size = torch.cat([exact(x).flatten(1).norm(dim=1) for x in given])
    holds = bool((off <= total * (1 + 1e-9) + 1e-12 * size).all())
    return RemovalBound(keep, images, float(total.max()), float(off.max()), holds, tuple(removed))


def single_removals(
    network: nn.Module, batches: Sequence[Tensor]
) -> Iterator[tuple[str, float, nn.Module]]:
    """Yield each block with attention: its name, its dispersion, the network without its module.

    Args:
        network: all its attention are channel gates without state; it is not changed.
        batches: images that the means and suprema are over, (n, C, H, W) each.

    Raises:
        FoldError: as of `fold_constant`.
    """
    had = scheme_of(network)
    for block, choice in enumerate(had.choices):
        if choice:
            kept = [0 if at == block else c for at, c in enumerate(had.choices)]
            folded, report = fold_constant(network, Scheme.of(kept, had.stages), batches)
            name = Scheme.parameter_names(had.stages)[block]
            yield name, report.blocks[0].dispersion, folded


def dispersion_ticket(full: Scheme, dispersions: Sequence[float], keep: int) -> Scheme:
    """Return the scheme of the blocks whose gates vary most, a rival that needs no search.

    >>> str(dispersion_ticket(Scheme.parse("11-11"), [0.1, 0.4, 0.3, 0.2], 2))
    '01-10'

    Args:
        full: the network's scheme.
        dispersions: d_l of each of its blocks with attention, from shallow to deep.
        keep: number of blocks; of equal dispersions the shallower is kept.
    """
    carrying = [block for block, choice in enumerate(full.choices) if choice]
    order = np.argsort(-np.asarray(dispersions), kind="stable")[:keep]
    kept = {carrying[at] for at in order.tolist()}
    return Scheme.of([c if at in kept else 0 for at, c in enumerate(full.choices)], full.stages)


def redundancy(network: nn.Module, batches: Sequence[Tensor], *, density: float) -> Redundancy:
    """Return how much the attention maps of the blocks of each stage are alike.

    Args:
        network: with any attention; it is not changed.
        batches: images, (n, C, H, W) each.
        density: of the best ticket.
    """
    view, stages = apart(network)
    scheme = scheme_of(network)
    recorded = [_MappedStage(stage) for stage in stages]
    with evaluating(network), torch.no_grad():
        for x in batches:
            walk(view, recorded, scheme, x)
    pairs = {}
    for number, stage in enumerate(recorded, start=1):
        maps = {block: torch.cat(seen).flatten() for block, seen in sorted(stage.maps.items())}
        for first, second in combinations(maps, 2):
            names = (f"s{number}.b{first:02}", f"s{number}.b{second:02}")
            if len(maps[first]) == len(maps[second]):
                pairs[names] = _pearson(maps[first], maps[second])
    return Redundancy(pairs, density)


class _Trace(NamedTuple):
    """What the full network does at a block, with images of a size."""

    features: Tensor
    shortcut: Tensor
    gate: Tensor
    size: tuple[int, ...]


class _Block:
    """A block, what it carries, and the (C,) constant that is to come in its place."""

    def __init__(
        self,
        name: str,
        block: BlockView,
        stage: StageAttention,
        *,
        place: int,
        choices: tuple[int, int],
    ) -> None:
        self.name, self.block = name, block
        had, kept = choices
        self.carries, self.dropped = had > 0, had > 0 and not kept
        self.gate = gate_at(stage, had, place) if had else None
        self.attend = stage.module_for(had, place) if had else None
        self.constant = torch.empty(0)  # known once all images were seen

    def attended(self, features: Tensor, *, replaced: bool) -> Tensor:
        """Return the features as the full network has them, or with the constant."""
        if self.dropped and replaced:
            return features * self.constant[:, None, None]
        return features if self.attend is None else self.attend(features, None)[0]


def _blocks(network: nn.Module, keep: Scheme) -> list[_Block]:
    view, stages = apart(network)
    had = scheme_of(network)
    names = iter(Scheme.parameter_names(had.stages))
    rows = zip(view.blocks, stages, had.by_stage(), keep.by_stage(), strict=True)
    return [
        _Block(next(names), block, stage, place=place, choices=choices)
        for blocks, stage, carried, kept in rows
        for place, (block, choices) in enumerate(
            zip(blocks, zip(carried, kept, strict=True), strict=True)
        )
    ]


def _traced(view: NetworkView, blocks: Iterable[_Block], x: Tensor) -> list[_Trace]:
    size = tuple(x.shape[2:])
    x = view.stem(x)
    traces = []
    for block in blocks:
        features, shortcut = block.block.branch(x)
        gate = features if block.gate is None else block.gate(features)
        traces.append(_Trace(features, shortcut, gate, size))
        x = block.block.merge(block.attended(features, replaced=False), shortcut)
    return traces


def _step(
    view: NetworkView,
    blocks: Sequence[_Block],
    number: int,
    trace: _Trace,
    norms: Norms,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Replace one module, those after it being replaced already.

    Returns:
        For each image the distance of the gate from its mean, the radius, the bound, the error.
    """
    block, constant = blocks[number], blocks[number].constant
    spread = (trace.gate - constant).abs().amax(1)
    radius = spread * trace.features.flatten(1).norm(dim=1)

    def rest(features: Tensor) -> Tensor:
        x = block.block.merge(features, trace.shortcut.clone())
        for later in blocks[number + 1 :]:
            branch, shortcut = later.block.branch(x)
            x = later.block.merge(later.attended(branch, replaced=True), shortcut)
        return view.head(x, trace.size)

    full = trace.features * trace.gate[:, :, None, None]
    ball = cast("Ball", rest(Ball.of(full.clone(), radius, norms)))
    after = rest(trace.features * constant[:, None, None])
    return spread, radius, ball.radius, (ball.centre - after).flatten(1).norm(dim=1)


def _check_gates(network: nn.Module) -> None:
    """Make sure that all attention of a network are channel gates without state.

    Raises:
        TheoryError: one is not.
    """
    _, stages = apart(network)
    scheme = scheme_of(network)
    names = iter(Scheme.parameter_names(scheme.stages))
    for stage, choices in zip(stages, scheme.by_stage(), strict=True):
        for place, (choice, name) in enumerate(zip(choices, names, strict=False)):
            if choice and not stage.module_at(choice, place).gated:
                known = [kind for kind in ATTENTION.single_names() if ATTENTION.get(kind).gated]
                raise TheoryError(
                    f"{stage.kinds[choice - 1]} at {name} is no gate for each channel without "
                    f"state, and T1 speaks of such gates alone ({', '.join(known)}); give a "
                    "network that has no other attention"
                )


class _MappedStage:
    """The attention of a stage; it records the map of each block while it is used."""

    def __init__(self, stage: StageAttention) -> None:
        self.maps: dict[int, list[Tensor]] = {}
        self._stage = stage

    def module_for(self, choice: int, block: int, /) -> Attend:
        attend = self._stage.module_for(choice, block)

        def recording(features: Tensor, state: State | None) -> tuple[Tensor, State | None]:
            attended, after = attend(features, state)
            before = features.double()
            along, size = ((other.double() * before).sum((2, 3)) for other in (attended, features))
            self.maps.setdefault(block, []).append(along / size)
            return attended, after

        return recording


def _pearson(first: Tensor, second: Tensor) -> float:
    """Return the correlation where both are known: a channel of zeros has no gate to be seen."""
    known = first.isfinite() & second.isfinite()
    a, b = (values[known] - values[known].mean() for values in (first, second))
    scale = float(a.norm() * b.norm())
    # Gates that are equal but for rounding do not vary.
    flat = 1e-6 * math.sqrt(max(1, len(a)))
    if min(float(a.norm()), float(b.norm())) < flat:
        return math.nan
    return float(a @ b) / scale
