"""What a learned aggregator carries from round to round beside the states of its network."""

from typing import NamedTuple

from torch import Tensor


class Seen(NamedTuple):
    """What is carried from round to round; empty where it is not used.

    Args:
        running: ``(d,)`` running mean of the squared scale.
        trust: ``(M,)`` running sum of each worker's descents.
        direction: ``(d,)`` running sum of the public gradient's directions.
        agreement: ``(M,)`` running sum of each worker's cosines with it.
        number: ``(1,)`` running mean of how many workers the trusted ones are worth.
        momenta: ``(K, d)`` running means of the rows' centre.
        search: ``(1 + RECENT,)`` of the line search.
        sums: ``(M, 5)`` running sums of a judge's evidence on each worker.
        judged: ``(M, K UNITS)`` the memory that K judges have of each worker.
        heard: ``(M,)`` in how many rounds each worker has taken part.
        verdict: ``(M,)`` logarithm of the judges' last weight of each.
        length: ``(1,)`` running mean of the public gradient's length.
    """

    running: Tensor
    trust: Tensor
    direction: Tensor
    agreement: Tensor
    number: Tensor
    momenta: Tensor
    search: Tensor
    sums: Tensor
    judged: Tensor
    heard: Tensor
    verdict: Tensor
    length: Tensor
