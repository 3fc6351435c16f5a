"""The critic: a Bayesian regression of the rewards on choices and on pairs of choices.

A code phi(x) stands for a scheme. In it slot i has the part r_i(x_i), one of the K_i corners of a
regular simplex (+1 and -1 for two choices); an open slot has zeros. With the parts of all n slots
in a row the critic's model of a scheme's score y is

    q(x) = b + w . phi(x) + phi(x)' Q phi(x)                                              (1)
    b ~ N(0, v),  w ~ N(0, v (1 - rho) / n),  Q ~ N(0, v rho / n^2),  y = q(x) + N(0, v s) (2)

The entries of w and Q are independent. Phi are the codes of the N trials that the critic
remembers. The covariance of their scores is v A:

    A = 1 1' + (1 - rho) C + rho C * C + s I,   C = Phi Phi' / n                          (3)

A draw from the posterior of q starts as a draw b0, w0, Q0, e from the prior, in units of sqrt(v),
and is corrected by what the trials say (Matheron's rule). The factor z scales its spread: 1 is an
exact draw, as Thompson sampling needs it, and 0 is the posterior mean.

    a = A^-1 (y - z (q0(X) + sqrt(s) e))                                                  (4)
    w = z w0 + (1 - rho) / n Phi' a,   Q = z Q0 + rho / n^2 Phi' diag(a) Phi              (5)

(rho, s) are chosen from a small grid by the greatest evidence, in which v is maximised over. An s
above 0.1 counts as less likely beforehand, for the misfit of the critic's own model looks like
noise:

    -N/2 log v - 1/2 log |A| - 4 max(0, log(s / 0.1)),   v = y' A^-1 y / N                (6)
"""

from collections.abc import Callable
from dataclasses import dataclass
import math

import numpy as np
from scipy.linalg.lapack import dpotrf
from scipy.linalg.lapack import dpotri
from scipy.linalg.lapack import dtrtrs
from scipy.special import ndtri

from .policy import Floats
from .policy import Ints


__all__ = ["Code", "Critic", "Quadratic", "normal_scores", "simplex", "standardised"]


@dataclass(frozen=True, slots=True)
class Quadratic:
    """The function q of (1) without b, with what Q says within a slot moved into w.

    Attributes:
        linear: (D,) w.
        pairs: (D, D) Q + Q', zeros within a slot.
    """

    linear: Floats
    pairs: Floats

    def of(self, codes: Floats) -> Floats:
        """Return (N,) values of (N, D) codes."""
        return np.asarray(codes @ self.linear + 0.5 * ((codes @ self.pairs) * codes).sum(axis=1))

    def slopes(self, mean: Floats) -> Floats:
        """Return the (D,) gradient of the mean value in the (D,) mean code."""
        return np.asarray(self.linear + self.pairs @ mean)


class Code:
    """The code phi of schemes; D = n (K - 1) numbers a scheme.

    >>> Code((2, 2)).of(np.array([[0, 1], [-1, 0]])).tolist()
    [[1.0, -1.0], [0.0, 1.0]]

    Args:
        sizes: number of choices of each slot.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        width = max(sizes)
        # A slot's last row holds the zeros of "left open"; the choice -1 indexes it.
        self._corners = np.zeros((len(sizes), width + 1, width - 1))
        for slot, size in enumerate(sizes):
            self._corners[slot, :size, : size - 1] = simplex(size)
        self.sizes = sizes
        self.slots = len(sizes)
        self.length = len(sizes) * (width - 1)

    def of(self, schemes: Ints) -> Floats:
        """Return (N, D) codes of (N, n) schemes."""
        return self._corners[np.arange(self.slots), schemes].reshape(len(schemes), self.length)

    def mean(self, p: Floats) -> Floats:
        """Return the (D,) mean code under (n, K) probabilities."""
        return np.asarray(np.einsum("ik,ikc->ic", p, self._corners[:, :-1]).reshape(-1))

    def products(self, slopes: Floats) -> Floats:
        """Return (n, K) products of each choice's part with its slot's part of (D,) slopes."""
        parts = slopes.reshape(self.slots, -1)
        return np.asarray(np.einsum("ikc,ic->ik", self._corners[:, :-1], parts))

    def quadratic(self, linear: Floats, pairs: Floats) -> Quadratic:
        """Return q of (1), up to a constant, from its (D,) w and (D, D) Q.

        Within slot i, r_i(k)' Q_ii r_i(k) is one number for each choice k, so w can say it too.
        These numbers, less their mean over the choices, go from Q into w.
        """
        corners, slots = self._corners[:, :-1], np.arange(self.slots)
        both = pairs + pairs.T
        blocks = both.reshape(self.slots, corners.shape[2], self.slots, corners.shape[2])
        within = 0.5 * np.einsum("ikc,icd,ikd->ik", corners, blocks[slots, :, slots], corners)
        blocks[slots, :, slots] = 0.0
        sizes = np.array(self.sizes)
        moved = np.einsum("i,ik,ikc->ic", (sizes - 1) / sizes, within, corners)
        return Quadratic(linear + moved.reshape(-1), both)


class Critic:
    """The regression of (1) to (6).

    After `warmup` trials, and again each time that their number has grown by a tenth (by 64 at
    the most), it chooses anew which trials it remembers and what (rho, s) are. Between these
    times a trial adds a row and a column to the inverse of A. All this depends on the trials
    alone and not on when they are read.

    Args:
        code: of the schemes.
        warmup: number of trials from which on it can be asked.
        caution: how much evidence an s above 0.1 has to make up for, the 4 of (6).
        pairs: whether Q is learned; without it rho is 0.

    Attributes:
        rho: the share of pairs in the variance of q.
        noise: s.
        scale: v.
    """

    memory = 320  # of more trials the best and the latest are remembered, half of each
    rhos = (0.0, 0.1, 0.3, 0.6)
    noises = (0.03, 0.1, 0.3, 1.0)

    def __init__(self, code: Code, *, warmup: int, caution: float, pairs: bool) -> None:
        self._code = code
        self._rhos = self.rhos if pairs else (0.0,)
        self._caution = caution
        self._next = warmup  # the number of trials at which to choose anew
        self._read = 0  # how many trials were read
        self._size = 0  # how many of them are remembered

    @property
    def rows(self) -> Ints:
        """The (m,) indices of the remembered trials."""
        return self._rows[: self._size]

    @property
    def inverse(self) -> Floats:
        """The (m, m) inverse of A."""
        return self._inverse[: self._size, : self._size]

    def read(self, schemes: Ints, scores: Callable[[int], Floats]) -> None:
        """Read the trials that were not read yet.

        Args:
            schemes: (N, n) of all trials.
            scores: returns the (count,) scores y of the first `count` trials.
        """
        begin = 0
        while self._next <= len(schemes):
            begin = self._next
            self._next += min(begin // 10 + 1, 64)
        if begin:
            self._begin(schemes[:begin], scores(begin))
        for index in range(self._read, len(schemes)):
            self._append(index, self._code.of(schemes[index : index + 1]))
        self._read = len(schemes)

    def _begin(self, schemes: Ints, y: Floats) -> None:
        """Choose which of these trials to remember, and rho and s; invert A."""
        count, half = len(y), self.memory // 2
        rows = np.arange(count)
        if count > self.memory:
            good = np.argsort(-y[:-half], kind="stable")[:half]
            rows = np.sort(np.concatenate([good, rows[-half:]]))
        codes = self._code.of(schemes[rows])
        some = np.linspace(0, len(rows) - 1, min(len(rows), half)).astype(np.int64)
        self.rho, self.noise, self.scale = self._fitted(codes[some], y[rows][some])
        size = len(rows)
        factor, _ = dpotrf(self._covariance(codes, codes) + self.noise * np.eye(size), lower=1)
        lower, _ = dpotri(factor, lower=1)
        room = size + 64
        self._inverse = np.zeros((room, room))
        self._inverse[:size, :size] = np.tril(lower) + np.tril(lower, -1).T
        self._codes = np.zeros((room, codes.shape[1]))
        self._codes[:size] = codes
        self._rows = np.zeros(room, dtype=np.int64)
        self._rows[:size] = rows
        self._size, self._read = size, count

    def _fitted(self, codes: Floats, y: Floats) -> tuple[float, float, float]:
        """Return the (rho, s, v) of the greatest evidence (6)."""
        best, found = -math.inf, (0.0, 1.0, 1.0)
        for rho in self._rhos:
            covariance = self._covariance(codes, codes, rho)
            for noise in self.noises:
                factor, _ = dpotrf(covariance + noise * np.eye(len(y)), lower=1)
                white, _ = dtrtrs(factor, y, lower=1)
                scale = max(float(white @ white) / len(y), 1e-12)
                evidence = -0.5 * len(y) * math.log(scale) - float(np.log(np.diag(factor)).sum())
                evidence -= self._caution * max(0.0, math.log(noise / 0.1))
                if evidence > best:
                    best, found = evidence, (rho, noise, scale)
        return found

    def _covariance(self, one: Floats, other: Floats, rho: float | None = None) -> Floats:
        """Return A of (3) without the noise, between (N, D) and (M, D) codes."""
        rho = self.rho if rho is None else rho
        c = one @ other.T / self._code.slots
        return np.asarray(1.0 + (1.0 - rho) * c + rho * c * c)

    def _append(self, index: int, code: Floats) -> None:
        """Remember one more trial: border the inverse of A by a row and a column."""
        size, inverse = self._size, self.inverse
        row = self._covariance(self._codes[:size], code)[:, 0]
        solved = inverse @ row
        own = float(self._covariance(code, code)[0, 0]) + self.noise
        pivot = 1.0 / (own - float(row @ solved))
        inverse += pivot * np.outer(solved, solved)
        self._inverse[size, :size] = self._inverse[:size, size] = -pivot * solved
        self._inverse[size, size] = pivot
        self._codes[size] = code
        self._rows[size] = index
        self._size += 1

    def means(self, y: Floats) -> Floats:
        """Return the (m,) posterior means of q at the remembered trials, given all (N,) y."""
        mine = y[self.rows]
        return np.asarray(mine - self.noise * (self.inverse @ mine))

    def draw(self, y: Floats, rng: np.random.Generator | None, spread: float) -> Quadratic:
        """Draw q from its posterior by (4) and (5); without a generator return its mean.

        Args:
            y: (N,) scores of all trials.
            rng: gives the draw from the prior.
            spread: z of (4) and (5).
        """
        codes = self._codes[: self._size]
        length, slots = self._code.length, self._code.slots
        each, both = (1.0 - self.rho) / slots, self.rho / slots**2
        linear, pairs = np.zeros(length), np.zeros((length, length))
        rest = y[self.rows] / math.sqrt(self.scale)
        if rng is not None:
            linear = spread * math.sqrt(each) * rng.normal(size=length)
            error = spread * math.sqrt(self.noise) * rng.normal(size=self._size)
            rest -= spread * rng.normal() + codes @ linear + error
        if rng is not None and self.rho:
            pairs = spread * math.sqrt(both) * rng.normal(size=pairs.shape)
            rest -= ((codes @ pairs) * codes).sum(axis=1)
        a = self.inverse @ rest
        if self.rho:
            pairs += both * ((codes.T * a) @ codes)
        return self._code.quadratic(linear + each * (a @ codes), pairs)


def simplex(size: int) -> Floats:
    """Return the (K, K - 1) corners of a regular simplex around 0, each at distance 1."""
    axes = np.zeros((size, size - 1))  # Helmert's: orthonormal, and orthogonal to the ones
    for k in range(1, size):
        axes[:k, k - 1] = 1.0
        axes[k, k - 1] = -k
        axes[:, k - 1] /= math.sqrt(k * (k + 1))
    return axes * math.sqrt(size / (size - 1))


def standardised(rewards: Floats) -> Floats:
    """Return the (N,) rewards with mean 0 and standard deviation 1; all 0 if they are equal."""
    centred = rewards - rewards.mean()
    spread = float(centred.std())
    return np.asarray(centred / spread if spread > 0 else centred)


def normal_scores(rewards: Floats) -> Floats:
    """Return (N,) standard normal quantiles of the rewards' ranks; equal rewards share a rank."""
    _, owners, counts = np.unique(rewards, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # scipy.stats has this, and takes long to import
    return np.asarray(ndtri((ranks[owners.ravel()] - 0.5) / len(rewards)))
