"""Noise and injection as functions on the matrix."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import metrics, run
from scipy import stats

from lightning_agg.aggregators import TrimmedMean
from lightning_agg.attacks import Drop, Gaussian, InnerProduct, LabelFlip, LineSearch, Mimic, Reverse
from lightning_agg.callbacks import ByzantineInjection, GradientStudy, NoisePerturbation
from lightning_agg.callbacks.gradient_study import study
from lightning_agg.data import RoundBatch
from lightning_agg.errors import SettingError

SERVER = SimpleNamespace(
    num_classes=10,
    pool_size=6,
    log_pool=lambda values, batch: None,
    rounds_in_order=True,
    tells_rule=True,
    validates_episodes=False,
    round_of_episode=lambda index: index,
    episode_sizes=[6],
    episode_size=lambda episode: 6,
    participation=1.0,
    tell_attackers=lambda context: replace(context, aggregate=TrimmedMean(1).trial),
)


def batch(index=0, workers=(0, 1, 2, 3, 4, 5), local=None):
    local = workers if local is None else local
    targets = torch.arange(len(local) * 4).view(len(local), 1, 4) % 10
    return RoundBatch(index, workers, local, torch.zeros(len(local), 1, 4, 1), targets, None)


def injection(attack, **options):
    callback = ByzantineInjection(attack, seed=0, **options)
    trainer = SimpleNamespace(callbacks=[callback], global_step=0)
    callback.setup(trainer, SERVER, "fit")
    return callback


@pytest.mark.parametrize(
    ("distribution", "law"),
    [
        ("gaussian", stats.norm()),
        ("logistic", stats.logistic(scale=np.sqrt(3) / np.pi)),
        ("uniform", stats.uniform(-np.sqrt(3), 2 * np.sqrt(3))),
        ("laplace", stats.laplace(scale=1 / np.sqrt(2))),
    ],
)
def test_noise_has_unit_variance_and_its_law(distribution, law):
    noise = NoisePerturbation(1.0, distribution, seed=0).draw(200_000, torch.device("cpu"), worker=1, index=2)
    assert law.var() == pytest.approx(1)
    assert noise.var() == pytest.approx(1, abs=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.isfinite().all()
    assert stats.kstest(noise, law.cdf).pvalue > 0.001


def test_noise_is_keyed_by_worker_and_round():
    noise, zeros = NoisePerturbation(0.5, seed=3), torch.zeros(6, 50)
    rows = noise.on_worker_gradients(None, SERVER, zeros, batch(7))
    assert torch.equal(rows, noise.on_worker_gradients(None, SERVER, zeros, batch(7)))
    few = noise.on_worker_gradients(None, SERVER, zeros[:2], batch(7, workers=(1, 4)))
    assert torch.equal(few, rows[[1, 4]])
    assert not torch.equal(rows, noise.on_worker_gradients(None, SERVER, zeros, batch(8)))
    assert len(torch.unique(rows)) == rows.numel()
    assert torch.equal(zeros, torch.zeros(6, 50))


def test_no_noise_is_no_copy():
    gradients = torch.ones(6, 3)
    assert NoisePerturbation(0.0).on_worker_gradients(None, SERVER, gradients, batch()) is gradients


def test_only_byzantine_rows_change():
    callback, gradients = injection(Reverse(scale=3.0), num_byzantine=2), torch.randn(6, 5)
    before = gradients.clone()
    sent = callback.on_byzantine_gradients(None, SERVER, gradients, batch())
    byzantine = sorted(callback.byzantine)
    honest = [worker for worker in range(6) if worker not in callback.byzantine]
    assert torch.equal(gradients, before)
    assert torch.equal(sent[honest], gradients[honest])
    assert torch.allclose(sent[byzantine], -3 * gradients[honest].mean(0))


def test_rows_are_found_by_worker_when_few_take_part():
    callback = injection(Drop(), num_byzantine=3, fixed=True)
    sent = callback.on_byzantine_gradients(None, SERVER, torch.ones(3, 2), batch(workers=(1, 3, 5)))
    assert sent.sum(1).tolist() == [0, 2, 2]


def test_attackers_are_drawn_from_the_seed_or_fixed():
    assert injection(Drop(), num_byzantine=2, fixed=True).byzantine == {0, 1}
    drawn = [ByzantineInjection(Drop(), 3, seed=seed).draw(10, 0) for seed in range(200)]
    counts = np.bincount([worker for attackers in drawn for worker in attackers], minlength=10)
    assert counts.min() > 35
    assert counts.max() < 85
    episodes = {ByzantineInjection(Drop(), 3, seed=0).draw(10, episode) for episode in range(20)}
    assert len(episodes) > 10


def test_a_number_is_drawn_from_a_list():
    callback = ByzantineInjection(Drop(), [0, 2, 5], seed=1)
    sizes = {len(callback.draw(10, episode)) for episode in range(50)}
    assert sizes == {0, 2, 5}


def test_the_attack_has_a_first_and_a_last_round():
    callback, ones = injection(Drop(), num_byzantine=1, first_round=3, last_round=5), torch.ones(6, 2)
    hit = [
        index
        for index in range(8)
        if not torch.equal(callback.on_byzantine_gradients(None, SERVER, ones, batch(index)), ones)
    ]
    assert hit == [3, 4, 5]


def test_labels_of_byzantine_workers_are_flipped():
    callback, clean = injection(LabelFlip(), num_byzantine=1, fixed=True), batch(local=(0, 1, 2))
    before = clean.targets.clone()
    poisoned = callback.on_worker_batch(None, SERVER, clean)
    assert torch.equal(clean.targets, before)
    assert torch.equal(poisoned.targets[0], 9 - before[0])
    assert torch.equal(poisoned.targets[1:], before[1:])


class Poison(Drop):
    """Changes labels by a function."""

    def __init__(self, function):
        self.function = function

    def poison(self, targets, num_classes):
        return self.function(targets)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda targets: None, "Poison.poison must return a torch.Tensor of shape .*got NoneType"),
        (lambda targets: targets.float(), "Poison.poison must return .*torch.int64, got .*torch.float32"),
        (lambda targets: targets + 13, r"Poison.poison must return labels .* number of classes 10, got \[13"),
        (lambda targets: targets - 100, "Poison.poison must return labels of at least 0"),
    ],
)
def test_labels_that_an_attack_of_ones_own_changes_are_checked(function, message):
    with pytest.raises(SettingError, match=message):
        injection(Poison(function), num_byzantine=1, fixed=True).on_worker_batch(None, SERVER, batch())


def test_random_rows_do_not_depend_on_who_else_attacks():
    ones = torch.ones(6, 4)
    few = injection(Gaussian(), num_byzantine=2, fixed=True).on_byzantine_gradients(
        None, SERVER, ones, batch(3)
    )
    more = injection(Gaussian(), num_byzantine=4, fixed=True).on_byzantine_gradients(
        None, SERVER, ones, batch(3)
    )
    assert torch.equal(few[:2], more[:2])


def test_an_attack_that_remembers_needs_rounds_in_order():
    learner = SimpleNamespace(
        num_classes=10,
        pool_size=6,
        rounds_in_order=False,
        tells_rule=False,
        validates_episodes=False,
        episode_sizes=[6],
        episode_size=lambda episode: 6,
        participation=1.0,
    )
    callback = ByzantineInjection(Mimic(warmup=3), 2, seed=0)
    with pytest.raises(SettingError, match=r"must not remember earlier rounds in SimpleNamespace, got Mimic"):
        callback.setup(SimpleNamespace(callbacks=[callback]), learner, "fit")
    plain = ByzantineInjection(Mimic(), 2, seed=0)
    plain.setup(SimpleNamespace(callbacks=[plain], global_step=0), learner, "fit")


def test_the_attack_is_told_the_rule():
    gradients = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    told = injection(LineSearch(InnerProduct()), num_byzantine=2, fixed=True)
    given = injection(LineSearch(InnerProduct(), TrimmedMean(1), evaluations=20), num_byzantine=2, fixed=True)
    sent = told.on_byzantine_gradients(None, SERVER, gradients, batch())
    assert torch.equal(sent, given.on_byzantine_gradients(None, SERVER, gradients, batch()))
    assert not torch.equal(sent[:2], gradients[:2])


def test_an_attack_is_drawn_from_a_list():
    callback = injection([Drop(), Reverse(), Gaussian()], num_byzantine=2)
    drawn = []
    for episode in range(60):
        callback.on_episode(None, SERVER, episode)
        drawn.append(type(callback.attack).__name__)
    assert min(drawn.count(name) for name in ("Drop", "Reverse", "Gaussian")) > 8
    callback.on_episode(None, SERVER, 7)
    assert type(callback.attack).__name__ == drawn[7]


def test_study_by_hand():
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, -6.0]])
    found = study(rows, torch.tensor([0.0, 2.0]), torch.tensor([False, False, True]))
    # The honest mean is (2, 2), each honest row at a distance of sqrt(5) from it.
    expected = {
        "honest_norm": 8**0.5,
        "honest_max": 2,
        "honest_deviation": 10**0.5,
        "variance_norm_ratio": 10 / 8,
        "byzantine_norm": 6,
        "byzantine_max": 6,
        "aggregate_norm": 2,
        "aggregate_max": 2,
        "cosine_honest_byzantine": -(0.5**0.5),
        "cosine_honest_aggregate": 0.5**0.5,
        "cosine_byzantine_aggregate": -1,
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {f"study/{name}": value for name, value in expected.items()}
    )


def test_study_where_nobody_lies_and_where_everybody_does():
    rows, aggregate = torch.ones(3, 2), torch.ones(2)
    assert not any("byzantine" in name for name in study(rows, aggregate, torch.zeros(3, dtype=torch.bool)))
    liars = study(rows, aggregate, torch.ones(3, dtype=torch.bool))
    assert not any("honest" in name or "variance" in name for name in liars)
    assert liars["study/byzantine_deviation"] == 0


def test_study_of_a_run_is_of_what_the_server_gets(tmp_path):
    options = ["--trainer.callbacks+=GradientStudy", "--trainer.max_steps=2", "--trainer.log_every_n_steps=1"]
    run("fit", tmp_path, *options, "--model.aggregator=Mean", "--model.gradient_samples=0")
    for row in (row for row in metrics(tmp_path) if "study/honest_norm" in row):
        values = {
            name.removeprefix("study/"): float(value) for name, value in row.items() if "study/" in name
        }
        # Three of ten send minus three times the mean of the seven: the mean of all is (7 - 9) / 10 of it.
        assert values["byzantine_norm"] == pytest.approx(3 * values["honest_norm"], rel=1e-5)
        assert values["aggregate_norm"] == pytest.approx(0.2 * values["honest_norm"], rel=1e-4)
        assert values["cosine_honest_byzantine"] == pytest.approx(-1)
        assert values["cosine_byzantine_aggregate"] == pytest.approx(1)
        assert values["byzantine_deviation"] == pytest.approx(0, abs=1e-5)
    assert sum("study/honest_norm" in row for row in metrics(tmp_path)) == 2


def test_study_is_refused_where_rounds_are_of_many_runs():
    trainer, learner = SimpleNamespace(callbacks=[]), SimpleNamespace(rounds_in_order=False)
    with pytest.raises(SettingError, match="GradientStudy"):
        GradientStudy().setup(trainer, learner, "fit")


@pytest.mark.parametrize("setting", ["attack", "val_attack"])
@pytest.mark.parametrize("value", ["Drop", TrimmedMean(1), Drop])
def test_what_is_no_attack_is_told(setting, value):
    with pytest.raises(
        SettingError, match=rf"^byzantine.{setting} must be an attack, got {type(value).__name__}\.$"
    ):
        ByzantineInjection(**{"attack": Drop(), setting: [Drop(), value]}, num_byzantine=1)


@pytest.mark.parametrize("setting", ["first_round", "last_round"])
def test_a_round_is_a_whole_number(setting):
    with pytest.raises(
        SettingError, match=rf"^byzantine.{setting} must be an integer of at least 0, got 1.5\.$"
    ):
        ByzantineInjection(Drop(), num_byzantine=1, **{setting: 1.5})
