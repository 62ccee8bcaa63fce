"""Runs through the real command line, in this process or in one of their own."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lightning_agg.cli import PoolCLI, main

ROOT = Path(__file__).parent.parent
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
SHARED_DATA = ROOT.parent / "shared" / "data"
WORKER_MODELS = json.dumps(
    [
        {
            "class_path": "lightning_agg.models.MLP",
            "init_args": {"hidden_sizes": sizes, "activation": activation},
        }
        for sizes, activation in (([32], "relu"), ([40], "sigmoid"), ([32, 48], "relu"))
    ]
)
"""Of a pool whose workers have the quickstart's model, a wider one and a deeper one."""
QUIET = [
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]


def arguments(subcommand: str, folder: Path, *more: str, config: str = QUICKSTART) -> list[str]:
    return [subcommand, "-c", config, f"--trainer.default_root_dir={folder}", *QUIET, *more]


def run(subcommand: str, folder: Path, *more: str, config: str = QUICKSTART) -> PoolCLI:
    """Run in this process."""
    return main(arguments(subcommand, folder, *more, config=config))


def start(subcommand: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start ``cli.py`` as a process group of its own, so that a kill reaches every rank."""
    return _process([sys.executable, str(ROOT / "cli.py"), *arguments(subcommand, folder, *more)])


def _process(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def torchrun(*command_lines: list[str]) -> str:
    """Run command lines, one after the other, in two processes of ``torchrun``."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ranks = [*launcher, str(ROOT / "tests" / "ranks.py"), json.dumps(command_lines)]
    return finish(_process(ranks))


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def checkpoint(folder: Path, name: str = "last", version: int = 0) -> dict[str, Any]:
    path = folder / f"version_{version}" / "checkpoints" / f"{name}.ckpt"
    result: dict[str, Any] = torch.load(path, weights_only=True)
    return result


def metrics(folder: Path, version: int = 0) -> list[dict[str, str]]:
    with (folder / f"version_{version}" / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Every tensor equal bit for bit, everything else equal, at any depth."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, f"{where}: {a} != {b}"


def assert_same_run(a: dict[str, Any], b: dict[str, Any]) -> None:
    """The states of two runs that matter for every later bit."""
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "epoch"):
        assert_same(a[part], b[part], part)


def assert_resumes(folder: Path, *options: str, stop: int, end: int, config: str = QUICKSTART) -> None:
    """A run of ``end`` rounds, in ``folder / "unbroken"``, and one that is resumed at ``stop`` come to the same bits."""
    unbroken, stopped = folder / "unbroken", folder / "stopped"
    run("fit", unbroken, *options, f"--trainer.max_steps={end}", config=config)
    run("fit", stopped, *options, f"--trainer.max_steps={stop}", config=config)
    run("fit", stopped, *options, f"--trainer.max_steps={end}", "--ckpt_path=last", config=config)
    assert_same_run(checkpoint(unbroken), checkpoint(stopped))
