"""What a run does and what it leaves behind."""

import csv

import pytest
import torch
import yaml
from runs import ROOT, checkpoint, metrics, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SHORT = ["--trainer.max_steps=40", "--trainer.val_check_interval=20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run("fit", folder, *SHORT, "--noise.scale=0.0001")
    return folder


def events(folder, tag_kind):
    accumulator = EventAccumulator(str(folder / "version_0"), size_guidance={"images": 0})
    accumulator.Reload()
    return set(accumulator.Tags()[tag_kind])


def test_the_quickstart_learns_under_attack(tmp_path, capsys):
    run("fit", tmp_path)
    run("test", tmp_path)
    out = capsys.readouterr().out
    assert "test accuracy: 0.9" in out
    assert f"run: {tmp_path}/version_0" in out
    assert "tensorboard --logdir" in out


def test_the_average_does_not(tmp_path):
    cli = run("fit", tmp_path, "--model.aggregator=Mean", "--trainer.max_steps=100")
    assert not float(cli.trainer.callback_metrics["val/accuracy"]) > 0.5


@pytest.mark.filterwarnings("ignore:No honest worker")  # Krum diverges
@pytest.mark.parametrize(("rule", "low", "high"), [("krum", 0.0, 0.2), ("arnn", 0.9, 1.0)])
@pytest.mark.parametrize("attack", ["Reverse", "SignFlip", "LabelFlip"])
def test_seven_liars_of_ten(rule, low, high, attack, tmp_path):
    """What ``make quickstart`` shows: a model and data that the learned aggregator was not trained on."""
    options = ["-c", str(ROOT / "configs" / "aggregator" / f"{rule}.yaml"), "--byzantine.num_byzantine=7"]
    length = ["--trainer.max_steps=200", "--trainer.val_check_interval=200", "--model.gradient_samples=0"]
    cli = run("fit", tmp_path, *options, *length, f"--byzantine.attack={attack}")
    assert low <= float(cli.trainer.callback_metrics["val/accuracy"]) <= high


def test_every_log_name_is_recorded(folder):
    logged = set().union(*metrics(folder))
    assert logged >= {
        "train/loss", "val/loss", "val/accuracy", "val/gradient_norm", "val/median_gradient_norm",
        "pool/cosine_to_honest_mean", "pool/byzantine_acceptance", "pool/nonfinite_rows", "noise/scale",
    }  # fmt: skip
    assert logged - {"epoch", "step"} <= events(folder, "scalars")


def test_no_attacker_is_accepted_by_multi_krum(folder):
    rows = [row for row in metrics(folder) if "pool/byzantine_acceptance" in row]
    assert len(rows) == 4
    assert all(float(row["pool/byzantine_acceptance"]) == 0 for row in rows)
    assert all(float(row["pool/cosine_to_honest_mean"]) > 0.8 for row in rows)


def test_tensorboard_has_the_config_and_the_figures(folder):
    run("test", folder)
    assert {"data/labels", "test/confusion"} <= events(folder, "images")
    assert "config/text_summary" in events(folder, "tensors")
    scalars = events(folder, "scalars")
    assert {"test/loss", "test/accuracy", "final/val_accuracy", "final/test_accuracy"} <= scalars


def test_config_yaml_repeats_the_run(folder, tmp_path):
    config = folder / "version_0" / "config.yaml"
    assert yaml.safe_load(config.read_text())["noise"]["scale"] == 0.0001
    run("fit", tmp_path, config=str(config))
    assert torch.equal(
        checkpoint(folder)["state_dict"]["model.layers.0.weight"],
        checkpoint(tmp_path)["state_dict"]["model.layers.0.weight"],
    ) if "model.layers.0.weight" in checkpoint(folder)["state_dict"] else True  # fmt: skip
    for name, value in checkpoint(folder)["state_dict"].items():
        assert torch.equal(value, checkpoint(tmp_path)["state_dict"][name])


def test_a_second_fit_is_a_second_run(folder):
    before = (folder / "version_0" / "metrics.csv").read_text()
    run("fit", folder, "--trainer.max_steps=10")
    assert (folder / "version_0" / "metrics.csv").read_text() == before
    assert checkpoint(folder, version=1)["global_step"] == 10


def test_validate_and_predict_use_the_last_checkpoint(folder, tmp_path):
    run("fit", tmp_path, *SHORT)
    value = run("validate", tmp_path).trainer.callback_metrics["val/accuracy"]
    assert float(value) == float(
        [row for row in metrics(tmp_path) if "val/accuracy" in row][-1]["val/accuracy"]
    )
    run("predict", tmp_path, "--trainer.logger=false")
    with (tmp_path / "version_0" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 360
    accuracy = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert accuracy == pytest.approx(float(run("test", tmp_path).trainer.callback_metrics["test/accuracy"]))


@pytest.mark.parametrize(("monitor", "sign"), [("val/loss", 1), ("val/accuracy", -1)])
def test_best_checkpoint_is_that_of_the_best_validation(monitor, sign, tmp_path):
    run(
        "fit",
        tmp_path,
        "--trainer.max_steps=40",
        "--trainer.val_check_interval=4",
        "--model.optimizer.lr=0.5",
        f"--checkpoint.monitor={monitor}",
    )
    validations = [row for row in metrics(tmp_path) if monitor in row]
    best = min(validations, key=lambda row: sign * float(row[monitor]))
    assert checkpoint(tmp_path, "best")["global_step"] == int(best["step"]) + 1


@pytest.mark.parametrize(
    "options",
    [
        ["--model.momentum=0.9", "--model.optimizer.momentum=0"],
        ["--model.local_steps=3", "--model.local_lr=0.1"],
        ["--model.participation=0.5", "--model.aggregator=TrimmedMean", "--model.aggregator.num_byzantine=2", "--byzantine.num_byzantine=2"],
        ["--model.aggregator=CenteredClipping", "--model.aggregator.radius=0.1", "--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=50"],
        ["--model.aggregator=Zeno", "--model.aggregator.num_byzantine=3", "--model.aggregator.num_samples=32"],
        ["--data.batch_size=full", "--data.partitioner=Dirichlet", "--data.partitioner.alpha=1", "--data.partitioner.min_size=20"],
        ["--byzantine.attack=LabelFlip"],
        ["--byzantine.attack=NotANumber", "--model.aggregator=Mean"],
        ["--byzantine.attack=Infinity", "--model.aggregator=CoordinateMedian"],
        ["--byzantine.attack=Gaussian", "--model.aggregator=GeometricMedian"],
        ["--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.lr_scheduler.patience=0"],
    ],
    ids=lambda options: options[0].removeprefix("--"),
)  # fmt: skip
def test_every_part_of_the_loop_learns(options, tmp_path):
    cli = run("fit", tmp_path, "--trainer.max_steps=150", "--trainer.val_check_interval=50", *options)
    assert float(cli.trainer.callback_metrics["val/accuracy"]) > 0.75


def test_nonfinite_rows_are_counted(tmp_path):
    run("fit", tmp_path, "--trainer.max_steps=10", "--byzantine.attack=NotANumber")
    assert float(metrics(tmp_path)[0]["pool/nonfinite_rows"]) == 3


def test_parameters_that_are_not_used_stay(tmp_path):
    cli = run("fit", tmp_path, "--model.model=runs_models.Spare", "--trainer.max_steps=3")
    assert not cli.model.model.spare.weight.grad.any()


def test_each_test_counts_anew(tmp_path):
    cli = run("fit", tmp_path, "--trainer.max_steps=3")
    for _ in range(2):
        cli.trainer.test(cli.model, cli.datamodule, verbose=False)
        assert int(cli.model.confusion.compute().sum()) == len(cli.datamodule.test)


def test_the_parts_of_a_round_are_timed(tmp_path):
    profiler = run("fit", tmp_path, "--trainer.profiler=simple", "--trainer.max_steps=3").trainer.profiler
    parts = {name: len(times) for name, times in profiler.recorded_durations.items() if "[round]" in name}
    assert parts == {
        f"[round] {part}": 3
        for part in (
            "worker gradients",
            "gather",
            "on_worker_gradients",
            "on_compression",
            "on_byzantine_gradients",
            "aggregation",
            "server step",
        )
    }
