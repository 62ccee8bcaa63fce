"""The mean weighted by trial losses, against values by hand and its guarantee."""

import math

import pytest
import torch
from torch import Tensor

from lightning_agg.aggregators import Context, LossWeightedMean

ROWS = torch.tensor([[1.0, 0.0], [0.0, 4.0], [2.0, 0.0], [0.0, 1.0]])


def context_with_losses(losses: list[float]) -> Context:
    return Context(
        parameters=lambda: torch.zeros(2), public_losses=lambda parameters, num_samples: torch.tensor(losses)
    )


def test_weights_by_hand() -> None:
    context = context_with_losses([2.0, 1.5, 1.0, 2.0, 3.0])  # descents 1/2, 1, 0, -1
    parts = torch.tensor([math.exp(-1), 1.0, math.exp(-2), math.exp(-4)])
    rule = LossWeightedMean(sharpness=2.0)
    torch.testing.assert_close(rule.influence(ROWS, context), parts / parts.sum())
    torch.testing.assert_close(rule(ROWS, context), (parts / parts.sum()) @ ROWS)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_weights_do_not_depend_on_the_unit_of_the_loss(scale: float) -> None:
    losses = [2.0, 1.5, 1.0, 1.75, 3.0]
    expected = LossWeightedMean()(ROWS, context_with_losses(losses))
    found = LossWeightedMean()(ROWS, context_with_losses([scale * loss for loss in losses]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_sharpness_goes_from_the_mean_to_the_best_row() -> None:
    context = context_with_losses([2.0, 1.5, 1.0, 1.75, 1.9])
    torch.testing.assert_close(LossWeightedMean(1e-6)(ROWS, context), ROWS.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(LossWeightedMean(1e6)(ROWS, context), ROWS[1])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_of_no_finite_loss_has_no_weight(bad: float) -> None:
    context = context_with_losses([2.0, bad, 1.0, 1.0, bad])
    torch.testing.assert_close(LossWeightedMean()(ROWS, context), ROWS[1:3].mean(0))


@pytest.mark.parametrize(
    "losses", [[2.0, 2.0, 3.0, 2.5, 9.0], [torch.inf, 1.0, 1.0, 1.0, 1.0], [1.0] + 4 * [torch.nan]]
)
def test_no_step_where_no_row_lowers_the_loss(losses: list[float]) -> None:
    context = context_with_losses(losses)
    assert torch.equal(LossWeightedMean()(ROWS, context), torch.zeros(2))
    assert torch.equal(LossWeightedMean().influence(ROWS, context), torch.zeros(4))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sharpness", [3.0, 10.0, 100.0])
def test_the_descent_on_a_convex_loss_is_nearly_that_of_the_best_row(seed: int, sharpness: float) -> None:
    random = torch.Generator().manual_seed(seed)
    curvature = torch.rand(6, generator=random, dtype=torch.float64)
    start = torch.randn(6, generator=random, dtype=torch.float64)

    def losses(parameters: Tensor, num_samples: int = 0) -> Tensor:
        return (parameters.square() * curvature).sum(dim=1)

    rows = 10.0 ** torch.arange(-2, 7).double()[:, None] * torch.randn(
        9, 6, generator=random, dtype=torch.float64
    )
    rows[0] = 2 * curvature * start  # one honest row beside eight attackers
    rule = LossWeightedMean(sharpness, step_size=0.1)
    aggregate = rule(rows, Context(parameters=lambda: start, public_losses=losses))
    best = (losses(start[None]) - losses(start - 0.1 * rows)).max()
    reached = (losses(start[None]) - losses((start - 0.1 * aggregate)[None])).item()
    assert best > 0
    assert reached >= best * (1 - math.log(9) / sharpness) - 1e-12


def test_samples_and_step_reach_the_server() -> None:
    asked: list[tuple[list[float], int]] = []

    def losses(parameters: Tensor, num_samples: int) -> Tensor:
        asked.append((parameters[:, 0].tolist(), num_samples))
        return parameters[:, 0]

    rule = LossWeightedMean(step_size=0.5, num_samples=7)
    rule(torch.tensor([[1.0], [2.0]]), Context(parameters=lambda: torch.ones(1), public_losses=losses))
    assert asked == [([1.0, 0.5, 0.0], 7)]
