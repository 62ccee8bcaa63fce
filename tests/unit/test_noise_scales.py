"""How large the noise is, by hand, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import assert_resumes, metrics, run
from torch import nn

from lightning_agg.callbacks import NoisePerturbation
from lightning_agg.data import RoundBatch
from lightning_agg.errors import SettingError
from lightning_agg.noise_scales import NoiseContext, NoiseScale, PerTensorScale, PiecewiseScale, TheoryScale

LOGGED = ["--trainer.log_every_n_steps=1", "--model.gradient_samples=0"]


def context(index=0, num_rounds=None, sizes=()):
    return NoiseContext(index, num_rounds, sizes)


def batch(index=0, workers=(0, 1, 2)):
    return RoundBatch(index, workers, workers, torch.zeros(0), torch.zeros(0), None)


def server(**more):
    logged = {}
    return SimpleNamespace(
        rounds_in_order=True, log_pool=lambda values, batch: logged.update(values), logged=logged, **more
    )


def test_values_change_at_their_milestones():
    scale = PiecewiseScale([1.0, 0.5, 0.0], [10, 11])
    assert [scale(None, context(index)) for index in (0, 9, 10, 11, 1000)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert PiecewiseScale([0.3], [])(None, context(7)) == 0.3


def test_theorem_5_and_theorem_6():
    gradients = torch.zeros(3, 16)
    assert TheoryScale("sign_majority")(gradients, context(5, 625)) == pytest.approx(10.0)  # (625 * 16)^(1/4)
    assert TheoryScale("coordinate_median")(gradients, context(0, 4)) == pytest.approx(2.0)  # 64^(1/6)
    assert TheoryScale("coordinate_median", factor=0.5)(gradients, context(0, 4)) == pytest.approx(1.0)
    assert TheoryScale("sign_majority", num_rounds=1)(gradients, context(0, 999)) == pytest.approx(2.0)


def test_largest_entry_of_each_tensor():
    gradients = torch.tensor([[1.0, -2.0, 0.1, 0.0, 7.0], [0.5, 1.5, -0.3, 0.0, -9.0]], dtype=torch.float64)
    scale = PerTensorScale(0.5)(gradients, context(sizes=(2, 1, 1, 1)))
    assert scale.tolist() == [1.0, 1.0, 0.15, 0.0, 4.5]


def test_a_broken_worker_does_not_drown_the_others():
    gradients = torch.tensor([[1.0, 2.0], [torch.inf, torch.nan], [-3.0, 1.0]])
    assert PerTensorScale(1.0)(gradients, context(sizes=(2,))).tolist() == [3.0, 3.0]


def test_noise_is_the_constant_one_times_the_scale():
    gradients, unit = torch.randn(3, 6), NoisePerturbation(1.0, seed=4)
    noise = unit.on_worker_gradients(None, server(), torch.zeros(3, 6), batch(8))
    model = nn.Linear(2, 2)  # tensors of 4 and 2 coordinates
    trainer = SimpleNamespace(max_steps=100)
    for scale, expected in (
        (PiecewiseScale([9.0, 0.25], [8]), torch.full((6,), 0.25)),
        (TheoryScale("sign_majority"), torch.full((6,), 600**0.25)),
        (PerTensorScale(0.1), 0.1 * torch.cat([p.abs().max().expand(p.shape[1]) for p in (gradients[:, :4], gradients[:, 4:])])),
    ):  # fmt: skip
        pool = server(model=model)
        callback = NoisePerturbation(scale, seed=4)
        rows = callback.on_worker_gradients(trainer, pool, gradients, batch(8))
        torch.testing.assert_close(rows, gradients + expected * noise)
        assert float(pool.logged["noise/scale"]) == pytest.approx(float(expected.square().mean().sqrt()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoisePerturbation(-0.1), r"noise.scale must be finite and at least 0, got -0.1"),
        (lambda: NoisePerturbation(float("nan")), r"noise.scale must be finite and at least 0, got nan"),
        (lambda: NoisePerturbation(1.0, "cauchy"), r"must be one of gaussian, .*, got 'cauchy'"),
        (lambda: PiecewiseScale([1.0, -1.0], [3]), r"values must be finite and at least 0, got \[1.0, -1.0\]"),
        (lambda: PiecewiseScale([1.0, 2.0, 3.0], [3, 3]), r"milestones must ascend and begin above 0, got \[3, 3\]"),
        (lambda: PiecewiseScale([1.0, 2.0], [0]), r"milestones must ascend and begin above 0, got \[0\]"),
        (lambda: PiecewiseScale([1.0], [3]), r"one more than noise.scale.milestones \(values = 1, milestones = 1\)"),
        (lambda: TheoryScale("krum"), r"noise.scale.rule must be one of sign_majority, coordinate_median, got 'krum'"),
        (lambda: TheoryScale("sign_majority", factor=0), r"noise.scale.factor must be a finite number above 0, got 0"),
        (lambda: TheoryScale("sign_majority", num_rounds=0), r"noise.scale.num_rounds must be at least 1, got 0"),
        (lambda: PerTensorScale(-1), r"noise.scale.factor must be a finite number above 0, got -1"),
    ],
)  # fmt: skip
def test_refused(make, message):
    with pytest.raises(SettingError, match=message):
        make()


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (-1.0, r"must return what is finite and at least 0, got \[-1.0\] in round 8\."),
        (float("nan"), r"must return what is finite and at least 0, got \[nan\]"),
        (torch.tensor([1.0, torch.inf, 1.0]), r"must return what is finite and at least 0, got \[inf\]"),
        (None, r"must return a number or a torch.Tensor of shape \(3,\), got NoneType\."),
        (torch.ones(2), r"must return a number or a torch.Tensor of shape \(3,\), got shape \(2,\)\."),
    ],
)
def test_what_a_scale_of_ones_own_returns_is_checked(scale, message):
    class Own(NoiseScale):
        def __call__(self, gradients, context):
            return scale

    pool, trainer = server(model=nn.Linear(2, 1)), SimpleNamespace(max_steps=10)
    with pytest.raises(SettingError, match=f"^Own.__call__ {message}"):
        NoisePerturbation(Own(), seed=0).on_worker_gradients(trainer, pool, torch.zeros(3, 3), batch(8))


def test_a_scale_may_be_any_number():
    class Own(NoiseScale):
        def __call__(self, gradients, context):
            return next(answers)

    pool, trainer = server(model=nn.Linear(2, 1)), SimpleNamespace(max_steps=10)
    callback, zeros = NoisePerturbation(Own(), seed=0), torch.zeros(3, 3)
    answers = iter([1, 1.0, np.float32(1), torch.tensor(1.0), torch.ones(3, dtype=torch.float64)])
    rows = [callback.on_worker_gradients(trainer, pool, zeros, batch(8)) for _ in range(5)]
    assert all(torch.equal(row, rows[0]) for row in rows)


def test_theory_needs_a_known_number_of_rounds(tmp_path):
    options = ["--noise.scale=TheoryScale", "--noise.scale.rule=sign_majority", "--trainer.max_epochs=1"]
    with pytest.raises(SettingError, match=r"noise.scale.num_rounds must be set .* trainer.max_steps"):
        run("fit", tmp_path, *options, "--trainer.max_steps=-1")


def test_a_schedule_needs_rounds_in_order():
    class Learner(SimpleNamespace):
        rounds_in_order = False

    trainer = SimpleNamespace(max_steps=10)
    with pytest.raises(SettingError, match="must not depend on the round in Learner, got PiecewiseScale"):
        NoisePerturbation(PiecewiseScale([1.0], [])).setup(trainer, Learner(), "fit")
    with pytest.raises(SettingError, match=r"noise.scale.num_rounds must be set"):
        NoisePerturbation(TheoryScale("sign_majority")).setup(trainer, Learner(), "fit")
    NoisePerturbation(PerTensorScale()).setup(trainer, Learner(), "fit")


def test_scales_by_name_logged_and_resumed(tmp_path):
    """A schedule through the command line: logged, and bit for bit the same after a stop in its middle."""
    schedule = [
        "--noise.scale=PiecewiseScale",
        "--noise.scale.values=[0.1,0.01]",
        "--noise.scale.milestones=[3]",
        *LOGGED,
    ]
    assert_resumes(tmp_path, *schedule, stop=2, end=5)
    logged = [float(row["noise/scale"]) for row in metrics(tmp_path / "unbroken") if "noise/scale" in row]
    assert logged == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])


def test_theory_takes_the_rounds_of_the_trainer(tmp_path):
    options = ["--noise.scale=TheoryScale", "--noise.scale.rule=coordinate_median", *LOGGED]
    cli = run("fit", tmp_path, *options, "--trainer.max_steps=2")
    d = sum(p.numel() for p in cli.model.model.parameters())
    (first, *_) = (float(row["noise/scale"]) for row in metrics(tmp_path) if "noise/scale" in row)
    assert first == pytest.approx((2 * d) ** (1 / 6), rel=1e-5)
