"""Problems of categorical choices, all to be maximised; no sampler was tuned on them.

    ticket54, ticket16   a' x + x' Q x + 0.5 (1 - mean x): a_i ~ N(0.05, 0.25), Q_ij ~ N(0, 0.15)
                         times exp(-(j - i - 1) / 2) for i < j; the shape of a placement table
    ticket54-noisy       the same; a reward is that plus N(0, 1)
    ising24              -(KL(p || q_x) + 0.01 sum x): which of the 24 couplings of a 4 x 4 Ising
                         model to keep (Baptista and Poloczek, ICML 2018, arXiv:1806.08838)
    contam25             -(cost of interventions and of exceeded limits, plus 1e-4 sum x) over 25
                         stages (Hu et al., 2010, as in arXiv:1806.08838)
    nk16                 NK landscape (Kauffman and Weinberger, 1989): 16 bits, each with its 3
                         right neighbours on a ring
    nb201-*              NAS-Bench-201 (arXiv:2001.00326), 5 operations on each of 6 edges. A
                         reward is one repeat of a cell, drawn once; -noisy: drawn at each query,
                         and the truth is the mean of a cell's repeats
    truth:NAME           a truth table (`sat_optuna.load_truth`): each placement in a small network
                         trained from scratch with several seeds. A reward, and the truth, is their
                         mean on the validation images. -noisy: a reward is one of the trainings on
                         the validation images, and the truth the mean of the others on the test
                         images, so of no training and no image that a search saw
    table:FILE           placements that were scored before; see `lookup.py`

The seed of a problem draws its constants, and of truth:NAME-noisy which training of each scheme is
seen. NAS-Bench-201, truth:NAME and files have no constants to draw, so their seed is that of the
rivals and of the noise alone.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from lookup import OPERATIONS, Floats, Ints, file_values, nb201_cells, truth_values
from sat_optuna.errors import DataError
from sat_optuna.registry import Registry

__all__ = ["PROBLEMS", "Problem", "make_problem"]

_DRAWN = 100  # schemes, where not all can be listed; their mean stands for that of all
_NOISE, _UNIFORM, _SEEN = 1, 2, 3  # seed keys: noise, schemes for the scale, trainings seen
_OF_TRUTH = 40  # evaluations; 200 would be most of the 256 schemes of a table


@dataclass(frozen=True, slots=True)
class Problem:
    """What to choose and what it is worth.

    >>> nk16 = make_problem("nk16", seed=3)
    >>> len(nk16.choices), round(nk16.truth(np.zeros(16, dtype=np.int64)), 4)
    (16, 0.5147)

    Attributes:
        family: the kind of problem; tests on problems of one family are corrected together.
        choices: of each parameter.
        truth: the value of a scheme, (n,) indices into the choices, without noise.
        observe: a noisy reward of a scheme, from a generator; None where rewards are the truth.
        cells: returns the true values of all schemes; None where they are too many to list.
        evaluations: the budget of a run.
        seed: what the problem was made with.
    """

    family: str
    choices: tuple[tuple[str | int, ...], ...]
    truth: Callable[[Ints], float]
    observe: Callable[[Ints, np.random.Generator], float] | None = None
    cells: Callable[[], Floats] | None = None
    evaluations: int = 200
    seed: int = 0

    def evaluate(self, scheme: Ints, trial: int) -> float:
        """Return the reward of a scheme at a trial; its noise is the same for every rival."""
        if self.observe is None:
            return self.truth(scheme)
        return self.observe(scheme, np.random.default_rng([self.seed, trial, _NOISE]))

    def scale(self) -> tuple[float, float | None]:
        """Return the mean value of schemes drawn uniformly, and the optimum where it is known."""
        if self.cells is not None:
            cells = self.cells()
            return float(cells.mean()), float(cells.max())
        rng = np.random.default_rng([self.seed, _UNIFORM])
        drawn = rng.integers([len(c) for c in self.choices], size=(_DRAWN, len(self.choices)))
        return float(np.mean([self.truth(scheme) for scheme in drawn])), None


PROBLEMS: Registry[Callable[[int], Problem]] = Registry("problem")


def make_problem(name: str, seed: int) -> Problem:
    """Return the problem of that name.

    Raises:
        UnknownName: there is no such problem, or its package is not installed.
        DataError: the file it is read from is missing or broken, or a truth table is not whole.
        StudyError: there is no such truth table, or its bytes have changed.
    """
    return PROBLEMS.get(name)(seed)


def _bits(count: int) -> tuple[tuple[int, ...], ...]:
    return ((0, 1),) * count


def _all_bits(count: int) -> Ints:
    """Return all 0/1 schemes, (2^n, n)."""
    return np.arange(2**count)[:, None] >> np.arange(count) & 1


def _ticket(seed: int, *, count: int, noise: float = 0.0) -> Problem:
    drawn = np.random.RandomState(seed)
    alone = drawn.normal(0.05, 0.25, count)
    pairs = np.zeros((count, count))
    for i, j in itertools.combinations(range(count), 2):
        pairs[i, j] = drawn.normal(0, 0.15) * math.exp(-(j - i - 1) / 2)

    def truth(scheme: Ints) -> float:
        x = scheme.astype(np.float64)
        return float(alone @ x + x @ pairs @ x + 0.5 * (1 - x.mean()))

    def cells() -> Floats:
        x = _all_bits(count).astype(np.float64)
        return np.asarray(x @ alone + ((x @ pairs) * x).sum(axis=1) + 0.5 * (1 - x.mean(axis=1)))

    return Problem(
        "ticket-noisy" if noise else "ticket",
        _bits(count),
        truth,
        observe=(lambda x, rng: truth(x) + noise * float(rng.normal())) if noise else None,
        cells=cells if count <= 16 else None,
        seed=seed,
    )


def _ising(seed: int) -> Problem:
    side, price = 4, 0.01
    drawn = np.random.RandomState(seed)
    edges = [(i * side + j, i * side + j + 1) for i in range(side) for j in range(side - 1)]
    edges += [(i * side + j, (i + 1) * side + j) for i in range(side - 1) for j in range(side)]
    coupling = drawn.uniform(0.05, 5, len(edges)) * np.where(drawn.rand(len(edges)) < 0.5, -1, 1)
    spins = np.array(list(itertools.product([-1, 1], repeat=side * side)), dtype=np.float32)
    products = np.stack([spins[:, a] * spins[:, b] for a, b in edges], axis=1)

    def log_partition(weights: Floats) -> tuple[float, Floats]:
        energy = (products @ weights.astype(np.float32)).astype(np.float64)
        top = float(energy.max())
        return top + math.log(np.exp(energy - top).sum()), energy

    whole, energy = log_partition(coupling)
    moments = np.exp(energy - whole) @ products

    def truth(scheme: Ints) -> float:
        kept = coupling * scheme
        divergence = float((coupling - kept) @ moments) + log_partition(kept)[0] - whole
        return -(divergence + price * float(scheme.sum()))

    return Problem("ising", _bits(len(edges)), truth, seed=seed)


def _contamination(seed: int) -> Problem:
    stages, samples, price = 25, 100, 1e-4
    drawn = np.random.RandomState(seed)
    start = drawn.beta(1, 30, samples)
    spread = drawn.beta(1, 17 / 3, (stages, samples))
    restore = drawn.beta(1, 3 / 7, (stages, samples))

    def truth(scheme: Ints) -> float:
        polluted, cost = start, 0.0
        for stage, act in enumerate(scheme.tolist()):
            grown = spread[stage] * (1 - act) * (1 - polluted)
            polluted = grown + (1 - restore[stage] * act) * polluted
            cost += act - (float((polluted <= 0.1).mean()) - 0.95)
        return -(cost + price * int(scheme.sum()))

    return Problem("contam", _bits(stages), truth, seed=seed)


def _nk(seed: int) -> Problem:
    count, neighbours = 16, 3
    table = np.random.RandomState(seed).rand(count, 2 ** (neighbours + 1))

    def values(schemes: Ints) -> Floats:
        codes = sum(2**j * np.roll(schemes, -j, axis=-1) for j in range(neighbours + 1))
        return np.asarray(table[np.arange(count), codes].mean(axis=-1))

    return Problem(
        "nk",
        _bits(count),
        lambda scheme: float(values(scheme)),
        cells=lambda: values(_all_bits(count)),
        seed=seed,
    )


def _nb201(seed: int, *, dataset: str, noisy: bool) -> Problem:
    repeats, means, drawn = nb201_cells(dataset)
    truths = means if noisy else drawn

    def observe(scheme: Ints, rng: np.random.Generator) -> float:
        values = repeats[np.ravel_multi_index(tuple(scheme), truths.shape)]
        return float(values[rng.integers(len(values))])

    return Problem(
        "nb201-noisy" if noisy else "nb201",
        (OPERATIONS,) * truths.ndim,
        lambda scheme: float(truths[tuple(scheme)]),
        observe=observe if noisy else None,
        cells=truths.ravel,
        evaluations=100,
        seed=seed,
    )


def _table(seed: int, *, path: str) -> Problem:
    values = file_values(path)
    return Problem(
        f"table:{path}",
        tuple(tuple(range(size)) for size in values.shape),
        lambda scheme: float(values[tuple(scheme)]),
        cells=values.ravel,
        evaluations=min(200, values.size),
        seed=seed,
    )


def _truth(seed: int, *, name: str) -> Problem:
    table = name.removesuffix("-noisy")
    valid, test = truth_values(table)
    *sizes, trainings = valid.shape
    rewards = truths = valid.mean(axis=-1)
    noisy = table != name
    if noisy:
        if trainings < 2:
            raise DataError(
                f"problem 'truth:{name}' needs a table of two seeds, for the truth is of "
                f"trainings that a search did not see; give truth:{table}, or train more seeds"
            )
        # One training of each scheme, for the whole run: were it drawn at each query, a search
        # could see them all, and none would be left to tell what it found.
        seen = np.random.default_rng([seed, _SEEN]).integers(trainings, size=(*sizes, 1))
        rewards = np.take_along_axis(valid, seen, axis=-1)[..., 0]
        others = np.arange(trainings) != seen
        truths = test.mean(axis=-1, where=others)
    return Problem(
        "truth-noisy" if noisy else "truth",
        tuple(tuple(range(size)) for size in sizes),
        lambda scheme: float(truths[tuple(scheme)]),
        observe=(lambda scheme, _rng: float(rewards[tuple(scheme)])) if noisy else None,
        cells=truths.ravel,
        evaluations=min(_OF_TRUTH, truths.size),
        seed=seed,
    )


PROBLEMS.add("ticket54", partial(_ticket, count=54))
PROBLEMS.add("ticket54-noisy", partial(_ticket, count=54, noise=1.0))
PROBLEMS.add("ticket16", partial(_ticket, count=16))
PROBLEMS.add("ising24", _ising)
PROBLEMS.add("contam25", _contamination)
PROBLEMS.add("nk16", _nk)
for _name in ("cifar10", "cifar100", "imagenet16"):
    PROBLEMS.add(f"nb201-{_name}", partial(_nb201, dataset=_name, noisy=False))
    PROBLEMS.add(f"nb201-{_name}-noisy", partial(_nb201, dataset=_name, noisy=True))
PROBLEMS.add_family("truth:", lambda name: partial(_truth, name=name))
PROBLEMS.add_family("table:", lambda path: partial(_table, path=path))
