"""medianSGD and signSGD on problems with known answers: tables, exact laws, and runs of ``ParameterServer``.

The exact laws stand in ``benchmarks/exact_curves.py``, which does not use the package. A run on ``copies`` coordinates
is so many independent runs of the same problem at once.
"""

import math
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from runs import ROOT, metrics, run

from benchmarks import exact_curves as exact
from lightning_agg.aggregators import CoordinateMedian, Mean, SignMajority
from lightning_agg.attacks import Gaussian
from lightning_agg.callbacks import ByzantineInjection, NoisePerturbation
from lightning_agg.data import LabelPool
from lightning_agg.errors import SettingError
from lightning_agg.gradients import worker_gradients
from lightning_agg.lr_schedulers import PiecewiseConstantLR
from lightning_agg.models import Quadratic, SoftmaxBias
from lightning_agg.modules import ParameterServer
from lightning_agg.modules.public import server_context

PAPER = (1.0, 2.0, 10.0)
OPTIMUM = 13 / 3
SCORES = [2.0, 1.0, 0.0, -1.0, -2.0]


def descend(
    make, aggregator, lr, rounds, pool_size=3, noise=0.0, distribution="gaussian", seed=0, attackers=0
):
    """Parameters after so many rounds of a real fit; the first workers may push everything down."""
    push = ByzantineInjection(Gaussian(mean=1e6, std=1.0), attackers, fixed=True, seed=seed)
    server = ParameterServer(aggregator, make, partial(torch.optim.SGD, lr=lr), gradient_samples=0, seed=seed)
    L.Trainer(
        accelerator="cpu", precision="64-true", max_steps=rounds, max_epochs=-1, limit_val_batches=0, logger=False,
        callbacks=[NoisePerturbation(noise, distribution, seed), push], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=0,
    ).fit(server, datamodule=LabelPool(pool_size, rounds_per_epoch=rounds, seed=seed))  # fmt: skip
    return next(iter(server.trainable.values())).detach()


def quadratic(initial, copies=1, centers=PAPER, **more):
    return partial(Quadratic, centers=list(centers), initial=initial, copies=copies, **more)


def assert_moments(sample, expected):
    """Mean and variance within 4.5 standard errors of independent samples (of a law with a kurtosis below 6)."""
    n = len(sample)
    assert abs(sample.mean().item() - expected.mean) < 4.5 * math.sqrt(expected.variance / n)
    assert abs(sample.var().item() / expected.variance - 1) < 4.5 * math.sqrt(5 / n)


# Tables that were worked out beforehand, against the formulas.


@pytest.mark.parametrize(
    ("b", "mean", "variance", "squared"),
    [
        (0, 2.0, 0.0, (5.44444, 5.44444, 5.44444)),
        (2, 2.69575, 2.7985, (2.69574, 2.68307, 2.68181)),
        (10, 4.16166, 47.649, (0.26892, 0.05331, 0.03186)),
        (20, 4.28846, 182.27, (0.91796, 0.09320, 0.01113)),
    ],
)
def test_table_of_noisy_median(b, mean, variance, squared):
    m, v = exact.median_moments(PAPER, b)
    assert m == pytest.approx(mean, abs=6e-6)
    assert v == pytest.approx(variance, rel=3e-5)
    for lr, value in zip((1e-2, 1e-3, 1e-4), squared, strict=True):
        stationary = exact.median_sgd(PAPER, b, lr, 0.0005, math.inf)
        assert stationary.squared_gradient == pytest.approx(value, abs=6e-6)


@pytest.mark.parametrize(
    ("b", "fixed_point", "gradient", "squared"),
    [
        (2, 2.65401, -1.679, (2.9209, 2.8300, 2.8211)),
        (10, 4.17323, -0.1601, (0.4577, 0.0687, 0.0299)),
        (20, 4.29203, -0.0413, (0.8454, 0.0859, 0.0101)),
    ],
)
def test_table_of_noisy_vote(b, fixed_point, gradient, squared):
    assert exact.vote_fixed_point(PAPER, b) == pytest.approx(fixed_point, abs=6e-6)
    for lr, value in zip((1e-1, 1e-2, 1e-3), squared, strict=True):
        stationary = exact.stationary_vote(PAPER, b, lr, 0.0005)
        assert stationary.squared_gradient == pytest.approx(value, abs=6e-5)
        if b > 2 or lr < 0.1:
            assert stationary.mean - OPTIMUM == pytest.approx(gradient, abs=2e-3)


@pytest.mark.parametrize(
    ("law", "constant", "at_200"),
    [
        ("gaussian", 18.2245, 18.222),
        ("uniform", 16.53, 16.43),
        ("logistic", 21.75, 21.745),
        ("laplace", 33.06, 33.03),
    ],
)
def test_the_gap_of_the_median_falls_with_the_square_of_the_noise(law, constant, at_200):
    cubes = {
        "gaussian": math.sqrt(3) / (4 * math.pi),
        "uniform": 1 / 8,
        "logistic": math.pi**2 / 60,
        "laplace": 1 / 4,
    }
    assert cubes[law] * exact.cubes(PAPER) == pytest.approx(constant, abs=6e-3)
    gap = OPTIMUM - exact.median_moments(PAPER, 200, law)[0]
    assert gap * 200**2 == pytest.approx(at_200, abs=2e-2)


def test_the_predicted_best_noise_is_near_the_best():
    for lr in (1e-2, 1e-3):
        for predicted, law in (
            (exact.best_median_noise(PAPER, lr), lambda b, lr=lr: exact.median_sgd(PAPER, b, lr, 0.0, math.inf)),
            (exact.best_vote_noise(PAPER, lr), lambda b, lr=lr: exact.stationary_vote(PAPER, b, lr, 0.0005)),
        ):  # fmt: skip
            grid = np.geomspace(predicted / 2, predicted * 2, 9)
            best = grid[int(np.argmin([law(b).squared_gradient for b in grid]))]
            assert best == pytest.approx(predicted, rel=0.2)  # a step of the grid


# The package, against the formulas, at the tables' values and between them.


@pytest.mark.parametrize("start", [0.0005, OPTIMUM])
def test_median_without_noise_leaves_the_optimum(start):
    x = descend(quadratic(start), CoordinateMedian(), lr=0.1, rounds=40)
    assert x.item() == pytest.approx(2 + 0.9**40 * (start - 2), abs=1e-6)
    x = descend(quadratic(start), Mean(), lr=0.1, rounds=40)
    assert x.item() == pytest.approx(OPTIMUM + 0.9**40 * (start - OPTIMUM), abs=1e-6)


@pytest.mark.parametrize(("rounds", "x"), [(20, 1.025), (40, 2.025), (41, 1.975), (60, 2.025)])
def test_vote_without_noise_swings_around_the_median(rounds, x):
    assert descend(quadratic(0.025), SignMajority(), 0.05, rounds).item() == pytest.approx(x, abs=1e-6)


@pytest.mark.parametrize(
    ("b", "law"),
    [
        (2, "gaussian"), (5, "gaussian"), (10, "gaussian"), (20, "gaussian"), (200, "gaussian"),
        (7, "logistic"), (7, "uniform"), (7, "laplace"),
    ],
)  # fmt: skip
def test_law_of_the_noisy_median(b, law):
    """With learning rate 1 a single round draws from it."""
    x = descend(quadratic(3.0, copies=60_000), CoordinateMedian(), 1.0, 1, noise=b, distribution=law)
    assert_moments(x, exact.median_sgd(PAPER, b, 1.0, 3.0, 1, law))
    below = (x <= 4.0).double().mean().item()
    probability = exact.majority(exact.below(np.asarray(4.0), PAPER, b, law)).item()
    assert abs(below - probability) < 4.5 * math.sqrt(probability * (1 - probability) / len(x))


@pytest.mark.parametrize(
    ("b", "lr", "rounds", "start"), [(10, 0.01, 300, 4.0), (3, 0.2, 12, -5.0), (2, 0.05, 80, 2.0)]
)
def test_noisy_median_is_an_autoregression(b, lr, rounds, start):
    x = descend(quadratic(start, copies=4000), CoordinateMedian(), lr, rounds, noise=b)
    expected = exact.median_sgd(PAPER, b, lr, start, rounds)
    assert_moments(x, expected)
    if rounds == 300:  # in the long run, but for 0.2 % of the variance
        assert expected.squared_gradient == pytest.approx(0.26892, rel=0.02)


@pytest.mark.parametrize(
    ("b", "lr", "rounds", "start", "law"),
    [(10, 0.1, 300, 4.1, "gaussian"), (2, 0.1, 120, 2.6, "gaussian"), (4, 0.5, 30, -3.0, "laplace")],
)
def test_noisy_vote_is_a_birth_death_chain(b, lr, rounds, start, law):
    x = descend(quadratic(start, copies=4000), SignMajority(), lr, rounds, noise=b, distribution=law)
    expected = exact.vote_sgd(PAPER, b, lr, start, rounds, law)[-1]
    assert_moments(x, expected)
    assert ((x - start) / lr - ((x - start) / lr).round()).abs().max() < 1e-4
    if rounds >= 120:
        stationary = exact.stationary_vote(PAPER, b, lr, start, law).squared_gradient
        assert expected.squared_gradient == pytest.approx(stationary, rel=0.02)


@pytest.mark.parametrize(
    ("b", "law", "attackers"), [(5, "gaussian", 2), (3, "logistic", 2), (4, "gaussian", 4)]
)
def test_attackers_push_the_noisy_median(b, law, attackers):
    centers = (0.0,) * attackers + PAPER * 3
    make = quadratic(1.0, copies=20_000, centers=centers)
    x = descend(
        make, CoordinateMedian(), 0.4, 3, len(centers), noise=b, distribution=law, attackers=attackers
    )
    assert_moments(x, exact.median_sgd(PAPER * 3, b, 0.4, 1.0, 3, law, attackers))


@pytest.mark.parametrize(("b", "law", "attackers"), [(2, "gaussian", 2), (3, "laplace", 4)])
def test_attackers_push_the_noisy_vote(b, law, attackers):
    start, centers = exact.vote_fixed_point(PAPER * 3, b, law, attackers), (0.0,) * attackers + PAPER * 3
    make = quadratic(start, copies=4000, centers=centers)
    x = descend(make, SignMajority(), 0.2, 100, len(centers), noise=b, distribution=law, attackers=attackers)
    expected = exact.stationary_vote(PAPER * 3, b, 0.2, start, law, attackers)
    assert abs(x.mean().item() - expected.mean) < 4.5 * math.sqrt(expected.variance / 4000) + 0.01
    assert x.var().item() == pytest.approx(expected.variance, rel=0.15)


def test_noise_gives_attackers_a_push_in_proportion():
    """Two of eleven are already beyond the reach of the noise that mends nine honest workers."""
    gap = exact.vote_fixed_point(PAPER * 3, 1000, attackers=2) - OPTIMUM
    assert gap / 1000 == pytest.approx(exact.pushed(9, 2), rel=1e-3)
    assert exact.pushed(99, 2) == pytest.approx(-2 * math.sqrt(math.pi / 2) / 99, rel=0.02)
    best = min(
        exact.median_sgd(PAPER * 3, b, 1e-4, 0.0, math.inf, attackers=2).squared_gradient
        for b in np.geomspace(1, 20, 30)
    )
    assert 0.8 < best / (7 / 3) ** 2 < 1


def test_curvatures_rescale_step_and_noise():
    """Coordinate j is the problem with step lr lambda_j and noise b / lambda_j; copies add up."""
    centers, curvatures, copies = [[1.0, 0.0], [2.0, -4.0], [10.0, 1.0]], [0.5, 2.0], 20_000
    make = partial(Quadratic, centers=centers, curvatures=curvatures, initial=[3.0, 1.0], copies=copies)
    x = descend(make, CoordinateMedian(), 0.3, 2, noise=4.0).view(copies, 2)
    for j, (start, curvature) in enumerate(zip([3.0, 1.0], curvatures, strict=True)):
        column = [row[j] for row in centers]
        assert_moments(x[:, j], exact.median_sgd(column, 4.0 / curvature, 0.3 * curvature, start, 2))


def test_gradients_and_losses_of_the_quadratic():
    model = Quadratic(2, [[1.0, 2.0], [3.0, -1.0]], curvatures=[1.0, 4.0], initial=[0.0, 1.0], copies=2)
    gradients, losses = worker_gradients(model, torch.zeros(2, 1, 1), torch.tensor([[0], [1]]))
    assert gradients.tolist() == [[-1.0, -4.0] * 2, [-3.0, 8.0] * 2]
    assert losses.tolist() == [2 * (0.5 + 2.0), 2 * (4.5 + 8.0)]


@pytest.mark.parametrize(("size", "norm", "loss"), [(5, 0.51806, 2.45191), (10, 0.36632, 3.14506)])
def test_votes_on_exclusive_labels_never_move_the_softmax(size, norm, loss):
    scores = SCORES * (size // 5)
    start = torch.tensor(scores, dtype=torch.float64).softmax(0)
    assert (start - 1 / size).norm().item() == pytest.approx(norm, abs=6e-6)
    assert -start.log().mean().item() == pytest.approx(loss, abs=6e-6)
    end = descend(partial(SoftmaxBias, initial=scores), SignMajority(), 0.01, 50, pool_size=size)
    torch.testing.assert_close(end.softmax(0), start)
    torch.testing.assert_close(end - torch.tensor(scores), torch.full_like(end, -0.5), check_dtype=False)


def test_the_median_on_exclusive_labels_is_the_mean():
    make = partial(SoftmaxBias, initial=SCORES)
    ends = [descend(make, rule, 1.0, 60, pool_size=5).softmax(0) for rule in (CoordinateMedian(), Mean())]
    # p of the median moves M times as far as the mean's p - 1 / M does, shifted alike: the same direction.
    torch.testing.assert_close(ends[0], ends[1])
    assert (ends[0] - 0.2).norm() < 0.01


def softmax_vote(b, lr, rounds, replicas, rng, last=1):
    """Norms of the gradient of independent runs of noisy signSGD on exclusive labels, rms of the last rounds, in numpy."""
    z, squares = np.tile(np.array(SCORES), (replicas, 1)), np.zeros(replicas)
    for t in range(rounds + 1):
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        if t > rounds - last:
            squares += ((p - 0.2) ** 2).sum(1)
        noisy = p[:, None, :] - np.eye(5) + b * rng.standard_normal((replicas, 5, 5))
        z -= lr * np.sign(np.sign(noisy).sum(1))
    return np.sqrt(squares / last)


def test_noise_frees_the_vote_on_exclusive_labels():
    norms = softmax_vote(0.3, 0.02, 400, 100, np.random.default_rng(0))
    z = descend(partial(SoftmaxBias, initial=SCORES), SignMajority(), 0.02, 400, pool_size=5, noise=0.3)
    assert norms.min() <= (z.softmax(0) - 0.2).norm().item() <= norms.max()
    assert norms.max() < 0.3


@pytest.mark.parametrize(
    ("b", "rms"), [(0.05, 0.303), (0.1, 0.0115), (0.2, 0.0214), (1.0, 0.0531), (5.0, 0.1057)]
)
def test_noise_on_exclusive_labels_in_the_long_run(b, rms):
    """The table of single runs, over the last quarter of 20,000 rounds; it does not name its b, these reproduce it."""
    found = softmax_vote(b, 0.01, 20_000, 16, np.random.default_rng(1), last=5000)
    assert abs(found.mean() - rms) < 2.5 * found.std(ddof=1)


# What is logged, and what is refused.

QUADRATIC = str(ROOT / "configs" / "noise" / "quadratic_sign.yaml")


def test_gap_and_zero_votes_are_logged(tmp_path):
    """At x = 2 the median worker abstains, the vote is tied and the median is 0; the mean is -7/3."""
    options = ["--model.model.initial=2", "--trainer.log_every_n_steps=1", "--trainer.val_check_interval=1"]
    run("fit", tmp_path, *options, "--trainer.max_steps=1", config=QUADRATIC)
    logged = {name: float(value) for row in metrics(tmp_path) for name, value in row.items()}
    assert logged["val/gradient_norm"] == pytest.approx(7 / 3)
    assert logged["val/median_gradient_norm"] == 0
    assert logged["val/median_mean_gap"] == pytest.approx(7 / 3)
    assert logged["val/median_zeros"] == 1
    assert logged["val/loss"] == pytest.approx(65 / 6)
    assert logged["train/loss"] == pytest.approx(65 / 6)
    assert logged["pool/zero_votes"] == pytest.approx(1 / 3)
    assert logged["pool/zero_aggregate"] == 1


def test_the_server_knows_the_models_own_loss():
    data = LabelPool(3, seed=0)
    data.setup("fit")
    model = Quadratic(3, [1.0, 2.0, 10.0], initial=4.0)
    context = server_context(model, data.public, lambda: torch.tensor([4.0]), 0, 0)
    losses = context.public_losses(torch.tensor([[4.0], [2.0]]), 3)
    assert losses.tolist() == pytest.approx([(9 + 4 + 36) / 6, 65 / 6])


def test_label_pool_gives_each_worker_its_label():
    data = LabelPool(4, seed=5)
    data.setup("fit")
    labels = data.pool.data.labels.numpy()
    assert [labels[shard].tolist() for shard in data.pool.shards] == [[0], [1], [2], [3]]
    assert sorted(data.val.labels.tolist()) == sorted(data.public.labels.tolist()) == [0, 1, 2, 3]
    assert data.test.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quadratic(2, [1.0]), r"centers must hold one center per label \(centers = 1, labels = 2\)"),
        (lambda: Quadratic(2, [[1.0, 2.0], [1.0]]), r"model.model.centers must have 2 coordinates .* got 1, 2"),
        (lambda: Quadratic(2, [1.0, 2.0], initial=[1.0, 2.0]), r"initial must have 1 coordinates .* got 2"),
        (lambda: Quadratic(2, [1.0, 2.0], curvatures=[]), r"curvatures must have 1 coordinates .* got 0"),
        (lambda: Quadratic(2, [1.0, 2.0], curvatures=[0.0]), r"curvatures must be above 0, got \[0.0\]"),
        (lambda: Quadratic(2, [1.0, 2.0], copies=0), "copies must be at least 1, got 0"),
        (lambda: SoftmaxBias(3, [0.0]), r"one score per class \(initial = 1, classes = 3\)"),
        (lambda: LabelPool(0), "data.pool_size must be an integer of at least 1, got 0"),
        (lambda: PiecewiseConstantLR(torch.optim.SGD([torch.zeros(1)]), [3, 2], [1.0, 1.0]), r"ascend .*, got \[3, 2\]"),
        (lambda: PiecewiseConstantLR(torch.optim.SGD([torch.zeros(1)]), [3], [-1.0]), r"factors = \[-1.0\]"),
    ],
)  # fmt: skip
def test_refused(make, message):
    with pytest.raises(SettingError, match=message):
        make()


def test_the_meta_learner_refuses_a_model_with_a_loss_of_its_own(tmp_path):
    options = [
        "--model.model=lightning_agg.models.Quadratic",
        "--model.model.init_args.centers=[0,0,0,0,0,0,0,0,0,0]",
    ]
    with pytest.raises(
        SettingError, match="must be trained by cross entropy in MetaLearner; Quadratic has a loss"
    ):
        run(
            "fit", tmp_path, "--data=DigitsPool", "--data.pool_size=10", *options, "--trainer.fast_dev_run=1",
            config=str(ROOT / "configs" / "meta" / "mnist_rnn.yaml"),
        )  # fmt: skip
