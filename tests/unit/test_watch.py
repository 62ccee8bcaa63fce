"""What a training tells of without an error."""

import random

import numpy as np
import pytest
import torch

from lightning_agg.aggregators import Mean, PreAggregated
from lightning_agg.attacks import Drop
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


class Counting(Mean):
    """Carries things of each kind."""

    def __init__(self):
        super().__init__()
        self.calls, self.norms, self.table, self.rng = 0, [], np.zeros(2), np.random.default_rng(0)
        self.tensor = self.made_once = None
        self.functions = [lambda rows: rows]
        self.register_buffer("growing", torch.zeros(0))

    def forward(self, gradients, context):
        self.calls += 1
        self.norms.append(1.0)
        self.table = self.table + 1
        self.rng.random()
        self.tensor = gradients.sum()
        self.made_once = 5
        self.growing = gradients[0]
        return super().forward(gradients, context)


class Patient(Drop):
    """Counts the rounds."""

    rounds = 0

    def forward(self, honest, own, context):
        self.rounds += 1
        return super().forward(honest, own, context)


class Kept(Patient):
    """And puts them in the checkpoint."""

    def state_dict(self):
        return {"rounds": self.rounds}


def test_what_no_checkpoint_holds_is_told_once_of_each(recwarn):
    watch, rule, rows = Watch(), PreAggregated([], Counting()), torch.ones(2, 2)
    attacks = [Patient(), Kept()]
    for attack in attacks:
        attack.rounds = 0
    watch.begin(rule, attacks)
    for _ in range(2):
        rule(rows)
        for attack in attacks:
            attack(rows, rows)
        watch.checkpoint(rule, attacks)
    told = [str(warning.message) for warning in recwarn]
    names = ["calls", "norms", "table", "rng", "tensor"]
    expected = [
        *(f"Counting.{name}" for name in names),
        "Patient.rounds",
        "The size of PreAggregated.aggregator.growing",
    ]
    assert [message.split(" changes from")[0] for message in told] == expected


def test_each_is_looked_at_in_its_first_rounds_alone(recwarn):
    watch = Watch()
    watch.begin(Mean())
    for _ in range(LOOKED_AT):
        with watch.draws("Late"):
            pass
    for who in ("Late", "Loud"):
        with watch.draws(who):
            torch.rand(1)
    (told,) = recwarn.list
    assert str(told.message).startswith("Loud draws")
