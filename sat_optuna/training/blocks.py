"""A supernet's training step in pieces: the stem, each choice of each block, the head.

A CUDA graph holds one forward pass, and a supernet has another scheme each step. So each piece is
recorded by itself, its forward pass and its backward pass, and a step repeats the pieces that its
scheme is made of. What goes from one piece to the next lies at a place of its own, a `_Joint`.
On a CPU the same pieces run as they are, with the bits of the usual step.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from sat_optuna.attention.stage import Attend
from sat_optuna.backbones.view import BlockView
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.precision import Arithmetic
from sat_optuna.training.static import Capture, addresses, kind, recorded

__all__ = ["BlockSteps"]

# Stage, block within it, choice, and whether a block before in this stage carries the same
# recurrent kind, whose state this one takes up.
_Key: TypeAlias = tuple[int, int, int, bool]

# From logits (N, classes) and labels (N,) to the loss and the number of hits, both ().
Judge: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_STEM, _HEAD = (-1, 0, 0, False), (-2, 0, 0, False)


class BlockSteps:
    """Training steps of a supernet under any scheme, made of recorded pieces.

    The pieces are recorded at the first batch, from passes that are undone, and again where a
    parameter was moved. They hold the activations of all choices at once, of which the usual step
    holds those of one.

    A parameter that no piece of the step uses gets no decay and no momentum step, as without.
    The bits are those of the usual step where the kernels are deterministic. But what several
    blocks share has its gradients added up block by block: in another order where a block uses it
    twice, as CBAM does, and in float32 where the usual step in bfloat16 has them in bfloat16.

    Args:
        net: the supernet, in train mode.
        optimizer: of its parameters; it makes a step of those whose gradient is not None, and has
            its learning rate in a tensor.
        momentum: returns the tensors that it keeps.
        arithmetic: float32 or bfloat16; the batches are in its memory format.
        judge: from logits and labels to the loss and the number of images classified right.
    """

    def __init__(
        self,
        net: Supernet,
        optimizer: torch.optim.Optimizer,
        momentum: Callable[[], Iterable[Tensor]],
        arithmetic: Arithmetic,
        judge: Judge,
    ) -> None:
        self._net, self._optimizer, self._momentum = net, optimizer, momentum
        self._arithmetic, self._judge = arithmetic, judge
        self._parameters = [p for p in net.parameters() if p.requires_grad]
        self._batch: tuple[Tensor, Tensor] | None = None  # where images and labels are copied to
        self._places: tuple[int, ...] = ()
        self._pieces: _Pieces | None = None
        self._passes: _Passes | None = None

    def takes(self, x: Tensor, labels: Tensor) -> bool:
        """Return whether a step of such a batch can be made of pieces."""
        if self._batch is None:
            self._batch = x.clone(), labels.clone()  # in the memory format of x
        elif kind(x) != kind(self._batch[0]):
            return False
        for held, given in zip(self._batch, (x, labels), strict=True):
            held.copy_(given)
        if self._places != (places := addresses(self._parameters)):
            self._places = places
            self._record(*self._batch)
        return self._passes is not None

    def __call__(self, scheme: Scheme) -> tuple[Tensor, Tensor]:
        """Make one step with the batch that was taken; the result is overwritten by no later one.

        Raises:
            SchemeError: the scheme does not fit the network.
        """
        self._net.check(scheme)
        if self._pieces is None or self._passes is None:
            raise RuntimeError("no batch was taken")
        self._forget_gradients()  # of a step that was not made of pieces
        route = self._pieces.route(scheme)
        self._passes.run(route)
        loss, hits = self._pieces.end.values
        return loss.clone(), hits.clone()

    def _record(self, x: Tensor, labels: Tensor) -> None:
        self._passes = self._pieces = None
        pieces = _Pieces(self._net, x, labels, self._arithmetic, self._judge, self._parameters)
        self._passes = recorded(
            partial(_Passes, pieces, self._optimizer),
            device=x.device,
            state=lambda: [
                *self._net.parameters(),
                *self._net.buffers(),
                *self._momentum(),
            ],
            forget=self._forget_gradients,
            takes_more=True,  # the activations of every choice of every block
        )
        self._pieces = pieces if self._passes else None

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


class _Joint:
    """What one piece hands to a later one, and the gradient that comes back.

    Attributes:
        values: the first that is put here decides shapes, dtypes and memory formats.
        gradients: of the loss, one a value.
    """

    def __init__(self, gradient: float = 0.0) -> None:
        self.values: tuple[Tensor, ...] = ()
        self.gradients: tuple[Tensor, ...] = ()
        self._gradient = gradient

    def put(self, made: Sequence[Tensor]) -> None:
        """Copy values here.

        Raises:
            RuntimeError: they are of another kind than those before, so that one place cannot hold
                both.
        """
        if not self.values:
            self.values = tuple(torch.empty_like(one) for one in made)
            self.gradients = tuple(torch.full_like(one, self._gradient) for one in self.values)
        if [*map(kind, self.values)] != [*map(kind, made)]:
            raise RuntimeError("the choices of a block return other shapes or dtypes")
        for held, one in zip(self.values, made, strict=True):
            held.copy_(one.detach())


class _Piece:
    """A part of a network, whose forward and backward passes are repeated by themselves.

    Args:
        run: from the values of `reads`, one after the other, to those of each of `writes`.
        reads, writes: joints; one that is in both holds a state, which is replaced.
        gradients: by the parameters that it may use, where their gradients are added up.

    Attributes:
        used: the parameters that it uses, known after its first backward pass.
    """

    def __init__(
        self,
        run: Callable[..., Sequence[Sequence[Tensor]]],
        reads: Sequence[_Joint],
        writes: Sequence[_Joint],
        gradients: Mapping[Tensor, Tensor],
    ) -> None:
        self._run, self._reads, self._writes = run, reads, writes
        self._gradients = gradients
        self.used = [*gradients]
        self._leaves: list[Tensor] = []
        self._made: Sequence[Sequence[Tensor]] = ()

    @property
    def sends_back(self) -> bool:
        """Whether its backward pass does anything."""
        return bool(self._reads or self.used)

    def forward(self) -> None:
        """Read, compute and write."""
        self._leaves = [
            # What is replaced is needed again in the backward pass.
            (value.clone() if joint in self._writes else value.detach()).requires_grad_()
            for joint in self._reads
            for value in joint.values
        ]
        self._made = self._run(*self._leaves)
        for joint, made in zip(self._writes, self._made, strict=True):
            joint.put(made)

    def backward(self) -> None:
        """Turn the gradients of what was written into those of what was read, and add up ours."""
        pairs = [
            (one, gradient)
            for joint, made in zip(self._writes, self._made, strict=True)
            for one, gradient in zip(made, joint.gradients, strict=True)
            if one.requires_grad
        ]
        leaves, self._leaves, self._made = self._leaves, [], ()
        wanted = [*leaves, *self.used]
        if not pairs or not wanted:
            self.used = []
            return
        ones, given = zip(*pairs, strict=True)
        found: Sequence[Tensor | None] = torch.autograd.grad(
            ones, wanted, given, allow_unused=True
        )
        places = [gradient for joint in self._reads for gradient in joint.gradients]
        for place, one in zip(places, found, strict=False):
            if one is None:
                place.zero_()
            else:
                place.copy_(one)
        mine = {
            parameter: one
            for parameter, one in zip(self.used, found[len(leaves) :], strict=True)
            if one is not None
        }
        self.used = [*mine]
        if mine:
            held = [self._gradients[parameter] for parameter in mine]
            torch._foreach_add_(held, [*mine.values()])


class _Pieces:
    """A supernet cut into pieces.

    Attributes:
        gradients: where the gradients of the parameters are added up.
        pieces: by their keys, in an order in which every scheme's come one after the other.
        states: what recurrent kinds hand on.
        end: the loss and the number of hits.
    """

    def __init__(
        self,
        net: Supernet,
        x: Tensor,
        labels: Tensor,
        arithmetic: Arithmetic,
        judge: Judge,
        parameters: Sequence[Tensor],
    ) -> None:
        self.gradients = {
            parameter: torch.zeros_like(parameter).detach() for parameter in parameters
        }
        self.pieces: dict[_Key, _Piece] = {}
        self.states: list[_Joint] = []
        self.end = _Joint(gradient=1.0)
        self._autocast = partial(
            torch.autocast,
            x.device.type,
            arithmetic.dtype,
            enabled=arithmetic.precision != "float32",
            cache_enabled=False,  # what one piece casts another cannot find again
        )

        def stem() -> Sequence[Sequence[Tensor]]:
            return ((net.view.stem(x),),)

        def head(features: Tensor) -> Sequence[Sequence[Tensor]]:
            logits = net.view.head(features, x.shape[2:])
            return (judge(logits, labels),)

        joint = _Joint()
        self._add(_STEM, stem, (), (joint,))
        kinds = range(1, len(net.specs) + 1)
        for stage, (blocks, source) in enumerate(
            zip(net.view.blocks, net.stage_attention, strict=True)
        ):
            states = {
                choice: _Joint() for choice in kinds if source.module_at(choice, 0).recurrent
            }
            self.states += states.values()
            for index, block in enumerate(blocks):
                before, joint = joint, _Joint()
                self._add((stage, index, 0, False), partial(_plain, block), (before,), (joint,))
                for choice in kinds:
                    attend, key = source.module_for(choice, index), (stage, index, choice)
                    if choice not in states:
                        run = partial(_attended, block, attend)
                        self._add((*key, False), run, (before,), (joint,))
                        continue
                    run, state = partial(_recurrent, block, attend), states[choice]
                    self._add((*key, False), run, (before,), (joint, state))
                    if index:
                        self._add((*key, True), run, (before, state), (joint, state))
        self._add(_HEAD, head, (joint,), (self.end,))

    def _add(
        self,
        key: _Key,
        run: Callable[..., Sequence[Sequence[Tensor]]],
        reads: Sequence[_Joint],
        writes: Sequence[_Joint],
    ) -> None:
        autocast = self._autocast

        def cast(*given: Tensor) -> Sequence[Sequence[Tensor]]:
            with autocast():
                return run(*given)

        self.pieces[key] = _Piece(cast, reads, writes, self.gradients)

    def route(self, scheme: Scheme) -> list[_Key]:
        """Return the pieces of a scheme, from the first to the last."""
        keys = [_STEM]
        for stage, choices in enumerate(scheme.by_stage()):
            for index, choice in enumerate(choices):
                carried = (stage, index, choice, choice in choices[:index])
                keys.append(carried if carried in self.pieces else (*carried[:3], False))
        return [*keys, _HEAD]

    def begin(self) -> None:
        """Set to zero what is added up, and what no later block sends back."""
        zero = [*self.gradients.values()]
        zero += [gradient for joint in self.states for gradient in joint.gradients]
        if zero:
            torch._foreach_zero_(zero)

    def groups(self) -> dict[frozenset[_Key], list[Tensor]]:
        """Return the parameters, by the pieces that use them: of these one is in the step or none.

        Those that every step uses are one group, of all pieces.
        """
        places: dict[tuple[int, int], set[_Key]] = {}
        users: dict[Tensor, set[_Key]] = {}
        for key, piece in self.pieces.items():
            places.setdefault(key[:2], set()).add(key)
            for parameter in piece.used:
                users.setdefault(parameter, set()).add(key)
        made: dict[frozenset[_Key], list[Tensor]] = {}
        for parameter, keys in users.items():
            always = any(place <= keys for place in places.values())
            made.setdefault(frozenset(self.pieces if always else keys), []).append(parameter)
        return made


class _Passes:
    """The passes of all pieces and the updates, each of which can be repeated by itself."""

    def __init__(
        self, pieces: _Pieces, optimizer: torch.optim.Optimizer, capture: Capture
    ) -> None:
        self._begin = capture(pieces.begin)
        self._forward = {key: capture(one.forward) for key, one in pieces.pieces.items()}
        backwards = [*pieces.pieces.items()][::-1]
        self._backward = {k: capture(one.backward) for k, one in backwards if one.sends_back}
        # Apart from the backward passes, which need the weights of before.
        self._updates = [
            (users, capture(partial(_update, optimizer, parameters, pieces.gradients)))
            for users, parameters in pieces.groups().items()
        ]

    def run(self, route: Sequence[_Key]) -> None:
        """Make a step of pieces, in the order in which they were recorded."""
        self._begin()
        for key in route:
            self._forward[key]()
        for key in reversed(route):
            if key in self._backward:
                self._backward[key]()
        here = frozenset(route)
        for users, update in self._updates:
            if not users.isdisjoint(here):
                update()


def _update(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    gradients: Mapping[Tensor, Tensor],
) -> None:
    """Make the optimiser's step of some parameters."""
    for parameter in parameters:
        parameter.grad = gradients[parameter]
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None


def _plain(block: BlockView, x: Tensor) -> Sequence[Sequence[Tensor]]:
    return ((block.merge(*block.branch(x)),),)


def _attended(block: BlockView, attend: Attend, x: Tensor) -> Sequence[Sequence[Tensor]]:
    features, shortcut = block.branch(x)
    features, _ = attend(features, None)
    return ((block.merge(features, shortcut),),)


def _recurrent(
    block: BlockView, attend: Attend, x: Tensor, *state: Tensor
) -> Sequence[Sequence[Tensor]]:
    features, shortcut = block.branch(x)
    features, kept = attend(features, state or None)
    return (block.merge(features, shortcut),), kept or ()
