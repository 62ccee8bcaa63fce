"""A step that is tried on the server's public data before it is taken."""

import torch
from torch import Tensor

from lightning_agg.aggregators.context import Context

RISE = 0.25
"""Part by which the loss after a step may exceed the largest before the last rounds."""

RECENT = 10
"""How many rounds these are, the present one among them."""

MOST = 10
"""Halvings at most, together."""


def begin(like: Tensor) -> Tensor:
    """What is carried from round to round, before the first one."""
    return like.new_zeros(1 + RECENT)


def search(
    context: Context, step: Tensor, carried: Tensor, index: int, num_samples: int
) -> tuple[float, Tensor]:
    """By how much the step ``(d,)`` is shortened, and what the next round needs.

    It is halved as long as it would raise the loss to more than a quarter above the largest of the last ten rounds', and so
    are those after it: a nonmonotone line search (Grippo, Lampariello, Lucidi, *A nonmonotone line search technique for
    Newton's method*, SIAM Journal on Numerical Analysis 1986; on samples of the data: Galli, Rauhut, Schmidt, *Don't be so
    monotone*, NeurIPS 2023). Deviation: it asks for no decrease, as one of a round's few samples proves nothing, and its
    step does not grow again.

    Args:
        context: Knows the parameters and the public loss.
        step: What is to be added to the parameters.
        carried: From :func:`begin`, or the last round.
        index: Index of the round in its episode, from 0.
        num_samples: Public samples of a loss.
    """
    halvings, losses = int(carried[0]), carried[1:].clone()
    parameters = context.current_parameters()
    before, after = context.losses(torch.stack([parameters, parameters + 0.5**halvings * step]), num_samples)
    losses[index % RECENT] = before
    highest = losses[: index + 1].max()
    limit = highest + RISE * highest.abs()
    while not after <= limit and halvings < MOST:
        halvings += 1
        (after,) = context.losses((parameters + 0.5**halvings * step)[None], num_samples)
    return 0.5**halvings, torch.cat([carried.new_tensor([halvings]), losses])
