"""Where runs live: no run touches another, and settings that are refused leave no trace."""

import shutil

import pytest
import torch
import yaml
from runs import assert_same_run, checkpoint, finish, metrics, run, start
from runs_callbacks import KilledError

from lightning_agg.errors import SettingError
from lightning_agg.runs import Run


def test_refused_settings_leave_no_run(tmp_path):
    run(
        "fit",
        tmp_path,
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=4",
        "--trainer.log_every_n_steps=1",
    )
    record = (tmp_path / "version_0" / "config.yaml").read_text()
    refused = ["--model.aggregator.num_byzantine=7"]
    with pytest.raises(SettingError):
        run("fit", tmp_path, *refused)
    with pytest.raises(SettingError):
        run("fit", tmp_path, *refused, "--ckpt_path=last")
    assert [path.name for path in tmp_path.glob("version_*")] == ["version_0"]
    rows, files = metrics(tmp_path), sorted((tmp_path / "version_0").iterdir())
    assert not (tmp_path / "version_0" / "hparams.yaml").exists()  # config.yaml is the record
    told = pytest.warns(UserWarning, match="goes back to round 4 of the 6")
    with told, pytest.raises(SettingError, match="optimizer"):
        run("fit", tmp_path, "--model.optimizer=Adam", "--ckpt_path=best")
    assert metrics(tmp_path) == rows
    assert sorted((tmp_path / "version_0").iterdir()) == files, (
        "an events file would hide the rounds after the checkpoint"
    )
    assert rows[-1]["step"] == "5"
    assert (tmp_path / "version_0" / "config.yaml").read_text() == record
    assert checkpoint(tmp_path)["global_step"] == 6
    run("fit", tmp_path, "--trainer.max_steps=8", "--ckpt_path=last")
    assert checkpoint(tmp_path)["global_step"] == 8


def test_rounds_that_were_dropped_do_not_come_back(tmp_path):
    options = ["--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"]
    run("fit", tmp_path, *options, "--trainer.max_steps=4")
    folder = tmp_path / "version_0" / "checkpoints"
    shutil.copy(folder / "last.ckpt", folder / "four.ckpt")
    run("fit", tmp_path, *options, "--trainer.max_steps=8", "--ckpt_path=last")
    assert torch.load(folder / "best.ckpt", weights_only=True)["global_step"] == 8
    options = [*options, "--trainer.max_steps=8"]
    (folder / "best.ckpt").write_bytes(b"damaged")  # then it is of no use to this branch either
    killed = [*options, f"--ckpt_path={folder / 'four.ckpt'}", "--trainer.callbacks+=runs_callbacks.Raising"]
    with pytest.warns(UserWarning, match="goes back to round 4 of the 8"), pytest.raises(KilledError):
        run("fit", tmp_path, *killed, "--trainer.callbacks.rounds=5")
    assert checkpoint(tmp_path)["global_step"] == 4
    assert not (folder / "best.ckpt").exists()
    run("fit", tmp_path, *options, "--ckpt_path=last")
    assert {int(row["step"]) for row in metrics(tmp_path)} == set(range(8))
    assert torch.load(folder / "best.ckpt", weights_only=True)["global_step"] == 8


def test_last_is_the_newest_run_that_trained(tmp_path):
    """Not the folder that the test of a checkpoint from elsewhere has made."""
    run("fit", tmp_path / "elsewhere", "--trainer.max_steps=3")
    run("fit", tmp_path / "here", "--trainer.max_steps=4")
    other = tmp_path / "elsewhere" / "version_0" / "checkpoints" / "last.ckpt"
    run("test", tmp_path / "here", f"--ckpt_path={other}")
    assert (tmp_path / "here" / "version_1").exists()
    run("fit", tmp_path / "here", "--trainer.max_steps=6", "--ckpt_path=last")
    assert checkpoint(tmp_path / "here")["global_step"] == 6


@pytest.mark.parametrize("logger", ["false", "CSVLogger"])
def test_the_record_is_in_the_run_whatever_the_logger(logger, tmp_path, capsys):
    options = [f"--trainer.logger={logger}", "--trainer.max_steps=2"]
    if logger != "false":
        options.append(f"--trainer.logger.save_dir={tmp_path / 'own'}")
    run("fit", tmp_path, *options)
    assert (tmp_path / "version_0" / "config.yaml").exists()
    assert not (tmp_path / "config.yaml").exists()
    assert "tensorboard" not in capsys.readouterr().out


def test_the_record_has_the_value_of_an_enum(tmp_path):
    options = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:01:00:00"]
    run("fit", tmp_path, *options, "--trainer.max_steps=2")
    run("test", tmp_path, *options)
    record = yaml.safe_load((tmp_path / "version_0" / "config.yaml").read_text())
    assert record["trainer"]["callbacks"][-1]["init_args"]["interval"] == "step"


@pytest.mark.slow
def test_two_runs_started_together_get_a_folder_each(tmp_path):
    both = [start("fit", tmp_path, "--trainer.max_steps=3", f"--seed_everything={seed}") for seed in (1, 2)]
    for process in both:
        finish(process)
    weights = [checkpoint(tmp_path, version=version)["state_dict"]["model.1.weight"] for version in (0, 1)]
    assert not torch.equal(*weights)


def test_reloading_the_data_goes_on_in_the_data(tmp_path):
    options = ["--data.rounds_per_epoch=2", "--trainer.max_steps=6", "--trainer.log_every_n_steps=1"]
    run("fit", tmp_path / "a", *options)
    run("fit", tmp_path / "b", *options, "--trainer.reload_dataloaders_every_n_epochs=1")
    a, b = (checkpoint(tmp_path / name)["state_dict"] for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "rule",
    [
        ["Zeno", "--model.aggregator.num_byzantine=3"],
        ["FLTrust"],
        ["Recurrent", "--model.aggregator.weights=mnist_rnn_lstm", "--model.optimizer.momentum=0"],
    ],
    ids=lambda rule: rule[0],
)
def test_double_precision(rule, tmp_path):
    options = [f"--model.aggregator={rule[0]}", *rule[1:], "--trainer.precision=64-true"]
    run("fit", tmp_path, *options, "--trainer.max_steps=2")
    assert checkpoint(tmp_path)["state_dict"]["model.1.weight"].dtype == torch.float64


def test_the_record_of_a_resumed_run_begins_another(tmp_path):
    run("fit", tmp_path, "--trainer.max_steps=2")
    run("fit", tmp_path, "--trainer.max_steps=4", "--ckpt_path=last")
    record = tmp_path / "version_0" / "config.yaml"
    settings = yaml.safe_load(record.read_text())
    assert (settings["ckpt_path"], settings["trainer"]["max_steps"]) == (None, 4)
    run("fit", tmp_path, config=str(record))
    assert checkpoint(tmp_path, version=1)["global_step"] == 4


def test_a_run_is_not_trained_twice_at_a_time(tmp_path):
    run("fit", tmp_path, "--trainer.max_steps=2", "--trainer.log_every_n_steps=1")
    before = metrics(tmp_path), checkpoint(tmp_path)
    again = ["--trainer.max_steps=4", "--ckpt_path=last"]
    with (
        Run(tmp_path / "version_0").reserve(),
        pytest.raises(SettingError, match="ckpt_path must not be of a run that is still being trained"),
    ):
        run("fit", tmp_path, *again)
    assert metrics(tmp_path) == before[0]
    assert_same_run(before[1], checkpoint(tmp_path))
    run("fit", tmp_path, *again)
    assert checkpoint(tmp_path)["global_step"] == 4


def test_going_on_where_nothing_is_begins(tmp_path):
    with pytest.warns(UserWarning, match="training starts from round 0"):
        run("fit", tmp_path / "new", "--trainer.max_steps=2", "--ckpt_path=last")
    assert checkpoint(tmp_path / "new")["global_step"] == 2
