"""Several processes give the bits of one."""

import os
import signal
import subprocess
import time

import pytest
import torch
from runs import (
    WORKER_MODELS,
    arguments,
    assert_same_run,
    checkpoint,
    finish,
    metrics,
    run,
    start,
    torchrun,
)

from lightning_agg.strategies import WorkerParallelStrategy

TWO = ["--trainer.strategy=worker_parallel", "--trainer.devices=2"]
OPTIONS = [
    "--trainer.max_steps=20",
    "--trainer.val_check_interval=10",
    "--trainer.log_every_n_steps=1",
    "--model.momentum=0.9",
    "--noise.scale=0.001",
    "--byzantine.attack=Gaussian",
    "--byzantine.attack.std=1",
    "--data.rounds_per_epoch=8",
]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


CASES = {
    "unequal full shards": ["--data.pool_size=5", "--model.aggregator=CenteredClipping", "--data.batch_size=full", "--data.partitioner=QuantitySkew"],
    "one worker": ["--data.pool_size=1", "--byzantine.num_byzantine=0", "--model.aggregator=Mean", "--model.local_steps=2"],
    "error feedback": ["--noise.scale=PerTensorScale", "--compression.compressor=ErrorFeedbackSign", "--model.participation=0.7", "--model.aggregator=CenteredClipping"],
    "uneven pool of different models, sampled": ["--data.pool_size=7", "--model.aggregator.num_byzantine=1", "--byzantine.num_byzantine=1", f"--model.worker_models={WORKER_MODELS}", "--model.participation=0.7"],
    "quantised": ["--noise.scale=TheoryScale", "--noise.scale.rule=sign_majority", "--compression.compressor=QSGD"],
    "learned": ["--model.aggregator=Recurrent", "--model.aggregator.weights=cifar10_arnn_lstm", "--model.optimizer.momentum=0", "--data.public_size=80", "--data.batch_size=8"],
}  # fmt: skip


def test_two_processes_are_one(tmp_path):
    torchrun(*(arguments("fit", tmp_path / name / "two", *OPTIONS, *CASES[name], *TWO) for name in CASES))
    for name, options in CASES.items():
        run("fit", tmp_path / name / "one", *OPTIONS, *options)
        one, two = (tmp_path / name / folder for folder in ("one", "two"))
        assert_same_run(checkpoint(one), checkpoint(two))
        assert metrics(one) == metrics(two), name


def test_the_mean_over_three_processes_is_exact():
    """Of values that all have: (x + x + x) / 3 is another number for one x in eight."""
    strategy = WorkerParallelStrategy()
    values = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert not torch.equal((values + values + values) / 3, values)
    assert torch.equal(strategy.reduce(values, reduce_op="mean"), values)


def test_three_processes_are_one(tmp_path):
    run("fit", tmp_path / "one", *OPTIONS)
    three = ["--trainer.strategy=worker_parallel", "--trainer.devices=3"]
    finish(start("fit", tmp_path / "three", *OPTIONS, *three))
    assert_same_run(checkpoint(tmp_path / "one"), checkpoint(tmp_path / "three"))
    assert metrics(tmp_path / "one") == metrics(tmp_path / "three")


def test_processes_may_change_on_resume(tmp_path):
    run("fit", tmp_path / "one", *OPTIONS)
    output = torchrun(
        arguments("fit", tmp_path / "two", *OPTIONS, "--trainer.max_steps=11", *TWO),
        arguments("test", tmp_path / "two", "--model.momentum=0.9", *TWO),
    )
    assert output.count("test accuracy: 0.") == 1
    run("fit", tmp_path / "two", *OPTIONS, "--ckpt_path=last")
    assert_same_run(checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two"))


def test_stock_ddp_is_refused(tmp_path):
    process = start("fit", tmp_path, *OPTIONS, "--trainer.strategy=ddp", "--trainer.devices=2")
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "trainer.strategy must be worker_parallel" in output
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("told", ["the second process", "all processes"])
def test_a_terminated_training_ends_everywhere(told, tmp_path):
    options = [
        "--trainer.max_steps=100000",
        "--checkpoint.every_n_rounds=5",
        "--trainer.val_check_interval=20",
    ]
    process = start("fit", tmp_path, *options, *TWO)
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.01)
    if told == "all processes":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
        )
        os.kill(int(listed.stdout.split()[0]), signal.SIGTERM)
    output, _ = process.communicate(timeout=60)  # until none of them writes any more
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output
