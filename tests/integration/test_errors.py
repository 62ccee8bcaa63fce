"""Wrong settings are told before training starts, with the setting, the rule and the value."""

import gzip
import pickle
import re
from functools import partial
from urllib.error import URLError

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from runs import assert_same, run
from servers import fit, quiet_trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from lightning_agg.aggregators import Mean, Recurrent
from lightning_agg.data import DigitsPool, MNISTPool
from lightning_agg.errors import SettingError
from lightning_agg.modules import MetaLearner, ParameterServer

KRUM = ["--model.aggregator=Krum"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [*KRUM, "--model.aggregator.num_byzantine=4"],
            "Krum: num_byzantine must satisfy 2 f + 2 < M (f = 4, M = 10)",
        ),
        (
            ["--model.aggregator.num_byzantine=4"],
            "MultiKrum: num_byzantine must satisfy 2 f + 2 < M (f = 4, M = 10)",
        ),
        (
            ["--model.aggregator=TrimmedMean", "--model.aggregator.num_byzantine=5"],
            "TrimmedMean: num_byzantine must satisfy 2 f < M (f = 5, M = 10)",
        ),
        (
            ["--model.aggregator=Zeno", "--model.aggregator.num_byzantine=10"],
            "Zeno: num_byzantine must satisfy f < M (f = 10, M = 10)",
        ),
        (
            ["--model.aggregator=Zeno", "--model.aggregator.num_byzantine=3", "--data.public_size=5"],
            "data.public_size must be at least the public samples that Zeno needs in a round (public_size = 5",
        ),
        (
            [*KRUM, "--model.aggregator.num_byzantine=3", "--model.participation=0.5"],
            "model.participation draws M = 5 of 10 workers for a round, for which model.aggregator is not defined: Krum: num_byzantine must"
            " satisfy 2 f + 2 < M (f = 3, M = 5)",
        ),
        (
            ["--byzantine.num_byzantine=10"],
            "num_byzantine must be below data.pool_size (num_byzantine = 10, pool_size = 10)",
        ),
        (
            ["--byzantine.num_byzantine=-1"],
            "byzantine.num_byzantine must be an integer of at least 0, got -1",
        ),
        (["--byzantine.num_byzantine=[]"], "byzantine.num_byzantine must be a number or a list"),
        (["--byzantine.attack=null"], "byzantine.attack must be set"),
        (["--byzantine.first_round=5", "--byzantine.last_round=4"], "0 <= first_round <= last_round"),
        (["--byzantine.attack=ALittleIsEnough", "--byzantine.num_byzantine=7"], "(f = 7, M = 10)"),
        (["--noise.scale=-1"], "noise.scale must be finite and at least 0, got -1"),
        (["--data.pool_size=2000"], "pool_size = 2000, min_size = 1, samples = 1137"),
        (
            ["--trainer.default_root_dir=/dev/null"],
            "trainer.default_root_dir must be a folder in which others can be made, got /dev/null: Not a directory",
        ),
        (
            ["--model.aggregator=External", "--model.aggregator.rule=runs_models.NeedsWhatIsMissing"],
            "class_path must name a class whose packages are installed: No module named 'not_installed'",
        ),
        (["--data.pool_size=0"], "data.pool_size must be an integer of at least 1, got 0"),
        (
            ["--data.batch_size=120"],
            "data.batch_size must not exceed the smallest shard (batch_size = 120, worker",
        ),
        (["--data.batch_size=0"], "data.batch_size must be an integer of at least 1, got 0"),
        (["--data.val_size=2000"], "(val_size = 2000, public_size = 100, samples = 1437)"),
        (["--data.classes=[3, 12]"], "data.classes must be distinct labels between 0 and 9, got [3, 12]"),
        (["--data.classes=[]"], "data.classes must be distinct labels"),
        (["--data=MNISTPool", "--data.root=nowhere"], "data.download is false: set data.download to true"),
        (
            ["--data=CIFAR10Pool", "--data.root=nowhere"],
            "data.root must hold the files of CIFAR10 (root = nowhere)",
        ),
        (
            ["--data=ImageFolderPool", "--data.root=nowhere"],
            "data.root must be a folder with one folder of images",
        ),
        (
            ["--model.optimizer.lr=-1"],
            "model.optimizer must be given values that it accepts: Invalid learning",
        ),
        (["--trainer.enable_checkpointing=false"], "trainer.enable_checkpointing must not be false"),
        (["--model.momentum=1"], "model.momentum must be in [0, 1), got 1"),
        (["--model.local_steps=0"], "model.local_steps must be an integer of at least 1, got 0"),
        (
            ["--byzantine.attack=ALittleIsEnough", "--model.participation=0.5"],
            "model.participation draws 5 of 10 workers, up to 3 of them attackers, for which byzantine.attack is not"
            " defined: ALittleIsEnough.z must be given",
        ),
        (["--model.optimizer=LBFGS"], "model.optimizer must take dense gradients and no closure"),
        (
            ["--model.lr_scheduler=torch.optim.lr_scheduler.StepLR", "--model.lr_scheduler.step_size=0"],
            "model.lr_scheduler must be given values that it accepts",
        ),
        (
            [
                "--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
                "--model.lr_scheduler.factor=2",
            ],
            "model.lr_scheduler must be given values that it accepts: Factor should be < 1.0",
        ),
        (["--trainer.val_check_interval=0"], "trainer.val_check_interval must be above 0, got 0"),
        (["--trainer.limit_train_batches=0"], "trainer.limit_train_batches must not be 0 in fit"),
        (["--trainer.log_every_n_steps=-1"], "trainer.log_every_n_steps must be at least 0, got -1"),
        (["--trainer.num_nodes=2"], "trainer.strategy must be worker_parallel where"),
        (["--model.num_threads=100000"], "model.num_threads must be at most 4096, got 100000"),
        (
            [
                "--model.lr_scheduler=torch.optim.lr_scheduler.LambdaLR",
                "--model.lr_scheduler.lr_lambda=math.sqrt",
            ],
            "model.lr_scheduler must be given values that it accepts: 'builtin_function_or_method'",
        ),
        (
            ["--trainer.callbacks+=RunCheckpoint"],
            "trainer.callbacks must not have a RunCheckpoint: every run has one",
        ),
        (
            [
                "--trainer.callbacks+=EarlyStopping",
                "--trainer.callbacks.monitor=val/loss",
                "--trainer.callbacks.check_on_train_epoch_end=true",
            ],
            "EarlyStopping.check_on_train_epoch_end must not be true",
        ),
        (["--model.participation=0"], "model.participation must be in (0, 1], got 0"),
        (["--trainer.max_steps=-1"], "trainer.max_steps must be set, to the number of rounds"),
        (["--checkpoint.every_n_rounds=0"], "checkpoint.every_n_rounds must be at least 1, got 0"),
        (
            ["--checkpoint.monitor=val/los"],
            "checkpoint.monitor must be a value logged in validation, got 'val/los'",
        ),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"],
            "trainer.callbacks.monitor must be a value logged in validation, got 'val_loss'",
        ),
        (
            [
                "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau",
                "--model.lr_scheduler.monitor=val/los",
            ],
            "model.lr_scheduler.monitor must be a value logged in validation, got 'val/los'",
        ),
        (
            ["--trainer.callbacks+=ByzantineInjection", "--trainer.callbacks.num_byzantine=0"],
            "there must be one ByzantineInjection, got 2",
        ),
        (
            ["--trainer.callbacks+=EMAWeightAveraging"],
            "trainer.callbacks must not have a EMAWeightAveraging",
        ),
        (
            ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
            "trainer.callbacks must not have a StochasticWeightAveraging",
        ),
        (
            ["--trainer.callbacks+=BatchSizeFinder"],
            "trainer.callbacks must not have a BatchSizeFinder",
        ),
        (
            ["--trainer.devices=2"],
            "trainer.strategy must be worker_parallel where trainer.devices or trainer.num_nodes are several",
        ),
        (["--trainer.devices=[0, 1]"], "(strategy = auto, devices = [0, 1], num_nodes = 1)"),
        (["--seed_everything=-1"], "seed_everything must be from 0 to 4294967295, got -1"),
        (["--trainer.accelerator=foo"], "trainer: You selected an invalid accelerator name"),
        (
            ["--byzantine.val_attack=Drop"],
            "byzantine.val_attack and byzantine.val_num_byzantine must be null in ParameterServer",
        ),
        (
            ["--ckpt_path=nowhere.ckpt"],
            "ckpt_path must be last, best, a run's folder or an existing file, got nowhere.ckpt",
        ),
        (["--ckpt_path=best"], "ckpt_path must name a checkpoint: there is no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_settings(options, message, tmp_path):
    with pytest.raises(SettingError, match=re.escape(message)):
        run("fit", tmp_path, "--trainer.max_steps=2", *options)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("runs_models.NoClasses", r"must be a class of models whose parameter num_classes, .*TypeError"),
        (
            "torchvision.models.ConvNeXt",
            r"must be a class of models whose parameter num_classes, .*TypeError",
        ),
        # Their first parameters are others: weights to be fetched, a growth rate.
        ("torchvision.models.resnet18", r"must not use batch normalisation"),
        ("torchvision.models.DenseNet", r"must not use batch normalisation"),
        ("runs_models.Counting", r"must not change its buffers in a forward pass; Counting changes seen"),
        ("runs_models.Frozen", r"must have a parameter to train; of Frozen none requires a gradient"),
        ("runs_models.Detached", r"must give an output with a gradient; that of Detached depends on none"),
    ],
)
def test_models_of_another_kind_are_told(model, message, tmp_path):
    with pytest.raises(SettingError, match=f"model.model {message}"):
        run("fit", tmp_path, f"--model.model={model}", "--trainer.max_steps=2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer": SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)},
            "model.optimizer must make an optimizer of the parameters, .* got one that is made: SGD",
        ),
        (
            {"optimizer": partial(SGD, lrr=0.1)},
            "model.optimizer must be given values that it accepts: .*'lrr'",
        ),
        (
            {"lr_scheduler": StepLR},
            "model.lr_scheduler must be given values that it accepts: .*missing .*'step_size'",
        ),
    ],
)
def test_so_is_from_python_what_makes_nothing(settings, message):
    with pytest.raises(SettingError, match=message):
        fit(0, DigitsPool(), **settings)


@pytest.mark.parametrize("averaging", [EMAWeightAveraging(), StochasticWeightAveraging(0.1)])
@pytest.mark.parametrize("module", [ParameterServer(Mean()), MetaLearner(Recurrent())])
def test_averages_of_the_weights_are_refused_from_python(module, averaging):
    name = type(averaging).__name__
    with pytest.raises(SettingError, match=f"trainer.callbacks must not have a {name}"):
        quiet_trainer(1, [averaging]).fit(module, datamodule=DigitsPool())


def test_a_model_may_take_the_number_of_classes_by_name(tmp_path):
    cli = run("fit", tmp_path, "--model.model=runs_models.Late", "--trainer.max_steps=2")
    assert [tuple(p.shape) for p in cli.model.model.parameters()] == [(7, 64), (7,), (10, 7), (10,)]


@pytest.mark.parametrize("setting", ["model.model", "model.worker_models"])
def test_batch_norm_is_refused(setting, tmp_path):
    value = "[runs_models.Normed]" if setting.endswith("s") else "runs_models.Normed"
    with pytest.raises(SettingError, match=f"{setting} must not use batch.*GroupNorm"):
        run("fit", tmp_path, f"--{setting}={value}", "--trainer.max_steps=2")


def test_a_gradient_scaler_is_refused(tmp_path):
    """Lightning makes one for 16-mixed on CUDA."""
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    trainer = L.Trainer(
        max_steps=2, accelerator="cpu", logger=False, default_root_dir=tmp_path, plugins=[precision]
    )
    server = ParameterServer(Mean())
    with pytest.raises(SettingError, match=r"trainer.precision must be bf16-mixed.*got 16-mixed"):
        trainer.fit(server, datamodule=DigitsPool())


def test_a_model_that_draws_random_numbers_is_refused(tmp_path):
    with pytest.raises(SettingError, match="Forgetful does in its forward pass"):
        run("fit", tmp_path, "--model.model=runs_models.Forgetful", "--trainer.max_steps=2")


def test_a_model_of_the_wrong_shape_is_refused(tmp_path):
    with pytest.raises(SettingError, match=re.escape("model.model must accept inputs of shape (1, 8, 8)")):
        run("fit", tmp_path, "--model.model=runs_models.Wide", "--trainer.max_steps=2")


def test_a_truncated_data_file_is_told(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (raw / name).write_bytes(bytes([0, 0, 8, 3 if "images" in name else 1, 0, 0, 0, 9]) + bytes(11))
        (raw / f"{name}.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(SettingError, match="truncated or damaged"):
        run("fit", tmp_path / "run", "--data=MNISTPool", f"--data.root={tmp_path}")


def test_what_could_not_be_fetched_is_not_called_damaged(tmp_path, monkeypatch):
    def no_network(root, train, download):
        raise URLError("no network")

    monkeypatch.setattr(MNISTPool, "dataset", no_network)
    no_network.__name__ = "MNIST"
    with pytest.raises(SettingError, match=r"data.download could not fetch .* MNIST .*no network"):
        run("fit", tmp_path, "--data=MNISTPool", f"--data.root={tmp_path}", "--data.download=true")


class Code:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_bad_checkpoints_are_refused(tmp_path, capsys):
    run("fit", tmp_path, "--trainer.max_steps=3")
    good = tmp_path / "version_0" / "checkpoints" / "last.ckpt"

    truncated = tmp_path / "truncated.ckpt"
    truncated.write_bytes(good.read_bytes()[:5000])
    code = tmp_path / "code.ckpt"
    torch.save({"state_dict": Code(), "global_step": 0}, code)
    pickled = tmp_path / "pickled.ckpt"
    pickled.write_bytes(pickle.dumps(Code()))
    weights = tmp_path / "weights.ckpt"
    torch.save({"weight": torch.zeros(3)}, weights)
    capsys.readouterr()
    for path, message in (
        (truncated, "truncated"),
        (code, "holds code"),
        (pickled, "holds code"),
        (weights, "lacks global_step, pytorch-lightning_version, state_dict"),
    ):
        with pytest.raises(SettingError, match=message):
            run("fit", tmp_path, f"--ckpt_path={path}")
    assert "this must not run" not in capsys.readouterr().out
    with pytest.raises(SettingError, match=re.escape("checkpoint of this configuration")):
        run(
            "fit", tmp_path, f"--ckpt_path={good}", "--model.model.hidden_sizes=[16]", "--trainer.max_steps=5"
        )
    with pytest.raises(SettingError, match="there is no"):
        run("test", tmp_path / "empty")


def test_a_module_is_loaded_by_a_trainer(tmp_path):
    path = tmp_path / "trained.ckpt"
    trained = fit(2, DigitsPool())
    trained.trainer.save_checkpoint(path)
    with pytest.raises(
        SettingError, match=re.escape("use Trainer().validate(module, datamodule=..., ckpt_path=...)")
    ):
        ParameterServer.load_from_checkpoint(path, aggregator=Mean())
    server = ParameterServer(Mean())
    quiet_trainer(0).validate(server, datamodule=DigitsPool(), ckpt_path=path)
    assert_same(server.model.state_dict(), trained.model.state_dict())


def test_the_quickstart_itself_is_right(tmp_path):
    assert run("fit", tmp_path, "--trainer.max_steps=2").trainer.global_step == 2


def test_a_rule_that_makes_the_step_wants_no_momentum_beside_it(tmp_path):
    rule = ["--model.aggregator=Recurrent", "--model.aggregator.weights=mnist_arnn_lstm"]
    with pytest.warns(UserWarning, match="Recurrent makes the whole step itself, got SGD with momentum 0.9"):
        run("fit", tmp_path, *rule, "--trainer.max_steps=1")


def test_a_network_without_weights_is_told(tmp_path):
    rule = ["--model.aggregator=Recurrent", "--model.optimizer.momentum=0"]
    with pytest.warns(
        UserWarning,
        match="weights should name trained .* mnist_rnn_lstm.* the network is untrained, or its judge",
    ):
        run("fit", tmp_path, *rule, "--trainer.max_steps=1")


def test_the_rule_that_attackers_expect_is_checked_for_those_who_take_part(tmp_path):
    options = [
        "--model.participation=0.6", "--model.aggregator=CoordinateMedian", "--byzantine.attack=LineSearch",
        "--byzantine.attack.attack=InnerProduct", "--byzantine.attack.aggregator=Krum",
        "--byzantine.attack.aggregator.num_byzantine=3",
    ]  # fmt: skip
    with pytest.raises(
        SettingError, match=re.escape("LineSearch.aggregator: Krum: num_byzantine must satisfy")
    ):
        run("fit", tmp_path, *options, "--trainer.max_steps=3")
    assert not list(tmp_path.glob("version_*"))
