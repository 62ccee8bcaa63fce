"""The command line of sweeps: ``lightning-agg sweep -c configs/sweep/majority.yaml``."""

import signal
import sys
from collections.abc import Sequence

import jsonargparse

from lightning_agg.arguments import parse
from lightning_agg.sweep.panel import Panel
from lightning_agg.sweep.sweep import Sweep


def main(args: Sequence[str]) -> list[Panel]:
    """Run a sweep, and tell its tables and where they lie.

    Args:
        args: Options, as on the command line after ``sweep``.

    Returns:
        The tables.

    Raises:
        SettingError: If a setting breaks a rule.
        SystemExit: If a run ended in an error that is not about a setting, or none has a score; after all the others, and their tables.
    """
    parser = jsonargparse.ArgumentParser(
        prog="lightning-agg sweep",
        usage="%(prog)s [-c CONFIG] [--SETTING VALUE ...]",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action="config", help="File with the settings below.")
    parser.add_class_arguments(Sweep)
    parser.set_defaults(
        {"axes": {}}
    )  # so that a misspelt name of them is told, and not that they are missing
    settings = parse(parser, args).as_dict()
    del settings["config"]
    sweep = Sweep(**settings)
    try:
        tables = sweep.run()
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on\nsweep: {sweep.folder}")
        sys.exit(128 + signal.SIGINT)
    print()
    print((sweep.folder / "tables.md").read_text())
    print(f"sweep: {sweep.folder}\ncurves: tensorboard --logdir {sweep.folder}")
    cells = [cell for panel in tables for cell in panel.cells.values()]
    if any(cell.crashed for cell in cells):
        sys.exit("error: not every run came to its end; the reasons are above.")
    if not any(cell.values for cell in cells):
        sys.exit(f"error: no run has a {sweep.score}; the reasons are above.")
    return tables
