"""The spread of weighted rows around their mean, from the squared distances between them.

The inner products of centred rows, ``B = -J D J / 2``, follow from the squared distances D alone, so each
subset of the rows is centred at its own mean without a look at the rows, and rows of weight 0 leave no trace.
In NumPy, because its calls on M numbers take a third of the time of torch's.
"""

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_agg import seeding
from lightning_agg.aggregators.linalg import squared_distances

Array = NDArray[np.float64]

DENSE = 250
"""Up to so many rows, all eigenvectors take less time than the top one by Lanczos' method."""

CONVERGED = 1e-12
"""Residual of an eigenvector, in parts of the largest eigenvalue."""


def spread(gradients: Tensor) -> Array:
    """``(M, d)`` -> squared distances ``(M, M)`` on the CPU, of 1e140 at most, so that their squares are finite."""
    return squared_distances(gradients).cpu().clamp(max=1e140).numpy()


def centred_gram(distances: Array, weights: Array) -> Array:
    """Squared distances ``(..., n, n)``, weights ``(..., n)`` of sum 1 -> inner products about the weighted mean."""
    to_mean = (distances @ weights[..., None])[..., 0]
    to_mean -= (weights * to_mean).sum(axis=-1, keepdims=True) / 2
    return (to_mean[..., :, None] + to_mean[..., None, :] - distances) / 2


def top_direction(distances: Array, weights: Array) -> tuple[float, Array]:
    """Of the weighted covariance: the largest eigenvalue, and the squared projections ``(n,)`` on its eigenvector.

    ``distances`` are the squared ones ``(n, n)``, ``weights`` ``(n,)`` sum to 1.
    """
    gram, root = centred_gram(distances, weights), np.sqrt(weights)
    value, vector = _top_eigenpair(root[:, None] * gram * root)
    largest = max(value, 0.0)
    with np.errstate(over="ignore"):  # of a row without weight, where the others are equal
        return largest, (gram @ (root * vector)) ** 2 / max(largest, sys.float_info.min)


def _top_eigenpair(matrix: Array) -> tuple[float, Array]:
    """Of a symmetric matrix."""
    found = _lanczos(torch.from_numpy(matrix)) if len(matrix) > DENSE else None
    if found is None:
        values, vectors = np.linalg.eigh(matrix)
        return float(values[-1]), vectors[:, -1]
    return found


def _lanczos(matrix: Tensor) -> tuple[float, Array] | None:
    """The top eigenpair by Lanczos' method with full reorthogonalisation; ``None`` where it does not converge."""
    steps = len(matrix) // 2
    basis = matrix.new_zeros(steps, len(matrix))
    basis[0] = torch.from_numpy(seeding.generator(0, "Lanczos").standard_normal(len(matrix)))
    basis[0] /= torch.linalg.vector_norm(basis[0])
    small = np.zeros((steps, steps))
    for last in range(steps):
        vectors = basis[: last + 1]
        image = matrix @ vectors[-1]
        along = vectors @ image
        image -= along @ vectors
        image -= (vectors @ image) @ vectors
        small[last, last] = along[-1]
        length = float(torch.linalg.vector_norm(image))
        if last % 10 == 9 or length == 0:
            values, coordinates = np.linalg.eigh(small[: last + 1, : last + 1])
            if length * abs(coordinates[-1, -1]) <= CONVERGED * abs(values[-1]):
                return float(values[-1]), (torch.from_numpy(coordinates[:, -1]) @ vectors).numpy()
        if last + 1 < steps:
            basis[last + 1] = image / length
            small[last, last + 1] = small[last + 1, last] = length
    return None
