"""Sweeps that run: each trial an ordinary run, none twice, whatever is refused or breaks beside it."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from runs import QUICKSTART, ROOT, assert_same_run, checkpoint, run

from lightning_agg.errors import SettingError
from lightning_agg.sweep import Sweep, command, execution, trial_run

BROKEN_RULE = '''
from lightning_agg.aggregators import Aggregator

class Broken(Aggregator):
    """Fails in its first round."""

    def forward(self, gradients, context):
        raise ArithmeticError("no such sum")
'''
SHORT = {"trainer.max_steps": 6, "trainer.val_check_interval": 3, "model.gradient_samples": 0}
OPTIONS = [f"--{name}={value}" for name, value in SHORT.items()]


def sweep(folder, axes, **settings) -> Sweep:
    return Sweep(axes, [QUICKSTART], {**SHORT, "trainer.accelerator": "cpu"}, folder=str(folder), **settings)


def test_a_trial_is_the_run_of_the_command_line_and_is_run_once(tmp_path):
    (trial,) = sweep(tmp_path, {"byzantine.attack": ["SignFlip"]}, seeds=[3]).trials
    (home,) = trial_run.homes([trial], tmp_path, "last")
    assert home.parent == tmp_path / "SignFlip"
    first = trial_run.run(trial, home, "last", tested=False)
    assert not first.test
    tested = trial_run.run(trial, home, "last", tested=True)
    alone = ["--byzantine.attack=SignFlip", "--seed_everything=3"]
    fitted = run("fit", tmp_path / "alone", *OPTIONS, *alone)
    assert tested.fit == first.fit
    logged = {name: float(value) for name, value in fitted.trainer.callback_metrics.items()}
    assert tested.fit["val/accuracy"] == pytest.approx(logged["val/accuracy"], abs=1e-12)
    assert tested.fit.keys() <= logged.keys()
    cli = run("test", tmp_path / "alone", *OPTIONS, *alone)
    assert tested.test["test/accuracy"] == float(cli.trainer.callback_metrics["test/accuracy"])
    assert_same_run(checkpoint(home), checkpoint(tmp_path / "alone"))
    written = (home / "version_0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert trial_run.run(trial, home, "last", tested=True) == tested
    assert (home / "version_0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == written
    assert [path.name for path in home.glob("version_*")] == ["version_0"]
    assert "test accuracy" in (home / "output.txt").read_text()


def test_another_setting_is_another_folder(tmp_path):
    axes = {"byzantine.attack": ["SignFlip"]}
    both, longer = sweep(tmp_path, axes, seeds=[1, 2]).trials, Sweep(axes, [QUICKSTART], seeds=[1]).trials
    home, of_seed_2 = trial_run.homes(both, tmp_path, "last")
    assert [home, of_seed_2] == [
        *trial_run.homes(both[:1], tmp_path, "last"),
        *trial_run.homes(both[1:], tmp_path, "last"),
    ]
    (of_longer,) = trial_run.homes(longer, tmp_path, "last")
    assert len({home, of_seed_2, of_longer}) == 3
    assert home.parent == of_seed_2.parent == of_longer.parent
    assert home.name[:7] == of_longer.name[:7] == "seed_1-"


def test_a_trial_that_was_cut_off_when_it_was_through(tmp_path):
    (trial,) = sweep(tmp_path, {"byzantine.attack": ["SignFlip"]}).trials
    (home,) = trial_run.homes([trial], tmp_path, "last")
    done = trial_run.run(trial, home, "last", tested=True)
    (home / "result.json").unlink()
    assert trial_run.run(trial, home, "last", tested=True) == done
    assert done.fit["val/accuracy"] > 0
    best = trial_run.run(trial, home, "best", tested=True)
    assert set(json.loads((home / "result.json").read_text())["tests"]) == {"last", "best"}
    assert best.test.keys() == done.test.keys()
    shutil.rmtree(home / "version_0")
    assert trial_run.run(trial, home, "last", tested=True).test == done.test


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"trainer.devices": 2, "trainer.strategy": "worker_parallel"},
            "SignFlip, seed 0: trainer.devices must be 1 in a sweep",
        ),
        ({"trainer.devices": [3]}, r"trainer.devices must be 1 in a sweep.*got \[3\]; which GPUs"),
        ({"trainer.fast_dev_run": 1}, "trainer.fast_dev_run must be false in a sweep"),
        ({"trainer.logger": False}, "trainer.logger must be null or true in a sweep.*got False"),
        ({"checkpoint.monitor": None}, "ckpt_path must be last where checkpoint.monitor is null"),
    ],
)
def test_what_a_sweep_has_no_use_for_is_refused(settings, message, tmp_path):
    trials = Sweep({"byzantine.attack": ["SignFlip"]}, [QUICKSTART], settings).trials
    with pytest.raises(SettingError, match=message):
        trial_run.homes(trials, tmp_path, "best")


def test_a_record_that_is_cut_short_and_a_run_that_logs_nothing(tmp_path):
    (trial,) = Sweep({"byzantine.attack": ["SignFlip"]}, [QUICKSTART], {"trainer.max_steps": 1}).trials
    (home,) = trial_run.homes([trial], tmp_path, "last")
    done = trial_run.run(trial, home, "last", tested=True)
    assert done.error is None
    assert done.test["test/accuracy"] > 0
    (home / "result.json").write_text('{"folder": "ver')
    again = trial_run.run(trial, home, "last", tested=True)
    assert (again.error, again.test) == (None, done.test)


def test_a_folder_is_one_sweep_s_at_a_time(tmp_path):
    taken = pytest.raises(SettingError, match="folder must not be that of a sweep that is running")
    with execution.reserved(tmp_path / "sweep"), taken:
        sweep(tmp_path / "sweep", {"byzantine.attack": ["SignFlip"]}).run()
    with execution.reserved(tmp_path / "sweep"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"folder must be one that can be written to, got .*file: "):
        sweep(tmp_path / "file", {"byzantine.attack": ["SignFlip"]}).run()


def test_a_trial_that_was_cut_off_goes_on(tmp_path):
    (trial,) = sweep(tmp_path, {"byzantine.attack": ["SignFlip"]}).trials
    (home,) = trial_run.homes([trial], tmp_path, "last")
    stopped = ["--byzantine.attack=SignFlip", "--trainer.max_steps=4"]
    run("fit", home, *OPTIONS, *stopped)
    trial_run.run(trial, home, "last", tested=False)
    run("fit", tmp_path / "unbroken", *OPTIONS, "--byzantine.attack=SignFlip")
    assert_same_run(checkpoint(home), checkpoint(tmp_path / "unbroken"))


@pytest.mark.slow
def test_a_sweep_goes_on_beside_what_is_refused_and_what_breaks(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_rule.py").write_text(BROKEN_RULE)
    monkeypatch.syspath_prepend(tmp_path)
    axes = {
        "aggregator": {
            "MultiKrum": None,
            "Krum": {"model.aggregator": "Krum", "model.aggregator.num_byzantine": 4},
            "Broken": {"model.aggregator": "broken_rule.Broken", "tune": {}},
        },
        "attack": {"Reverse": {"byzantine.attack": "Reverse"}, "none": {"byzantine.num_byzantine": 0}},
    }
    file = tmp_path / "sweep.yaml"
    settings = {
        "axes": axes,
        "configs": [QUICKSTART],
        "settings": SHORT,
        "tune": {"model.optimizer.lr": [1e-6, 0.1]},
        "curve": "val/acuracy",
    }
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    with pytest.raises(SystemExit, match="not every run came to its end"):
        command.main(["-c", str(file), "--processes=2", f"--folder={tmp_path / 'sweep'}"])
    with (tmp_path / "sweep" / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    # Only what was chosen has seen the test set.
    tested = [line for line in lines if line["test/accuracy"]]
    assert [(line["attack"], line["model.optimizer.lr"]) for line in tested] == [
        ("Reverse", "0.1"),
        ("none", "0.1"),
    ]
    for line, option in zip(tested, ("attack=Reverse", "num_byzantine=0"), strict=True):
        options = [*OPTIONS, f"--byzantine.{option}", "--model.optimizer.lr=0.1"]
        run("fit", tmp_path / line["attack"], *options)
        cli = run("test", tmp_path / line["attack"], *options)
        assert float(line["test/accuracy"]) == float(cli.trainer.callback_metrics["test/accuracy"])
    text = (tmp_path / "sweep" / "tables.md").read_text()
    assert text.startswith("test/accuracy in %; columns: attack.\n\n")
    assert "- Krum, Reverse; Krum, none: " in text
    assert "num_byzantine must satisfy 2 f + 2 < M (f = 4, M = 10)" in text
    assert "- Broken, Reverse; Broken, none: ArithmeticError: no such sum" in text
    (output,) = (tmp_path / "sweep" / "runs" / "Broken" / "none").glob("seed_0-*/output.txt")
    assert 'raise ArithmeticError("no such sum")' in output.read_text()
    assert {path.name for path in (tmp_path / "sweep" / "figures").iterdir()} == {"heat_map.png"}
    assert any((tmp_path / "sweep" / "summary").glob("events.*"))
    printed = capsys.readouterr().out
    assert "no curves: curve must be a value that the runs log, got 'val/acuracy'; logged are" in printed
    assert "[10/10, " in printed
    assert "[2/2, " in printed  # what was refused is not tried again
    assert text in printed


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from lightning_agg.sweep import Sweep\n"
        f"Sweep({{'byzantine.attack': ['SignFlip']}}, folder={str(tmp_path / 'sweep')!r}).run()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'must be run below `if __name__ == "__main__":` in a script' in done.stderr
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_typing_error_is_told_before_anything_runs(tmp_path):
    axes = {"aggregator": {"Krum": None, "Median": {"model.agregator": "CoordinateMedian"}}}
    with pytest.raises(SettingError, match=r"^Median, seed 0: .*no such setting; did you mean aggregator\?$"):
        sweep(tmp_path / "sweep", axes).run()
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_sweep_of_nothing_but_refusals_is_no_success(tmp_path, capsys):
    told = ['--axes={"model.aggregator.num_byzantine": [4]}', f"--settings={json.dumps(SHORT)}"]
    with pytest.raises(SystemExit, match=r"^error: no run has a test/accuracy; the reasons are above\.$"):
        command.main([*told, f"--configs=[{QUICKSTART}]", f"--folder={tmp_path / 'sweep'}"])
    assert "must satisfy 2 f + 2 < M (f = 4, M = 10)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_misspelt_score_is_told_with_the_first_run_and_other_processes_go_on(tmp_path):
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    other.start()
    try:
        told = r"score .* got 'test/acuracy'; did you mean test/accuracy\?"
        with pytest.raises(SettingError, match=told):
            sweep(tmp_path / "sweep", {"byzantine.attack": ["SignFlip", "Drop"]}, score="test/acuracy").run()
        assert len(list(tmp_path.glob("sweep/runs/*/*/result.json"))) == 1
        assert other.is_alive()
    finally:
        other.kill()


@pytest.mark.slow
def test_a_sweep_that_is_killed_leaves_no_process_and_goes_on(tmp_path):
    settings = {"trainer.max_steps": 400, "checkpoint.every_n_rounds": 10, "model.gradient_samples": 0}
    told = [
        '--axes={"byzantine.attack": ["SignFlip"]}',
        f"--settings={json.dumps(settings)}",
        f"--configs=[{QUICKSTART}]",
        f"--folder={tmp_path / 'sweep'}",
    ]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "sweep", *told],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (begun := list(tmp_path.glob("sweep/runs/SignFlip/*/version_0/checkpoints/last.ckpt"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while _group_lives(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    home = begun[0].parent.parent.parent
    assert checkpoint(home)["global_step"] < 400
    assert not (home / "result.json").exists()
    (trial,) = Sweep({"byzantine.attack": ["SignFlip"]}, [QUICKSTART], settings).trials
    assert trial_run.homes([trial], tmp_path / "sweep" / "runs", "last") == [home]
    trial_run.run(trial, home, "last", tested=False)
    options = ["--trainer.max_steps=400", "--checkpoint.every_n_rounds=10", "--model.gradient_samples=0"]
    run("fit", tmp_path / "unbroken", *options, "--byzantine.attack=SignFlip")
    assert_same_run(checkpoint(home), checkpoint(tmp_path / "unbroken"))


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
