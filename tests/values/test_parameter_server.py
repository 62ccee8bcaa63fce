"""Rounds of the server against a plain loop written out by hand."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from runs import metrics, run
from runs_models import Linear
from servers import fit, quiet_trainer
from torch.nn import functional as F

from lightning_agg.aggregators import Aggregator, CenteredClipping, Mean, Recurrent, TrimmedMean
from lightning_agg.attacks import Mimic, Reverse
from lightning_agg.callbacks import ByzantineInjection, GradientCompression, NoisePerturbation
from lightning_agg.callbacks.base import PoolCallback
from lightning_agg.compressors import ErrorFeedbackSign
from lightning_agg.data import DigitsPool
from lightning_agg.errors import SettingError
from lightning_agg.models import MLP
from lightning_agg.modules import MetaLearner, ParameterServer
from lightning_agg.modules.objective import worker_objective_gradients
from lightning_agg.partitioners import QuantitySkew


def initial(data, **settings):
    return fit(0, data, **settings).model


def rows(model, batch, step=0):
    """(m, d) gradients and (m,) losses by autograd, one worker at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = []
    for worker in range(len(batch.local)):
        losses = F.cross_entropy(
            model(batch.inputs[worker, step]), batch.targets[worker, step], reduction="none"
        )
        weights = torch.ones_like(losses) if batch.weights is None else batch.weights[worker, step]
        loss = (losses * weights).sum() / weights.sum()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(gradients)


def descend(model, vector, lr):
    with torch.no_grad():
        start = 0
        for p in (p for p in model.parameters() if p.requires_grad):
            p -= lr * vector[start : start + p.numel()].view_as(p)
            start += p.numel()


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.2)


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": "full", "partitioner": QuantitySkew(min_size=5)}], ids=["batch", "full"]
)
def test_distributed_sgd(options):
    data = DigitsPool(pool_size=4, seed=0, **{"batch_size": 16, **options})
    model = initial(data, optimizer=sgd)
    server = fit(5, data, optimizer=sgd)
    for index in range(5):
        descend(model, rows(model, data.train_dataloader().batch(index)).mean(0), 0.2)
    assert torch.allclose(flat(server.model), flat(model), atol=1e-6)


def test_an_attack_and_a_robust_rule():
    data = DigitsPool(pool_size=5, batch_size=16, seed=0)
    injection = ByzantineInjection(Reverse(scale=2.0), 1, fixed=True, seed=0)
    settings = {"aggregator": TrimmedMean(1), "optimizer": sgd}
    model = initial(data, **settings)
    server = fit(4, data, [injection], **settings)
    for index in range(4):
        honest = rows(model, data.train_dataloader().batch(index))[1:]
        sent = torch.cat([-2 * honest.mean(0, keepdim=True), honest])
        descend(model, sent.sort(dim=0).values[1:-1].mean(0), 0.2)
    assert torch.allclose(flat(server.model), flat(model), atol=1e-6)


def test_worker_momentum():
    data = DigitsPool(pool_size=3, batch_size=16, seed=0)
    settings = {"momentum": 0.9, "optimizer": sgd}
    model = initial(data, **settings)
    server = fit(6, data, **settings)
    momentum = torch.zeros(3, len(flat(model)))
    for index in range(6):
        momentum = 0.9 * momentum + 0.1 * rows(model, data.train_dataloader().batch(index))
        descend(model, momentum.mean(0), 0.2)
    assert torch.allclose(flat(server.model), flat(model), atol=1e-6)
    assert torch.allclose(server.worker_momentum, momentum, atol=1e-6)


def test_federated_averaging():
    """With the server's SGD at the local step size, the server takes the mean of the workers' final parameters."""
    data = DigitsPool(pool_size=3, batch_size=16, seed=0)
    settings = {"local_steps": 4, "local_lr": 0.2, "optimizer": sgd}
    model = initial(data, **settings)
    server = fit(3, data, **settings)
    for index in range(3):
        batch, ends, start = data.train_dataloader().batch(index), [], flat(model)
        for worker in range(3):
            torch.nn.utils.vector_to_parameters(start.clone(), model.parameters())
            for step in range(4):
                descend(model, rows(model, batch, step)[worker], 0.2)
            ends.append(flat(model))
        torch.nn.utils.vector_to_parameters(torch.stack(ends).mean(0), model.parameters())
    assert torch.allclose(flat(server.model), flat(model), atol=1e-6)


def test_frozen_parameters_stay():
    data = DigitsPool(pool_size=3, batch_size=16, seed=0)
    server = fit(5, data, model=lambda num_classes: Linear(num_classes, scale=2.0), optimizer=sgd)
    assert server.model.scale.item() == 2.0
    assert len(flat(server.model)) == 650


def test_the_initial_model_depends_on_the_seed_alone():
    data = DigitsPool(pool_size=3, batch_size=16, seed=0)
    torch.rand(3)
    first = flat(initial(data, seed=5))
    assert torch.equal(first, flat(initial(data, seed=5)))
    assert not torch.equal(first, flat(initial(data, seed=6)))


def test_gradient_of_the_global_objective():
    """Central differences of the workers' mean loss on their whole shards, in float64."""
    data = DigitsPool(pool_size=3, batch_size=16, seed=0, partitioner=QuantitySkew(min_size=20))
    model = initial(data, model=lambda num_classes: MLP(num_classes, hidden_sizes=[3]))
    gradient = worker_objective_gradients(model, data.pool, [0, 2], "full", batch_size=50).mean(0)
    model = model.double()

    def objective(vector):
        torch.nn.utils.vector_to_parameters(vector, model.parameters())
        losses = []
        for worker in (0, 2):
            images, labels = data.pool.data.read(torch.from_numpy(data.pool.shards[worker]))
            losses.append(F.cross_entropy(model(images.double()), labels))
        return torch.stack(losses).mean().detach()

    start = flat(model)
    for coordinate in (0, 77, 150, 200, len(start) - 1):
        step = torch.zeros_like(start)
        step[coordinate] = 1e-5
        slope = (objective(start + step) - objective(start - step)) / 2e-5
        assert gradient[coordinate].item() == pytest.approx(slope.item(), abs=2e-6)


def test_a_rule_is_told_the_learning_rate_of_the_round():
    told = []

    class Told(Mean):
        def forward(self, gradients, context):
            told.append(context.lr)
            return super().forward(gradients, context)

    fit(
        3,
        DigitsPool(pool_size=4, batch_size=8, seed=0),
        aggregator=Told(),
        model=MLP,
        optimizer=partial(torch.optim.SGD, lr=0.5),
        lr_scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5),
    )
    assert told == [0.5, 0.25, 0.125]


def test_a_gradient_that_is_not_finite_leaves_the_momentum_as_it_was():
    class Once(ByzantineInjection):
        """In the second round worker 1 has broken data."""

        def on_worker_batch(self, trainer, pl_module, batch):
            if batch.round != 1:
                return batch
            inputs = batch.inputs.clone()
            inputs[1] = torch.nan
            return batch._replace(inputs=inputs)

    data = DigitsPool(pool_size=3, batch_size=16, seed=0)
    settings = {"momentum": 0.9, "optimizer": sgd}
    before, after = fit(1, data, [Once()], **settings), fit(2, data, [Once()], **settings)
    assert torch.equal(before.worker_momentum[1], after.worker_momentum[1])
    assert not torch.equal(before.worker_momentum[0], after.worker_momentum[0])
    assert fit(4, data, [Once()], **settings).worker_momentum.isfinite().all()


def test_the_cosine_is_to_what_honest_workers_computed(tmp_path):
    """Before the noise, which the aggregate of one worker is parallel to."""
    options = ["--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--model.gradient_samples=0"]
    noise = ["--noise.scale=1000", "--model.aggregator=Mean", "--byzantine.num_byzantine=0"]
    run("fit", tmp_path, *options, *noise)
    cosines = [float(row["pool/cosine_to_honest_mean"]) for row in metrics(tmp_path) if "train/loss" in row]
    assert len(cosines) == 2
    assert max(map(abs, cosines)) < 0.2


def test_a_training_that_has_diverged_is_told(tmp_path):
    options = ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--model.aggregator=Mean"]
    with pytest.warns(UserWarning, match="No honest worker's gradient is finite in round"):
        cli = run("fit", tmp_path, *options, "--model.optimizer.lr=1e30")
    found = cli.trainer.callback_metrics
    assert found["val/gradient_norm"].isnan()
    assert found["val/median_gradient_norm"].isnan()


@pytest.mark.parametrize(
    "make", [lambda: ParameterServer(Mean()), lambda: MetaLearner(Recurrent(slots=3), horizon=2, truncation_length=2)],
    ids=["ParameterServer", "MetaLearner"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("hook", "change", "message"),
    [
        ("on_worker_gradients", lambda rows: rows[:2], r"a torch.Tensor of shape \(3, 1510\), torch.float32, got shape \(2, 1510\), torch.float32"),
        ("on_worker_gradients", lambda rows: rows.double(), "a torch.Tensor .* torch.float32, got .* torch.float64"),
        ("on_byzantine_gradients", lambda rows: torch.cat([rows, rows]), r"a torch.Tensor .* got shape \(6, 1510\)"),
        ("on_byzantine_gradients", lambda rows: None, "a torch.Tensor .* got NoneType"),
        ("on_worker_batch", lambda batch: None, "a RoundBatch, got NoneType"),
        (
            "on_worker_batch",
            lambda batch: batch._replace(inputs=batch.inputs[:2]),
            r"inputs and targets of the same 3 workers, got 2 and 3 of workers \(0, 1, 2\) in round",
        ),
    ],
)  # fmt: skip
def test_what_a_callback_of_ones_own_returns_is_checked(make, hook, change, message):
    own = type("Own", (PoolCallback,), {hook: lambda self, trainer, module, value, *rest: change(value)})
    with pytest.raises(SettingError, match=f"^Own.{hook} must return {message}"):
        quiet_trainer(1, [own()]).fit(make(), datamodule=DigitsPool(pool_size=3, batch_size=16))


def test_a_training_without_a_finite_row_is_told():
    data = DigitsPool(pool_size=3, batch_size=16, seed=0)
    with pytest.warns(UserWarning, match="No row that the server got in round 0 is finite") as told:
        fit(3, data, [NoisePerturbation(1e39)])
    assert len([warning for warning in told if "No row" in str(warning.message)]) == 1


@pytest.mark.parametrize(
    ("rule", "callback"),
    [
        (CenteredClipping(0.1), None),
        (Recurrent(weights="mnist_rnn_lstm"), None),
        (Mean(), ByzantineInjection(Mimic(warmup=3), 1, seed=0)),
        (Mean(), GradientCompression(ErrorFeedbackSign(), seed=0)),
    ],
    ids=["CenteredClipping", "Recurrent", "Mimic", "ErrorFeedbackSign"],
)
def test_what_remembers_begins_each_training_anew(rule, callback, tmp_path):
    data = DigitsPool(pool_size=3, batch_size=16, partitioner=QuantitySkew(min_size=20), seed=0)
    callbacks = [] if callback is None else [callback]
    server = ParameterServer(rule, gradient_samples=0, seed=0)
    trainer = quiet_trainer(2, callbacks)
    trainer.fit(server, datamodule=data)
    trainer.save_checkpoint(tmp_path / "2.ckpt")
    first, second = (flat(fit(5, data, callbacks, aggregator=rule, seed=0).model) for _ in range(2))
    assert torch.equal(first, second)
    resumed = ParameterServer(rule, gradient_samples=0, seed=0)
    quiet_trainer(5, callbacks).fit(resumed, datamodule=data, ckpt_path=tmp_path / "2.ckpt")
    assert torch.equal(flat(resumed.model), first)


class Broken(Aggregator):
    def forward(self, gradients, context):
        return gradients.mean(0) * torch.nan


def test_a_rule_without_a_finite_answer_is_told():
    data = DigitsPool(pool_size=3, batch_size=16, seed=0)
    with pytest.warns(UserWarning, match="Broken gave no finite aggregate of finite rows in round 0") as told:
        fit(3, data, aggregator=Broken())
    assert len([warning for warning in told if "no finite aggregate" in str(warning.message)]) == 1
    rule = Broken()
    assert rule(torch.ones(2, 2)).tolist() == [0.0, 0.0]
    rule.trial(torch.ones(2, 2))
    assert rule.num_overflows == 1


class Forgetful(Aggregator):
    """Remembers what no checkpoint does, and something that never changes."""

    def __init__(self):
        super().__init__()
        self.mean, self.one = torch.zeros(()), torch.ones(1)

    def forward(self, gradients, context):
        self.mean = 0.9 * self.mean + 0.1 * gradients.mean(0)
        return self.one * self.mean


def test_a_rule_that_would_forget_is_told(tmp_path):
    server = fit(2, DigitsPool(pool_size=3, batch_size=16, seed=0), aggregator=Forgetful())
    with pytest.warns(
        UserWarning, match="Forgetful.mean changes from round to round and is in no check"
    ) as told:
        server.trainer.save_checkpoint(tmp_path / "some.ckpt")
    assert len(told) == 1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, partial(torch.optim.SGD, lr=1, momentum=0.5)])
def test_a_rule_that_makes_the_step_warns_of_another_one(optimizer):
    data = DigitsPool(pool_size=4, batch_size=8, seed=0)
    with pytest.warns(
        UserWarning, match=r"should be SGD without momentum.* got (Adam|SGD with momentum 0.5)\."
    ):
        fit(0, data, aggregator=Recurrent(weights="mnist_rnn_gru"), model=MLP, optimizer=optimizer)


def test_rounds_without_an_honest_worker_have_no_honest_figures(tmp_path):
    """Of 2 workers drawn of 10, of whom 7 are Byzantine, both are in 47 rounds of a hundred."""
    options = ["--trainer.max_steps=40", "--trainer.log_every_n_steps=1", "--model.gradient_samples=0"]
    options += ["--model.aggregator=Mean", "--model.participation=0.2", "--byzantine.num_byzantine=7"]
    cli = run("fit", tmp_path, *options, "--byzantine.attack=NotANumber")
    rounds = [row for row in metrics(tmp_path) if "pool/nonfinite_rows" in row]
    honest = [row for row in rounds if float(row["pool/nonfinite_rows"]) < 2]
    assert len(rounds) == 40
    assert 10 < len(honest) < 30
    for name in ("train/loss", "pool/cosine_to_honest_mean"):
        assert [row for row in rounds if row[name] != "nan"] == honest
    assert len(cli.model.byzantine()) == 7


@pytest.mark.parametrize(("told", "share"), [(1, "50%"), (2, "8%"), (3, None)])
def test_more_attackers_in_a_round_than_the_rule_is_told_of(told, share, tmp_path):
    """Of 5 workers drawn of 10, 3 Byzantine: 1, 5, 5, 1 in 12 rounds hold 0 to 3."""
    rule = ["--model.aggregator=Zeno", f"--model.aggregator.num_byzantine={told}"]
    options = ["--trainer.max_steps=2", "--model.participation=0.5", "--trainer.val_check_interval=2"]
    with pytest.warns(UserWarning, match=f"got {told}: .* more are in {share}") if share else nullcontext():
        run("fit", tmp_path, *options, *rule)


def test_attackers_who_wait_have_no_part_of_the_aggregate(tmp_path):
    options = ["--trainer.max_steps=4", "--trainer.log_every_n_steps=1", "--model.gradient_samples=0"]
    run("fit", tmp_path, *options, "--model.aggregator=Mean", "--byzantine.first_round=2")
    shares = [float(row["pool/byzantine_acceptance"]) for row in metrics(tmp_path) if "train/loss" in row]
    assert shares == pytest.approx([0, 0, 0.3, 0.3])


def test_a_test_after_a_fit_knows_the_rounds():
    data = DigitsPool(pool_size=4, batch_size=8, seed=0)
    server = fit(5, data)
    (figures,) = server.trainer.test(server, datamodule=data, verbose=False)
    assert figures["step"] == 5


def test_another_pool_begins_new_momenta():
    server = fit(2, DigitsPool(pool_size=4, batch_size=8, seed=0), momentum=0.9)
    quiet_trainer(2).fit(server, datamodule=DigitsPool(pool_size=6, batch_size=8, seed=0))
    assert len(server.worker_momentum) == 6


def test_the_learning_rate_of_a_schedule_is_logged(tmp_path):
    options = ["--trainer.max_steps=3", "--trainer.log_every_n_steps=1", "--model.gradient_samples=0"]
    schedule = [
        "--model.lr_scheduler=torch.optim.lr_scheduler.ExponentialLR",
        "--model.lr_scheduler.gamma=0.5",
    ]
    run("fit", tmp_path, *options, *schedule)
    rates = [float(row["train/lr"]) for row in metrics(tmp_path) if "train/lr" in row]
    assert rates == pytest.approx([0.05, 0.025, 0.0125])


def test_a_plateau_may_name_what_it_looks_on(tmp_path):
    named = "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau"
    options = ["--trainer.max_steps=6", "--trainer.val_check_interval=2", "--model.gradient_samples=0", named]
    with pytest.raises(
        SettingError, match=r"model.lr_scheduler.monitor must be a value logged .* got 'val/acc'"
    ):
        run("fit", tmp_path, *options, "--model.lr_scheduler.monitor=val/acc")
    losing = [
        "--model.lr_scheduler.monitor=val/loss",
        "--model.lr_scheduler.mode=max",
        "--model.lr_scheduler.patience=0",
    ]
    cli = run("fit", tmp_path, *options, *losing)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] < 0.1
    steady = [
        "--model.lr_scheduler.monitor=step",
        "--model.lr_scheduler.mode=max",
        "--model.lr_scheduler.patience=0",
    ]
    with pytest.raises(SettingError, match="monitor"):
        run("fit", tmp_path, *options, *steady)


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(SettingError, match=r"model.aggregator must be an Aggregator, got str"):
        ParameterServer(aggregator="Krum")
