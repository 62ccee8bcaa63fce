"""What was seen of the workers in a round, with who was honest: what a judge of trust is trained on."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_agg.aggregators.worker_trust import Judged

LARGEST_PRODUCT = 1e30
"""Bound of an inner product, in parts of the honest mean's squared length: the square of a sum of them stays finite."""


class TrustExample(NamedTuple):
    """That of a round, or of several, stacked in front.

    Attributes:
        evidence: What a judge reads of each worker, ``(M, EVIDENCE)``.
        counts: For how much of a worker each counts, ``(M,)``: for nothing who sent no finite row.
        honest: Who of them was honest, ``(M,)``.
        products: Inner products of the rows in parts of the squared length of the honest ones' mean, ``(M, M)``; 0 for who was not
            there, and all 0 if there is no such mean.
    """

    evidence: Tensor
    counts: Tensor
    honest: Tensor
    products: Tensor


def example_of_round(rows: Tensor, honest: Tensor, judged: Judged) -> TrustExample:
    """Of the finite rows ``(m, d)`` of a round, who of the M workers is honest, and what the judge has done."""
    evidence, counts, cut = judged
    present = counts > 0
    honest = honest & present
    among = honest[present].double()
    rows = (cut[:, None] * rows).detach().double()
    products = rows @ rows.T
    size = among @ products @ among / among.sum().clamp_min(1) ** 2
    relative = (products / size).nan_to_num(0.0, 0.0, 0.0).clamp(-LARGEST_PRODUCT, LARGEST_PRODUCT)
    whole = evidence.new_zeros(len(present), len(present))
    if bool(size > 0):
        whole[present.outer(present)] = relative.flatten().to(whole)
    return TrustExample(evidence.detach(), counts, honest, whole)


def stacked(rounds: Iterable[tuple[TrustExample, ...]]) -> tuple[TrustExample, ...]:
    """That of each task from that of each round; of no task if nobody testified."""
    return tuple(
        TrustExample(*map(torch.stack, zip(*task, strict=True))) for task in zip(*rounds, strict=True)
    )
