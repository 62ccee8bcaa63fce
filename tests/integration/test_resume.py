"""A run that was stopped and goes on is, bit for bit, the run that was not."""

import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from runs import (
    WORKER_MODELS,
    assert_resumes,
    assert_same,
    assert_same_run,
    checkpoint,
    kill,
    metrics,
    run,
    start,
)

from lightning_agg.errors import SettingError

# Everything that has a state or draws numbers: random attack, noise, momenta, schedule, aggregator memory, sampling.
EVERYTHING = [
    "--model.aggregator=CenteredClipping",
    "--model.momentum=0.5",
    "--model.optimizer.lr=0.05",
    "--model.lr_scheduler=StepLR",
    "--model.lr_scheduler.step_size=7",
    "--model.participation=0.8",
    f"--model.worker_models={WORKER_MODELS}",
    "--byzantine.attack=Gaussian",
    "--byzantine.attack.std=0.1",
    "--noise.scale=0.01",
    "--trainer.val_check_interval=4",
    "--trainer.log_every_n_steps=1",
    "--data.rounds_per_epoch=8",
]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    run("fit", folder, *EVERYTHING, "--trainer.max_steps=30", "--checkpoint.every_n_rounds=1")
    return folder


@pytest.mark.parametrize("stop", [3, 7, 8, 12, 16, 25])  # mid-epoch, at a validation, at the end of an epoch
def test_resume_at_any_round(stop, unbroken, tmp_path):
    run("fit", tmp_path, *EVERYTHING, f"--trainer.max_steps={stop}")
    assert checkpoint(tmp_path)["global_step"] == stop
    run(
        "fit",
        tmp_path,
        *EVERYTHING,
        "--trainer.max_steps=30",
        "--ckpt_path=last",
        "--checkpoint.every_n_rounds=30",
    )
    assert_same_run(checkpoint(unbroken), checkpoint(tmp_path))


@pytest.mark.parametrize("stop", [8, 12])
def test_a_checkpoint_holds_the_validation_of_its_round(stop, tmp_path):
    """Lightning does not repeat it on resume, so what it changes must be in the checkpoint."""
    plateau = "torch.optim.lr_scheduler.ReduceLROnPlateau"
    options = [
        *(option for option in EVERYTHING if "lr_scheduler" not in option),
        f"--model.lr_scheduler={plateau}",
        "--model.lr_scheduler.init_args.patience=0",
        "--model.lr_scheduler.init_args.threshold=0.05",
    ]
    for name in ("unbroken", "stopped"):
        rounds = stop if name == "stopped" else 30
        run("fit", tmp_path / name, *options, f"--trainer.max_steps={rounds}")
    state = checkpoint(tmp_path / "stopped")
    assert state["callbacks"]["RunCheckpoint"]["best_score"] is not None
    assert state["lr_schedulers"][0]["last_epoch"] == stop // 4
    run("fit", tmp_path / "stopped", *options, "--trainer.max_steps=30", "--ckpt_path=last")
    assert_same_run(checkpoint(tmp_path / "unbroken"), checkpoint(tmp_path / "stopped"))
    assert metrics(tmp_path / "unbroken") == metrics(tmp_path / "stopped")


@pytest.mark.parametrize("stop", [2, 5, 6, 9])  # in the warm-up, at its end, after it
def test_an_attack_goes_on_with_what_it_remembers(stop, tmp_path):
    options = [
        "--byzantine.attack=Mimic",
        "--byzantine.attack.warmup=6",
        "--byzantine.num_byzantine=3",
        "--data.partitioner=Dirichlet",
        "--model.aggregator=TrimmedMean",
        "--model.aggregator.num_byzantine=3",
        "--model.participation=0.8",
        "--trainer.val_check_interval=20",
    ]
    run("fit", tmp_path / "unbroken", *options, "--trainer.max_steps=12")
    run("fit", tmp_path / "stopped", *options, f"--trainer.max_steps={stop}")
    memory = checkpoint(tmp_path / "stopped")["callbacks"]["ByzantineInjection"]["memory"]
    assert memory["rounds"] == min(stop, 6)
    assert (memory["direction"].numel() > 0) is (stop < 6)
    run("fit", tmp_path / "stopped", *options, "--trainer.max_steps=12", "--ckpt_path=last")
    assert_same_run(checkpoint(tmp_path / "unbroken"), checkpoint(tmp_path / "stopped"))


def test_another_attack_begins_anew(tmp_path):
    warmup = ["--byzantine.attack=Mimic", "--byzantine.attack.warmup=6", "--byzantine.num_byzantine=3"]
    run("fit", tmp_path, *warmup, "--trainer.max_steps=3")
    other = ["--byzantine.attack=SignFlip", "--byzantine.num_byzantine=3"]
    with pytest.warns(UserWarning, match="goes on from round 3 with other settings: byzantine.attack"):
        run("fit", tmp_path, *other, "--trainer.max_steps=5", "--ckpt_path=last")
    assert checkpoint(tmp_path)["global_step"] == 5
    assert "ByzantineInjection" not in checkpoint(tmp_path)["callbacks"]


@pytest.mark.parametrize("rule", ["CenteredClipping", "Zeno", "Krum"])
def test_a_line_search_resumes_and_knows_the_rule(rule, tmp_path):
    options = [
        f"--model.aggregator={rule}",
        *(["--model.aggregator.num_byzantine=3"] if rule != "CenteredClipping" else []),
        "--data.public_size=50",
        "--byzantine.attack=LineSearch",
        "--byzantine.attack.attack=InnerProduct",
        "--byzantine.num_byzantine=3",
        "--trainer.val_check_interval=20",
    ]
    assert_resumes(tmp_path, *options, stop=3, end=6)


def test_a_learned_aggregator_resumes(tmp_path):
    options = [
        "--model.aggregator=Recurrent",
        "--model.aggregator.weights=cifar10_arnn_lstm",
        "--model.aggregator.line_search=true",
        "--model.optimizer.momentum=0",
        "--data.public_size=80",
        "--byzantine.attack=LabelFlip",
        "--byzantine.num_byzantine=3",
        "--trainer.val_check_interval=20",
    ]
    assert_resumes(tmp_path, *options, stop=5, end=8)


def test_resume_from_a_checkpoint_in_the_middle(unbroken, tmp_path):
    """As after a kill: rounds were done and recorded after the checkpoint, and are done again."""
    stops = [*EVERYTHING, "--checkpoint.every_n_rounds=7"]
    run("fit", tmp_path, *stops, "--trainer.max_steps=30")
    saved = tmp_path / "version_0" / "checkpoints"
    run("fit", tmp_path / "short", *stops, "--trainer.max_steps=14")
    os.replace(tmp_path / "short" / "version_0" / "checkpoints" / "last.ckpt", saved / "last.ckpt")
    run("fit", tmp_path, *stops, "--trainer.max_steps=30", "--ckpt_path=last")
    assert_same_run(checkpoint(unbroken), checkpoint(tmp_path))
    assert metrics(unbroken) == metrics(tmp_path)


def test_resuming_before_the_first_checkpoint_starts_over(tmp_path):
    folder = tmp_path / "version_0"
    folder.mkdir()
    with pytest.warns(UserWarning, match="training starts from round 0"):
        run("fit", tmp_path, "--trainer.max_steps=3", "--ckpt_path=last")
    assert checkpoint(tmp_path)["global_step"] == 3
    assert not (tmp_path / "version_1").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.aggregator=CenteredClipping", "aggregator.center is missing in the checkpoint"),
        ("--model.optimizer=torch.optim.Adam", "it is SGD in the checkpoint and Adam here"),
    ],
)
def test_a_checkpoint_of_another_rule_is_refused(option, message, tmp_path):
    run("fit", tmp_path, "--trainer.max_steps=2")
    with pytest.raises(SettingError, match=message):
        run("fit", tmp_path, "--trainer.max_steps=4", "--ckpt_path=last", option)


def test_changed_settings_are_told(tmp_path):
    run("fit", tmp_path, "--trainer.max_steps=2")
    with pytest.warns(
        UserWarning, match=r"from round 2 with other settings: byzantine.attack was 'Reverse' and is 'Drop'"
    ):
        run("fit", tmp_path, "--trainer.max_steps=4", "--ckpt_path=last", "--byzantine.attack=Drop")
    dropped = ["--byzantine.attack=Drop", "--trainer.max_steps=6", "--ckpt_path=last"]
    run("fit", tmp_path, *dropped, "--trainer.precision=32-true")
    with pytest.warns(UserWarning, match="trainer.precision was '32-true' and is '64-true'"):
        run("fit", tmp_path, *dropped, "--trainer.max_steps=8", "--trainer.precision=64-true")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.optimizer.lr=0.5", "model.optimizer.lr was 0.1 and is 0.5"),
        ("--model.lr_scheduler.step_size=9", "model.lr_scheduler.step_size was 7 and is 9"),
        ("--data.pool_size=12", "data.pool_size was 10 and is 12"),
        ("--data.val_size=90", "data.val_size was 'None' and is 90"),
        ("--data.standardize=true", "data.standardize was False and is True"),
        ("--data.partitioner=ByLabel", "data.partitioner was 'None' and is 'ByLabel'"),
        ("--seed_everything=1", "seed_everything was 0 and is 1"),
    ],
)
def test_settings_that_would_not_count_are_refused(option, message, tmp_path):
    schedule = ["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=7"]
    run("fit", tmp_path, *schedule, "--trainer.max_steps=2")
    record = (tmp_path / "version_0" / "config.yaml").read_text()
    with pytest.raises(SettingError, match=f"ckpt_path must be of a run with these settings.*{message}"):
        run("fit", tmp_path, *schedule, "--trainer.max_steps=4", "--ckpt_path=last", option)
    assert (tmp_path / "version_0" / "config.yaml").read_text() == record
    assert checkpoint(tmp_path)["global_step"] == 2


def test_nor_do_they_count_in_another_folder(tmp_path):
    run("fit", tmp_path / "first", "--trainer.max_steps=2")
    file = f"--ckpt_path={tmp_path / 'first' / 'version_0' / 'checkpoints' / 'last.ckpt'}"
    for option in ("--model.optimizer.lr=0.5", "--seed_everything=1"):
        with pytest.raises(SettingError, match="ckpt_path must be of a run with these settings"):
            run("fit", tmp_path / "second", "--trainer.max_steps=4", file, option)
    with pytest.warns(
        UserWarning, match=r"first.version_0 is evaluated with other settings.*seed_everything was 0 and is 1"
    ):
        run("test", tmp_path / "second", file, "--seed_everything=1")
    run("fit", tmp_path / "second", "--trainer.max_steps=4", file)


def test_other_data_are_refused(tmp_path):
    images, labels = np.zeros((400, 1, 8, 8), np.float32), np.arange(400) % 10
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    other = ["--data=ArrayPool", f"--data.path={tmp_path / 'own.npz'}", "--data.rounds_per_epoch=400"]
    run("fit", tmp_path, "--trainer.max_steps=2")
    with pytest.raises(SettingError, match="data was 'DigitsPool' and is 'ArrayPool'"):
        run("fit", tmp_path, "--trainer.max_steps=4", "--ckpt_path=last", *other)


def test_what_does_not_divide_the_data_may_change(tmp_path):
    run("fit", tmp_path, "--trainer.max_steps=2")
    with pytest.warns(UserWarning, match="with other settings: data.eval_batch_size was 1000 and is 50"):
        run("fit", tmp_path, "--trainer.max_steps=4", "--ckpt_path=last", "--data.eval_batch_size=50")
    assert checkpoint(tmp_path)["global_step"] == 4


def test_another_seed_is_another_run(unbroken, tmp_path):
    run("fit", tmp_path, *EVERYTHING, "--trainer.max_steps=30", "--seed_everything=1")
    a, b = checkpoint(unbroken)["state_dict"], checkpoint(tmp_path)["state_dict"]
    assert not any(torch.equal(a[name], b[name]) for name in a if name.endswith("weight"))


@pytest.mark.slow
def test_killed_at_random_rounds(tmp_path):
    """SIGKILL a real process, over and over, until it is through."""
    options = [
        *EVERYTHING,
        "--trainer.max_steps=500",
        "--checkpoint.every_n_rounds=5",
        "--trainer.val_check_interval=40",
    ]
    run("fit", tmp_path / "unbroken", *options)
    folder, kills, rng = tmp_path / "killed", 0, random.Random(0)
    steps = []
    last = folder / "version_0" / "checkpoints" / "last.ckpt"
    while kills < 2:
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = start("fit", folder, *options, *(["--ckpt_path=last"] if kills else []))
        while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.25))
        assert process.poll() is None, f"through before the kill: {process.communicate()}"
        kill(process)
        kills += 1
        steps.append(checkpoint(folder)["global_step"])
    assert steps[0] > 0
    assert steps == sorted(steps)
    assert steps[-1] < 500
    run("fit", folder, *options, "--ckpt_path=last")
    assert_same_run(checkpoint(tmp_path / "unbroken"), checkpoint(folder))
    assert metrics(tmp_path / "unbroken") == metrics(folder)


@pytest.mark.slow
def test_a_terminated_training_does_not_look_like_one_that_is_through(tmp_path):
    process = start("fit", tmp_path, "--trainer.max_steps=100000", "--checkpoint.every_n_rounds=5")
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.01)
    process.terminate()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert f"run: {tmp_path / 'version_0'}\nto go on: the same command with --ckpt_path last" in output


def test_a_rule_of_another_library_goes_on(tmp_path):
    options = [
        "--model.aggregator=External", "--model.aggregator.rule=byzfl.CenteredClipping", "--model.aggregator.cast=true",
    ]  # fmt: skip
    run("fit", tmp_path / "whole", *options, "--trainer.max_steps=8")
    run("fit", tmp_path / "halves", *options, "--trainer.max_steps=4")
    run("fit", tmp_path / "halves", *options, "--trainer.max_steps=8", "--ckpt_path=last")
    whole, halves = (checkpoint(tmp_path / name)["state_dict"] for name in ("whole", "halves"))
    assert_same(whole, halves)
    run("test", tmp_path / "halves", *options)
