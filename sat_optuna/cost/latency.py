"""How long each module at each block takes: an affine model of milliseconds, fitted to a design.

    T(a) = T(plain) + sum over blocks l with a_l = k > 0 of t_lk

Every round measures all schemes of an orthogonal design once, so each t_lk rests on all of them:
with 64 schemes of one kind it is a difference of two means of 32, not of two single times.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sat_optuna.cost.affine import AffineCost
from sat_optuna.cost.timing import Estimate, check_rounds, images_for, interleaved_ms, median_of
from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet

__all__ = ["LatencyModel", "fit_latency", "latency_design"]

_REWEIGHTINGS = 20  # far more than it needs to settle
_TUNING = 1.345  # standard deviations; Huber's choice: 95 % efficient where nothing is disturbed
_MAD_TO_SD = 1.4826
_ROUNDING = 1e-12


def latency_design(stages: Sequence[int], kinds: int) -> tuple[Scheme, ...]:
    """Return schemes in which every pair of blocks has all pairs of choices.

    An orthogonal array of strength 2 over the integers modulo p, the smallest prime that is at
    least K + 1: run (u, c) gives block l the choice v_l . u + c, with a vector v_l of its own.
    Choices above K become 0, in the same proportion beside each choice of another block, so the
    estimates of different blocks stay independent. With one kind all triples are balanced as well,
    so that what two blocks add only together disturbs no estimate.

    Args:
        stages: number of blocks of each stage, m in all.
        kinds: K, the number of kinds.

    Returns:
        p^k schemes, plain the first, k the least for which they are 2 (m K + 1) or more.
    """
    count = sum(stages)
    prime = next(p for p in itertools.count(kinds + 1) if _is_prime(p))
    digits = next(k for k in itertools.count(2) if prime**k >= 2 * (count * kinds + 1))
    # Those with the fewest digits that are not 0 come first: they span all of them, so that as few
    # runs as can be are the same.
    vectors = [_digits(number, prime, digits - 1) for number in range(prime ** (digits - 1))]
    blocks = np.array(sorted(vectors, key=np.count_nonzero)[:count])
    runs = np.array([_digits(run, prime, digits) for run in range(prime**digits)])
    choices = (runs[:, :-1] @ blocks.T + runs[:, -1:]) % prime
    choices[choices > kinds] = 0
    return tuple(Scheme.of(run, stages) for run in choices)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Milliseconds of a batch under any scheme, on the machine where it was fitted.

    Attributes:
        stages: number of blocks of each stage.
        kinds: names of the kinds; choice k of a scheme is `kinds[k - 1]`.
        batch: images a pass.
        rounds: measurements of each scheme.
        runs: schemes of the design.
        plain_ms: of the network without attention.
        increments_ms: of each block, what each kind adds there.
        fresh: schemes outside the design that were measured in the same rounds.
        residual_percent: median over them of |predicted - measured| / measured; None without any.
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
            SchemeError: it has other stages, or a kind that was not measured.
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
        """Return the milliseconds as a function of the choices; `predict` has the same values."""
        rows = ([increment.value for increment in kinds] for kinds in self.increments_ms)
        return AffineCost(self.plain_ms.value, tuple((0.0, *row) for row in rows))

    def cheapest(self, connections: int, *, kind: int = 1) -> Scheme:
        """Return the scheme of so many connections that takes least; the first of equals.

        Args:
            connections: number of blocks that carry attention.
            kind: which they carry, 1 the first.

        Raises:
            SchemeError: there are not so many blocks, or no such kind.
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
    on_round: Callable[[], None] | None = None,
) -> LatencyModel:
    """Measure the design and some fresh schemes, interleaved, and fit the model to the design.

    In eval and inference mode, after a warm-up. Each round gives one fit, which disturbed passes
    hardly move; a coefficient is the median over rounds.

    Args:
        supernet: what the schemes are of; it is left as it was.
        input_shape: (C, H, W) of an image.
        batch: images a pass.
        rounds: measurements of each scheme.
        fresh: random schemes outside the design, as many as there are if there are fewer.
        seed: of the fresh schemes and of the order in each round.
        on_round: called after each round.

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
    schemes = dict(enumerate((*design, *others)))  # a small design repeats some
    with evaluating(supernet):
        times = interleaved_ms(
            {number: partial(supernet, images, scheme) for number, scheme in schemes.items()},
            device=images.device,
            rounds=rounds,
            warm_up=1,
            seed=seed,
            on_round=on_round,
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
    """Return the coefficients, (1 + m K, rounds), of times (runs, rounds): a fit each round."""
    choices = np.array([scheme.choices for scheme in design])
    carried = choices[:, :, None] == np.arange(1, kinds + 1)  # (runs, m, K)
    terms = np.hstack([np.ones((len(design), 1)), carried.reshape(len(design), -1)])
    return np.stack([_huber(terms, passed) for passed in milliseconds.T], axis=1)


def _huber(terms: NDArray[np.float64], passed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit by Huber's M-estimator (1964): least squares in which what lies far off weighs less.

    A pass that the machine interrupted may take three times as long; in plain least squares a
    single one of them moves every coefficient by more than a module costs.
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
    connect = kinds / (kinds + 1)  # every choice equally often
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
    return [number // base**place % base for place in range(count)]
