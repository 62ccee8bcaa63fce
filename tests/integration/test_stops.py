"""Trainings that end before their last round, and then go on or do not."""

import pytest
import torch
from runs import WORKER_MODELS, assert_resumes, assert_same_run, checkpoint, metrics, run
from runs_callbacks import KilledError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_agg.callbacks import RunCheckpoint
from lightning_agg.errors import SettingError

OPTIONS = ["--trainer.val_check_interval=4", "--trainer.log_every_n_steps=1"]
EARLY = [
    *OPTIONS,
    "--trainer.max_steps=40",
    "--checkpoint.every_n_rounds=4",
    "--trainer.callbacks+=EarlyStopping",
    "--trainer.callbacks.monitor=val/loss",
    "--trainer.callbacks.mode=max",
    "--trainer.callbacks.patience=2",
]
PLATEAU = [
    *OPTIONS,
    "--trainer.max_steps=14",
    "--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
    "--model.lr_scheduler.patience=0",
    "--model.lr_scheduler.threshold=0.5",
]


def run_until(name, step, folder, *options):
    """A training that ends as soon as a checkpoint of that round is in place."""
    save = RunCheckpoint._save

    def save_and_die(self, trainer, written):
        save(self, trainer, written)
        if (written, trainer.global_step) == (name, step):
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCheckpoint, "_save", save_and_die)
        with pytest.raises(KilledError):
            run("fit", folder, *options)


def scalars(folder, name):
    events = EventAccumulator(str(folder / "version_0"))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


def test_what_early_stopping_has_ended_does_not_go_on(tmp_path, capsys):
    run("fit", tmp_path, *EARLY)
    ended = checkpoint(tmp_path)
    assert ended["global_step"] == 12
    capsys.readouterr()
    run("fit", tmp_path, *EARLY, "--ckpt_path=last")
    assert_same_run(ended, checkpoint(tmp_path))
    told = capsys.readouterr().out
    assert "nothing left to train: the run has had its 12 rounds, see EarlyStopping" in told
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint need to be provided"):
        run("fit", tmp_path, *OPTIONS, "--trainer.max_steps=16", "--ckpt_path=last")
    assert checkpoint(tmp_path)["global_step"] == 16


def test_early_stopping_looks_after_validations_of_whole_epochs_too(tmp_path):
    """Lightning's own choice there is to look after the checkpoint of the epoch's last round."""
    epochs = [*EARLY, "--data.rounds_per_epoch=4", "--trainer.val_check_interval=1.0", "--trainer.check_val_every_n_epoch=1"]  # fmt: skip
    run("fit", tmp_path / "whole", *epochs)
    assert checkpoint(tmp_path / "whole")["global_step"] == 12
    run_until("last", 8, tmp_path / "killed", *epochs)
    run("fit", tmp_path / "killed", *epochs, "--ckpt_path=last")
    assert_same_run(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed"))


@pytest.mark.parametrize(
    ("setting", "watcher"),
    [
        ("trainer.callbacks", "--trainer.callbacks+=EarlyStopping"),
        ("model.lr_scheduler", "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau"),
    ],
)
def test_what_waits_for_an_accuracy_to_fall_is_told(setting, watcher, tmp_path, recwarn):
    accuracy = [*OPTIONS, "--trainer.max_steps=2", watcher, f"--{setting}.monitor=val/accuracy"]
    run("fit", tmp_path, *accuracy, f"--{setting}.mode=max")
    assert not recwarn.list
    with pytest.warns(
        UserWarning, match=f"{setting}.mode should be max where {setting}.monitor is val/accuracy"
    ):
        run("fit", tmp_path, *accuracy)


def test_nor_where_it_was_killed_in_that_moment(tmp_path):
    run_until("last", 12, tmp_path, *EARLY)
    run("fit", tmp_path, *EARLY, "--ckpt_path=last")
    assert checkpoint(tmp_path)["global_step"] == 12


def test_a_stop_between_validations_leaves_no_trace_in_the_weights(tmp_path):
    run("fit", tmp_path / "unbroken", *PLATEAU)
    stopped = ["--trainer.callbacks+=runs_callbacks.StopAt", "--trainer.callbacks.rounds=6"]
    cli = run("fit", tmp_path / "stopped", *PLATEAU, *stopped)
    assert "val/accuracy" in cli.trainer.callback_metrics
    assert checkpoint(tmp_path / "stopped")["global_step"] == 6
    run("fit", tmp_path / "stopped", *PLATEAU, "--ckpt_path=last")
    unbroken, resumed = (checkpoint(tmp_path / name) for name in ("unbroken", "stopped"))
    assert_same_run(unbroken, resumed)
    assert unbroken["optimizer_states"][0]["param_groups"][0]["lr"] < 0.1


EPOCHS = [
    "--data.rounds_per_epoch=3",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.log_every_n_steps=1",
    "--model.gradient_samples=0",
]


@pytest.mark.parametrize(("interval", "rounds"), [(2, [2, 5, 8, 11]), (3, [3, 6, 9]), (5, [5, 10])])
def test_an_interval_may_be_longer_than_an_epoch(interval, rounds, tmp_path):
    options = [*EPOCHS, f"--trainer.val_check_interval={interval}"]
    run("fit", tmp_path, *options, "--trainer.max_steps=11")
    assert [int(row["step"]) + 1 for row in metrics(tmp_path) if "val/loss" in row] == rounds


def test_and_a_run_with_one_goes_on(tmp_path):
    assert_resumes(tmp_path, *EPOCHS, "--trainer.val_check_interval=5", stop=4, end=11)


@pytest.mark.parametrize("limit", [[], ["--trainer.limit_train_batches=0.5", "--data.rounds_per_epoch=6"]])
def test_but_not_if_some_epochs_are_not_validated_in(limit, tmp_path):
    options = [*EPOCHS, "--trainer.val_check_interval=5", *limit, "--trainer.check_val_every_n_epoch=2"]
    told = "trainer.check_val_every_n_epoch must be null or 1 .*, got 2 .val_check_interval = 5, rounds = 3"
    with pytest.raises(SettingError, match=told):
        run("fit", tmp_path, *options, "--trainer.max_steps=11")


def test_double_precision_is_resumed_exactly(tmp_path):
    options = [
        *OPTIONS,
        "--trainer.precision=64-true",
        "--model.momentum=0.9",
        "--model.aggregator=CenteredClipping",
    ]
    assert_resumes(tmp_path, *options, stop=5, end=9)
    state = checkpoint(tmp_path / "stopped")["state_dict"]
    assert {tensor.dtype for name, tensor in state.items() if "weight" in name} == {torch.float64}


def test_memory_of_more_than_half_precision_is_resumed_exactly(tmp_path):
    clipping = ["--model.aggregator=CenteredClipping", "--model.aggregator.radius=0.1"]
    options = [*OPTIONS, "--trainer.precision=bf16-true", "--model.momentum=0.9", *clipping]
    assert_resumes(tmp_path, *options, stop=5, end=9)
    assert checkpoint(tmp_path / "stopped")["state_dict"]["aggregator.center"].dtype == torch.float32


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_models_of_the_workers_have_the_precision_of_the_global_one(precision, tmp_path):
    options = [*OPTIONS, f"--trainer.precision={precision}", f"--model.worker_models={WORKER_MODELS}"]
    assert_resumes(tmp_path, *options, stop=3, end=5)
    own = checkpoint(tmp_path / "stopped")["state_dict"]["worker_models.own"]
    assert own.dtype == {"64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
    assert own.any()


def test_the_best_of_another_value_is_no_measure(tmp_path):
    loss = ["--checkpoint.monitor=val/loss", "--trainer.max_steps=4"]
    run("fit", tmp_path, *OPTIONS, *loss)
    assert checkpoint(tmp_path)["callbacks"]["RunCheckpoint"]["best_score"] > 1
    accuracy = ["--checkpoint.monitor=val/accuracy", "--trainer.max_steps=8", "--ckpt_path=last"]
    run("fit", tmp_path, *OPTIONS, *accuracy)
    assert checkpoint(tmp_path, "best")["global_step"] == 8


def test_a_row_of_validate_stays(tmp_path):
    run("fit", tmp_path, *OPTIONS, "--trainer.max_steps=4")
    run("validate", tmp_path, *OPTIONS)
    (row,) = [row for row in metrics(tmp_path) if "epoch" not in row]
    run("fit", tmp_path, *OPTIONS, "--trainer.max_steps=6", "--ckpt_path=last")
    assert row["step"] == "4"
    assert [row for row in metrics(tmp_path) if "epoch" not in row] == [row]


def test_no_event_is_lost_at_a_checkpoint_or_repeated_after_it(tmp_path):
    options = [*OPTIONS, "--trainer.max_steps=9", "--checkpoint.every_n_rounds=3"]
    run_until("last", 6, tmp_path, *options)
    assert scalars(tmp_path, "train/loss") == [0, 1, 2, 3, 4, 5]
    run("fit", tmp_path, *options, "--ckpt_path=last")
    assert scalars(tmp_path, "train/loss") == list(range(9))
    assert scalars(tmp_path, "val/loss") == [3, 7]
    assert [row["step"] for row in metrics(tmp_path) if "train/loss" in row] == [str(i) for i in range(9)]


def test_events_before_the_first_checkpoint_are_forgotten(tmp_path):
    options = [*OPTIONS, "--trainer.max_steps=6"]
    run_until("best", 4, tmp_path, *options)
    with pytest.warns(UserWarning, match="training starts from round 0"):
        run("fit", tmp_path, *options, "--ckpt_path=last")
    assert scalars(tmp_path, "train/loss") == list(range(6))
