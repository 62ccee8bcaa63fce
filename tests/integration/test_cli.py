"""The command line as a user meets it."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.callbacks.progress.progress_bar import get_standard_metrics
from runs import QUICKSTART, ROOT, SHARED_DATA, arguments, run

from lightning_agg import __version__
from lightning_agg.cli import main
from lightning_agg.console import console
from lightning_agg.errors import SettingError
from lightning_agg.sweep.command import main as sweep_main

CONFIGS = ROOT / "configs"
FRAGMENTS = sorted(
    path for group in ("aggregator", "attack", "data") for path in (CONFIGS / group).glob("*.yaml")
)
NOISE = sorted((CONFIGS / "noise").glob("*.yaml"))


def printed(capsys, *args: str) -> dict:
    with pytest.raises(SystemExit) as ended:
        main([*args, "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_fragments_layer_over_the_quickstart(fragment, tmp_path):
    cli = main(
        [
            *arguments("fit", tmp_path, "-c", str(fragment), "--trainer.fast_dev_run=1"),
            "--model.gradient_samples=5",
        ]
    )
    assert cli.trainer.global_step == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the original data files are not beside this checkout")
def test_train_configs_run(name, tmp_path):
    config = str(CONFIGS / "train" / f"{name}.yaml")
    more = [
        "--trainer.fast_dev_run=1",
        f"--data.root={SHARED_DATA}",
        "--data.download=false",
        "--model.gradient_samples=5",
    ]
    assert run("fit", tmp_path, *more, config=config).trainer.global_step == 1


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the original data files are not beside this checkout")
def test_workers_may_have_other_models(tmp_path):
    more = [
        "-c",
        str(CONFIGS / "worker_models" / "four_mlps.yaml"),
        "--trainer.fast_dev_run=1",
        f"--data.root={SHARED_DATA}",
        "--data.download=false",
        "--model.gradient_samples=5",
    ]
    cli = run("fit", tmp_path, *more, config=str(CONFIGS / "train" / "mnist.yaml"))
    kinds = [sum(p.numel() for p in model.parameters()) for model in cli.model.worker_models.models]
    assert kinds == [15910, 31810, 16330, 15910]


@pytest.mark.parametrize("path", NOISE, ids=lambda path: path.stem)
def test_noise_configs_run(path, tmp_path):
    more, images = ["--trainer.fast_dev_run=1"], path.stem.startswith(("mnist", "cifar"))
    if images:
        if not SHARED_DATA.is_dir():
            pytest.skip("the original data files are not beside this checkout")
        small = [] if path.stem == "mnist_5" else ["--data.batch_size=4"]
        more += [f"--data.root={SHARED_DATA}", "--data.download=false", "--model.gradient_samples=1", *small]
        more += ["--data.eval_batch_size=20"]
    cli = run("fit", tmp_path, *more, config=str(path))
    assert cli.trainer.global_step == 1
    if path.stem == "mnist_5":
        assert [len(shard) for shard in cli.datamodule.pool.shards] == pytest.approx([100] * 5, abs=15)


def test_printed_config_is_a_config(capsys, tmp_path):
    full = printed(
        capsys, "fit", "-c", QUICKSTART, "--model.aggregator", "Krum", "--model.aggregator.num_byzantine", "2"
    )
    assert full["model"]["init_args"]["aggregator"] == {
        "class_path": "lightning_agg.aggregators.Krum",
        "init_args": {"num_byzantine": 2, "neighbors": "paper", "power": 2},
    }
    path = tmp_path / "full.yaml"
    path.write_text(yaml.safe_dump(full))
    assert printed(capsys, "fit", "-c", str(path)) == full


@pytest.mark.parametrize("command", [main, sweep_main], ids=["fit", "sweep"])
def test_a_configuration_that_is_no_text_is_told(command, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG")
    with pytest.raises(SettingError, match="config must name text files in YAML"):
        command([*(["fit"] if command is main else []), "-c", str(path)])


def test_bare_names_choose_classes(capsys):
    full = printed(
        capsys, "fit", "-c", QUICKSTART, "--model.aggregator", "TrimmedMean", "--model.aggregator.num_byzantine=1",
        "--byzantine.attack", "ALittleIsEnough", "--data.partitioner", "Dirichlet", "--data.partitioner.alpha=0.1",
    )  # fmt: skip
    assert full["model"]["init_args"]["aggregator"]["class_path"] == "lightning_agg.aggregators.TrimmedMean"
    assert full["byzantine"]["attack"]["class_path"] == "lightning_agg.attacks.ALittleIsEnough"
    assert full["data"]["init_args"]["partitioner"]["init_args"]["alpha"] == 0.1


CHAIN = """
model:
  init_args:
    aggregator:
      class_path: PreAggregated
      init_args:
        steps:
          - class_path: {step}
          - class_path: NearestNeighborMixing
            init_args: {{num_byzantine: 1}}
        aggregator:
          class_path: MultiKrum
          init_args: {{num_byzantine: 1}}
"""


def test_preaggregators_are_chained_by_their_bare_names(capsys, tmp_path):
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN.format(step="Bucketing\n            init_args: {bucket_size: 2}"))
    full = printed(capsys, "fit", "-c", QUICKSTART, "-c", str(path))
    chain = full["model"]["init_args"]["aggregator"]
    assert chain["class_path"] == "lightning_agg.aggregators.PreAggregated"
    names = [step["class_path"].rpartition(".")[2] for step in chain["init_args"]["steps"]]
    assert names == ["Bucketing", "NearestNeighborMixing"]
    assert chain["init_args"]["aggregator"]["init_args"]["num_byzantine"] == 1
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(full))
    assert printed(capsys, "fit", "-c", str(again)) == full
    cli = main(
        arguments("fit", tmp_path, "-c", str(path), "--trainer.fast_dev_run=1", "--model.gradient_samples=5")
    )
    assert cli.model.aggregator.check(10) is None


def test_a_chain_that_leaves_too_few_rows_is_refused(tmp_path):
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN.format(step="Bucketing\n            init_args: {bucket_size: 3}"))
    with pytest.raises(SettingError) as error:
        main(arguments("fit", tmp_path, "-c", str(path), "--trainer.fast_dev_run=1"))
    assert str(error.value) == (
        "PreAggregated: MultiKrum: num_byzantine must satisfy 2 f + 2 < M (f = 1, M = 4) for the rows that the"
        " steps leave (pool size M = 10)."
    )


def test_class_help_is_the_docstring(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "ParameterServer"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Worker momentum" in text
    assert "federated averaging" in text
    with pytest.raises(SystemExit):
        main(["fit", "--data.help", "MNISTPool"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Number M of workers" in text
    assert "Fetch the files" in text


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--help"], ["fit", "validate", "test", "predict", "sweep --help", "lightning-agg list"]),
        (["--version"], [f" {__version__}\n"]),
        (["list", "data"], ["data, --data:", "  MNISTPool"]),
        (["doctor"], ["ok     torch ", "nothing wrong"]),
        (["sweep", "--help"], ["usage: lightning-agg sweep", "Every combination of the choices"]),
    ],
    ids=lambda value: value[0],
)
def test_the_console_tells_what_there_is(args, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-agg", *args])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with contextlib.suppress(SystemExit):
        console()
    printed = capsys.readouterr().out
    assert all(text in printed for text in told)


@pytest.mark.slow
def test_modules_can_be_imported_first():
    subprocess.run([sys.executable, "-c", "import lightning_agg.modules"], cwd=ROOT, check=True)


def test_a_wrong_setting_is_told_in_one_paragraph(tmp_path, monkeypatch):
    args = arguments("fit", tmp_path, "--model.aggregator=Krum", "--model.aggregator.num_byzantine=7")
    monkeypatch.setattr(sys, "argv", ["lightning-agg", *args])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as ended:  # with a text, which Python then prints with an exit status of 1
        console()
    assert ended.value.code == "error: Krum: num_byzantine must satisfy 2 f + 2 < M (f = 7, M = 10)."


@pytest.mark.slow
def test_a_reader_who_goes_is_no_error():
    """As with ``lightning-agg list | head -1``."""
    script = str(Path(sys.executable).with_name("lightning-agg"))
    with subprocess.Popen(
        [script, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as listing:
        listing.stdout.close()
        assert listing.stderr.read() == ""
    assert listing.returncode == 128 + signal.SIGPIPE


@pytest.mark.slow
def test_a_rule_of_ones_own_is_found_in_the_working_directory(tmp_path):
    """By the installed script: ``cli.py`` is what the tests of killed runs and of several processes start."""
    (tmp_path / "my_rules.py").write_text(
        "from lightning_agg.aggregators import Aggregator\n"
        "class Midrange(Aggregator):\n"
        "    def forward(self, gradients, context):\n"
        "        return (gradients.amin(0) + gradients.amax(0)) / 2\n"
    )
    args = arguments("fit", tmp_path, "--model.aggregator=my_rules.Midrange", "--trainer.max_steps=2")
    script = str(Path(sys.executable).with_name("lightning-agg"))
    done = subprocess.run([script, *args], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not validated: training ended before the next validation" in done.stdout


def test_a_test_tells_of_other_settings_than_those_of_the_training(tmp_path):
    options = ["--trainer.max_steps=3", "--trainer.val_check_interval=3"]
    run("fit", tmp_path, *options, "--model.aggregator=Krum", "--model.aggregator.num_byzantine=3")
    with pytest.warns(UserWarning, match="model.aggregator was 'Krum' and is 'Mean'"):
        run("test", tmp_path, "--model.aggregator=Mean")
    own = str(tmp_path / "version_0" / "config.yaml")
    run("test", tmp_path, config=own)


def test_null_is_none_in_a_class_in_a_class_too(capsys):
    given = ("--model.aggregator=Recurrent", "--model.aggregator.weights=null")
    rule = printed(capsys, "fit", "-c", QUICKSTART, *given)["model"]["init_args"]["aggregator"]
    assert rule["init_args"]["weights"] is None


def test_options_win_over_files_wherever_they_stand(capsys):
    before = printed(capsys, "fit", "--trainer.max_steps=7", "-c", QUICKSTART, "--byzantine.num_byzantine=1")
    after = printed(capsys, "fit", "-c", QUICKSTART, "--trainer.max_steps=7", "--byzantine.num_byzantine=1")
    assert before == after
    assert (after["trainer"]["max_steps"], after["byzantine"]["num_byzantine"]) == (7, 1)


@pytest.mark.parametrize("attack", ["SignFlip", "InnerProduct", "Disguise"])
def test_an_attack_named_anew_has_its_own_strength(attack, capsys):
    named = [f"--byzantine.attack={attack}", *(["--byzantine.attack.attack=Drop"] * (attack == "Disguise"))]
    usual = printed(capsys, "fit", "-c", str(CONFIGS / "train" / "mnist.yaml"), *named)
    assert (
        printed(capsys, "fit", "-c", QUICKSTART, *named)["byzantine"]["attack"]
        == usual["byzantine"]["attack"]
    )


def test_the_end_of_a_run_is_told(tmp_path, capsys):
    options = ["--trainer.val_check_interval=4", "--model.gradient_samples=0"]
    run("fit", tmp_path, *options, "--trainer.max_steps=6")
    told = capsys.readouterr().out
    assert "validation accuracy: 0." in told
    assert "(after 4 of 6 rounds)" in told
    run("fit", tmp_path, *options, "--trainer.max_steps=6", "--ckpt_path=last")
    assert "nothing left to train: the run has had its 6 rounds" in capsys.readouterr().out
    run("fit", tmp_path, *options, "--trainer.max_steps=7", "--ckpt_path=last")
    assert "not validated: training ended before the next validation" in capsys.readouterr().out
    run(
        "fit",
        tmp_path / "other",
        *options,
        "--trainer.max_steps=4",
        "--trainer.limit_val_batches=0",
        "--checkpoint.monitor=null",
    )
    assert "not validated: trainer.limit_val_batches is 0" in capsys.readouterr().out
    run("fit", tmp_path, *options, "--trainer.max_steps=8", "--ckpt_path=last")
    told = capsys.readouterr().out
    assert "validation accuracy: 0." in told
    assert "after" not in told
    run("validate", tmp_path, "--model.gradient_samples=0")
    assert "validation accuracy: 0." in capsys.readouterr().out


def test_who_attacks_is_told(tmp_path, caplog):
    attacks = [
        "--byzantine.attack=[Reverse,SignFlip]",
        "--byzantine.num_byzantine=[2,3]",
        "--byzantine.fixed=true",
    ]
    cli = run("fit", tmp_path, *attacks, "--trainer.max_steps=1", "--model.gradient_samples=0")
    (injection,) = (callback for callback in cli.trainer.callbacks if hasattr(callback, "attacks"))
    number = len(injection.byzantine)
    workers = ", ".join(map(str, range(number)))
    assert (
        f"Byzantine: {type(injection.attack).__name__}, drawn from 2 attacks by {number} of 10 workers ({workers})"
        in caplog.text
    )


def test_an_attack_that_begins_after_the_end_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"or nobody attacks \(first_round = 3, max_steps = 3\)"):
        run("fit", tmp_path, "--trainer.max_steps=3", "--byzantine.first_round=3")


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--model.local_lr=0.2", r"model.local_lr is set, .* \(local_lr = 0.2, local_steps = 1,"),
        (
            "--noise.distribution=laplace",
            r"noise.distribution is set, .* \(scale = 0.0, distribution = laplace\)",
        ),
    ],
)
def test_a_setting_that_nothing_asks_for_is_told(option, told, tmp_path):
    with pytest.warns(UserWarning, match=told):
        run("fit", tmp_path, "--trainer.max_steps=1", option)


def test_an_attack_of_nobody_is_told(tmp_path, caplog):
    run("fit", tmp_path, "--trainer.max_steps=1", "--byzantine.num_byzantine=0")
    assert "Byzantine: Reverse by nobody, as byzantine.num_byzantine is 0" in caplog.text


def test_the_bar_names_the_run(tmp_path):
    run("fit", tmp_path, "--trainer.max_steps=1")
    cli = run("fit", tmp_path, "--trainer.max_steps=1")
    assert get_standard_metrics(cli.trainer)["v_num"] == "1"
