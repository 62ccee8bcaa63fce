"""The report on a machine: what is wrong is told, and is the exit status."""

import json
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import pytest
import torch

from lightning_agg import catalog, doctor, pretrained


def examine(capsys, *args):
    """Exit status and what is told, by name."""
    with pytest.raises(SystemExit) as ended:
        doctor.main([*args, "--json"])
    return ended.value.code, {f["name"]: f for f in json.loads(capsys.readouterr().out)}


def pretend(monkeypatch, name, found):
    def told(asked):
        if asked != name:
            return version(asked)
        if found is None:
            raise PackageNotFoundError(asked)
        return found

    monkeypatch.setattr(doctor, "version", told)


def test_a_machine_on_which_the_tests_run_lacks_nothing(capsys):
    status, found = examine(capsys)
    assert status == 0
    assert found["torch"] == {"name": "torch", "told": version("torch"), "wrong": False}
    assert {f"weights {name}" for name in pretrained.names()} <= set(found)
    with pytest.raises(SystemExit):
        doctor.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing wrong"
    assert len(lines) == len(found) + 2


@pytest.mark.parametrize(
    ("found", "told"),
    [("2.0.1", "2.0.1, must be lightning<3,>=2.5"), (None, "not installed, must be lightning<3,>=2.5")],
)
def test_a_package_that_is_too_old_or_missing(found, told, monkeypatch, capsys):
    pretend(monkeypatch, "lightning", found)
    status, findings = examine(capsys)
    assert status == 1
    assert findings["lightning"] == {"name": "lightning", "told": told, "wrong": True}
    assert sum(f["wrong"] for f in findings.values()) == 1


def test_a_peer_may_be_missing_and_the_package_may_not(monkeypatch, capsys):
    pretend(monkeypatch, "byzfl", None)
    assert examine(capsys)[1]["byzfl"]["told"].startswith("not installed")
    pretend(monkeypatch, "lightning_agg", None)
    status, findings = examine(capsys)
    assert (status, findings["lightning_agg"]["wrong"]) == (1, True)


def test_a_plugin_that_cannot_be_imported(monkeypatch, capsys):
    plugins = [SimpleNamespace(name=name, value=f"{name}_rules") for name in ("good", "bad")]
    faults = zip(plugins, ["", "ModuleNotFoundError: no"], strict=True)
    monkeypatch.setattr(catalog, "import_plugins", lambda: faults)
    status, findings = examine(capsys)
    assert status == 1
    assert findings["plugin good"] == {"name": "plugin good", "told": "good_rules", "wrong": False}
    assert findings["plugin bad"]["told"] == "bad_rules: ModuleNotFoundError: no"


def test_damaged_weights(tmp_path, monkeypatch, capsys):
    whole = pretrained.locate("mnist_rnn_gru").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "whole.safetensors").write_bytes(whole)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    status, findings = examine(capsys)
    assert status == 1
    assert [findings[f"weights {name}"]["wrong"] for name in ("cut", "whole")] == [True, False]


def test_accelerators_are_named(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert examine(capsys)[1]["accelerators"]["told"] == "card 0, card 1"
