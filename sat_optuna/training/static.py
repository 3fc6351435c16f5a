"""One step of a training in memory that stays where it is, so that a GPU can record it.

A small network on a GPU waits for its launches: a few hundred kernels a step, each a few
microseconds of Python. A CUDA graph launches them all at once. It is recorded from one step and
repeats that step at the same addresses, so images, labels and learning rate are copied into
tensors of the step's own. Elsewhere the same step runs as it is, with the same bits.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from sat_optuna.errors import SatOptunaWarning

__all__ = ["Capture", "StaticStep", "Step", "Work", "addresses", "kind", "recorded"]

# From images (N, C, H, W) and labels (N,) to the loss and the number of hits, both ().
Step: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Work: TypeAlias = Callable[[], object]
Capture: TypeAlias = Callable[[Work], Work]  # from work to what repeats it
Made = TypeVar("Made")

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
        self._replay: Work | None = None
        self._places: tuple[int, ...] = ()

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Make one step; the result is overwritten by no later one."""
        if self._batch is None:
            self._forget_gradients()  # of whatever came before; a step sets them to zero, not None
            self._batch = x.clone(), labels.clone()  # in the memory format of x
        elif kind(x) != kind(self._batch[0]):
            return self._step(x, labels)
        for held, given in zip(self._batch, (x, labels), strict=True):
            held.copy_(given)
        if x.device.type == "cuda" and self._places != (places := addresses(self._parameters)):
            self._places = places
            self._record(*self._batch)
        if self._replay is None or self._made is None:
            return self._step(*self._batch)
        self._replay()
        loss, hits = self._made
        return loss.clone(), hits.clone()

    def _record(self, x: Tensor, labels: Tensor) -> None:
        self._replay = self._made = None
        made: list[tuple[Tensor, Tensor]] = []

        def step() -> None:
            made[:] = [self._step(x, labels)]

        self._replay = recorded(
            lambda capture: capture(step),
            device=x.device,
            state=self._state,
            forget=self._forget_gradients,
        )
        self._made = made[0] if self._replay else None

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


def recorded(
    passes: Callable[[Capture], Made],
    *,
    device: torch.device,
    state: Callable[[], Sequence[Tensor]],
    forget: Callable[[], None],
    takes_more: bool = False,
) -> Made | None:
    """Record work as CUDA graphs, and leave everything that it changes as it was.

    On a CPU nothing can be recorded, and the work itself repeats the work.

    Args:
        passes: hands work, in an order of its own, to what it is given, which does the work and
            returns what repeats it. The graphs share their memory: what is repeated later must
            keep that order, and may leave some out.
        device: where the work is done.
        state: returns all that the work changes, but for the generators.
        forget: frees what a pass leaves behind, gradients for one.
        takes_more: whether the work takes more memory than a step without graphs, which then may
            fit where it does not.

    Returns:
        What `passes` returned; None where the work cannot be recorded, which a warning says.
    """
    before = [value.detach().clone() for value in state()]
    gpu = device.type == "cuda"
    now = torch.cuda.current_stream(device) if gpu else None
    # Nothing can be recorded on the default stream. A training that has a stream of its own
    # records there, for libraries keep workspaces a stream, which no other may write into.
    side = torch.cuda.Stream(device) if gpu and now == torch.cuda.default_stream(device) else now  # type: ignore[no-untyped-call]
    if side and now:
        side.wait_stream(now)
    begun = False
    try:
        with torch.random.fork_rng(devices=[device] if gpu else []), torch.cuda.stream(side):
            for left in reversed(range(_WARM_UP if gpu else 0)):
                with contextlib.nullcontext() if left else _no_waiting():
                    passes(_done)
            forget()  # the graphs make their own, in their own memory
            if not side:
                return passes(_done)
            begun = True
            return passes(_Recorder(side))
    except RuntimeError as error:
        forget()
        if begun:
            _release_generator(device)
        elif isinstance(error, torch.OutOfMemoryError) and not takes_more:
            raise  # a step without a graph would not fit either
        warnings.warn(
            "this network's step cannot be recorded as a CUDA graph "
            f"({str(error).splitlines()[0]}), and is made without one, which is slower; set "
            "train.strategy to 'eager' to be told no more",
            SatOptunaWarning,
            stacklevel=2,
        )
        return None
    finally:
        if side and now:
            now.wait_stream(side)
        with torch.no_grad():
            for value, old in zip(state(), before, strict=True):
                value.copy_(old)


def _done(work: Work) -> Work:
    work()
    return work


class _Recorder:
    """A `Capture` whose graphs share one pool of memory."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        # Other threads, which pin memory for one, may go on.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            work()
        return graph.replay


def addresses(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return where tensors lie."""
    return tuple(map(Tensor.data_ptr, tensors))


def kind(x: Tensor) -> tuple[torch.Size, torch.dtype]:
    """Return what a tensor must have in common with one that it is copied to."""
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
