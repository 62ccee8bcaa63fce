"""When the next horizon comes."""

import math

import pytest
import torch

from lightning_agg.modules.curriculum import Curriculum


def stages(losses, patience=2):
    curriculum = Curriculum([10, 20, 40], patience)
    seen = []
    for loss in losses:
        curriculum.observe(torch.tensor(loss))
        seen.append(curriculum.horizon)
    return seen


@pytest.mark.parametrize(
    ("losses", "horizons"),
    [
        ([3.0, 2.0, 1.0, 0.5], [10] * 4),
        ([1.0, 1.0, 1.0], [10, 10, 20]),
        ([1.0, 2.0, 0.9, 1.0, 1.0], [10, 10, 10, 10, 20]),
        ([1.0, 2.0, 2.0, 3.0, 4.0, 4.0], [10, 10, 20, 20, 20, 40]),
        ([1.0] * 9, [10, 10, 20, 20, 20, 40, 40, 40, 40]),
        ([math.inf, math.nan, math.inf, math.inf], [10] * 4),
        ([1.0, math.inf, 2.0, math.nan, 2.0], [10, 10, 10, 10, 20]),
    ],
)
def test_it_advances_when_validation_stops_improving(losses, horizons):
    assert stages(losses) == horizons


def test_the_next_horizon_is_looked_at_and_at_last_its_own():
    curriculum = Curriculum([10, 20], patience=1)
    assert (curriculum.horizon, curriculum.next_horizon) == (10, 20)
    for _ in range(2):
        curriculum.observe(torch.tensor(1.0))
    assert (curriculum.horizon, curriculum.next_horizon) == (20, 20)


def test_it_goes_on_from_its_state():
    unbroken, first, second = (Curriculum([10, 20, 40], patience=2) for _ in range(3))
    losses = [1.0, 2.0, 2.0, 1.0, 3.0, 3.0]
    for loss in losses:
        unbroken.observe(torch.tensor(loss))
    for loss in losses[:5]:
        first.observe(torch.tensor(loss))
    second.load_state_dict(first.state_dict())
    second.observe(torch.tensor(losses[5]))
    assert second.state_dict() == unbroken.state_dict()
    assert second.horizon == 40
