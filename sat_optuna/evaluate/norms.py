"""BatchNorm statistics of many schemes at once: one set for each prefix that reaches a norm."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.backbones.contract import BackboneError
from sat_optuna.evaluate.parts import Part, Parts
from sat_optuna.supernet.batchnorm import evaluating

__all__ = ["PrefixStatistics", "find_norms"]

Prefix: TypeAlias = tuple[int, ...]
_OBJECT = 640  # bytes of a tensor without values, about
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def find_norms(parts: Parts, x: Tensor) -> dict[Part, tuple[_BatchNorm, ...]]:
    """Return which BatchNorms each part of a supernet runs, of those that keep statistics.

    Args:
        parts: of the network, which stays as it is.
        x: (N, C, H, W) images to try it on; a few will do.

    Raises:
        BackboneError: two parts run the same one, whose statistics then hang on later choices.
    """
    paths = {
        module: path
        for path, module in parts.net.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }
    found: dict[_BatchNorm, Part] = {}
    now = Part("nothing")

    def note(norm: _BatchNorm, _arguments: Any) -> None:
        if found.setdefault(norm, now) != now:
            raise BackboneError(
                f"network {parts.net.backbone_name} runs {paths[norm]} in several places, so its "
                "statistics for a scheme depend on later blocks; give each place a BatchNorm of "
                "its own, or score without calibration"
            )

    def run(part: Part, call: Callable[[], Any]) -> Any:
        nonlocal now
        now = part
        return call()

    hooks = [norm.register_forward_pre_hook(note) for norm in paths]
    try:
        with evaluating(parts.net), torch.inference_mode():
            parts.tour(x, run)
    finally:
        for hook in hooks:
            hook.remove()
    gathered: dict[Part, tuple[_BatchNorm, ...]] = {}
    for norm, part in found.items():
        gathered[part] = (*gathered.get(part, ()), norm)
    return gathered


class PrefixStatistics:
    """Running statistics for each part and prefix, put into the network's own BatchNorms.

    A norm's statistics depend on the choices before it alone, so the schemes of a tree share them
    as they share the activations. Those of the network itself are put aside and never written.

    Args:
        norms: of `find_norms`; none where the network's own statistics are used.
    """

    def __init__(self, norms: Mapping[Part, tuple[_BatchNorm, ...]]) -> None:
        self._norms = norms
        self._held: dict[tuple[Part, Prefix], tuple[tuple[Tensor, ...], ...]] = {}

    def sizes(self) -> dict[Part, int]:
        """Return the bytes of one set of statistics of each part that has any."""
        return {
            part: sum(_OBJECT + value.nbytes for norm in norms for value in _fresh(norm))
            for part, norms in self._norms.items()
        }

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[None]:
        """Let `place` change the norms; on leaving they are as they were, statistics forgotten."""
        norms = [norm for part in self._norms.values() for norm in part]
        before = [
            (norm, norm.momentum, [getattr(norm, name) for name in _BUFFERS]) for norm in norms
        ]
        try:
            for norm in norms:
                norm.momentum = None  # an average over the chunks, not a decaying one
            yield
        finally:
            self._held.clear()
            for norm, momentum, buffers in before:
                norm.momentum = momentum
                for name, value in zip(_BUFFERS, buffers, strict=True):
                    setattr(norm, name, value)

    def train(self, *, mode: bool) -> None:
        """Let the norms estimate statistics (True) or use them (False)."""
        for part in self._norms.values():
            for norm in part:
                norm.training = mode

    def prepare(self, schemes: Iterable[Prefix]) -> None:
        """Make the statistics that the walk through some schemes needs.

        All at once, before it: many small tensors that stay, each made beside large ones that
        come and go, leave holes in the heap that the next large one does not fit in.

        Args:
            schemes: their choices.
        """
        for choices in schemes:
            for part in self._norms:
                prefix = choices[: part.depth(len(choices))]
                if part.choice in (-1, *prefix[-1:]) and (part, prefix) not in self._held:
                    self._held[part, prefix] = tuple(_fresh(norm) for norm in self._norms[part])

    def place(self, part: Part, prefix: Prefix) -> None:
        """Give a part's norms the statistics that they have after these choices.

        Args:
            part: what is run next.
            prefix: the choices that its input depends on, of a scheme that `prepare` was given.
        """
        norms = self._norms.get(part, ())
        if norms:
            for norm, buffers in zip(norms, self._held[part, prefix], strict=True):
                norm.running_mean, norm.running_var, norm.num_batches_tracked = buffers


def _fresh(norm: _BatchNorm) -> tuple[Tensor, ...]:
    """Return what `reset_running_stats` would set.

    The count stays on the CPU, where reading it waits for nothing.
    """
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:  # for the types: a norm that tracks has both
        raise BackboneError("a BatchNorm without running statistics was found; give it some")
    return (
        torch.zeros_like(mean),
        torch.ones_like(variance),
        torch.zeros((), dtype=torch.int64),
    )
