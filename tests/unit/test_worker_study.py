"""The global model on each worker's shard."""

from types import SimpleNamespace

import pytest
import torch
from runs import metrics, run
from torch.nn import functional as F

from lightning_agg.callbacks import WorkerStudy
from lightning_agg.callbacks.worker_study import spread
from lightning_agg.errors import SettingError

SKEWED = ["--data.partitioner=ByLabel", "--trainer.max_steps=20", "--trainer.val_check_interval=20"]


def last(folder):
    return {
        name: float(value) for row in metrics(folder) for name, value in row.items() if "workers/" in name
    }


def test_a_run_tells_what_each_worker_has_of_it(tmp_path):
    cli = run("fit", tmp_path, *SKEWED, "--trainer.callbacks+=WorkerStudy", "--model.aggregator=Mean")
    told, data, model = last(tmp_path), cli.datamodule, cli.model.model
    accuracies = []
    for worker, shard in enumerate(data.pool.shards):
        inputs, labels = data.pool.data.read(torch.from_numpy(shard))
        with torch.no_grad():
            outputs = model(inputs.float())
        accuracies.append(float((outputs.argmax(1) == labels).double().mean()))
        assert told[f"workers/accuracy/{worker}"] == pytest.approx(accuracies[-1])
        assert told[f"workers/loss/{worker}"] == pytest.approx(
            float(F.cross_entropy(outputs, labels)), rel=1e-5
        )
    honest = [a for worker, a in enumerate(accuracies) if worker not in cli.model.byzantine()]
    assert len(honest) == 7
    assert told["workers/accuracy_mean"] == pytest.approx(sum(honest) / 7)
    assert told["workers/accuracy_worst_tenth"] == pytest.approx(min(honest))
    assert told["workers/accuracy_best_tenth"] == pytest.approx(max(honest))


def test_without_the_single_workers_and_of_few_samples(tmp_path):
    options = ["--trainer.callbacks+=WorkerStudy", "--trainer.callbacks.each_worker=false"]
    run("fit", tmp_path, *SKEWED, *options, "--trainer.callbacks.samples=1")
    told = last(tmp_path)
    assert {name.removeprefix("workers/accuracy_") for name in told} == {
        "mean",
        "std",
        "worst_tenth",
        "best_tenth",
    }
    assert told["workers/accuracy_worst_tenth"] in (0, 1)


def test_spread_by_hand():
    assert {name: float(value) for name, value in spread(torch.tensor([0.0, 1.0, 0.5, 0.5])).items()} == (
        pytest.approx({"mean": 0.5, "std": 0.125**0.5, "worst_tenth": 0, "best_tenth": 1})
    )
    tenths = spread(torch.arange(20.0))
    assert (tenths["worst_tenth"], tenths["best_tenth"]) == (0.5, 18.5)


def test_it_is_refused_where_it_has_no_meaning():
    with pytest.raises(
        SettingError, match=r"trainer.callbacks must not have a WorkerStudy in SimpleNamespace"
    ):
        WorkerStudy().setup(SimpleNamespace(), SimpleNamespace(rounds_in_order=False), "fit")
    with pytest.raises(SettingError, match=r"trainer\.callbacks\.samples must be"):
        WorkerStudy(samples=0)
