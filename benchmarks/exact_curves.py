"""What noisy medianSGD and noisy signSGD do on quadratics, without simulating them.

For f_i(x) = (x - a_i)^2 / 2 and an odd number of workers. Noisy medianSGD is a first-order autoregression whose
innovations are medians of independent variables a_i + b xi_i; noisy signSGD is a birth-death chain on a lattice of
the learning rate. Attackers, on top of the workers with the centers a_i, send +infinity in every round: they push x
down. Nothing here uses the package: tests and benchmarks compare the package with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import integrate, stats

LAWS = {
    "gaussian": stats.norm(),
    "logistic": stats.logistic(scale=math.sqrt(3) / math.pi),
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    "laplace": stats.laplace(scale=1 / math.sqrt(2)),
}
"""Noise with mean 0 and variance 1."""


def majority(probabilities: np.ndarray) -> np.ndarray:
    """Probability that more than half of M independent events happen; ``(M, ...)`` -> ``(...)``."""
    counts = [np.ones(probabilities.shape[1:])]
    for p in probabilities:
        stay, grow = [c * (1 - p) for c in counts], [c * p for c in counts]
        counts = [stay[0], *(s + g for s, g in zip(stay[1:], grow, strict=False)), grow[-1]]
    return sum(counts[len(probabilities) // 2 + 1 :], np.zeros(probabilities.shape[1:]))


def below(
    z: np.ndarray, centers: Sequence[float], b: float, law: str = "gaussian", attackers: int = 0
) -> np.ndarray:
    """``(M, ...)`` probabilities that a_i + b xi_i <= z, and 1 for each attacker."""
    return np.stack([LAWS[law].cdf((z - a) / b) for a in centers] + [np.ones_like(z)] * attackers)


def median_moments(
    centers: Sequence[float], b: float, law: str = "gaussian", attackers: int = 0
) -> tuple[float, float]:
    """Mean and variance of the median of the a_i + b xi_i."""
    if b == 0:
        return float(np.median([-math.inf] * attackers + list(centers))), 0.0
    z = np.linspace(min(centers) - 14 * b, max(centers) + 14 * b, 20_001)
    cdf, middle = majority(below(z, centers, b, law, attackers)), float(np.mean(centers))
    first = z[-1] - middle - integrate.trapezoid(cdf, z)
    second = (z[-1] - middle) ** 2 - integrate.trapezoid(2 * (z - middle) * cdf, z)
    return middle + first, second - first**2


@dataclass(frozen=True)
class Moments:
    """Mean and variance of x_t, and the mean square of the gradient there."""

    mean: float
    variance: float
    centers: Sequence[float]

    @property
    def squared_gradient(self) -> float:
        """E (x - mean of the a_i)^2."""
        return (self.mean - float(np.mean(self.centers))) ** 2 + self.variance


def median_sgd(
    centers: Sequence[float],
    b: float,
    lr: float,
    start: float,
    rounds: float,
    law: str = "gaussian",
    attackers: int = 0,
) -> Moments:
    """x_t of noisy medianSGD; ``rounds`` may be infinite."""
    m, v = median_moments(centers, b, law, attackers)
    left = (1 - lr) ** rounds
    return Moments(m + left * (start - m), lr / (2 - lr) * v * (1 - left**2), centers)


def down(
    x: np.ndarray, centers: Sequence[float], b: float, law: str = "gaussian", attackers: int = 0
) -> np.ndarray:
    """Probability that the majority of the signs of x - a_i + b xi_i is positive, so that x goes down."""
    return majority(below(np.asarray(x, dtype=float), centers, b, law, attackers))


def vote_fixed_point(centers: Sequence[float], b: float, law: str = "gaussian", attackers: int = 0) -> float:
    """Where the vote goes up as often as down."""
    low, high = min(centers) - 4 * b * bool(attackers), max(centers)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if down(middle, centers, b, law, attackers) < 0.5 else (low, middle)
    return low


def lattice(centers: Sequence[float], lr: float, start: float, reach: float) -> np.ndarray:
    """The points start + lr Z from ``reach`` below the lowest center to ``reach`` above the highest."""
    first = math.ceil((min(centers) - reach - start) / lr)
    last = math.floor((max(centers) + reach - start) / lr)
    return start + lr * np.arange(first, last + 1)


def stationary_vote(
    centers: Sequence[float],
    b: float,
    lr: float,
    start: float,
    law: str = "gaussian",
    attackers: int = 0,
) -> Moments:
    """The long run of noisy signSGD, by detailed balance."""
    x = lattice(centers, lr, start, reach=4 * b)
    p = down(x, centers, b, law, attackers).clip(1e-300, 1 - 1e-16)
    log = np.concatenate([[0.0], np.cumsum(np.log1p(-p[:-1]) - np.log(p[1:]))])
    weight = np.exp(log - log.max())
    return _moments(x, weight / weight.sum(), centers)


def vote_sgd(
    centers: Sequence[float], b: float, lr: float, start: float, rounds: int, law: str = "gaussian"
) -> list[Moments]:
    """x_0 to x_t of noisy signSGD, by its transition probabilities."""
    x = lattice(centers, lr, start, reach=max(4 * b, abs(start)))
    x = x[np.abs(x - start) < (rounds + 1.5) * lr]
    p = down(x, centers, b, law)
    weight = np.zeros(len(x))
    weight[int(np.argmin(np.abs(x - start)))] = 1.0
    moments = [_moments(x, weight, centers)]
    for _ in range(rounds):
        moved = np.zeros(len(x))
        moved[:-1] += (weight * p)[1:]
        moved[1:] += (weight * (1 - p))[:-1]
        weight = moved
        moments.append(_moments(x, weight, centers))
    return moments


def best_median_noise(centers: Sequence[float], lr: float) -> float:
    """The Gaussian b that makes the stationary gradient of noisy medianSGD smallest, for 3 workers and large b.

    The squared gap is (sqrt(3) / (4 pi) S / b^2)^2 with S the sum of the cubed deviations, and the variance
    lr / (2 - lr) b^2 times that of the median of three standard normal variables.
    """
    gap = math.sqrt(3) / (4 * math.pi) * cubes(centers)
    spread = lr / (2 - lr) * median_moments((0.0, 0.0, 0.0), 1.0)[1]
    return (2 * gap**2 / spread) ** (1 / 6)


def best_vote_noise(centers: Sequence[float], lr: float) -> float:
    """The Gaussian b that makes the stationary gradient of noisy signSGD smallest, for 3 workers and large b.

    The fixed point is (1 / 18 + 2 / (9 pi)) S / b^2 from the mean, and the variance lr b / (2 * 1.19683).
    """
    gap = (1 / 18 + 2 / (9 * math.pi)) * cubes(centers)
    return (8 * vote_slope() * gap**2 / lr) ** (1 / 5)


def vote_slope() -> float:
    """2 f_3(0) = 1.19683: how fast the expected vote of 3 workers grows with gradient / b."""
    return 3 / math.sqrt(2 * math.pi)


def pushed(honest: int, attackers: int) -> float:
    """How far the attackers move the fixed point of both rules when b grows, over b: about -f sqrt(pi / 2) / H for f << H.

    As many honest votes must go up as hold the balance: a_i differ by little compared with b, so each does with the
    same probability, which depends on the numbers of workers alone.
    """
    return vote_fixed_point([0.0] * honest, 1.0, attackers=attackers)


def cubes(centers: Sequence[float]) -> float:
    """Sum of the cubed deviations of the a_i from their mean."""
    return float(((np.asarray(centers) - np.mean(centers)) ** 3).sum())


def _moments(x: np.ndarray, weight: np.ndarray, centers: Sequence[float]) -> Moments:
    mean = float(weight @ x)
    return Moments(mean, float(weight @ (x - mean) ** 2), centers)
