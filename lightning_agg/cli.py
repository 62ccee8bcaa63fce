"""The command line: ``python cli.py fit --config configs/quickstart.yaml``."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

import lightning_agg.aggregators
import lightning_agg.attacks
import lightning_agg.compressors
import lightning_agg.data
import lightning_agg.estimators
import lightning_agg.models
import lightning_agg.noise_scales
import lightning_agg.partitioners
import lightning_agg.preaggregators
import lightning_agg.strategies  # noqa: F401  so that classes can be named without their module
from lightning_agg import __version__, catalog, outcome
from lightning_agg.arguments import files_first, parse
from lightning_agg.callbacks import (
    ByzantineInjection,
    GradientCompression,
    NoisePerturbation,
    PredictionTable,
    RunCheckpoint,
    ValidationInterval,
)
from lightning_agg.callbacks.run_record import RunRecord
from lightning_agg.data import PoolDataModule
from lightning_agg.errors import SettingError, require
from lightning_agg.loggers import ResumableCSVLogger, ResumableTensorBoardLogger
from lightning_agg.modules import PoolModule
from lightning_agg.nulls import require_values
from lightning_agg.runs import Run, checkpoint_file, locate, read_checkpoint
from lightning_agg.trainer_settings import check_trainer

LARGEST_SEED = 2**32 - 1
USAGE = "[-c CONFIG] [--GROUP.SETTING VALUE ...]"
"""Instead of every setting there is, which would bury an error."""


class PoolCLI(LightningCLI):
    """LightningCLI with attacks, noise, compression and checkpoints as groups of their own, and one folder per run."""

    run: Run | None = None
    _lock: TextIO | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except BaseException as error:
            if self.run is not None:
                self.run.discard()
                if not isinstance(error, SettingError | MisconfigurationException):
                    self._tell_how_to_go_on()
            raise
        finally:
            if self._lock is not None:
                self._lock.close()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups ``byzantine``, ``noise``, ``compression`` and ``checkpoint``."""
        parser.add_lightning_class_args(ByzantineInjection, "byzantine")
        parser.add_lightning_class_args(NoisePerturbation, "noise")
        parser.add_lightning_class_args(GradientCompression, "compression")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args``, or the command line where there are none."""
        if args is None or isinstance(args, list):
            self.config = parse(parser, files_first(sys.argv[1:] if args is None else args))
        else:
            self.config = parser.parse_object(args)
        require_values(self.config[self.config.subcommand])

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        require(
            isinstance(seed, bool) or 0 <= seed <= LARGEST_SEED,
            f"seed_everything must be from 0 to {LARGEST_SEED}, got {seed}.",
        )
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        # Lightning would load the file here, before any check, and let hyper-parameters in it override the settings.
        ckpt_path = (
            self.config[self.config.subcommand].get("ckpt_path") if self.config.get("subcommand") else None
        )
        if ckpt_path and ckpt_path not in ("last", "best"):
            read_checkpoint(checkpoint_file(ckpt_path))

    def instantiate_classes(self) -> None:
        """Make data, model and Trainer.

        Raises:
            SettingError: If a setting breaks a rule, which jsonargparse buries under what it tried before and after; or if a
                class wants a package that is not there.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            chain: list[BaseException] = [error]
            while following := chain[-1].__cause__ or chain[-1].__context__:
                chain.append(following)
            known = SettingError | ImportError | OSError | RuntimeError
            told = next((link for link in chain if isinstance(link, known)), chain[-1])
            if isinstance(told, ImportError):
                told = SettingError(f"class_path must name a class whose packages are installed: {told}.")
            # Of a data set whose files are not there, say, or of a class of others.
            elif type(told) is ValueError or isinstance(told, OSError | RuntimeError):
                told = SettingError(
                    f"init_args must be settings that the class accepts: {type(told).__name__}: {told}"
                )
            raise told from None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Make the Trainer with the run's own loggers, and settle where the run lives and what it starts from."""
        config = self._get(self.config_init, "trainer")
        root = Path(config.default_root_dir or "logs")
        options = self.config_init[self.subcommand]
        check_trainer(config, str(self.subcommand), self._get(self.config_init, "byzantine"))
        self.run = locate(root, str(self.subcommand), options.ckpt_path) if not config.fast_dev_run else None
        if self.run is not None:
            run = self.run
            if self.subcommand == "fit" and getattr(rank_zero_only, "rank", 0) == 0:
                self._lock = run.reserve()
            options.ckpt_path = None if run.checkpoint is None else str(run.checkpoint)
            if config.logger in (None, True):
                kwargs["logger"] = self._loggers(
                    root,
                    int(run.folder.name.removeprefix("version_")),
                    run.step if self.subcommand == "fit" else None,
                )
            checkpoint: RunCheckpoint = self._get(self.config_init, "checkpoint")
            checkpoint.folder = run.folder / "checkpoints"
            self.save_config_kwargs["folder"] = run.folder
        options.weights_only = True
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError) as error:  # all that it is told are settings
            raise SettingError(f"trainer: {error}") from error

    def before_predict(self) -> None:
        """Refuse a module that predicts nothing."""
        require(
            self.model.predicts,
            f"predict is for models that are trained, got {type(self.model).__name__}: use its weights in a ParameterServer.",
        )

    def after_fit(self) -> None:
        """Tell the result and where it lies."""
        if self.run is not None and self.trainer.is_global_zero:
            print(*outcome.lines(self.model, self.trainer, str(self.subcommand), self.run), sep="\n")

    after_validate = after_test = after_fit

    def _tell_how_to_go_on(self) -> None:
        """After an interruption of a training that has a checkpoint."""
        if self.subcommand != "fit":
            return
        trainer = getattr(self, "trainer", None)
        if not isinstance(trainer, L.Trainer) or not trainer.interrupted or not trainer.is_global_zero:
            return
        if self.run is not None and (self.run.folder / "checkpoints" / "last.ckpt").exists():
            print(f"run: {self.run.folder}\nto go on: the same command with --ckpt_path last")

    @staticmethod
    def _loggers(root: Path, version: int, resume_step: int | None) -> list[Any]:
        settings: dict[str, Any] = {"name": "", "version": version, "resume_step": resume_step}
        return [
            ResumableTensorBoardLogger(str(root), default_hp_metric=False, **settings),
            ResumableCSVLogger(str(root), **settings),
        ]


def main(args: ArgsType = None) -> PoolCLI:
    """Run the command line.

    Args:
        args: Arguments, as on the command line; those of the process when ``None``.

    Returns:
        The CLI, with ``model``, ``datamodule`` and ``trainer`` as the run left them.

    Raises:
        SettingError: If a setting breaks a rule.
    """
    require(
        not isinstance(args, str),
        f"args must be a list of arguments, or a dict of settings, got the text {args!r}.",
    )
    # Lightning's own affairs, not the user's: a deprecated name it uses, and an advertisement.
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    catalog.load_plugins()
    return PoolCLI(
        PoolModule,
        PoolDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        save_config_callback=RunRecord,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={
            "description": "Train with workers you cannot trust.",
            "epilog": "Many runs at once, with a table: lightning-agg sweep --help. What there is to choose from: lightning-agg list. What is wrong with this machine: lightning-agg doctor",
            "exit_on_error": False,
            "allow_abbrev": False,
            "version": __version__,
            **{
                name: {"usage": f"%(prog)s {USAGE}", "exit_on_error": False} for name in PoolCLI.subcommands()
            },
        },
        trainer_defaults={
            "use_distributed_sampler": False,
            "log_every_n_steps": 10,
            "max_epochs": -1,
            "callbacks": [PredictionTable(), ValidationInterval()],
        },
        args=args,
    )


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()
