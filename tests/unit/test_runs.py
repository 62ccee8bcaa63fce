"""Folders of runs, and the table that survives a kill."""

import csv
import re

import pytest
import torch

from lightning_agg.callbacks.run_record import is_kept
from lightning_agg.errors import SettingError
from lightning_agg.loggers import ResumableCSVLogger
from lightning_agg.runs import Run, locate, read_checkpoint


def make(root, version, *names, step=5):
    folder = root / f"version_{version}" / "checkpoints"
    folder.mkdir(parents=True)
    for name in names:
        written = {"state_dict": {}, "global_step": step, "pytorch-lightning_version": "2.6"}
        torch.save(written, folder / f"{name}.ckpt")
    return folder.parent


def test_a_new_fit_gets_the_next_folder(tmp_path):
    assert locate(tmp_path, "fit", None) == Run(tmp_path / "version_0")
    make(tmp_path, 2, "last")
    make(tmp_path, 10, "last")
    (tmp_path / "version_old").mkdir()
    assert locate(tmp_path, "fit", None) == Run(tmp_path / "version_11")


def test_last_and_best_are_those_of_the_newest_run(tmp_path):
    make(tmp_path, 9, "last", "best")
    newest = make(tmp_path, 10, "last", "best", step=7)
    for name in ("last", "best"):
        assert locate(tmp_path, "fit", name) == Run(newest, newest / "checkpoints" / f"{name}.ckpt", 7)
    assert locate(tmp_path, "test", None) == locate(tmp_path, "test", "last")


def test_going_back_is_told(tmp_path):
    folder = make(tmp_path, 0, "last", step=9)
    make(tmp_path / "other", 0, "best", step=4)
    best = folder / "checkpoints" / "best.ckpt"
    (tmp_path / "other" / "version_0" / "checkpoints" / "best.ckpt").rename(best)
    for name in ("best", str(best)):
        with pytest.warns(UserWarning, match="goes back to round 4 of the 9 that it has had"):
            assert locate(tmp_path, "fit", name) == Run(folder, best, 4)
        assert locate(tmp_path, "test", name).step == 4
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"cut short")
    assert locate(tmp_path, "fit", "best").step == 4


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("data", True),
        ("data.test_fraction", True),
        ("data.partitioner.alpha", True),
        ("data.train", True),
        ("data.train.split", True),
        ("data.train.root", False),
        ("data.train.download", False),
        ("data.root", False),
        ("data.rounds_per_epoch", False),
        ("model.trust_training.optimizer.lr", True),
        ("model.trust_training.lr_scheduler", True),
        ("model.trust_training.steps", False),
    ],
)
def test_what_divides_the_data_and_what_has_a_state_is_kept(name, kept):
    assert is_kept(name) is kept


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    make(tmp_path, 0, "last")
    newest = make(tmp_path, 1)
    with pytest.warns(UserWarning, match="training starts from round 0"):
        assert locate(tmp_path, "fit", "last") == Run(newest)
    with pytest.raises(
        SettingError, match=r"the newest run that has one is \S+version_0/checkpoints/last\.ckpt: give"
    ):
        locate(tmp_path, "test", None)
    with pytest.raises(SettingError, match="run fit first"):
        locate(tmp_path, "test", "best")


def test_a_runs_folder_is_its_last_checkpoint(tmp_path):
    older = make(tmp_path, 0, "last", "best", step=5)
    make(tmp_path, 1, "last")
    assert locate(tmp_path, "test", str(older)) == Run(older, older / "checkpoints" / "last.ckpt", 5)


def test_a_run_killed_before_it_begins_is_the_newest(tmp_path):
    make(tmp_path, 0, "last")
    killed = locate(tmp_path, "fit", None)
    assert killed.folder == tmp_path / "version_1"
    with pytest.warns(UserWarning, match="training starts from round 0"):
        assert locate(tmp_path, "fit", "last") == Run(killed.folder)
    killed.discard()  # refused, not killed: the run before is the newest again
    assert locate(tmp_path, "fit", "last").folder == tmp_path / "version_0"


def test_a_file_belongs_to_the_run_it_lies_in(tmp_path):
    folder = make(tmp_path, 0, "best", step=3)
    make(tmp_path, 1, "last")
    path = folder / "checkpoints" / "best.ckpt"
    assert locate(tmp_path, "fit", str(path)) == Run(folder, path, 3)
    assert locate(tmp_path / "elsewhere", "fit", str(path)) == Run(
        tmp_path / "elsewhere" / "version_0", path, 3
    )


def test_no_best_without_a_best(tmp_path):
    make(tmp_path, 0, "last")
    with pytest.raises(SettingError, match=re.escape("ckpt_path must name a checkpoint")):
        locate(tmp_path, "fit", "best")


def log(folder, rows, resume_step=None):
    logger = ResumableCSVLogger(str(folder), resume_step=resume_step, name="", version="run")
    for step, values in rows:
        logger.log_metrics(values, step)
    logger.save()
    with (folder / "run" / "metrics.csv").open() as file:
        return [
            (int(row["step"]), {k: float(v) for k, v in row.items() if k != "step" and v})
            for row in csv.DictReader(file)
        ]


def test_metrics_go_on_after_a_resume(tmp_path):
    first = [(step, {"a": float(step)}) for step in range(6)]
    assert log(tmp_path, first) == first
    again = [(4, {"a": 40.0}), (5, {"b": 50.0})]
    assert log(tmp_path, again, resume_step=4) == first[:4] + again
    assert log(tmp_path, [(5, {"c": 1.0})]) == first[:4] + again + [(5, {"c": 1.0})]


def test_metrics_stay_until_there_are_new_ones(tmp_path):
    first = [(step, {"a": float(step)}) for step in range(6)]
    assert log(tmp_path, first) == first
    assert log(tmp_path, [], resume_step=2) == first
    assert log(tmp_path, [(2, {"a": 9.0})], resume_step=2) == [*first[:2], (2, {"a": 9.0})]


@pytest.mark.parametrize("content", [b"", b"hello", b"a,b\n1,2\n"])
def test_a_file_that_is_no_checkpoint_is_told(content, tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=re.escape(str(path))):
        read_checkpoint(path)
