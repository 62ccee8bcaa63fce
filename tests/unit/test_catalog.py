"""What there is to choose from."""

import json

import pytest
from runs import QUICKSTART

from lightning_agg import aggregators, catalog, pretrained
from lightning_agg.aggregators import Aggregator
from lightning_agg.cli import main

RULE = '''
from lightning_agg.aggregators import Aggregator

class Lowest(Aggregator):
    """The smallest value of each coordinate,
    as :math:`\\\\min_i x_i`.

    More.
    """

    def forward(self, gradients, context):
        return gradients.amin(0)
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package that has registered a rule."""
    (tmp_path / "plugged_rules.py").write_text(RULE)
    told = tmp_path / "plugged_rules-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-rules\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[lightning_agg]\nrules = plugged_rules\n")
    monkeypatch.syspath_prepend(tmp_path)
    return told


def test_every_family_is_listed(capsys):
    catalog.main(["--json"])
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == {*catalog.FAMILIES, "weights"}
    shown = {entry["name"] for entry in listed["aggregators"]}
    classes = {name for name in aggregators.__all__ if isinstance(getattr(aggregators, name), type)}
    abstract = {"Aggregator", "SelectingAggregator", "WeightedAggregator"}
    assert {
        name for name in classes if issubclass(getattr(aggregators, name), Aggregator)
    } - shown == abstract
    assert [entry["value"] for entry in listed["weights"]] == pretrained.names()
    for entry in (entry for entries in listed.values() for entry in entries):
        assert entry["summary"]
        assert not set("`\\") & set(entry["summary"])
    assert {"MLP", "ConvNet"} < {entry["name"] for entry in listed["models"]}
    assert "Linear" not in {entry["name"] for entry in listed["models"]}


def test_families_by_name(capsys):
    catalog.main(["weights", "data"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "weights, --model.aggregator.weights:"
    words = [" ".join(line.split()) for line in lines]
    assert "mnist_arnn_gru ARNN of GRU cells, workers in trust order" in words
    assert "mnist_arnn_judge_gru ARNN of GRU cells, workers in trust order, trust learned" in words
    assert "data, --data:" in lines
    with pytest.raises(SystemExit):
        catalog.main(["datas"])
    assert "family must be one of aggregators, " in capsys.readouterr().err


def test_one_of_a_family_is_the_family(capsys):
    catalog.main(["attack"])
    singular = capsys.readouterr().out
    catalog.main(["attacks"])
    assert singular == capsys.readouterr().out != ""


def test_a_registered_package_is_known_by_its_names(plugin, capsys):
    catalog.main(["aggregators"])
    assert "The smallest value of each coordinate, as min_i x_i.\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fit", "-c", QUICKSTART, "--model.aggregator=Lowest", "--print_config"])
    assert "class_path: plugged_rules.Lowest" in capsys.readouterr().out


def test_a_package_that_cannot_be_imported_stops_nothing(plugin):
    (plugin / "entry_points.txt").write_text("[lightning_agg]\nrules = not_there\n")
    with pytest.warns(UserWarning, match="the plugin not_there cannot be imported: ModuleNotFoundError"):
        catalog.load_plugins()


def test_markup_is_left_out():
    text = "Rows longer than :math:`\\tau`,\nas :class:`~lightning_agg.aggregators.Krum` or ``Mean``."
    assert catalog.plain(text) == "Rows longer than τ, as Krum or Mean."
