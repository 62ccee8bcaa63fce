"""Data that are no images, through the command line."""

import numpy as np
import pytest
from runs import ROOT, assert_same_run, checkpoint, run

from lightning_agg.errors import SettingError

NUM_WORDS = 60


@pytest.fixture
def words(tmp_path):
    """A file of sentences of ten words, of which a third are of their class, written by 30 writers."""
    rng = np.random.default_rng(0)

    def sentences(number):
        labels = rng.integers(0, 3, number)
        own = labels[:, None] * 20 + rng.integers(0, 20, (number, 10))
        return np.where(
            rng.random((number, 10)) < 1 / 3, own, rng.integers(0, NUM_WORDS, (number, 10))
        ), labels

    (x, y), (x_test, y_test) = sentences(1500), sentences(300)
    path = tmp_path / "words.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test, group_train=rng.integers(0, 30, 1500))
    return f"--data.path={path}"


OPTIONS = [
    "--data=ArrayPool",
    "--data.partitioner=ByGroup",
    "--data.batch_size=32",
    "--data.public_size=100",
    "--model.model=runs_models.Words",
    "--byzantine.attack=SignFlip",
    "--byzantine.num_byzantine=7",
    f"--config={ROOT / 'configs' / 'aggregator' / 'arnn.yaml'}",
    "--model.optimizer.lr=1",
]


def test_sentences_are_learned_and_the_run_is_resumed_to_the_bit(words, tmp_path):
    told = [*OPTIONS, words]
    unbroken = run("fit", tmp_path / "unbroken", *told, "--trainer.max_steps=60")
    assert float(unbroken.trainer.callback_metrics["val/accuracy"]) > 0.6  # a third by chance; 7 of 10 lie
    run("fit", tmp_path / "broken", *told, "--trainer.max_steps=35")
    run("fit", tmp_path / "broken", *told, "--trainer.max_steps=60", "--ckpt_path=last")
    assert_same_run(checkpoint(tmp_path / "broken"), checkpoint(tmp_path / "unbroken"))
    tested = run("test", tmp_path / "unbroken", *told)
    assert float(tested.trainer.callback_metrics["test/accuracy"]) > 0.6


def test_an_aggregator_is_trained_on_sentences(words, tmp_path):
    cli = run(
        "fit", tmp_path, *OPTIONS[:3], words, "--model=MetaLearner", "--model.model=runs_models.Words", "--model.aggregator=Recurrent",
        "--model.horizon=4", "--model.truncation_length=2", "--model.val_horizon=4", "--trainer.max_steps=4", "--trainer.val_check_interval=4",
    )  # fmt: skip
    assert np.isfinite(float(cli.trainer.callback_metrics["meta/val_loss"]))


def test_words_that_the_model_does_not_know_are_told(words, tmp_path):
    with pytest.raises(
        SettingError, match=r"must accept inputs of shape \(10,\), torch.int64; Words does not"
    ):
        run("fit", tmp_path, *OPTIONS, words, "--model.model.num_words=59", "--trainer.max_steps=2")


@pytest.mark.parametrize("index", [NUM_WORDS, -1])
def test_so_are_those_of_the_test_alone(index, words, tmp_path):
    path = words.removeprefix("--data.path=")
    arrays = dict(np.load(path))
    arrays["x_test"][7, 3] = index
    np.savez(path, **arrays)
    with pytest.raises(SettingError, match=r"must accept inputs of shape .*index out of range"):
        run("fit", tmp_path, *OPTIONS, words, "--trainer.max_steps=2")
