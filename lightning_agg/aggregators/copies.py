"""Rows that are nearly the same, as those of attackers who agree on what they send: functions of one round."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_agg.aggregators.linalg import row_lengths, squared_distances
from lightning_agg.aggregators.worker_trust import positive

NEARLY = 0.1
"""A row is nearly another if what is between them is at most this part of the shorter one's length."""


class Kinds(NamedTuple):
    """Rows of which those that are copies of each other are taken together.

    Attributes:
        rows: The mean of each of g kinds, ``(g, d)``.
        of_row: Which kind each of the m rows is of, ``(m,)``.
        counts: For how much of its kind each of them counts, ``(m,)``.
    """

    rows: Tensor
    of_row: Tensor
    counts: Tensor


def copies_and_same(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which of ``(M, d)`` are copies of each other, and which tell no more than one of them, ``(M, M)`` of 1 and 0 each.

    Both are those that are nearly the same, a row and itself among them. Where all rows are, nobody is a copy, as honest
    workers with large batches agree too; and only equal rows are one.
    """
    squares = row_lengths(rows).square()
    shorter = torch.minimum(squares, squares[:, None])
    nearly = squared_distances(rows) <= NEARLY**2 * shorter
    if not bool(nearly.all()):
        return nearly.to(rows), nearly.to(rows)
    groups = torch.unique(rows, dim=0, return_inverse=True)[1]
    return torch.eye(len(rows)).to(rows), (groups[:, None] == groups).to(rows)


def kinds_of(rows: Tensor, copies: Tensor) -> Kinds:
    """Of ``(m, d)``, of which ``copies`` are, ``(m, m)``; copies of copies are of one kind too.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
        >>> kinds_of(rows, copies_and_same(rows)[0])
        Kinds(rows=tensor([[1., 0.],
                [0., 3.]]), of_row=tensor([0, 1, 0]), counts=tensor([0.5000, 1.0000, 0.5000]))
    """
    first = torch.arange(len(rows), device=rows.device)
    before = first + 1
    while not torch.equal(before, first):
        before, first = first, torch.where(copies > 0, first, len(rows)).amin(1)
    firsts, of_row = torch.unique(first, return_inverse=True)
    if len(firsts) == len(rows):
        return Kinds(rows, of_row, rows.new_ones(len(rows)))
    members = (firsts[:, None] == first).to(rows)
    shares = members / members.sum(1, keepdim=True)
    return Kinds(shares @ rows, of_row, shares.sum(0))


def effective_number(weights: Tensor, same: Tensor) -> Tensor:
    """How many independent rows of weight 1 have a mean as noisy as that of rows ``(M,)`` of which some are the ``same``.

    Kish, *Survey Sampling*, 1965, section 11.7.

    Example:
        >>> same = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
        >>> effective_number(torch.ones(3), torch.eye(3)), effective_number(torch.ones(3), same)
        (tensor(3.), tensor(1.8000))
    """
    return weights.sum().square() / positive(weights @ same @ weights)
