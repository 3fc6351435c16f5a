"""Attention in the residual blocks of any model, for one's own loop, loss and task.

    slots = sat.attach(detector, attention=["se"], seed=0)
    with slots.using(slots.suggest(trial)):
        value = my_validation(detector)

`attach` knows blocks alone: the model may be a detector, a U-Net or anything else that holds known
residual blocks, nested anywhere. This is the one place where a module says which scheme is on, and
it is on for a `with` block and nowhere else. There is no prefix tree here, for what the model does
between its blocks is not known: each scheme takes whole passes. Where a network can be walked from
stem to head, `Supernet` and `SupernetObjective` score many schemes for less.
"""

import contextlib
import copy
import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from sat_optuna.attention import OWN, default_spec
from sat_optuna.attention.contract import Attention, AttentionError
from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones.contract import BackboneError, Block
from sat_optuna.backbones.tables import (
    BlockEntry,
    carries_inside,
    find_entry,
    type_name,
)
from sat_optuna.backbones.view import BlockView
from sat_optuna.cost.operations import Cost, count
from sat_optuna.errors import DataError, SatOptunaError, SatOptunaWarning
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import AnyTrial, suggest_scheme
from sat_optuna.supernet.batchnorm import averaged, averaged_norms, evaluating
from sat_optuna.supernet.inside import free_name, put_inside
from sat_optuna.supernet.placement import placement_faults
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.ticket import AttentionSpec

__all__ = ["AttachError", "SchemeInUse", "Slots", "attach"]

_WRAPPERS = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")
_COMPILED = ("OptimizedModule", "ScriptModule", "GraphModule")
_QUANTISED = ("torch.ao.nn.", "torch.ao.quantization", "torch.nn.quantized", "torch.nn.intrinsic")


class AttachError(SatOptunaError, ValueError):
    """A model that attention cannot be attached to."""


class SchemeInUse(SatOptunaError, RuntimeError):  # noqa: N818  reads as what it is
    """A forward, a backward or a second scheme that does not belong to the scheme in use."""


def attach(
    model: nn.Module, *, attention: Sequence[AttentionSpec | str] = ("se",), seed: int = 0
) -> "Slots":
    """Give each known residual block of a model attention that a scheme can switch on, in place.

    >>> import torchvision
    >>> model = torchvision.models.resnet18().eval()
    >>> slots = attach(nn.ModuleDict({"encoder": model}), attention=["se"], seed=0)
    >>> slots.stages, slots.paths[0]
    ((2, 2, 2, 2), ('encoder.layer1.0', 'encoder.layer1.1'))
    >>> x = torch.ones(1, 3, 32, 32)
    >>> plain = model(x)
    >>> with slots.using(Scheme.parse("10-00-00-00")):
    ...     attended = model(x)
    >>> torch.equal(model(x), plain), torch.equal(attended, plain)
    (True, False)

    The attention is part of the model: of its parameters, its state_dict and what `to` moves. So
    make the optimiser afterwards, and wrap or compile the model afterwards. Without a scheme in
    use the model computes bit for bit what it did.

    Args:
        model: holds blocks of types that `add_block` was told of, as torchvision's and timm's
            ResNets, ConvNeXts and others do, at any depth. Blocks without a shortcut are left.
        attention: the kinds, as of `Supernet`; none that is recurrent, and not "own".
        seed: of the attention's weights.

    Raises:
        AttachError: the model is wrapped, compiled, quantised or on several devices, carries
            attention already, or holds no known block or a subclass of one.
        AttentionError: there is no such kind, one is given twice or cannot be built as asked.
    """
    specs = tuple(default_spec(s) if isinstance(s, str) else s for s in attention)
    kinds = [spec.kind for spec in specs]
    if not kinds or len(set(kinds)) < len(kinds):
        raise AttentionError(
            f"attention kinds {kinds} given; name at least one, and each of them once"
        )
    if OWN in kinds:
        raise AttentionError(
            f"attention {OWN!r} given, which attach does not take out of blocks; give it to "
            "Supernet, or name another kind"
        )
    _check_model(model)
    stages = _stages_of(model)
    widths = [[entry.split.channels(block) for _, block, entry in stage] for stage in stages]
    for fault in placement_faults(specs, widths):
        raise AttentionError(fault)
    held = []
    for number, (stage, channels) in enumerate(zip(stages, widths, strict=True)):
        like = next((p for p in stage[0][1].parameters() if p.is_floating_point()), None)
        modules = StageAttention.build(specs, channels, seed=seed, stage=number, like=like)
        for kind in range(1, len(specs) + 1):
            if modules.module_at(kind, 0).recurrent:
                raise AttentionError(
                    f"{specs[kind - 1].kind} carries a state from block to block, which a model "
                    "that is not walked cannot hand on; give it to Supernet, or name another kind"
                )
        held.append(modules)
    return Slots(model, specs, stages, held, seed)


class _InUse:
    """Which scheme a model is run under; a deep copy of the model is run under the same."""

    def __init__(self) -> None:
        self.scheme: Scheme | None = None
        self.thread: int | None = None
        self.token: object = None  # one for each time that a scheme is set
        self.lock = threading.Lock()

    def __deepcopy__(self, _memo: Any) -> "_InUse":
        return self

    def __reduce__(self) -> tuple[Any, ...]:  # in another process no scheme is in use
        return _InUse, ()

    def check(self) -> None:
        """Make sure that a forward belongs to the scheme in use."""
        # On a GPU a recomputation in the backward runs in a thread of autograd's.
        if self.thread != threading.get_ident() and not _in_backward():
            raise SchemeInUse(
                f"a forward runs in another thread than the one that uses scheme {self.scheme}; "
                "run the model in that thread alone, or give each thread a model of its own"
            )

    def check_backward(self, token: object, scheme: Scheme) -> None:
        """Make sure that a backward is within the `with` block of its forward."""
        if self.token is not token:
            raise SchemeInUse(
                f"a backward runs outside the with block that used scheme {scheme}, where "
                "recomputed blocks would run without it; call backward inside that block"
            )


def _in_backward() -> bool:
    """Return whether this is called by autograd's backward; torch's checkpointing asks so too."""
    return torch._C._current_graph_task_id() != -1


@functools.cache
def _attached(block_type: type[nn.Module]) -> type[nn.Module]:
    """Return the class of blocks of a type that ask which scheme is in use."""
    entry = cast("BlockEntry", find_entry(block_type))
    branch, merge = entry.split.branch, entry.split.merge

    class Attached(block_type):  # type: ignore[misc,valid-type]
        _plain_type: ClassVar[type[nn.Module]] = block_type
        _is_attached: ClassVar[bool] = True
        _sat_token: Any  # of the scheme in use at the last forward

        def forward(self, x: Tensor) -> Tensor:
            state: _InUse = self._sat_in_use
            scheme, token = state.scheme, state.token
            if scheme is not None:
                state.check()
            if _in_backward() and self._sat_token is not token:
                raise SchemeInUse(
                    "a block is recomputed in a backward under another scheme than in the "
                    "forward; call backward inside the with block of the forward"
                )
            self._sat_token = token
            choice = 0 if scheme is None else scheme.choices[self._sat_index]
            if not choice:
                made: Tensor = super().forward(x)
            else:
                attention, *name = self._sat_attention[choice]
                features, shortcut = branch(self, x)
                features, _ = attention(features, None, *name)
                made = merge(self, features, shortcut)
            if scheme is not None and made.requires_grad:
                _watch(made, lambda _: state.check_backward(token, scheme))
            return made

        def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
            return _blank, (block_type,), {**vars(self), "_sat_token": None}

    Attached.__name__ = Attached.__qualname__ = f"{block_type.__name__}WithSlot"
    Attached.__doc__ = f"A {block_type.__name__} whose attention a scheme switches on."
    return Attached


def _watch(made: Tensor, told: Callable[[Tensor], None]) -> None:
    """Call `told` with the gradient of a tensor, once a backward comes to it."""
    made.register_hook(told)  # type: ignore[no-untyped-call]


def _blank(block_type: type[nn.Module]) -> nn.Module:
    """Return a block without any attribute; pickle and deepcopy fill it."""
    kind = _attached(cast("Any", block_type))
    blank: nn.Module = kind.__new__(kind)
    return blank


class Slots:
    """The places of a model's blocks where attention may act; made by `attach`.

    A model in train mode under a random scheme each step is a supernet, in one's own loop:

        for step, (x, y) in enumerate(loader):
            with slots.using(slots.random_scheme(0, step)):
                loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    Attributes:
        model: the model.
        specs: the kinds; choice k of a scheme means `specs[k - 1]`.
        stages: number of blocks of each stage. A stage is the known blocks of one container, in
            module order.
        paths: the path of each block in the model, by stage.
    """

    def __init__(
        self,
        model: nn.Module,
        specs: tuple[AttentionSpec, ...],
        stages: Sequence[Sequence[tuple[str, nn.Module, BlockEntry]]],
        attention: Sequence[StageAttention],
        seed: int,
    ) -> None:
        self.model, self.specs, self.seed = model, specs, seed
        self.stages = tuple(len(stage) for stage in stages)
        self.paths = tuple(tuple(path for path, _, _ in stage) for stage in stages)
        self._entries = tuple(tuple(entry for _, _, entry in stage) for stage in stages)
        self._attention, self._state = tuple(attention), _InUse()
        self._names: dict[str, str] = {}  # by a block's path: its attribute with the attention
        index = 0
        for stage, modules in zip(stages, attention, strict=True):
            owned: set[nn.Module] = set()
            for number, (path, block, _) in enumerate(stage):
                self._names[path] = self._put(block, modules, number, index, owned)
                index += 1

    def _put(
        self,
        block: nn.Module,
        modules: StageAttention,
        number: int,
        index: int,
        owned: set[nn.Module],
    ) -> str:
        """Put the attention of all kinds into a block; return the attribute that holds it.

        A module that a stage shares is a submodule of the stage's first block.
        """
        attend: dict[int, tuple[Any, ...]] = {}
        mine: dict[str, nn.Module] = {}
        for choice, spec in enumerate(self.specs, start=1):
            module = modules.module_at(choice, number)
            name = modules.statistics_name(choice, number)
            attend[choice] = (module,) if name is None else (module, name)
            if module not in owned:
                owned.add(module)
                mine[spec.kind] = module
        attribute = free_name(block)
        block.__class__ = _attached(cast("Any", type(block)))
        block.add_module(attribute, nn.ModuleDict(mine))
        vars(block).update(
            _sat_in_use=self._state, _sat_index=index, _sat_attention=attend, _sat_token=None
        )
        return attribute

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds of attention."""
        return tuple(spec.kind for spec in self.specs)

    def suggest(self, trial: AnyTrial) -> Scheme:
        """Ask an Optuna trial for a scheme: one categorical parameter a block, as `Supernet` has.

        Args:
            trial: its sampler decides.

        Raises:
            ChoiceError: the trial was given choices that are none of a scheme of this model.
        """
        return suggest_scheme(trial, self.stages, self.kinds)

    def random_scheme(self, seed: int, step: int) -> Scheme:
        """Draw the scheme of a training step, a function of seed and step alone.

        So all processes of a group agree on it without a word. As of `draw_scheme`: each block
        carries attention with probability 1/2, each kind with the same one.
        """
        return draw_scheme(
            self.stages, len(self.specs), connect=0.5, draws="iid", seed=seed, step=step
        )

    @contextlib.contextmanager
    def using(self, scheme: Scheme) -> Iterator[None]:
        """Run the model under a scheme inside the `with` block, and nowhere else.

        Forward and backward belong inside, in the thread that entered. Deep copies of the model
        (an average of its weights, say) are run under the scheme too.

        Args:
            scheme: which block carries what.

        Raises:
            SchemeError: the scheme does not fit the model.
            SchemeInUse: a scheme is in use; later, where a forward or a backward is outside.
            AttachError: the slots were detached.
        """
        self._check(scheme)
        state = self._state
        with state.lock:
            if state.scheme is not None:
                raise SchemeInUse(
                    f"scheme {state.scheme} is in use, and {scheme} was asked for; leave the with "
                    "block of the one before the other"
                )
            state.scheme, state.token = scheme, object()
            state.thread = threading.get_ident()
        try:
            yield
        finally:
            state.scheme = state.thread = state.token = None

    @contextlib.contextmanager
    def recalibrated(
        self, scheme: Scheme, batches: Iterable[Any], forward: Callable[[Any], object]
    ) -> Iterator[None]:
        """Use a scheme with the BatchNorm statistics that it has on a calibration set.

        They are plain averages over the batches. Inside, the model is in eval mode; on leaving,
        statistics and modes are what they were. Where the model has no BatchNorm with running
        statistics (torchvision's FrozenBatchNorm2d, GroupNorm), there is nothing to do, which a
        SatOptunaWarning says; the scheme is used all the same.

        Args:
            scheme: which block carries what.
            batches: the calibration set.
            forward: called with each batch, it runs the model: `model` itself, for example.

        Raises:
            DataError: no batch was given.
            SchemeError, SchemeInUse, AttachError: as of `using`.
        """
        given = [*batches]
        if not given:
            raise DataError("no calibration batch given; give at least one to average over")
        with self.using(scheme):
            if not averaged_norms(self.model):
                warnings.warn(
                    "the model has no BatchNorm with running statistics (those of "
                    "FrozenBatchNorm2d are constants), so there is nothing to recalibrate; use "
                    "`using` alone",
                    SatOptunaWarning,
                    stacklevel=3,
                )
                given = []
            with averaged(self.model, forward, given, what="calibration"):
                yield

    def materialise(self, scheme: Scheme) -> nn.Module:
        """Return a copy of the model that carries the attention of a scheme and no other.

        It is of the model's type, computes bit for bit what the model computes under the scheme,
        and knows nothing of slots: wrap it, compile it, export it.

        Raises:
            SchemeError: the scheme does not fit the model.
            AttachError: the slots were detached.
        """
        self._check(scheme)
        kept = [
            stage.pruned_to(choices)
            for stage, choices in zip(self._attention, scheme.by_stage(), strict=True)
        ]
        model = copy.deepcopy(self.model)
        self._take_out(model)
        blocks = [
            [
                BlockView(model.get_submodule(path), entry.split)
                for path, entry in zip(paths, entries, strict=True)
            ]
            for paths, entries in zip(self.paths, self._entries, strict=True)
        ]
        return put_inside(model, blocks, kept, scheme)

    def cost(self, scheme: Scheme, example: Any) -> Cost:
        """Return what the attention of a scheme adds to the model's cost.

        The model runs once in eval mode, without a scheme, to see the sizes of its features.

        Args:
            scheme: which block carries what.
            example: what the model is called with, a tuple for several arguments. The operations
                are those of the whole example, so give one image.

        Raises:
            SchemeError, AttachError: as of `using`.
        """
        self._check(scheme)
        seen: dict[str, list[Tensor]] = {path: [] for stage in self.paths for path in stage}
        hooks = [
            self.model.get_submodule(path).register_forward_pre_hook(
                lambda _, given, path=path: seen[path].append(given[0].clone())
            )
            for path in seen
        ]
        with evaluating(self.model), torch.no_grad():
            try:
                self.model(*example) if isinstance(example, tuple) else self.model(example)
            finally:
                for hook in hooks:
                    hook.remove()
            added = [
                count(functools.partial(attend, features, None))
                for attend, features in self._attended(scheme, seen)
            ]
        return Cost(
            params=sum(p.numel() for module in self._used(scheme) for p in module.parameters()),
            macs=sum(operations.macs for operations in added),
            elementwise=sum(operations.elementwise for operations in added),
        )

    def _attended(
        self, scheme: Scheme, seen: dict[str, list[Tensor]]
    ) -> Iterator[tuple[Callable[..., Any], Tensor]]:
        """Yield what acts on which features, for each time that a connected block was run."""
        rows = zip(self.paths, self._entries, self._attention, scheme.by_stage(), strict=True)
        for paths, entries, stage, choices in rows:
            for number, (path, entry, choice) in enumerate(
                zip(paths, entries, choices, strict=True)
            ):
                block = self.model.get_submodule(path)
                for x in seen[path] if choice else ():
                    yield stage.module_for(choice, number), entry.split.branch(block, x)[0]

    def _used(self, scheme: Scheme) -> set[Attention]:
        rows = zip(self._attention, scheme.by_stage(), strict=True)
        return {
            stage.module_at(choice, number)
            for stage, choices in rows
            for number, choice in enumerate(choices)
            if choice
        }

    def detach(self) -> None:
        """Take all attention out of the model, which is then of the types it was of.

        Raises:
            SchemeInUse: a scheme is in use.
            AttachError: the slots were detached already.
        """
        self._check_attached()
        if self._state.scheme is not None:
            raise SchemeInUse(
                f"scheme {self._state.scheme} is in use; leave its with block, then detach"
            )
        self._take_out(self.model)
        self._names = {}

    def _take_out(self, model: nn.Module) -> None:
        """Take slots and attention out of the model, or out of a copy of it."""
        for path, attribute in self._names.items():
            block = model.get_submodule(path)
            delattr(block, attribute)
            for name in ("_sat_in_use", "_sat_index", "_sat_attention", "_sat_token"):
                vars(block).pop(name)
            block.__class__ = cast("Any", type(block))._plain_type

    def _check(self, scheme: Scheme) -> None:
        self._check_attached()
        scheme.check_fits(self.stages, kinds=len(self.specs))

    def _check_attached(self) -> None:
        if not self._names:
            raise AttachError(
                "these slots were detached; call attach again for the slots of the model"
            )


def _check_model(model: nn.Module) -> None:
    """Make sure that a model is as it was written: neither wrapped, converted nor split up."""
    for path, module in model.named_modules():
        where = f"the model's {path}" if path else "the model"
        names = {kind.__name__ for kind in type(module).__mro__}
        if found := names.intersection(_WRAPPERS):
            raise AttachError(
                f"{where} is wrapped in {min(found)}; attach to the module inside, then wrap it"
            )
        if found := names.intersection(_COMPILED):
            raise AttachError(
                f"{where} is compiled or traced ({min(found)}), so its blocks cannot be changed; "
                "attach before that, or compile what slots.materialise returns"
            )
        if type(module).__module__.startswith(_QUANTISED):
            raise AttachError(
                f"{where} is quantised, or will be ({type(module).__name__}); attach to the "
                "model in floating point, and quantise what slots.materialise returns"
            )
        if getattr(type(module), "_is_attached", False):
            raise AttachError(
                f"attention is attached to {path or 'the model'} already; use its slots, or call "
                "their detach() first"
            )
        if carries_inside(module):
            raise AttachError(
                f"{where} carries attention already, as a ticket's network does; give the model "
                "as it was without"
            )
    tensors = (*model.parameters(), *model.buffers())
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise AttachError(
            f"the model is on several devices ({', '.join(devices)}); move it to one, attach, and "
            "split it up afterwards"
        )


def _stages_of(model: nn.Module) -> list[list[tuple[str, nn.Module, BlockEntry]]]:
    """Return the known blocks of a model, those of one container together, in module order.

    Raises:
        AttachError: there is none, or a block is of a subclass of a known type.
    """
    found: dict[str, list[tuple[str, nn.Module, BlockEntry]]] = {}
    for path, module in model.named_modules():
        try:
            entries = {kind: find_entry(kind) for kind in _bases(module)}
        except BackboneError as error:
            raise AttachError(str(error)) from error
        known = [kind for kind, entry in entries.items() if entry is not None]
        if not known:
            continue
        entry = entries[type(module)]
        if entry is None:
            raise AttachError(
                f"block {path} is of type {type_name(type(module))}, a subclass of "
                f"{type_name(known[0])}, which may compute something else; register it with "
                "sat_optuna.backbones.tables.add_block"
            )
        if entry.has_shortcut is None or entry.has_shortcut(module):
            found.setdefault(path.rpartition(".")[0], []).append((path, module, entry))
    if not found:
        raise AttachError(
            f"the model {type_name(type(model))} holds no residual block of a known type, but "
            f"{_listed_types(model)}; register the type of its blocks with "
            "sat_optuna.backbones.tables.add_block"
        )
    return list(found.values())


def _bases(module: nn.Module) -> list[type[nn.Module]]:
    """Return a module's type and those that it derives from, the general ones left out."""
    known = [kind for kind in type(module).__mro__ if kind not in _GENERAL]
    return [kind for kind in known if issubclass(kind, nn.Module)]


_GENERAL = (nn.Module, Block, object)


def _listed_types(model: nn.Module) -> str:
    """Return the types of modules in a model that hold others, for messages."""
    named = {
        type_name(type(module)): None
        for module in model.modules()
        if next(module.children(), None) is not None
        and not type(module).__module__.startswith("torch.nn.")
    }
    names = list(named)[1:] or ["layers of torch.nn alone"]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
