"""The ``lightning-agg`` script: a subcommand of the command line, a sweep, a list or a doctor."""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_agg import catalog, doctor
from lightning_agg.cli import PoolCLI, main
from lightning_agg.errors import SettingError
from lightning_agg.refusals import require_subcommand


def console() -> None:
    """Run what the process's arguments ask for; a wrong setting is told in one paragraph.

    Classes of files in the working directory are found by their path, as with ``python -m``.
    """
    sys.path.insert(0, os.getcwd())
    others: dict[str, Callable[[Sequence[str]], None]] = {
        "sweep": _sweep,
        "list": catalog.main,
        "doctor": doctor.main,
    }
    given = sys.argv[1:2]
    try:
        require_subcommand(given, [*PoolCLI.subcommands(), *others])
        if given and given[0] in others:
            others[given[0]](sys.argv[2:])
        else:
            main()
        sys.stdout.flush()
    except (SettingError, MisconfigurationException) as error:
        sys.exit(f"error: {error}")
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        sys.exit(f"error: trainer.callbacks: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tells of it when it ends
        sys.exit(128 + signal.SIGPIPE)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning's own code is that of a training that has come to its end


def _sweep(args: Sequence[str]) -> None:
    from lightning_agg.sweep import command  # a training needs nothing of it

    command.main(args)
