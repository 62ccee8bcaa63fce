"""Training the judge of an aggregator through the command line."""

import re

import numpy as np
import pytest
import torch
from runs import ROOT, assert_resumes, checkpoint, metrics, run

from lightning_agg.aggregators import Recurrent
from lightning_agg.callbacks.base import VALIDATION_EPISODES
from lightning_agg.errors import SettingError
from lightning_agg.modules.inner_problem import STRIDE

META = str(ROOT / "configs" / "meta" / "mnist_rnn_paper.yaml")
# The step is SGD with momentum and stays so: what is trained is the judge.
SMALL = [
    "--data=DigitsPool",
    "--data.pool_size=6",
    "--data.batch_size=16",
    "--data.public_size=100",
    "--model.aggregator.loss_information=true",
    "--model.aggregator.gate=true",
    "--model.aggregator.worker_order=trust",
    "--model.aggregator.scale=trusted",
    "--model.aggregator.momenta=[0.9]",
    "--model.aggregator.output_scale=0.5",
    "--model.model.activation=relu",
    "--model.aggregator.trust=learned",
    "--model.aggregator.num_judges=2",
    "--model.optimizer.lr=0",
    "--model.lr_scheduler=null",
    "--model.partitioners=null",
    "--model.horizon=20",
    "--model.truncation_length=10",
    "--model.num_tasks=2",
    "--model.val_horizon=40",
    "--model.val_episodes=1",
    "--model.baselines=null",
    "--model.estimator.num_coordinates=100",
    "--byzantine.attack=SignFlip",
    "--byzantine.num_byzantine=[0, 4]",
    "--byzantine.first_round=0",
    "--byzantine.val_attack=Reverse",
    "--byzantine.val_num_byzantine=4",
    "--trainer.log_every_n_steps=1",
    "--trainer.val_check_interval=5",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    options = ["--trainer.max_steps=10", "--trainer.num_sanity_val_steps=1"]
    run("fit", folder, *SMALL, *options, config=META)
    return folder


def test_the_judge_learns_to_withstand_a_majority_that_it_never_met(trained):
    rows = metrics(trained)
    losses = [float(row["meta/trust_loss"]) for row in rows if row.get("meta/trust_loss")]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 1
    bias = checkpoint(trained)["state_dict"]["aggregator.judges.0.out.bias"]
    assert bias.abs() > 0.01
    assert float([row for row in rows if row.get("val/accuracy")][-1]["val/accuracy"]) > 0.65


def test_a_step_of_the_judge_is_no_window(trained):
    assert checkpoint(trained)["global_step"] == 10
    assert len(checkpoint(trained)["optimizer_states"]) == 2
    assert int(checkpoint(trained)["state_dict"]["trust_training.count"]) == 20


def test_the_weights_hold_the_judge(trained, tmp_path):
    weights = trained / "version_0" / "aggregator.safetensors"
    assert Recurrent(weights=str(weights)).judges[0].out.weight.any()
    server = [
        "--data.pool_size=6", "--data.public_size=100", "--byzantine.num_byzantine=4", "--byzantine.attack=Reverse", "--model.aggregator=Recurrent", f"--model.aggregator.weights={weights}",
        "--model.optimizer=SGD", "--model.optimizer.lr=1", "--model.optimizer.momentum=0", "--trainer.max_steps=60", "--trainer.val_check_interval=60",
    ]  # fmt: skip
    accuracies = []
    for more in ([], ["--model.aggregator.trust=losses"]):  # in one round's losses alone
        cli = run("fit", tmp_path / str(len(more)), *server, *more)
        accuracies.append(float(cli.trainer.callback_metrics["val/accuracy"]))
    assert accuracies[0] > 0.8
    assert accuracies[0] > accuracies[1]


@pytest.mark.parametrize("stop", [2, 3])  # at the end of a horizon, in the middle of one
def test_resume_is_exact(stop, tmp_path):
    """Also when the memory of windows has begun anew, with drawn shards and attackers who wait."""
    options = [
        *SMALL,
        "--model.trust_training.capacity=6",
        "--model.trust_training.steps=3",
        "--model.trust_training.batch_size=4",
        "--model.partitioners=[IID, Dirichlet]",
        "--model.pool_sizes=[3, 6]",
        "--model.aggregator.merge_copies=true",
        "--model.aggregator.early_samples=90",
        "--byzantine.attack=Reverse",
        "--byzantine.first_round=[0, 5, 12]",
        "--model.optimizer.lr=0.001",
        "--data.rounds_per_epoch=4",
    ]
    assert_resumes(tmp_path, *options, stop=stop, end=5, config=META)


def test_what_the_judge_is_shown_of_merged_copies(tmp_path):
    """Of six workers four send one row: they count for a quarter each."""
    options = [
        "--model.aggregator.merge_copies=true", "--byzantine.attack=Reverse", "--byzantine.num_byzantine=4", "--trainer.max_steps=1",
    ]  # fmt: skip
    run("fit", tmp_path, *SMALL, *options, config=META)
    state = checkpoint(tmp_path)["state_dict"]
    counts, honest = (state[f"trust_training.{name}"][:2] for name in ("counts", "honest"))
    assert torch.equal(counts, torch.where(honest, 1.0, 0.25).half())


def test_another_memory_is_no_checkpoint_of_this(trained, tmp_path):
    options = ["--trainer.max_steps=11", "--model.trust_training.capacity=5"]
    path = trained / "version_0" / "checkpoints" / "last.ckpt"
    with pytest.raises(
        SettingError, match=re.escape("trust_training.counts is (256, 10, 6) in the checkpoint")
    ):
        run("fit", tmp_path, *SMALL, *options, f"--ckpt_path={path}", config=META)


def test_another_step_of_the_judge_is_refused(tmp_path):
    """The checkpoint's optimizer would go on with its own."""
    run("fit", tmp_path, *SMALL, "--model.trust_training.steps=1", "--trainer.max_steps=1", config=META)
    options = ["--model.trust_training.optimizer.lr=0.1", "--trainer.max_steps=2", "--ckpt_path=last"]
    with pytest.raises(SettingError, match=r"model.trust_training.optimizer.lr was .* and is 0.1"):
        run("fit", tmp_path, *SMALL, "--model.trust_training.steps=1", *options, config=META)


def test_attackers_wait_by_the_round_of_their_episode(tmp_path):
    options = ["--byzantine.first_round=[0, 5, 12]", "--byzantine.num_byzantine=4", "--trainer.max_steps=1"]
    cli = run("fit", tmp_path, *SMALL, *options, config=META)
    learner, waits = cli.model, set()
    (injection,) = learner._injections()
    for episode in range(20):
        injection.on_episode(cli.trainer, learner, episode)
        first = injection.first_round
        waits.add(first)
        honest = [learner.problem.round(learner.tasks.theta[0], episode, step).honest for step in range(15)]
        assert [int(row.sum()) for row in honest] == [6 if step < first else 2 for step in range(15)]
        assert learner.byzantine(episode * STRIDE + first) == injection.byzantine
    assert waits == {0, 5, 12}


def test_the_samples_are_divided_anew_in_every_episode(tmp_path):
    options = ["--model.partitioners=[IID, Dirichlet]", "--trainer.max_steps=1"]
    cli = run("fit", tmp_path, *SMALL, *options, config=META)
    learner = cli.model
    counts = [learner.pool(episode).label_counts(10) for episode in range(20)]
    assert all(np.array_equal(count.sum(0), counts[0].sum(0)) for count in counts)
    assert len({count.tobytes() for count in counts}) == 20
    uneven = [bool(count.min() == 0) for count in counts]
    assert 0 < sum(uneven) < 20
    again = learner.pool(3).label_counts(10)
    assert np.array_equal(again, counts[3])
    assert learner.pool(VALIDATION_EPISODES) is learner.data.pool


def test_episodes_may_have_fewer_workers(tmp_path):
    options = ["--model.pool_sizes=[2, 4, 6]", "--byzantine.num_byzantine=4", "--trainer.max_steps=3"]
    cli = run("fit", tmp_path, *SMALL, *options, config=META)
    learner, sizes = cli.model, set()
    (injection,) = learner._injections()
    for episode in range(20):
        received = learner.problem.round(learner.tasks.theta[0], episode, 0)
        size = len(received.gradients)
        assert size == learner.episode_size(episode)
        assert injection.byzantine <= set(range(size))
        assert len(injection.byzantine) == {2: 1, 4: 3, 6: 4}[size]
        assert received.honest.tolist() == [worker not in injection.byzantine for worker in range(6)]
        workers = received.context.workers
        assert (workers is None) == (size == 6)
        assert size == 6 or (workers.tolist() == list(range(size)) and received.context.pool_size == 6)
        sizes.add(size)
    assert sizes == {2, 4, 6}
    assert learner.episode_size(VALIDATION_EPISODES) == 6
    shown = checkpoint(tmp_path)["state_dict"]["trust_training.counts"][:6].all(1).sum(1)
    episodes = [0, 1, 2, 1, 2, 3]  # of two tasks, of which the first one begins in the middle
    assert shown.tolist() == [learner.episode_size(episode) for episode in episodes]


def test_episodes_begin_in_a_checkpoint_as_they_began(tmp_path):
    """The shards of an episode are a function of the seed and the episode, whatever was played before."""
    options = ["--model.partitioners=[Dirichlet]", "--trainer.max_steps=1"]
    learner = run("fit", tmp_path, *SMALL, *options, config=META).model
    expected = [shard.copy() for shard in learner.pool(7).shards]
    for episode in (0, 9, 2, 30):
        learner.pool(episode)
    assert all(map(np.array_equal, learner.pool(7).shards, expected))
    # That of another task, however far it is, is left alone.
    divided = learner.pool(7)
    learner.pool(30)
    assert learner.pool(7) is divided
    assert len(learner._pools) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.aggregator.trust=losses", "--model.aggregator.num_judges=1"], "model.trust_training must be null unless model.aggregator.trust is learned"),
        (["--model.trust_training.steps=0"], "model.trust_training.steps must be an integer of at least 1, got 0"),
        (["--model.partitioners=[IID, Dirichlet]", "--data.batch_size=60"], "samples of Dirichlet): lower it, use full, or raise model.partitioners.min_size"),
        (["--model.partitioners=[ByGroup]"], "model.partitioners must not be ByGroup: DigitsPool does not say whom a sample comes from"),
        (["--model.trust_training.lr_scheduler=torch.optim.lr_scheduler.StepLR", "--model.trust_training.lr_scheduler.step_size=0"], "model.trust_training.lr_scheduler must be given values that it accepts"),
        (["--model.trust_training.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.trust_training.lr_scheduler.monitor=val", "--trainer.val_check_interval=1"], "model.trust_training.lr_scheduler.monitor must be a value logged in validation, got 'val'"),
        (["--model.pool_sizes=[3, 7]"], "model.pool_sizes must be at most data.pool_size (pool_sizes = [3, 7], pool_size = 6)"),
        (["--model.pool_sizes=[0]"], "model.pool_sizes must be an integer of at least 1, got 0"),
        (["--byzantine.first_round=[]"], "byzantine must satisfy 0 <= first_round <= last_round (first_round = []"),
        (["--byzantine.first_round=[3, -1]"], "byzantine.first_round must be an integer of at least 0, got -1"),
    ],
)  # fmt: skip
def test_wrong_settings(options, message, tmp_path):
    with pytest.raises(SettingError, match=re.escape(message)):
        run(
            "fit",
            tmp_path,
            *SMALL,
            "--model.trust_training.batch_size=4",
            "--trainer.max_steps=2",
            *options,
            config=META,
        )


def test_the_attack_of_a_run_has_one_first_round(tmp_path):
    with pytest.raises(
        SettingError, match=r"byzantine.first_round must be one round in ParameterServer, got \[1, 2\]"
    ):
        run("fit", tmp_path, "--byzantine.first_round=[1, 2]", "--trainer.max_steps=1")


def test_what_the_judge_was_shown_has_no_graph(trained):
    state = checkpoint(trained)["state_dict"]
    shown = [
        state[f"trust_training.{name}"] for name in ("evidence", "counts", "honest", "products", "memory")
    ]
    assert not any(tensor.requires_grad for tensor in shown)
    assert shown[0].dtype == torch.half
    assert shown[1][:20].all()
    assert not shown[1][20:].any()
