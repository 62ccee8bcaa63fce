"""What jsonargparse does not accept, told in one line."""

import re

import pytest
from runs import QUICKSTART, ROOT

from lightning_agg.cli import main
from lightning_agg.errors import SettingError
from lightning_agg.refusals import require_subcommand
from lightning_agg.sweep.command import main as sweep_main

DIGITS = "pool_size, batch_size, partitioner, classes, val_size, public_size, standardize, augment, rounds_per_epoch, eval_batch_size, seed"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--model.aggregator=Krumm", "model.aggregator: there is no class Krumm; did you mean Krum?"),
        ("--model.optimizer=Adamm", "model.optimizer: there is no class Adamm; did you mean Adam?"),
        ("--trainer.callbacks+=WorkerStdy", "trainer.callbacks: there is no class WorkerStdy; did you mean WorkerStudy?"),
        ("--byzantine.attack=[Revers]", "byzantine.attack: there is no class Revers; did you mean Reverse?"),
        ("--data.partitioner=Xyzzyx", "data.partitioner: there is no class Xyzzyx."),
        ("--model.aggregator=mine.Missing", "model.aggregator: mine.Missing cannot be imported: No module named 'mine'."),
        (
            "--model.aggregator=byzfl.Krum",
            "model.aggregator: byzfl.Krum is no Aggregator; a rule of another library: --model.aggregator External"
            " --model.aggregator.rule byzfl.Krum.",
        ),
        ("--model.aggregator.num_byzantin=3", "model.aggregator.num_byzantin: MultiKrum has no such setting; did you mean num_byzantine?"),
        ("--model.local_stepz=3", "model.local_stepz: ParameterServer has no such setting; did you mean local_steps?"),
        ("--data.num_workers=2", f"data.num_workers: DigitsPool has no such setting (it has {DIGITS})."),
        ("--trainer.max_stepz=3", "there is no setting --trainer.max_stepz; did you mean --trainer.max_steps?"),
        ("--trainer.max_step=3", "there is no setting --trainer.max_step; did you mean --trainer.max_steps?"),
        ("--byzantine.atack=Drop", "there is no setting --byzantine.atack; did you mean --byzantine.attack?"),
        ("--model.aggregator.num_byzantine=three", "model.aggregator.num_byzantine must be an integer, got three."),
        ("--data.pool_size=ten", "data.pool_size must be an integer, got ten."),
        ("--data.batch_size=half", "data.batch_size must be an integer or 'full', got half."),
        ("--noise.distribution=cauchy", "noise.distribution must be 'gaussian' or 'logistic' or 'uniform' or 'laplace', got cauchy."),
        ("--byzantine.attack=SignFlip --byzantine.attack.of=nobody", "byzantine.attack.of must be 'own' or 'mean', got nobody."),
        ("--model.optimizer.lr=abc", "model.optimizer.lr must be a number, got abc."),
        ("--model.model.activation=gelu", "model.model.activation must be 'sigmoid' or 'relu' or 'tanh', got gelu."),
        ("--model.model.hidden_sizes=x", "model.model.hidden_sizes must be list[int], got x."),
        ("--byzantine.attack.scale=inf", "byzantine.attack.scale must be a number, got inf (infinity is written .inf)."),
        ("--seed_everything=x", "seed_everything must be true or false or an integer, got x."),
        ("--trainer.max_steps", "trainer.max_steps: expected one argument."),
        ("--data=ArrayPool", "data.path must be given: ArrayPool needs it."),
        ("--model.lr_scheduler=StepLR", "model.lr_scheduler.step_size must be given."),
        ("--model.lr_scheduler=StepLR --model.lr_scheduler.step_sizes=4", "model.lr_scheduler.step_sizes: StepLR has no such setting; did you mean step_size?"),
        ("--model.aggregator=Krum --model.aggregator.num_byzantine=null", "model.aggregator.num_byzantine must be given: Krum needs it."),
        ("--model.momentum=null", "model.momentum must be given: ParameterServer needs it."),
        ("--data.pool_size=null", "data.pool_size must be given: DigitsPool needs it."),
        ("--model.optimizer.lr=null", "model.optimizer.lr must be given: SGD needs it."),
        ("--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=null", "trainer.callbacks.monitor must be given: EarlyStopping needs it."),
        ("--model.aggregator=PreAggregated --model.aggregator.steps=[Bucketing]", "model.aggregator.steps.bucket_size must be given: Bucketing needs it."),
        ("--model.aggregator=NearestNeighborMixing", "model.aggregator: NearestNeighborMixing is one of the preaggregators, for model.aggregator.steps."),
        ("--byzantine.attack=Krum", "byzantine.attack: Krum is one of the aggregators, for model.aggregator."),
        ("--byzantine.attack=math.sqrt", "byzantine.attack: math.sqrt is no Attack."),
        ("--byzantine.attack=Attack", "byzantine.attack must name a class, before its settings: Attack is none that can be made."),
        ("--noise.scale=PerTensorScale --noise.scale.factor=-1", "noise.scale.factor must be a finite number above 0, got -1.0."),
        ("--noise.scale=PiecewiseScale", "noise.scale.values and noise.scale.milestones must be given: PiecewiseScale needs them."),
        ("--model.aggregator=runs_models.Unfinished", "model.aggregator: Unfinished must define forward."),
        ("--model.aggregator=External --model.aggregator.rule=nope.Krum", "model.aggregator.rule: nope.Krum cannot be imported: No module named 'nope'."),
        ("--data.partitioner.alpha=0.1", "data.partitioner must name a class, before its settings: Partitioner is none that can be made."),
    ],
)  # fmt: skip
def test_misspelt_names_and_wrong_types_are_told_in_a_line(options, told):
    with pytest.raises(SettingError, match=f"^{re.escape(told)}$"):
        main(["fit", "-c", QUICKSTART, *options.split()])


def test_a_class_that_takes_only_some_of_a_family_is_told():
    with pytest.raises(
        SettingError, match=r"^model.aggregator must be a Recurrent in MetaLearner, got Krum\.$"
    ):
        main(["fit", "-c", str(ROOT / "configs" / "meta" / "mnist_rnn.yaml"), "--model.aggregator=Krum"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("num_workers: 3", "data.num_workers: DigitsPool has no such setting"),
        ("pool_size: [1]", "data.pool_size must be an integer, got [1]."),
        ("partitioner: {class_path: Nope}", "data.partitioner: there is no class Nope."),
    ],
)
def test_so_is_wrong_yaml(tmp_path, line, told):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"data:\n  class_path: lightning_agg.data.DigitsPool\n  init_args:\n    {line}\n")
    with pytest.raises(SettingError, match=f"^{re.escape(told)}"):
        main(["fit", "-c", QUICKSTART, "-c", str(path)])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("modle: {aggregator: Mean}", "there is no setting modle; did you mean model? It is in {}."),
        ("trainer:\n  max_stepz: 5", "there is no setting trainer.max_stepz; did you mean trainer.max_steps? It is in {}."),
        ("data.pool_siz: 3", "data.pool_siz: DigitsPool has no such setting; did you mean pool_size? It is in {}."),
        ("data: {init_args: {pool_siz: 3}}", "data.pool_siz: DigitsPool has no such setting; did you mean pool_size? It is in {}."),
        ("model:\n  aggregator: Mean\n  init_args: {momentum: 0.2}", "model must be a class_path with its init_args, or settings alone, got {{"),
        ("", "config must name files of settings by their names; in {} there are none."),
        ("- model", "config must name files of settings by their names; in {} there are none."),
        ("model:\n\taggregator: Mean", "config must name files in YAML; {} is not: while scanning for the next token"),
    ],
)  # fmt: skip
def test_of_a_file_it_is_told_which(tmp_path, text, told):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises(SettingError, match=f"^{re.escape(told.format(path))}"):
        main(["fit", "-c", QUICKSTART, "-c", str(path), "--trainer.max_epochs=1"])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingError, match=r"^config: File does not exist: '.*missing.yaml'$"):
        main(["fit", "-c", QUICKSTART, "-c", str(tmp_path / "missing.yaml")])
    with pytest.raises(SettingError, match=r"^config: Path is not a file: "):
        main(["fit", "-c", str(tmp_path)])
    with pytest.raises(SettingError, match=r"^config: expected one argument\.$"):
        main(["fit", "-c"])


def test_a_setting_of_the_command_line_is_in_no_file(tmp_path):
    path = tmp_path / "right.yaml"
    path.write_text("data:\n  pool_size: 3\n")
    with pytest.raises(SettingError, match=r"^data.pool_size must be an integer, got ten\.$"):
        main(["fit", "-c", QUICKSTART, "-c", str(path), "--data.pool_size=ten"])


def test_and_a_sweep(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("axis: {a: [1]}\n")
    with pytest.raises(
        SettingError, match=r"^there is no setting axis; did you mean axes\? It is in .*sweep.yaml\.$"
    ):
        sweep_main(["-c", str(path)])
    for args in ([], ["--processes=2"]):
        with pytest.raises(SettingError, match=r"^axes must be at least one axis by name, got \{\}\.$"):
            sweep_main(args)
    with pytest.raises(SettingError, match=r"^seeds must be list\[int\], got one\.$"):
        sweep_main(["--axes={}", "--seeds=one"])
    with pytest.raises(SettingError, match=r"^processes must be an integer, got many"):
        sweep_main(["--axes={}", "--processes=many"])


def test_a_text_is_no_command_line():
    with pytest.raises(
        SettingError, match=r"args must be a list of arguments, or a dict of settings, got the text 'fit -c a"
    ):
        main("fit -c a.yaml")


def test_an_unknown_subcommand():
    require_subcommand(["fit"], ["fit", "list"])
    require_subcommand(["--help"], ["fit", "list"])
    require_subcommand([], ["fit", "list"])
    with pytest.raises(SettingError, match=r"must be one of fit, list, got lists; did you mean list\?"):
        require_subcommand(["lists"], ["fit", "list"])
