"""The aggregators that are shipped."""

import hashlib
import re
from pathlib import Path

import pytest
import yaml

from lightning_agg import pretrained
from lightning_agg.aggregators import Recurrent
from lightning_agg.errors import SettingError

CONFIGS = Path(__file__).parents[2] / "configs" / "meta"
PROMISED = [f"mnist_{kind}_{cell}" for kind in ("rnn", "arnn") for cell in ("lstm", "gru")]


def test_all_that_is_promised_is_there():
    assert set(PROMISED) <= set(pretrained.names())


@pytest.mark.parametrize("name", pretrained.names())
def test_each_loads_and_its_card_is_of_these_weights(name):
    rule = Recurrent(weights=name)
    assert rule.architecture["loss_information"] == ("arnn" in name)
    assert rule.architecture["cell"] == ("gru" if "gru" in name else "lstm")
    data = (pretrained.FOLDER / f"{name}.safetensors").read_bytes()
    card = (pretrained.FOLDER / f"{name}.md").read_text()
    assert f"sha256 `{hashlib.sha256(data).hexdigest()}`" in card
    assert "lightning-agg fit -c configs/meta/" in card


def test_the_judges_second_training_meets_the_attacks_of_the_first():
    first, second = (
        yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["byzantine"]["attack"]
        for name in ("mnist_judge", "mnist_judge_sign_flips")
    )
    added = [attack for attack in second if attack not in first]
    assert [attack for attack in second if attack not in added] == first
    assert [attack["init_args"] for attack in added] == [
        {"of": "own", "scale": 0.5},
        {"of": "own", "scale": 1.5},
    ]


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(
        SettingError,
        match=re.escape(f"must be an existing file or one of {', '.join(pretrained.names())}, got"),
    ):
        Recurrent(weights="mnist_lstm")
