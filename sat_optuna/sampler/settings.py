"""What the settings of the sampler may be: a table of ranges, and checks of the others."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
import math
from numbers import Real
import operator
from typing import Any
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from .budget import Budget
from .policy import Floats


__all__ = [
    "NUMBERS",
    "OPTIONS",
    "RATES",
    "CostLimit",
    "Range",
    "Reward",
    "budget_in",
    "chosen_in",
    "fixed_of",
    "limits_of",
    "options_of",
    "space_of",
    "weights_of",
]

Reward: TypeAlias = Callable[[FrozenTrial], float | None]
Space: TypeAlias = Mapping[str, CategoricalDistribution]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLimit:
    """An upper limit of a cost that is affine in the choices.

        cost(x) = base + sum_i costs[i][x_i] + the extras of which x makes a choice

    >>> CostLimit(at_most=500.0, base=300.0, costs={"block0": [0.0, 150.0]}).base
    300.0

    Attributes:
        at_most: the limit.
        base: what every scheme costs.
        costs: by parameter the cost of each of its choices, in their order; a parameter that is
            not named costs nothing.
        extras: each a cost (0 or more) and, by parameter, the indices of some of its choices. The
            cost is paid once if any of these choices is made: a module that blocks share.
    """

    at_most: float
    base: float = 0.0
    costs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    extras: Sequence[tuple[float, Mapping[str, Sequence[int]]]] = ()


@dataclass(frozen=True, slots=True)
class Range:
    """The type and the range of a setting that is a number or a switch.

    >>> Range(float, positive=True, most=1).checked("learning_rate", 1.5)
    Traceback (most recent call last):
    ValueError: learning_rate 1.5 given; it must be a number above 0 and at most 1

    Attributes:
        kind: int for whole numbers, float for numbers, bool for true or false.
        least: the smallest number.
        most: the greatest one.
        positive: whether 0 is excluded.
        optional: whether None may be given.
    """

    kind: type
    least: int = 0
    most: float = math.inf
    positive: bool = False
    optional: bool = False

    def checked(self, name: str, value: Any) -> Any:
        """Return the value as a Python number.

        Raises:
            ValueError: it is of another type or out of range.
        """
        if value is None and self.optional:
            return None
        number = self._number(value)
        inside = self.least <= number <= self.most and number < math.inf
        if not inside or (self.positive and number == 0):
            raise ValueError(f"{name} {value!r} given; it must be {self}")
        return number

    def _number(self, value: Any) -> Any:
        """Return the value in its type, NumPy's numbers too; NaN where it is of another."""
        if self.kind is bool:
            return value if value is True or value is False else math.nan
        if self.kind is float:
            return math.nan if isinstance(value, bool | str) else _as_float(value)
        try:
            return operator.index(value)
        except TypeError:
            return math.nan

    def __str__(self) -> str:
        if self.kind is bool:
            return "true or false"
        low = "above 0" if self.positive else f"{self.least} or more"
        high = f" and at most {self.most:g}" if self.most < math.inf else ""
        return f"a whole number, {low}{high}" if self.kind is int else f"a number {low}{high}"


_COUNT, _AMOUNT, _SWITCH = Range(int, least=1), Range(float), Range(bool)
_DIVISOR = Range(float, positive=True)  # logits are divided by it

NUMBERS = {
    "seed": Range(int, optional=True),
    "batch": Range(int, least=1, optional=True),
    "replicates": _COUNT,
    "max_connections": Range(int, optional=True),
}
RATES = {
    "default": Range(float, positive=True, most=1, optional=True),
    "paper": Range(float, positive=True, optional=True),
}
OPTIONS = {
    "default": {
        "warmup": _COUNT,
        "thrift": _AMOUNT,
        "breadth": _AMOUNT,
        "temperature": _DIVISOR,
        "draws": _COUNT,
        "caution": _AMOUNT,
        "pairs": _SWITCH,
        "ranks": _SWITCH,
        "distinct": _SWITCH,
    },
    "paper": {
        "rnd": _SWITCH,
        "replay": _SWITCH,
        "tanh_c": Range(float, positive=True, optional=True),
        "temperature": _DIVISOR,
        "ema_decay": _AMOUNT,
        "repaired": _SWITCH,
    },
}


def options_of(options: Any, preset: str) -> dict[str, Any]:
    """Return the options of a preset's controller, each in its type."""
    given = _mapping(options, f"options {options!r} given; give a dict of them by name")
    known = OPTIONS[preset]
    for name in given:
        if name not in known:
            raise ValueError(f"option {name!r} given; known are {', '.join(known)}")
    return {name: known[name].checked(f"option {name}", value) for name, value in given.items()}


def weights_of(weights: Any) -> tuple[float, ...]:
    """Return the weights of several objectives."""
    numbers = _floats(weights)
    if not (all(0 <= w < math.inf for w in numbers) and sum(numbers) > 0):
        raise ValueError(f"weights {weights!r} given; give numbers from 0 on, and one above 0")
    return tuple(numbers)


def space_of(search_space: Any) -> dict[str, CategoricalDistribution]:
    """Return the parameters that have two choices or more, by name in order."""
    refused = f"search_space {search_space!r} given; give a dict of each parameter's choices"
    space = {}
    for name, choices in _mapping(search_space, refused).items():
        listed = _listed(choices)
        if not isinstance(name, str) or not listed:
            raise ValueError(
                f"search_space gives {name!r} the choices {choices!r}; give each parameter's name "
                "a list of choices"
            )
        distribution = CategoricalDistribution(listed)
        if not distribution.single():
            space[name] = distribution
    return dict(sorted(space.items()))


def fixed_of(fixed: Any, space: Space) -> dict[str, Any]:
    """Return the fixed choices by parameter, once they are choices of the space."""
    given = _mapping(fixed, f"fixed {fixed!r} given; give a dict of each fixed parameter's choice")
    if given and not space:
        raise ValueError(
            "fixed given without search_space; give the parameters and their choices, for the "
            "first trial has to make the fixed choices as well"
        )
    dict(_by_slot(given, space, "fixed"))  # refuses names that the space lacks
    if given and given.keys() == space.keys():
        raise ValueError(
            f"fixed names all {len(space)} parameters of search_space, so that nothing is left to "
            "search; leave one free"
        )
    chosen_in(given, space, "fixed")
    return dict(given)


def chosen_in(fixed: Mapping[str, Any], space: Space, what: str) -> dict[int, int]:
    """Return by slot the index of each fixed choice; parameters outside the space are left out.

    Raises:
        ValueError: a parameter has no such choice.
    """
    found = {}
    for slot, (name, distribution) in enumerate(space.items()):
        if name not in fixed:
            continue
        try:
            found[slot] = int(distribution.to_internal_repr(fixed[name]))
        except ValueError as error:
            choices = ", ".join(repr(choice) for choice in distribution.choices)
            raise ValueError(
                f"{what} gives {name!r} the choice {fixed[name]!r}; its choices are {choices}"
            ) from error
    return found


def limits_of(budget: Any, max_connections: int | None, space: Space) -> dict[str, CostLimit]:
    """Return all limits by name; a connection is any choice of a parameter but its first."""
    refused = (
        f"budget {budget!r} given; give a CostLimit for each name, for example "
        "{'params': CostLimit(at_most=..., costs=...)}"
    )
    limits = dict(_mapping(budget, refused))
    if not all(isinstance(limit, CostLimit) for limit in limits.values()):
        raise ValueError(refused)
    if max_connections is not None:
        costs = {name: [0.0, *[1.0] * (len(d.choices) - 1)] for name, d in space.items()}
        limits["connections"] = CostLimit(at_most=max_connections, costs=costs)
    if limits and not space:
        raise ValueError(
            f"a limit of {' and '.join(limits)} given without search_space; give the "
            "parameters and their choices, for the first trial has to keep it as well"
        )
    return limits


def budget_in(space: Space, limits: Mapping[str, CostLimit]) -> Budget | None:
    """Return the limits over the slots of a space; None where there are none.

    Raises:
        ValueError: a limit is no number or names what is not there, or no scheme keeps all.
    """
    if not limits:
        return None
    costs, extras = [], []
    for index, (name, limit) in enumerate(limits.items()):
        what = f"budget {name!r}"
        if not all(isinstance(number, Real) for number in (limit.at_most, limit.base)):
            raise ValueError(f"{what} of {limit.at_most!r} over {limit.base!r}; give numbers")
        costs.append(_costs_of(limit.costs, space, what))
        extras += [(index, *_extra_of(extra, space, what)) for extra in limit.extras]
    sizes = [len(distribution.choices) for distribution in space.values()]
    room = np.array([limit.at_most - limit.base for limit in limits.values()], dtype=np.float64)
    budget = Budget(sizes, room, np.array(costs), extras)
    for (name, limit), least in zip(limits.items(), budget.least.tolist(), strict=True):
        if not limit.base + least <= limit.at_most:
            raise ValueError(
                f"budget {name!r} of {limit.at_most:g} allows nothing: the cheapest scheme costs "
                f"{limit.base + least:g}; raise it"
            )
    if budget.first(np.ones((len(sizes), max(sizes))), ()) is None:
        raise ValueError(f"no scheme keeps the budgets {', '.join(limits)} together; raise one")
    return budget


def _costs_of(given: Any, space: Space, what: str) -> Floats:
    """Return the (n, K) costs of the choices."""
    costs = np.zeros(_mask(space).shape)
    for slot, (parameter, row) in _by_slot(given, space, what):
        size, numbers = len(space[parameter].choices), _floats(row)
        if len(numbers) != size or not np.isfinite(numbers).all():
            raise ValueError(
                f"{what} gives {parameter!r} the costs {row!r}; give {size} finite numbers, one "
                "for each choice"
            )
        costs[slot, :size] = numbers
    return costs


def _extra_of(extra: Any, space: Space, what: str) -> tuple[float, NDArray[np.bool_]]:
    """Return the cost of an extra and the (n, K) mask of its choices."""
    if not isinstance(extra, tuple | list) or len(extra) != 2:
        raise ValueError(f"{what} has the extra {extra!r}; give a cost and the choices it is for")
    paid, mask = _as_float(extra[0]), _mask(space)
    if not 0 <= paid < math.inf:
        raise ValueError(f"{what} has an extra of {extra[0]!r}; give 0 or more")
    for slot, (parameter, indices) in _by_slot(extra[1], space, what):
        size = len(space[parameter].choices)
        for index in indices if isinstance(indices, Iterable) else [None]:
            if not isinstance(index, int | np.integer) or not 0 <= index < size:
                raise ValueError(
                    f"{what} has an extra for {parameter!r} of the choices {indices!r}; give a "
                    f"list of indices from 0 to {size - 1}"
                )
            mask[slot, int(index)] = True
    return paid, mask


def _mask(space: Space) -> NDArray[np.bool_]:
    """Return an (n, K) mask of no choices."""
    sizes = [len(distribution.choices) for distribution in space.values()]
    return np.zeros((len(sizes), max(sizes)), dtype=bool)


def _by_slot(given: Any, space: Space, what: str) -> Iterator[tuple[int, tuple[str, Any]]]:
    """Yield slot, name and value of each parameter that a setting names."""
    slots = {name: slot for slot, name in enumerate(space)}
    by_parameter = _mapping(given, f"{what} has {given!r}; give a dict by parameter")
    for parameter, value in by_parameter.items():
        if parameter not in slots:
            raise ValueError(
                f"{what} names the parameter {parameter!r}, of which search_space has no two "
                "choices; name its own parameters"
            )
        yield slots[parameter], (parameter, value)


def _mapping(given: Any, refused: str) -> Mapping[Any, Any]:
    """Return a mapping; raise a ValueError with that sentence where it is none."""
    if isinstance(given, Mapping):
        return given
    raise ValueError(refused)


def _listed(given: Any) -> list[Any]:
    """Return what a list has in it; nothing for a text or what is no list at all."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else []


def _floats(given: Any) -> list[float]:
    """Return a list as floats, NaN for what is no number."""
    return [_as_float(value) for value in _listed(given)]


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
