"""One step of a training in memory that stays where it is, so that a GPU can record it.

A small network on a GPU waits for its launches: a few hundred kernels a step, each a few
microseconds of Python. A CUDA graph launches them all at once. It is recorded from one step and
repeats that step at the same addresses, so images, labels and learning rate are copied into
tensors of the step's own. Elsewhere the same step runs as it is, with the same bits.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from sat_optuna.errors import SatOptunaWarning

__all__ = ["StaticStep", "Step"]

# From images (N, C, H, W) and labels (N,) to the loss and the number of hits, both ().
Step: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# In the first passes libraries choose kernels and take workspaces, which no graph can hold.
_WARM_UP = 3


class StaticStep:
    """A training step that copies its inputs to one place, and on a GPU is a CUDA graph.

    The graph is recorded at the first call, from steps that are undone, and again where a
    parameter was moved. What cannot be recorded is said once and runs without a graph; so does a
    batch of another shape, such as the last one of a DataLoader. The bits are the same in each
    case, where the kernels are deterministic.

    Args:
        step: what is done with a batch. It must leave the gradients it needs in place, and read
            nothing from the device.
        state: returns all that a step changes: parameters, buffers, momentum.
        parameters: those whose gradients a step leaves behind.
    """

    def __init__(
        self, step: Step, state: Callable[[], Sequence[Tensor]], parameters: Sequence[Tensor]
    ) -> None:
        self._step, self._state, self._parameters = step, state, parameters
        self._batch: tuple[Tensor, Tensor] | None = None  # where images and labels are copied to
        self._made: tuple[Tensor, Tensor] | None = None  # what the graph writes
        self._graph: torch.cuda.CUDAGraph | None = None
        self._places: tuple[int, ...] = ()

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Make one step; the result is overwritten by no later one."""
        if self._batch is None:
            self._forget_gradients()  # of whatever came before; a step sets them to zero, not None
            self._batch = x.clone(), labels.clone()  # in the memory format of x
        elif _kind(x) != _kind(self._batch[0]):
            return self._step(x, labels)
        for held, given in zip(self._batch, (x, labels), strict=True):
            held.copy_(given)
        if x.device.type == "cuda" and self._places != (places := self._addresses()):
            self._places = places
            self._record(*self._batch)
        if self._graph is None or self._made is None:
            return self._step(*self._batch)
        self._graph.replay()
        loss, hits = self._made
        return loss.clone(), hits.clone()

    def _addresses(self) -> tuple[int, ...]:
        return tuple(map(Tensor.data_ptr, self._parameters))

    def _record(self, x: Tensor, labels: Tensor) -> None:
        """Make the graph, and leave everything that a step changes as it was."""
        self._graph = self._made = graph = None
        before = [value.detach().clone() for value in self._state()]
        now = torch.cuda.current_stream(x.device)
        # Nothing can be recorded on the default stream. A training that has a stream of its own
        # records there, for libraries keep workspaces a stream, which no other may write into.
        alone = now == torch.cuda.default_stream(x.device)
        side = torch.cuda.Stream(x.device) if alone else now  # type: ignore[no-untyped-call]
        side.wait_stream(now)
        try:
            with torch.random.fork_rng(devices=[x.device]), torch.cuda.stream(side):
                for left in reversed(range(_WARM_UP)):
                    with contextlib.nullcontext() if left else _no_waiting():
                        self._step(x, labels)
                self._forget_gradients()  # the graph makes its own, in its own memory
                graph = torch.cuda.CUDAGraph()
                # Other threads, which pin memory for one, may go on.
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    made = self._step(x, labels)
        except RuntimeError as error:
            self._forget_gradients()
            if graph is not None:
                _release_generator(x.device)
            elif isinstance(error, torch.OutOfMemoryError):
                raise  # a step without a graph would not fit either
            warnings.warn(
                "this network's step cannot be recorded as a CUDA graph "
                f"({str(error).splitlines()[0]}), and is made without one, which is slower; set "
                "train.strategy to 'eager' to be told no more",
                SatOptunaWarning,
                stacklevel=2,
            )
        else:
            self._graph, self._made = graph, made
        finally:
            now.wait_stream(side)
            with torch.no_grad():
                for value, old in zip(self._state(), before, strict=True):
                    value.copy_(old)

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


def _kind(x: Tensor) -> tuple[torch.Size, torch.dtype]:
    return x.shape, x.dtype


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    """Make whatever waits for the GPU an error, before a recording breaks at it."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _release_generator(device: torch.device) -> None:
    """Give the GPU's global generator a fresh state object with the same numbers.

    A recording that broke leaves the old one waiting for its end, and nothing could be drawn.
    """
    generator = torch.cuda.default_generators[device.index]
    generator.graphsafe_set_state(generator.clone_state())
