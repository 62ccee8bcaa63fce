"""Training an aggregator through the command line."""

import json
import math
import re

import numpy as np
import pytest
import torch
from runs import ROOT, assert_resumes, assert_same_run, checkpoint, metrics, run
from servers import fit, quiet_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_agg.aggregators import Mean, Recurrent
from lightning_agg.attacks import Attack, Drop
from lightning_agg.callbacks import ByzantineInjection
from lightning_agg.callbacks.base import TEST_EPISODES, VALIDATION_EPISODES
from lightning_agg.data import DigitsPool
from lightning_agg.errors import SettingError
from lightning_agg.modules import MetaLearner
from lightning_agg.modules.inner_problem import PoolProblem

META = str(ROOT / "configs" / "meta" / "mnist_rnn_paper.yaml")
SMALL = [
    "--data=DigitsPool",
    "--data.pool_size=4",
    "--data.batch_size=16",
    "--model.aggregator.slots=4",
    "--model.horizon=20",
    "--model.truncation_length=5",
    "--model.num_tasks=1",
    "--model.val_horizon=40",
    "--model.val_episodes=1",
    "--model.baselines=null",
    "--model.estimator.num_coordinates=400",
    "--trainer.log_every_n_steps=1",
    "--trainer.val_check_interval=10",
]
# Enough of it to learn.
LEARNING = [
    *SMALL,
    "--model.num_tasks=2",
    "--model.horizon=40",
    "--model.truncation_length=10",
    "--model.optimizer.lr=0.01",
    "--model.lr_scheduler=null",
    "--model.aggregator.output_scale=0.1",
    "--model.model.activation=relu",
]
# Validated in three episodes of 10 rounds.
EPISODES = [
    *SMALL,
    "--model.horizon=10",
    "--model.val_horizon=10",
    "--model.val_episodes=3",
    "--byzantine.val_attack=Reverse",
    "--byzantine.val_num_byzantine=[0, 3, 0]",
    "--trainer.val_check_interval=2",
]


def baselines(**optimizers):
    return "--model.baselines=" + json.dumps(
        {
            name: {
                "aggregator": "Mean",
                "optimizer": {"class_path": f"torch.optim.{cls}", "init_args": options},
            }
            for name, (cls, options) in optimizers.items()
        }
    )


BASELINES = baselines(sgd=("SGD", {"lr": 0.5}), adam=("Adam", {"lr": 0.01}))
NAMES = ["no_attack", "Reverse_3", "no_attack.2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meta")
    run("fit", folder, *LEARNING, "--trainer.max_steps=90", "--trainer.val_check_interval=30", config=META)
    return folder


def test_the_aggregator_learns_to_train(trained):
    losses = [float(row["meta/val_loss"]) for row in metrics(trained) if "meta/val_loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert {"meta/loss", "meta/gradient_norm", "val/accuracy"} <= set().union(*metrics(trained))


def test_its_weights_serve_a_parameter_server(trained, tmp_path):
    weights = trained / "version_0" / "aggregator.safetensors"
    options = ["--data.pool_size=4", "--byzantine.num_byzantine=0", "--model.aggregator=Recurrent", "--model.optimizer=SGD", "--model.optimizer.lr=1", "--model.optimizer.momentum=0"]  # fmt: skip
    steps = ["--trainer.max_steps=40", "--trainer.val_check_interval=20"]
    cli = run("fit", tmp_path, *options, f"--model.aggregator.weights={weights}", *steps)
    assert float(cli.trainer.callback_metrics["val/accuracy"]) > 0.6
    run(
        "fit",
        tmp_path / "stopped",
        *options,
        f"--model.aggregator.weights={weights}",
        "--trainer.max_steps=13",
    )
    run(
        "fit",
        tmp_path / "stopped",
        *options,
        f"--model.aggregator.weights={weights}",
        *steps,
        "--ckpt_path=last",
    )
    assert_same_run(checkpoint(tmp_path), checkpoint(tmp_path / "stopped"))


def test_the_loss_is_of_the_trainings_that_have_not_diverged(tmp_path):
    attack = [
        "--byzantine.attack=Gaussian",
        "--byzantine.attack.std=1e18",
        "--byzantine.num_byzantine=[0, 3]",
    ]
    deep = ["--model.model.hidden_sizes=[8, 8, 8]", "--model.model.activation=relu"]
    steps = ["--trainer.max_steps=8", "--model.num_tasks=2", "--model.horizon=5"]
    run("fit", tmp_path, *SMALL, *attack, *deep, *steps, config=META)
    lost = [float(line["meta/diverged_tasks"]) for line in metrics(tmp_path) if line.get("meta/loss")]
    losses = [float(line["meta/loss"]) for line in metrics(tmp_path) if line.get("meta/loss")]
    assert {0.0, 1.0} <= set(lost)
    assert [math.isnan(loss) for loss in losses] == [count == 2 for count in lost]


@pytest.mark.parametrize("estimator", ["Replay", "UnrolledGraph"])
def test_mixed_precision_is_the_models_alone(estimator, tmp_path):
    """The workers' arithmetic has 8 bits of mantissa, the network's 24: what is trained hardly differs."""
    more = [
        *SMALL,
        f"--model.estimator={estimator}",
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=3",
    ]
    if estimator == "UnrolledGraph":
        more.remove("--model.estimator.num_coordinates=400")
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        run("fit", folder, *more, f"--trainer.precision={precision}", config=META)
        losses.append([float(line["meta/loss"]) for line in metrics(folder) if line.get("meta/loss")])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_the_pool_serves_a_parameter_server_afterwards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a Trainer without a logger has its weights written
    data = DigitsPool(pool_size=4, batch_size=8)
    learner = MetaLearner(Recurrent(slots=4), horizon=2, truncation_length=2)
    quiet_trainer(1).fit(learner, datamodule=data)
    server = fit(2, data)
    assert server.trainer.global_step == 2


class Careless(Attack):
    def forward(self, honest, own, context):
        return own * float(np.random.rand())


def test_an_attack_that_draws_from_a_global_generator_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learner = MetaLearner(Recurrent(slots=4), horizon=4, truncation_length=4)
    injection = ByzantineInjection([Drop(), Drop(), Careless()], 1, seed=0)
    with pytest.warns(UserWarning, match="draws from a global random generator") as warnings:
        quiet_trainer(6, [injection]).fit(learner, datamodule=DigitsPool(pool_size=4, batch_size=8))
    (told,) = (str(warning.message) for warning in warnings if "draws from" in str(warning.message))
    assert told.startswith("Careless in on_byzantine_gradients draws")


def test_the_test_plays_episodes(trained):
    cli = run("test", trained, *LEARNING, config=META)
    assert 0 < float(cli.trainer.callback_metrics["test/accuracy"]) <= 1


@pytest.mark.parametrize("stop", [3, 4, 10])  # in the middle of a horizon, at its end, at a validation
def test_resume_is_exact(stop, tmp_path):
    options = [
        *SMALL,
        "--model.num_tasks=2",
        "--model.aggregator.running_scale=0.9",
        "--model.aggregator.momenta=[0.0, 0.9]",
        "--model.aggregator.loss_information=true",
        "--model.aggregator.trust_decay=0.9",
        "--model.aggregator.direction_decay=0.8",
        "--model.aggregator.gate=true",
        "--model.aggregator.batch_scaling=0.5",
        "--model.aggregator.batch_decay=0.9",
        "--model.aggregator.line_search=true",
        "--data.rounds_per_epoch=6",
    ]
    assert_resumes(tmp_path, *options, stop=stop, end=14, config=META)


CURRICULUM = [
    *EPISODES,
    BASELINES,
    "--model.val_episodes=1",
    "--byzantine.val_num_byzantine=3",
    "--model.horizon=[5, 10]",
    "--model.curriculum=1",
    "--model.optimizer.lr=0.1",
]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged")
    run("fit", folder, *CURRICULUM, "--trainer.max_steps=12", config=META)
    return folder


def test_the_curriculum_goes_on_to_the_next_horizon(staged):
    rows = metrics(staged)
    horizons = [float(row["meta/horizon"]) for row in rows if "meta/horizon" in row]
    assert horizons == sorted(horizons)
    assert set(horizons) == {5, 10}
    assert sum("meta/next_horizon_loss" in row for row in rows) == 6


@pytest.mark.parametrize("before", [1, 0])  # in the middle of a stage, just after its end
def test_resume_in_a_curriculum_is_exact(before, staged, tmp_path):
    horizons = [row["meta/horizon"] for row in metrics(staged) if "meta/horizon" in row]
    stop = horizons.index("10.0") - before
    assert 0 < stop < 12
    run("fit", tmp_path, *CURRICULUM, f"--trainer.max_steps={stop}", config=META)
    run("fit", tmp_path, *CURRICULUM, "--trainer.max_steps=12", "--ckpt_path=last", config=META)
    assert_same_run(checkpoint(staged), checkpoint(tmp_path))


def test_a_training_that_does_not_improve_is_stopped(tmp_path):
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=meta/val_loss", "--trainer.callbacks.patience=2"]  # fmt: skip
    still = ["--model.optimizer.lr=0", "--model.lr_scheduler=null"]
    cli = run("fit", tmp_path, *EPISODES, *still, *stopping, "--trainer.max_steps=20", config=META)
    assert cli.trainer.global_step == 6
    assert (tmp_path / "version_0" / "aggregator.safetensors").exists()
    assert checkpoint(tmp_path)["global_step"] == 6


def test_episodes_stand_beside_their_baselines(tmp_path):
    cli = run("fit", tmp_path, *EPISODES, BASELINES, "--trainer.max_steps=4", config=META)
    run("test", tmp_path, *EPISODES, BASELINES, "--ckpt_path=last", config=META)
    events = EventAccumulator(str(tmp_path / "version_0"), size_guidance={"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("val/episodes")] == [1, 3]
    assert [event.step for event in events.Images("test/episodes")] == [4]
    for name in NAMES:
        for stage, steps in (("val", [1, 3]), ("test", [4])):
            accuracies = events.Scalars(f"{stage}_episodes/{name}/accuracy")
            assert [event.step for event in accuracies] == steps
        for baseline in ("sgd", "adam"):
            first, second = events.Scalars(f"val_episodes/{name}/{baseline}/loss")
            assert first.value == second.value
    assert list(cli.model.episodes) == NAMES
    last = {name: episode.learned for name, episode in cli.model.episodes.items()}
    metric = cli.trainer.callback_metrics
    assert metric["val/accuracy"] == pytest.approx(float(sum(c.accuracy for c in last.values())) / 3)
    assert metric["meta/val_loss"] == pytest.approx(float(sum(c.losses.mean() for c in last.values())) / 3)
    assert all(c.rounds.tolist() == list(range(1, 11)) for c in last.values())


@pytest.mark.parametrize(("more", "played"), [([BASELINES], 2 * 3 + 2 * 3), ([], 2 * 3)])
def test_baselines_are_played_once(more, played, tmp_path, monkeypatch):
    episodes = []
    play_round = PoolProblem.round
    monkeypatch.setattr(
        PoolProblem,
        "round",
        lambda self, theta, episode, step: episodes.append(episode) or play_round(self, theta, episode, step),
    )
    run("fit", tmp_path, *EPISODES, *more, "--trainer.max_steps=4", config=META)
    assert sum(episode >= VALIDATION_EPISODES for episode in episodes) == 10 * played


@pytest.mark.parametrize(
    "more",
    [
        ["--trainer.fast_dev_run=1"],
        ["--trainer.logger=false", "--trainer.num_sanity_val_steps=1"],
        ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=here", "--trainer.limit_val_batches=2"],
    ],
    ids=["fast_dev_run", "no logger", "CSV"],
)
def test_episodes_need_no_tensorboard(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = run("fit", tmp_path, *EPISODES, BASELINES, "--trainer.max_steps=2", *more, config=META)
    number = {"--trainer.fast_dev_run=1": 1, "--trainer.logger=false": 3}.get(more[0], 2)
    assert list(cli.model.episodes) == NAMES[:number]
    assert {
        f"val_episodes/{name}/sgd/accuracy" for name in NAMES[:number]
    } <= cli.trainer.callback_metrics.keys()


def test_attackers_are_drawn_anew_in_every_episode(tmp_path):
    options = [
        *SMALL, "--model.aggregator.worker_order=trust", "--model.aggregator.scale=lead",
        "--model.aggregator.loss_information=true", "--byzantine.attack=[SignFlip, Gaussian]", "--byzantine.num_byzantine=[0, 2]",
    ]  # fmt: skip
    cli = run("fit", tmp_path, *options, "--trainer.max_steps=9", config=META)
    injection = next(c for c in cli.trainer.callbacks if type(c).__name__ == "ByzantineInjection")
    seen = set()
    for episode in range(20):
        injection.on_episode(cli.trainer, cli.model, episode)
        seen.add((type(injection.attack).__name__, len(injection.byzantine)))
    assert seen == {("SignFlip", 0), ("SignFlip", 2), ("Gaussian", 0), ("Gaussian", 2)}


def test_validation_meets_its_own_attacks_in_turn(tmp_path):
    options = [
        "--byzantine.attack=[SignFlip]", "--byzantine.num_byzantine=[1]",
        "--byzantine.val_attack=[Drop, LabelFlip]", "--byzantine.val_num_byzantine=[0, 2, 3]", "--model.val_episodes=6",
    ]  # fmt: skip
    cli = run("fit", tmp_path, *SMALL, *options, "--trainer.max_steps=10", config=META)
    injection = next(c for c in cli.trainer.callbacks if type(c).__name__ == "ByzantineInjection")
    seen = []
    for episode in range(6):
        injection.on_episode(cli.trainer, cli.model, VALIDATION_EPISODES + episode)
        seen.append((type(injection.attack).__name__, len(injection.byzantine)))
    assert seen == [
        ("Drop", 0),
        ("LabelFlip", 2),
        ("Drop", 3),
        ("LabelFlip", 0),
        ("Drop", 2),
        ("LabelFlip", 3),
    ]
    injection.on_episode(cli.trainer, cli.model, TEST_EPISODES + 1)
    assert (type(injection.attack).__name__, len(injection.byzantine)) == ("LabelFlip", 2)
    injection.on_episode(cli.trainer, cli.model, 0)
    assert (type(injection.attack).__name__, len(injection.byzantine)) == ("SignFlip", 1)


def test_an_attack_is_checked_with_the_numbers_that_it_meets(tmp_path):
    """ALIE without z is not defined for the three of four attackers of the validation, which another attack has."""
    alie = ["--byzantine.attack=ALittleIsEnough", "--byzantine.attack.z=null", "--byzantine.num_byzantine=1"]
    cli = run("fit", tmp_path, *EPISODES, *alie, "--trainer.max_steps=1", config=META)
    assert cli.trainer.global_step == 1
    alternately = [
        "--byzantine.val_attack=[ALittleIsEnough, Reverse]",
        "--byzantine.val_num_byzantine=[1, 3]",
    ]
    run("fit", tmp_path, *EPISODES, *alternately, "--trainer.max_steps=1", config=META)
    with pytest.raises(SettingError, match="ALittleIsEnough"):
        run("fit", tmp_path, *EPISODES, *alternately, "--byzantine.val_num_byzantine=[3, 1]", "--trainer.max_steps=1", config=META)  # fmt: skip


def test_the_learning_rate_follows_its_schedule(tmp_path):
    schedule = [
        "--model.lr_scheduler=CosineAnnealingLR",
        "--model.lr_scheduler.T_max=10",
        "--model.lr_scheduler.eta_min=0",
    ]
    cli = run("fit", tmp_path, *SMALL, *schedule, "--trainer.max_steps=5", config=META)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.003 / 2)


def test_a_plateau_is_seen_by_the_schedule(tmp_path):
    schedule = ["--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.lr_scheduler.patience=0", "--model.lr_scheduler.threshold=1e9"]  # fmt: skip
    cli = run("fit", tmp_path, *SMALL, *schedule, "--trainer.max_steps=30", config=META)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.003 / 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.horizon=21"], "model.horizon must be a positive multiple of model.truncation_length"),
        (["--model.horizon=[20, 7]"], "(horizon = 7, truncation_length = 5)"),
        (["--model.num_tasks=0"], "num_tasks must be an integer of at least 1, got 0"),
        (["--model.aggregator.slots=5"], "needs M = slots (M = 4, slots = 5)"),
        (
            ["--model.aggregator.loss_information=true", "--data.public_size=3"],
            "data.public_size must be at least",
        ),
        (
            [
                "--byzantine.val_num_byzantine=[0, 1, 2, 1]",
                "--byzantine.val_attack=Drop",
                "--model.val_episodes=3",
            ],
            r"val_episodes = 3, length = 4",
        ),
        (["--byzantine.val_num_byzantine=[1]"], "byzantine.val_attack must be set"),
        (
            ["--byzantine.val_attack=Drop", "--byzantine.val_num_byzantine=4"],
            "byzantine.val_num_byzantine must be below data.pool_size (val_num_byzantine = 4, pool_size = 4)",
        ),
        (
            ["--byzantine.attack=null", "--byzantine.num_byzantine=0", "--byzantine.val_attack=Drop"],
            "byzantine.val_attack needs a byzantine.val_num_byzantine above 0",
        ),
        (
            [
                "--byzantine.val_attack=Mimic",
                "--byzantine.val_attack.warmup=2",
                "--byzantine.val_num_byzantine=1",
            ],
            "byzantine.val_attack must not remember earlier rounds in MetaLearner, got Mimic",
        ),
        (["--model.horizon=[]"], "model.horizon must be a number or a list of at least one, got []"),
        (["--model.parameter_scaling=11"], "model.parameter_scaling must be from 0 to 10.0, got 11"),
        (
            ["--model.model=runs_models.Precise"],
            "parameters of the type of the aggregator's, torch.float32, got torch.float64",
        ),
        (["--model.model=runs_models.Growing"], "model.model must be the same each time it is made, got"),
        (
            [baselines(a=("LBFGS", {}))],
            "model.baselines.a.optimizer must take dense gradients and no closure",
        ),
        (["--model.curriculum=0"], "model.curriculum must be an integer of at least 1, got 0"),
        (
            ["--model.curriculum=1"],
            "model.horizon must be an increasing list with model.curriculum, got [20]",
        ),
        (
            ["--model.curriculum=1", "--model.horizon=[20, 10]"],
            "increasing list with model.curriculum, got [20, 10]",
        ),
        (
            ["--model.curriculum=1", "--model.horizon=[20, 60]"],
            "must reach the last horizon with model.curriculum (val_horizon = 40, horizon = 60)",
        ),
        (
            [baselines(sgd=("SGD", {"lr": -1.0}))],
            "model.baselines.sgd.optimizer must be given values that it accepts",
        ),
        (
            [
                '--model.baselines={"k": {"aggregator": {"class_path": "Krum", "init_args": {"num_byzantine": 4}}, "optimizer": "SGD"}}'
            ],
            "model.baselines.k.aggregator: Krum: num_byzantine must satisfy",
        ),
        (["--model.val_horizon=-1"], "val_horizon must be an integer of at least 1, got -1"),
        (["--model.val_horizon=0"], "val_horizon must be an integer of at least 1, got 0"),
        (["--model.estimator.chunk_size=0"], "estimator.chunk_size must be at least 1, got 0"),
    ],
)
def test_wrong_settings(options, message, tmp_path):
    with pytest.raises(SettingError, match=re.escape(message)):
        run("fit", tmp_path, *SMALL, "--trainer.max_steps=2", *options, config=META)


def test_memory_is_that_of_a_window(tmp_path):
    """What is carried on has no graph behind it."""
    cli = run("fit", tmp_path, *SMALL, "--trainer.max_steps=5", config=META)
    state = cli.model.tasks.state
    assert not any(t.requires_grad or t.grad_fn for t in (state.parameters, state.memory, *state.seen[0]))
    assert isinstance(cli.model.aggregator, Recurrent)


def weights_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))


def test_weights_lie_in_the_folder_of_the_run_whatever_the_logger(tmp_path, capsys):
    options = [*SMALL, "--model.val_horizon=10", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    for more in (
        "--trainer.logger=false",
        f"--trainer.logger={{class_path: CSVLogger, init_args: {{save_dir: {tmp_path / 'log'}}}}}",
    ):
        run("fit", tmp_path / "runs", *options, more, config=META)
    assert weights_in(tmp_path) == [f"runs/version_{i}/aggregator.safetensors" for i in (0, 1)]
    told = capsys.readouterr().out
    assert "loss along the validation episodes: " in told
    assert f"weights: {tmp_path / 'runs' / 'version_1' / 'aggregator.safetensors'}" in told


def test_without_a_validation_the_last_weights_are_kept(tmp_path):
    cli = run("fit", tmp_path, *SMALL, "--trainer.max_steps=2", config=META)
    kept = Recurrent(weights=str(tmp_path / "version_0" / "aggregator.safetensors")).network.state_dict()
    assert all(
        torch.equal(kept[name], value) for name, value in cli.model.aggregator.network.state_dict().items()
    )


def test_a_run_that_goes_on_elsewhere_has_a_best_of_its_own(tmp_path):
    options = [
        *SMALL,
        "--model.val_horizon=10",
        "--trainer.val_check_interval=1",
        "--model.optimizer.lr=1e-9",
    ]
    run("fit", tmp_path / "old", *options, "--trainer.max_steps=1", config=META)
    path = tmp_path / "old" / "version_0" / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["state_dict"]["best_loss"].zero_()
    saved["callbacks"]["RunCheckpoint"]["best_score"] = 0.0
    torch.save(saved, path)
    run("fit", tmp_path / "new", *options, "--trainer.max_steps=2", f"--ckpt_path={path}", config=META)
    assert weights_in(tmp_path / "new") == ["version_0/aggregator.safetensors"]
    assert (tmp_path / "new" / "version_0" / "checkpoints" / "best.ckpt").exists()


def test_a_validation_that_has_diverged_is_told_and_keeps_nothing(tmp_path):
    options = [
        "--trainer.max_steps=1",
        "--trainer.val_check_interval=1",
        "--model.aggregator.output_scale=1e38",
    ]
    with pytest.warns(UserWarning, match="An episode of the validation after 1 windows has diverged"):
        run("fit", tmp_path, *SMALL, "--model.val_horizon=10", *options, config=META)
    assert not weights_in(tmp_path)


def test_a_stage_that_there_is_no_longer_is_told(tmp_path):
    options = [*SMALL, "--model.curriculum=1", "--model.val_horizon=20", "--trainer.max_steps=1"]
    run("fit", tmp_path, *options, "--model.horizon=[5, 10, 20]", config=META)
    path = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["state_dict"]["curriculum.stage"].fill_(2)
    torch.save(saved, path)
    with pytest.raises(
        SettingError, match=r"must have the stage that the checkpoint is in, number 3, got \[5, 10\]"
    ):
        run("fit", tmp_path, *options, "--model.horizon=[5, 10]", f"--ckpt_path={path}", config=META)


def test_there_is_nothing_to_predict(trained, capsys):
    with pytest.raises(SettingError, match="predict is for models that are trained, got MetaLearner"):
        run("predict", trained, *LEARNING, config=META)
    assert "to go on" not in capsys.readouterr().out


def test_brain_floats_have_curves_too(tmp_path):
    options = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.precision=bf16-true"]
    cli = run("fit", tmp_path, *SMALL, "--model.val_horizon=10", *options, config=META)
    assert cli.trainer.global_step == 1


def test_whole_numbers_may_be_numpys(tmp_path):
    aggregator = Recurrent(hidden_size=np.int64(3))
    assert MetaLearner(aggregator, horizon=np.int64(40)).horizons == [40]
    aggregator.save(str(tmp_path / "a.safetensors"))
    assert Recurrent(weights=str(tmp_path / "a.safetensors")).architecture["hidden_size"] == 3
    with pytest.raises(SettingError, match=r"model.horizon must be an integer of at least 1, got 6.0"):
        MetaLearner(aggregator, horizon=6.0)
    with pytest.raises(SettingError, match=r"model.aggregator must be a Recurrent in MetaLearner"):
        MetaLearner(Mean())
