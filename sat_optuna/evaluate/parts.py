"""A supernet cut into the parts that schemes with the same first choices share.

What a part returns depends on the choices before it alone, and so do the BatchNorm statistics in
it: there is one set of them for each prefix of choices that leads to the part.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from sat_optuna.attention.contract import State
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.errors import DataError
from sat_optuna.supernet.batchnorm import (
    Statistics,
    borrowed,
    evaluating,
    fresh_statistics,
    set_statistics,
)
from sat_optuna.supernet.supernet import Supernet

__all__ = [
    "HEAD",
    "OBJECT_BYTES",
    "STEM",
    "Choices",
    "Part",
    "Parts",
    "PrefixEstimates",
    "PrefixStatistics",
    "States",
    "survey",
]

Choices: TypeAlias = tuple[int, ...]
# One state for each kind of the stage that has handed one on.
States: TypeAlias = Mapping[int, State | None]

OBJECT_BYTES = 640  # bytes that a tensor takes beside its values, about


class Part(NamedTuple):
    """A part of a supernet: `what` it is, of which block (from 0), for which choice."""

    what: str
    block: int = -1
    choice: int = -1

    def depth(self, blocks: int) -> int:
        """Return how many first choices, of a scheme of so many blocks, decide what it returns."""
        if self.what == "head":
            return blocks
        return self.block if self.what == "branch" else self.block + 1


STEM, HEAD = Part("stem"), Part("head")


class Parts:
    """The parts of a supernet, to be run one by one.

    Attributes:
        net: the supernet.
        blocks: the blocks of all stages in one tuple.
        firsts: the index of each stage's first block, which is given no state.
        kinds: K, the number of kinds of attention.
    """

    def __init__(self, net: Supernet) -> None:
        self.net = net
        self.blocks = tuple(block for blocks in net.view.blocks for block in blocks)
        self.kinds = len(net.specs)
        self.firsts = frozenset(accumulate(net.stages, initial=0))
        self._attend = tuple(
            tuple(source.module_for(choice, block) for choice in range(1, self.kinds + 1))
            for source, count in zip(net.stage_attention, net.stages, strict=True)
            for block in range(count)
        )

    def attend(
        self, block: int, choice: int, features: Tensor, states: States
    ) -> tuple[Tensor, States]:
        """Return the attended (N, C, H, W) features of a block, and the states for the next one.

        The states given are left as they are: other choices of the block are given them too.
        """
        attended, state = self._attend[block][choice - 1](features, states.get(choice))
        return attended, states if state is states.get(choice) else {**states, choice: state}

    def tour(self, x: Tensor, run: Callable[..., Any]) -> None:
        """Run every part, one after the other, on what the parts before it return.

        Each part runs once, except attention that returns a state: it runs once without a state
        and once with the one that it returned.

        Args:
            x: (N, C, H, W) images.
            run: called with each part, the function that runs it, and what that is given;
                returns what that returns.
        """
        head = partial(self.net.view.head, size=x.shape[2:])
        x = run(STEM, self.net.view.stem, x)
        for number, block in enumerate(self.blocks):
            features, shortcut = run(Part("branch", number), block.branch, x)
            x = attended = features
            for choice in range(1, self.kinds + 1):
                part = Part("attention", number, choice)
                attend = partial(self.attend, number, choice)
                attended, states = run(part, attend, features, {})
                if states:
                    attended, _ = run(part, attend, features, states)
            x = run(Part("merge", number), block.merge, attended, shortcut)
            del features, shortcut, attended  # a walk has freed them here too
        run(HEAD, head, x)


def survey(parts: Parts, x: Tensor, *, calibrated: bool) -> dict[Part, tuple[_BatchNorm, ...]]:
    """Make sure that schemes may share what the parts are given and return.

    Args:
        parts: of the network, which stays as it is.
        x: (N, C, H, W) images to try it on; two will do.
        calibrated: whether BatchNorm statistics will be estimated for each scheme.

    Returns:
        The BatchNorms with statistics that each part runs; none where nothing is calibrated.

    Raises:
        BackboneError: a part changes its input, which other schemes need; attention returns a
            state that is neither None nor a tuple of tensors; or two parts run one BatchNorm, so
            its statistics for a scheme would depend on later choices.
    """
    name = parts.net.backbone_name
    paths = {
        module: path
        for path, module in (parts.net.named_modules() if calibrated else ())
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }
    owners: dict[_BatchNorm, Part] = {}
    now = STEM

    def note(norm: _BatchNorm, _arguments: Any) -> None:
        if owners.setdefault(norm, now) != now:
            raise BackboneError(
                f"network {name} runs {paths[norm]} in several parts, so its statistics for a "
                "scheme depend on later blocks; give each part a BatchNorm of its own, or score "
                "without calibration"
            )

    def run(part: Part, call: Callable[..., Any], *given: Any) -> Any:
        nonlocal now
        now = part
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        before = [tensor._version for tensor in tensors]
        made = call(*given)
        fault = ""
        if [tensor._version for tensor in tensors] != before:
            fault = (
                "changes its input in place, which other schemes need too; let it make a new "
                "tensor (x + y, not x += y)"
            )
        elif part.what == "attention" and not all(map(_is_state, made[1].values())):
            fault = (
                "returns a state that is neither None nor a tuple of tensors; return one of them"
            )
        if fault:
            raise BackboneError(f"{_title(parts, part)} of network {name} {fault}")
        return made

    hooks = [norm.register_forward_pre_hook(note) for norm in paths]
    try:
        # Inference mode counts no changes.
        with evaluating(parts.net), torch.inference_mode(mode=False), torch.no_grad():
            parts.tour(x.clone(), run)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[Part, tuple[_BatchNorm, ...]] = {}
    for norm, part in owners.items():
        found[part] = (*found.get(part, ()), norm)
    return found


def _is_state(state: object) -> bool:
    return state is None or (
        isinstance(state, tuple) and all(isinstance(one, Tensor) for one in state)
    )


def _title(parts: Parts, part: Part) -> str:
    """Return what a message calls a part."""
    if part.what == "attention":
        return f"attention {parts.net.specs[part.choice - 1].kind!r} at block {part.block}"
    return f"the {part.what}" + (f" of block {part.block}" if part.block >= 0 else "")


class PrefixEstimates(Protocol):
    """What is estimated for each prefix on a calibration set, and what no module does to a block.

    The schemes of a tree share it as they share activations. The walk goes through the calibration
    set in train mode, then through the images that are scored.
    """

    @property
    def size(self) -> int:
        """Bytes that it takes for one scheme at most."""

    def prepared(self, schemes: Iterable[Choices], /) -> contextlib.AbstractContextManager[None]:
        """Make room for what a walk through some schemes estimates; on leaving it is gone."""

    def train(self, *, mode: bool) -> None:
        """Estimate (True), or use what was estimated (False)."""

    def install(self, part: Part, prefix: Choices, /) -> None:
        """Get a part ready to be run after these choices."""

    def attended(
        self, prefix: Choices, features: Tensor, states: States, /
    ) -> tuple[Tensor, States]:
        """Return what the last choice of a prefix makes of its block's features, and the states.

        Args:
            prefix: the choices up to this block, its own the last.
            features: (N, C, H, W), of the block's branch; they are left as they are.
            states: of recurrent attention, likewise.
        """


class PrefixStatistics:
    """BatchNorm statistics for each part and prefix, given to the network's own BatchNorms.

    The schemes of a tree share statistics as they share activations.

    Args:
        parts: of the network.
        norms: of `survey`; empty where the network's own statistics are used.
    """

    way = "recalibrated"

    def __init__(self, parts: Parts, norms: Mapping[Part, tuple[_BatchNorm, ...]]) -> None:
        self._parts, self._norms = parts, norms
        self._every = tuple(norm for part in norms.values() for norm in part)
        self._held: dict[tuple[Part, Choices], list[Statistics]] = {}

    @classmethod
    def of(cls, parts: Parts, x: Tensor, calibration: Sequence[Tensor]) -> Self:
        """Find the BatchNorms of a network; see `survey`.

        Args:
            parts: of the network.
            x: (N, C, H, W) images to try it on; two will do.
            calibration: (n, C, H, W) each; empty where the network's own statistics are used.

        Raises:
            DataError: a chunk of a single image.
            BackboneError: see `survey`.
        """
        for number, batch in enumerate(calibration, start=1):
            if len(batch) < 2:
                raise DataError(
                    f"calibration chunk {number} has {len(batch)} image(s), and the statistics of "
                    "BatchNorm need two at least; give a larger set or another chunk size"
                )
        return cls(parts, survey(parts, x, calibrated=bool(calibration)))

    @property
    def needs_leaves(self) -> bool:
        """Whether there are norms after the last block's branch, of which else nothing is run."""
        last = len(self._parts.blocks) - 1
        return any(
            part == HEAD or (part.block == last and part.what != "branch") for part in self._norms
        )

    @property
    def size(self) -> int:
        """Bytes of one set of statistics of every part."""
        tensors = [value for norm in self._every for value in fresh_statistics(norm)]
        return sum(OBJECT_BYTES + value.nbytes for value in tensors)

    @contextlib.contextmanager
    def prepared(self, schemes: Iterable[Choices]) -> Iterator[None]:
        """Make the statistics that a walk through some schemes needs; on leaving they are gone.

        They are made all at once, before the walk: small tensors that stay, made among large ones
        that come and go, leave holes in the heap that the next large one does not fit in.

        Args:
            schemes: their choices.
        """
        for choices in schemes:
            for part, norms in self._norms.items():
                prefix = choices[: part.depth(len(choices))]
                if part.choice in (-1, *prefix[-1:]) and (part, prefix) not in self._held:
                    self._held[part, prefix] = [fresh_statistics(norm) for norm in norms]
        try:
            with borrowed(self._every):
                yield
        finally:
            self._held.clear()

    def train(self, *, mode: bool) -> None:
        """Let the norms estimate statistics (True) or use them (False)."""
        for norm in self._every:
            norm.training = mode

    def install(self, part: Part, prefix: Choices) -> None:
        """Give a part's norms the statistics that they have after these choices.

        Args:
            part: what is run next.
            prefix: the choices that its input depends on.
        """
        norms = self._norms.get(part, ())
        if norms:
            for norm, statistics in zip(norms, self._held[part, prefix], strict=True):
                set_statistics(norm, statistics)

    def attended(self, prefix: Choices, features: Tensor, states: States) -> tuple[Tensor, States]:
        """Return the attended features of a block, or its features, and the states.

        Args:
            prefix: the choices up to this block, its own the last.
            features: (N, C, H, W).
            states: of recurrent attention.
        """
        block, choice = len(prefix) - 1, prefix[-1]
        if not choice:
            return features, states
        self.install(Part("attention", block, choice), prefix)
        return self._parts.attend(block, choice, features, states)
