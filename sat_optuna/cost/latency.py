"""How many milliseconds each module adds at each block: an affine model, fitted to measurements.

    T(a) = T(plain) + sum over blocks l with a_l = k > 0 of t_lk

Each round measures every scheme of an orthogonal design once, so all schemes contribute to each
t_lk. With one kind and 64 schemes, t_l1 is the difference of two means of 32 times, and not of two
single times.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.cost.affine import AffineCost
from sat_optuna.cost.timing import Estimate, check_rounds, images_for, interleaved_ms, median_of
from sat_optuna.errors import SchemeError
from sat_optuna.events import OnEvent, ignore
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet

__all__ = ["LatencyModel", "fit_latency", "latency_design"]

_REWEIGHTINGS = 20  # far more than the fit needs to converge
_TUNING = 1.345  # standard deviations; Huber's constant: 95 % efficiency under normal errors
_MAD_TO_SD = 1.4826
_ROUNDING = 1e-12


def latency_design(stages: Sequence[int], kinds: int) -> tuple[Scheme, ...]:
    """Return schemes in which every pair of blocks has all pairs of choices equally often.

    >>> [str(scheme) for scheme in latency_design((2, 1), 1)]
    ['00-0', '01-0', '00-1', '01-1', '11-1', '10-1', '11-0', '10-0']

    The schemes are an orthogonal array of strength 2 over the integers modulo p, where p is the
    smallest prime that is at least K + 1. Each block l has a vector v_l, and run (u, c) gives it
    the choice v_l . u + c. Choices above K become 0; this happens equally often beside each
    choice of another block, so the estimates of different blocks stay independent. With one kind
    all triples of blocks are balanced as well, so an interaction of two blocks disturbs no
    estimate.

    Args:
        stages: number of blocks of each stage, m in all.
        kinds: K, the number of kinds.

    Returns:
        p^k schemes with the smallest k that makes them 2 (m K + 1) or more; the first is plain.
    """
    count = sum(stages)
    prime = next(p for p in itertools.count(kinds + 1) if _is_prime(p))
    digits = next(k for k in itertools.count(2) if prime**k >= 2 * (count * kinds + 1))
    # Vectors with few digits other than 0 come first: these span the whole space, so that as few
    # runs as possible are equal.
    vectors = [_digits(number, prime, digits - 1) for number in range(prime ** (digits - 1))]
    blocks = np.array(sorted(vectors, key=np.count_nonzero)[:count])
    runs = np.array([_digits(run, prime, digits) for run in range(prime**digits)])
    choices = (runs[:, :-1] @ blocks.T + runs[:, -1:]) % prime
    choices[choices > kinds] = 0
    return tuple(Scheme.of(run, stages) for run in choices)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Milliseconds of a batch under any scheme, on the machine where the model was fitted.

    >>> model = LatencyModel(
    ...     stages=(2,), kinds=("se",), batch=8, rounds=9, runs=8, fresh=0, residual_percent=None,
    ...     plain_ms=Estimate(5.0, 4.9, 5.2),
    ...     increments_ms=((Estimate(0.5, 0.4, 0.6),), (Estimate(0.25, 0.2, 0.3),)),
    ... )
    >>> model.predict(Scheme.parse("11")), str(model.cheapest(1))
    (5.75, '01')

    Attributes:
        stages: number of blocks of each stage.
        kinds: names of the kinds; choice k of a scheme means `kinds[k - 1]`.
        batch: number of images of a pass.
        rounds: number of measurements of each scheme.
        runs: number of schemes of the design.
        plain_ms: of the network without attention.
        increments_ms: for each block, what each kind adds there.
        fresh: number of held-out schemes: they are not of the design, and were measured in the
            same rounds.
        residual_percent: median over the held-out schemes of |predicted - measured| / measured;
            None if there are none.
    """

    stages: tuple[int, ...]
    kinds: tuple[str, ...]
    batch: int
    rounds: int
    runs: int
    plain_ms: Estimate
    increments_ms: tuple[tuple[Estimate, ...], ...]
    fresh: int
    residual_percent: float | None

    def predict(self, scheme: Scheme) -> float:
        """Return the milliseconds of a batch under a scheme.

        Raises:
            SchemeError: the scheme has other stages, or a kind that was not measured.
        """
        if scheme.stages != self.stages or max(scheme.choices) > len(self.kinds):
            raise SchemeError(
                f"scheme {scheme} given to a latency model of stages {self.stages} and kinds "
                f"{', '.join(self.kinds)}; give one of these stages and kinds"
            )
        added = zip(self.increments_ms, scheme.choices, strict=True)
        return self.plain_ms.value + sum(
            kinds[choice - 1].value for kinds, choice in added if choice
        )

    def affine(self) -> AffineCost:
        """Return the milliseconds as a function of the choices, with the values of `predict`."""
        rows = ([increment.value for increment in kinds] for kinds in self.increments_ms)
        return AffineCost(self.plain_ms.value, tuple((0.0, *row) for row in rows))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, which hold every number to its last bit."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "LatencyModel":
        """Return the model of `to_dict`'s values, also where they went through JSON."""
        rows = document["increments_ms"]
        return cls(
            **{
                **document,
                "stages": tuple(document["stages"]),
                "kinds": tuple(document["kinds"]),
                "plain_ms": Estimate(**document["plain_ms"]),
                "increments_ms": tuple(tuple(Estimate(**e) for e in row) for row in rows),
            }
        )

    def cheapest(self, connections: int, *, kind: int = 1) -> Scheme:
        """Return the fastest scheme with a number of connections; of equals, the first blocks.

        Args:
            connections: number of blocks that carry attention.
            kind: the kind that they carry, 1 for the first.

        Raises:
            SchemeError: the network has fewer blocks, or there is no such kind.
        """
        blocks = sum(self.stages)
        if not 0 <= connections <= blocks or not 1 <= kind <= len(self.kinds):
            raise SchemeError(
                f"{connections} connections of kind {kind} asked for; there are {blocks} blocks "
                f"and kinds 1..{len(self.kinds)}"
            )
        order = sorted(range(blocks), key=lambda block: self.increments_ms[block][kind - 1].value)
        chosen = set(order[:connections])
        return Scheme.of((kind * (block in chosen) for block in range(blocks)), self.stages)


def fit_latency(
    supernet: Supernet,
    input_shape: tuple[int, int, int],
    *,
    batch: int,
    rounds: int,
    fresh: int = 8,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> LatencyModel:
    """Time the schemes of the design and some held-out ones in turns, and fit the model.

        model = fit_latency(net, (3, 32, 32), batch=8, rounds=15)
        model.predict(scheme), model.affine()

    The passes run in eval and inference mode, after a warm-up. Each round gives one robust fit,
    which disturbed passes hardly change. A coefficient of the model is the median over the rounds.

    Args:
        supernet: the network of the schemes; it is not changed.
        input_shape: (C, H, W) of an image.
        batch: number of images of a pass.
        rounds: number of measurements of each scheme.
        fresh: number of held-out schemes, which are drawn; fewer if there are not so many.
        seed: of the held-out schemes and of the order in each round.
        on_event: told of each round.

    Raises:
        BackboneError: images of that size do not go through the network.
        TimingError: there are too few rounds for an interval.
    """
    check_rounds(rounds)
    supernet.check_input(input_shape)
    kinds = len(supernet.specs)
    design = latency_design(supernet.stages, kinds)
    others = tuple(_fresh(supernet.stages, kinds, set(design), count=fresh, seed=seed))
    images = images_for(supernet, input_shape, batch)
    schemes = dict(enumerate((*design, *others)))  # a small design has some schemes twice
    with evaluating(supernet):
        times = interleaved_ms(
            {number: partial(supernet, images, scheme) for number, scheme in schemes.items()},
            device=images.device,
            rounds=rounds,
            warm_up=1,
            seed=seed,
            on_event=on_event,
        )
    measured = np.array([times[number] for number in schemes])
    model = _fitted(supernet, design, measured[: len(design)], batch=batch)
    errors = [
        100 * abs(model.predict(scheme) / statistics.median(passed) - 1)
        for scheme, passed in zip(others, measured[len(design) :].tolist(), strict=True)
    ]
    residual = statistics.median(errors) if errors else None
    return replace(model, fresh=len(others), residual_percent=residual)


def _fitted(
    supernet: Supernet,
    design: Sequence[Scheme],
    milliseconds: NDArray[np.float64],
    *,
    batch: int,
) -> LatencyModel:
    kinds = len(supernet.specs)
    coefficients = _coefficients(design, kinds, milliseconds)
    plain, *added = (median_of(values) for values in coefficients.tolist())
    return LatencyModel(
        stages=supernet.stages,
        kinds=tuple(spec.kind for spec in supernet.specs),
        batch=batch,
        rounds=milliseconds.shape[1],
        runs=len(design),
        plain_ms=plain,
        increments_ms=tuple(tuple(added[i : i + kinds]) for i in range(0, len(added), kinds)),
        fresh=0,
        residual_percent=None,
    )


def _coefficients(
    design: Sequence[Scheme], kinds: int, milliseconds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit each round: (runs, rounds) milliseconds give (1 + m K, rounds) coefficients."""
    choices = np.array([scheme.choices for scheme in design])
    carried = choices[:, :, None] == np.arange(1, kinds + 1)  # (runs, m, K)
    terms = np.hstack([np.ones((len(design), 1)), carried.reshape(len(design), -1)])
    return np.stack([_huber(terms, passed) for passed in milliseconds.T], axis=1)


def _huber(terms: NDArray[np.float64], passed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit by Huber's M-estimator (1964): least squares in which outliers have smaller weights.

    A pass that the machine interrupted may take three times as long. In plain least squares, one
    such pass changes every coefficient by more than a module costs.
    """
    fit = _weighted(terms, passed, np.ones_like(passed))
    for _ in range(_REWEIGHTINGS):
        residuals = np.abs(passed - terms @ fit)
        spread = _MAD_TO_SD * np.median(residuals)
        if spread < _ROUNDING * np.median(passed):
            break
        fit = _weighted(terms, passed, np.minimum(1, _TUNING * spread / residuals.clip(spread)))
    return fit


def _weighted(
    terms: NDArray[np.float64], passed: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    root = np.sqrt(weights)
    fit = np.linalg.lstsq(terms * root[:, None], passed * root)[0]
    return np.asarray(fit, dtype=np.float64)


def _fresh(
    stages: Sequence[int], kinds: int, seen: set[Scheme], *, count: int, seed: int
) -> Iterator[Scheme]:
    """Draw distinct schemes that are not in the design."""
    left = min(count, (kinds + 1) ** sum(stages) - len(seen))
    connect = kinds / (kinds + 1)  # then all choices have the same probability
    for step in itertools.count():
        if not left:
            return
        scheme = draw_scheme(stages, kinds, connect=connect, draws="iid", seed=seed, step=step)
        if scheme not in seen:
            seen.add(scheme)
            left -= 1
            yield scheme


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _digits(number: int, base: int, count: int) -> list[int]:
    return [number // base**exponent % base for exponent in range(count)]
