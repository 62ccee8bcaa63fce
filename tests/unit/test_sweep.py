"""The parts of a sweep that run nothing: its trials, the choice among them, tables and curves."""

import math
import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from runs import ROOT

from lightning_agg.errors import SettingError
from lightning_agg.sweep import Sweep
from lightning_agg.sweep.execution import _missing
from lightning_agg.sweep.figures import curves, heat_map
from lightning_agg.sweep.grid import Trial, folder_name, given_by
from lightning_agg.sweep.markdown import spread
from lightning_agg.sweep.metrics import last_logged
from lightning_agg.sweep.panel import panels
from lightning_agg.sweep.process import begin, visible_devices
from lightning_agg.sweep.report import write_figures
from lightning_agg.sweep.tables import table
from lightning_agg.sweep.trial_run import Result, homes
from lightning_agg.sweep.tuning import best_in_the_worst_column

RULES = {
    "Mean": {"model.aggregator": "Mean"},
    "Krum": {"config": "krum.yaml", "model.aggregator.num_byzantine": 2},
}


def trial(*labels: str, seed: int = 0, tuned: tuple[str, ...] = ()) -> Trial:
    return Trial(labels, tuned, seed, ())


def test_trials_are_every_combination():
    sweep = Sweep(
        {"rule": RULES, "byzantine.num_byzantine": [0, 3], "attack": {"none": None}},
        configs=["base.yaml"],
        settings={"trainer.max_steps": 5},
        seeds=[4, 7],
    )
    assert [(t.labels, t.seed) for t in sweep.trials] == [
        ((rule, number, "none"), seed) for rule in RULES for number in ("0", "3") for seed in (4, 7)
    ]
    assert sweep.trials[-1].arguments == (
        "--config=base.yaml",
        "--config=krum.yaml",
        "--trainer.max_steps=5",
        "--model.aggregator.num_byzantine=2",
        "--byzantine.num_byzantine=3",
        "--seed_everything=7",
    )
    assert (sweep.rows, sweep.columns) == ("rule", "byzantine.num_byzantine")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "sweep").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_choice_of_the_shipped_sweeps_is_accepted(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    shipped = Sweep(**yaml.safe_load(path.read_text()))
    by_labels = {trial.labels: trial for trial in shipped.trials}
    choices = list(shipped.axes.values())
    for i in range(max(map(len, choices))):
        homes([by_labels[tuple(axis[i % len(axis)].label for axis in choices)]], tmp_path, "last")


def test_what_is_no_text_is_told_as_json():
    sweep = Sweep({"data.classes": [[0, 1], None]}, settings={"data.standardize": True})
    assert [t.arguments[:2] for t in sweep.trials] == [
        ("--data.standardize=true", "--data.classes=[0, 1]"),
        ("--data.standardize=true", "--data.classes=null"),
    ]


def test_a_row_may_have_values_of_its_own_to_try():
    rules = {**RULES, "ARNN": {"tune": {}}, "Zeno": {"tune": {"lr": [5], "rho": [1, 2]}}}
    sweep = Sweep({"rule": rules}, tune={"lr": [0.1, 0.2]})
    assert [(t.labels[0], t.tuned) for t in sweep.trials] == [
        ("Mean", ("lr=0.1",)),
        ("Mean", ("lr=0.2",)),
        ("Krum", ("lr=0.1",)),
        ("Krum", ("lr=0.2",)),
        ("ARNN", ()),
        ("Zeno", ("lr=5", "rho=1")),
        ("Zeno", ("lr=5", "rho=2")),
    ]
    assert sweep.trials[0].arguments == ("--model.aggregator=Mean", "--lr=0.1", "--seed_everything=0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axes": {}}, "axes must be at least one axis"),
        ({"axes": {"rule": "Krum"}}, "axes.rule must be a list of values, or choices by label, got 'Krum'"),
        ({"axes": {"rule": []}}, "axes.rule must be"),
        (
            {"axes": {"rule": {"Krum": "Krum"}}},
            "axes.rule.Krum must be options with their values, got 'Krum'",
        ),
        (
            {"axes": {"rule": {"Krum": {"config": 3}}}},
            r"axes.rule.Krum.config must be a file.*got \[3\]|got 3",
        ),
        ({"axes": {"rule": {"a b": {}, "a/b": {}}}}, "axes.rule must have labels that differ"),
        (
            {"axes": {"a": [1], "b": {"x": {"tune": {}}}}},
            r"axes.b: tune must stand in a choice of the rows \(a\)",
        ),
        ({"axes": {"a": {"x": {"tune": {"lr": 1}}}}}, "axes.a.x.tune must be lists of values by option"),
        ({"tune": {"lr": 0.1}}, "tune must be lists of values"),
        ({"tune": {"lr": []}}, "tune must be lists of values"),
        ({"tune": {"lr": [0.1, 0.1]}}, r"tune.lr must be values that differ, got \[0.1, 0.1\]"),
        ({"axes": {"seed": [1]}}, "axes must not be called seed or folder or error.*, got seed"),
        (
            {
                "axes": {"rule": {"ARNN": {"config": str(ROOT / "configs" / "aggregator" / "arnn.yaml")}}},
                "settings": {"model.optimizer.lr": 0.5, "trainer.max_steps": 3},
            },
            r"settings must not hold what a file of a choice gives.*: model.optimizer.lr is in .*arnn.yaml",
        ),
        ({"folder": ""}, "folder must have a name"),
        ({"rows": "rules"}, "rows must be one of the axes rule, got 'rules'"),
        ({"columns": "attack"}, "columns must be one of the axes rule, got 'attack'"),
        ({"rows": "rule", "columns": "rule"}, "columns must be another axis than rows"),
        ({"seeds": []}, "seeds must be at least one"),
        ({"seeds": [1, 1]}, "seeds must be at least one, and none twice"),
        ({"seeds": [0, -1]}, r"seeds must be from 0 to 4294967295, got -1\."),
        ({"settings": {"seed_everything": 3}}, "seed_everything must be given as seeds of the sweep"),
        ({"settings": {"config": "a.yaml"}}, "config must be given as configs of the sweep"),
        ({"tune": {"config": ["a.yaml", "b.yaml"]}}, "config must be given as configs of the sweep"),
        (
            {"axes": {"trainer.default_root_dir": ["a"]}},
            "default_root_dir must be given as folder of the sweep",
        ),
        (
            {"tune": {"model.aggregator": ["Krum"]}},
            "tune must not hold what a choice of the axes gives, got model.agg",
        ),
        ({"tune_by": "test/accuracy"}, "tune_by must not be of the test"),
        ({"better": "larger"}, "better must be one of"),
        ({"ckpt_path": "first"}, "ckpt_path must be one of"),
        ({"processes": 0}, "processes must be an integer of at least 1"),
    ],
)
def test_wrong_settings_are_told(settings, message):
    with pytest.raises(SettingError, match=message):
        Sweep(**{"axes": {"rule": RULES}, **settings})


def scores(values: dict[tuple[str, str, str], float | None]) -> dict[Trial, Result]:
    """By row, column and tuned value; ``None`` for a run that was refused."""
    return {
        trial(row, column, tuned=(f"lr={lr}",)): Result(fit={} if value is None else {"val/accuracy": value})
        for (row, column, lr), value in values.items()
    }


def test_the_value_is_chosen_whose_worst_column_is_best():
    results = scores(
        {
            ("Krum", "none", "1"): 0.9,
            ("Krum", "Reverse", "1"): 0.2,
            ("Krum", "none", "2"): 0.6,
            ("Krum", "Reverse", "2"): 0.5,
            ("Mean", "none", "1"): 0.9,
            ("Mean", "Reverse", "1"): 0.1,
            ("Mean", "none", "2"): math.nan,
            ("Mean", "Reverse", "2"): 0.3,
        }
    )
    sweep = Sweep({"rule": RULES})
    chosen = best_in_the_worst_column(
        list(results), 1, results, "val/accuracy", sweep.goodness("val/accuracy")
    )
    assert {t.labels: t.tuned for t in chosen} == {
        ("Krum", "none"): ("lr=2",),
        ("Krum", "Reverse"): ("lr=2",),
        ("Mean", "none"): ("lr=1",),
        ("Mean", "Reverse"): ("lr=1",),
    }


def test_a_value_that_is_refused_in_a_column_comes_last():
    results = scores(
        {
            ("Krum", "10", "2"): 0.5,
            ("Krum", "8", "2"): 0.4,
            ("Krum", "10", "3"): 0.9,
            ("Krum", "8", "3"): None,
        }
    )
    sweep = Sweep({"rule": RULES})
    chosen = best_in_the_worst_column(
        list(results), 1, results, "val/accuracy", sweep.goodness("val/accuracy")
    )
    assert {t.tuned for t in chosen} == {("lr=2",)}


def test_what_is_tuned_by_follows_the_score():
    assert Sweep({"rule": RULES}).tune_by == "val/accuracy"
    by_loss = Sweep({"rule": RULES}, score="test/loss")
    assert (by_loss.tune_by, by_loss.curve) == ("val/loss", "val/loss")
    assert Sweep({"rule": RULES}, score="meta/val_loss").tune_by == "meta/val_loss"


def test_what_is_good_is_told_by_name():
    by_name = Sweep({"rule": RULES}, tune_by="val/loss")
    assert [by_name.goodness(name)(0.25) for name in ("test/accuracy", "val/loss")] == [0.25, -0.25]
    assert Sweep({"rule": RULES}, better="min").goodness("test/bits")(3.0) == -3.0
    assert by_name.goodness("val/loss")(math.nan) == -math.inf


def test_labels_may_be_anything(tmp_path):
    labels = ["$x_", "a|b", "two\nlines", "x" * 500, "x" * 501, "ünï", "results.csv", "true"]
    sweep = Sweep({7: {label: {} for label in labels}, "attack": {False: {}}})
    assert sweep.trials[0].labels == ("$x_", "False")
    results = {t: Result(tmp_path, {"val/loss": 1.0}) for t in sweep.trials}
    (panel,) = panels(sweep.axes, "7", "attack", "val/loss", results)
    heat_map([panel], "7", "attack", "val/loss").savefig(tmp_path / "map.png")
    curves(panel, "val/loss").savefig(tmp_path / "curves.png")
    lines = list(table(panel, "7", "val/loss", lambda value: value))
    assert {"| a\\|b | 1 |", "| two lines | 1 |"} < set(lines)
    assert all(len(folder_name(label)) <= 60 for label in labels)


def test_a_training_that_diverged_has_no_deviation():
    assert spread([math.nan, 1.0]) == "nan"
    assert spread([math.inf, 1.0]) == "inf"


def test_seeds_count_together_and_a_refused_column_not_at_all():
    results = {
        trial("Krum", "none", seed=seed, tuned=(tuned,)): Result(fit={"val/loss": value})
        for tuned, values in (("lr=1", (0.0, 1.0)), ("lr=2", (0.3, 0.4)))
        for seed, value in enumerate(values)
    }
    results[trial("Krum", "ALIE", tuned=("lr=1",))] = Result(error="z must be given")
    results[trial("Krum", "ALIE", tuned=("lr=2",))] = Result(error="z must be given")
    sweep = Sweep({"rule": RULES}, better="min")
    chosen = best_in_the_worst_column(list(results), 1, results, "val/loss", sweep.goodness("val/loss"))
    assert {t.tuned for t in chosen} == {("lr=2",)}


def results_of_two_rules() -> dict[Trial, Result]:
    values = {
        ("Mean", "none"): (0.9, 0.92),
        ("Mean", "Reverse"): (0.1, 0.1),
        ("Krum", "none"): (0.88, 0.9),
        ("Krum", "ALIE"): (0.6, 0.7),
    }
    found = {
        trial(*labels, seed=seed, tuned=("model.optimizer.lr=0.5",)): Result(
            Path("run"), {"val/accuracy": 0.0}, {"test/accuracy": value}
        )
        for labels, both in values.items()
        for seed, value in enumerate(both)
    }
    told = "num_byzantine must satisfy 2 f + 2 < M (f = 4, M = 10)."
    found |= {
        trial("Krum", "Reverse", seed=seed, tuned=("model.optimizer.lr=0.5",)): Result(error=told)
        for seed in (0, 1)
    }
    found[trial("Mean", "ALIE", tuned=("model.optimizer.lr=0.5",))] = Result(Path("run"), {"val/loss": 1.0})
    return found


def test_table():
    axes = Sweep({"rule": RULES, "attack": {"none": {}, "Reverse": {}, "ALIE": {}}}).axes
    (panel,) = panels(axes, "rule", "attack", "test/accuracy", results_of_two_rules())
    assert list(table(panel, "rule", "test/accuracy", lambda value: value)) == [
        "| rule | none | Reverse | ALIE | worst |",
        "|---|---|---|---|---|",
        "| Mean (lr=0.5) | **91 ± 1.4** | **10 ± 0** | - | 10 (Reverse) |",
        "| Krum (lr=0.5) | 89 ± 1.4 | - | **65 ± 7.1** | 65 (ALIE) |",
        "",
        "- Mean, ALIE: test/accuracy is not among what the run logs: val/loss.",
        "",
        "- Krum, Reverse: num_byzantine must satisfy 2 f + 2 < M (f = 4, M = 10).",
    ]


def test_small_values_may_be_the_good_ones():
    results = {
        trial(rule): Result(Path("run"), {"val/loss": loss}) for rule, loss in (("Mean", 2.5), ("Krum", 0.25))
    }
    sweep = Sweep({"rule": RULES}, better="min")
    (panel,) = panels(sweep.axes, "rule", None, "val/loss", results)
    assert list(table(panel, "rule", "val/loss", sweep.goodness("val/loss"))) == [
        "| rule | val/loss |",
        "|---|---|",
        "| Mean | 2.5 |",
        "| Krum | **0.25** |",
    ]


def test_further_axes_have_a_table_for_each_choice():
    results = {
        trial(rule, number, split): Result(Path("run"), {"val/loss": 1.0})
        for rule in RULES
        for number in ("0", "3")
        for split in ("IID", "ByLabel")
    }
    axes = Sweep({"rule": RULES, "f": {"0": {}, "3": {}}, "split": {"IID": {}, "ByLabel": {}}}).axes
    tables = panels(axes, "rule", "split", "val/loss", results)
    assert [panel.title for panel in tables] == ["f 0", "f 3"]
    assert all(panel.columns == ["IID", "ByLabel"] and list(panel.tuned) == list(RULES) for panel in tables)
    assert next(table(tables[1], "rule", "val/loss", lambda value: value)) == "## f 3"


def test_heat_map_shows_the_means_and_nothing_where_there_is_none():
    axes = Sweep({"rule": RULES, "attack": {"none": {}, "Reverse": {}, "ALIE": {}}}).axes
    found = panels(axes, "rule", "attack", "test/accuracy", results_of_two_rules())
    image = heat_map(found, "rule", "attack", "test/accuracy").axes[0].images[0].get_array()
    np.testing.assert_allclose(np.ma.filled(image, np.nan), [[91, 10, np.nan], [89, np.nan, 65]])


def test_heat_map_of_nothing_but_refusals(tmp_path):
    results = {trial(rule): Result(error="no") for rule in RULES}
    found = panels(Sweep({"rule": RULES}).axes, "rule", None, "val/loss", results)
    heat_map(found, "rule", "", "val/loss").savefig(tmp_path / "map.png")
    assert not curves(found[0], "val/loss").axes[0].lines


def test_curves_are_means_with_bands_over_the_rounds_that_all_seeds_have(tmp_path):
    lines = {
        "a": "step,val/accuracy,train/loss\n0,,2.0\n9,0.5,\n19,0.7,\n",
        "b": "step,val/accuracy,train/loss\n9,0.7,\n19,0.9,\n29,0.95,\n",
    }
    for name, text in lines.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(text)
    results = {
        trial("Krum", "none", seed=seed): Result(tmp_path / name, {"val/accuracy": 1.0})
        for seed, name in enumerate(lines)
    }
    results[trial("Krum", "ALIE")] = Result(error="refused")
    axes = Sweep({"rule": {"Krum": {}}, "attack": {"none": {}, "ALIE": {}}}).axes
    (panel,) = panels(axes, "rule", "attack", "val/accuracy", results)
    shown, empty = curves(panel, "val/accuracy").axes
    (line,) = shown.lines
    np.testing.assert_allclose(line.get_xydata(), [[9, 60], [19, 80]])
    low, high = (
        np.min(shown.collections[0].get_paths()[0].vertices, 0),
        np.max(shown.collections[0].get_paths()[0].vertices, 0),
    )
    deviation = np.std([50, 70], ddof=1)
    np.testing.assert_allclose([low[1], high[1]], [60 - deviation, 80 + deviation])
    assert not empty.lines


def test_a_curve_of_one_validation_is_a_point(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,val/accuracy\n9,0.5\n")
    results = {trial("Krum"): Result(tmp_path, {"val/accuracy": 0.5})}
    (panel,) = panels(Sweep({"rule": {"Krum": {}}}).axes, "rule", None, "val/accuracy", results)
    (axes,) = curves(panel, "val/accuracy").axes
    assert (axes.lines[0].get_marker(), axes.get_title()) == ("o", "")


def test_figures_are_those_of_the_last_call(tmp_path):
    results = {trial(rule, "0"): Result(tmp_path, {"val/loss": 1.0}) for rule in RULES}
    axes = Sweep({"rule": RULES, "f": ["0"]}).axes
    for rows, columns, curve, names in (
        ("rule", None, "val/loss", {"heat_map", "curves_f_0"}),
        ("rule", "f", "val/loss", {"heat_map", "curves"}),
        ("rule", "f", None, {"heat_map"}),
    ):
        tables = panels(axes, rows, columns, "val/loss", results)
        write_figures(tmp_path, tables, rows, columns, "val/loss", curve, "")
        assert {path.stem for path in (tmp_path / "figures").iterdir()} == names
        assert len(list((tmp_path / "summary").iterdir())) == 1


def test_all_that_is_logged_is_seen_but_the_counts(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,mine,val/loss,test/loss\n0,9,1.0,2.0,\n0,19,,1.0,3.0\n")
    assert last_logged(tmp_path) == {"mine": 1.0, "val/loss": 1.0}
    assert last_logged(tmp_path / "none") == {}


def test_options_that_a_file_gives(tmp_path):
    told = "model: {aggregator: {class_path: Krum, init_args: {num_byzantine: 3}}}\nnoise: {scale: 1}\nseed_everything: 2\n"
    (tmp_path / "a.yaml").write_text(told)
    (tmp_path / "b.yaml").write_bytes(b"\x89PNG")
    names = {"model.aggregator", "model.aggregator.num_byzantine", "noise.scale", "seed_everything"}
    assert given_by(str(tmp_path / "a.yaml")) == names
    assert given_by(str(tmp_path / "b.yaml")) == given_by("missing.yaml") == set()


@pytest.mark.parametrize(
    ("score", "meant"),
    [("val/acuracy", "val/accuracy"), ("accuracy", "val/accuracy"), ("loss", "train/loss or val/loss")],
)
def test_a_misspelt_score_is_told(score, meant):
    result = Result(fit={"val/accuracy": 0.5, "train/loss": 1.0, "val/loss": 1.0})
    with pytest.raises(SettingError, match=rf"got '{score}'; did you mean {meant}\?$"):
        _missing(score, result)
    told = "no pool/zero_votes; logged are train/loss, val/accuracy, val/loss"
    assert _missing("pool/zero_votes", result) == told


def test_processes_take_the_gpus_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert visible_devices() == ["4", "7"]
    begun, taken = multiprocessing.Value("i"), []
    monkeypatch.setattr("signal.signal", lambda *handler: None)
    monkeypatch.setattr("lightning_agg.sweep.process.parent_process", lambda: Parent())
    for _ in range(3):
        begin(begun, ["4", "7"])
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert taken == ["4", "7", "4"]
    begin(begun, [])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert visible_devices() == ["0", "1", "2"]


class Parent:
    """A parent that lives as long as the test."""

    def join(self):
        threading.Event().wait()
