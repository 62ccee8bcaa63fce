"""What a training tells of without an error."""

import random

import numpy as np
import pytest
import torch

from lightning_agg.aggregators import Mean
from lightning_agg.modules.watch import LOOKED_AT, Watch


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(1), np.random.rand, random.random], ids=["torch", "numpy", "python"]
)
def test_who_draws_from_a_global_generator_is_told_once(draw, recwarn):
    watch = Watch()
    watch.begin(Mean())
    with watch.draws("Quiet"):
        np.random.default_rng(0).random()
    for _ in range(2):
        with watch.draws("Loud"):
            draw()
    (told,) = (str(warning.message) for warning in recwarn)
    assert told.startswith("Loud draws from a global random generator")


def test_it_is_looked_at_in_the_first_rounds_alone(recwarn):
    watch = Watch()
    watch.begin(Mean())
    for index in range(LOOKED_AT):
        watch.round(Mean(), index, torch.ones(2, 2), [0, 1])
    with watch.draws("Loud"):
        torch.rand(1)
    assert not recwarn.list
