"""The ``lightning-agg`` script: a subcommand of the command line, a sweep, a list or a doctor."""

import os
import signal
import sys

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_agg import catalog, doctor
from lightning_agg.cli import PoolCLI, main
from lightning_agg.errors import SettingError
from lightning_agg.refusals import require_subcommand
from lightning_agg.sweep import command as sweep


def console() -> None:
    """Run what the process's arguments ask for; a wrong setting is told in one paragraph.

    Classes of files in the working directory are found by their path, as with ``python -m``.
    """
    sys.path.insert(0, os.getcwd())
    try:
        if sys.argv[1:2] == ["sweep"]:
            sweep.main(sys.argv[2:])
        elif sys.argv[1:2] == ["list"]:
            catalog.main(sys.argv[2:])
        elif sys.argv[1:2] == ["doctor"]:
            doctor.main(sys.argv[2:])
        else:
            require_subcommand(sys.argv[1:2], [*PoolCLI.subcommands(), "sweep", "list", "doctor"])
            main()
    except (SettingError, MisconfigurationException) as error:
        sys.exit(f"error: {error}")
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        sys.exit(f"error: trainer.callbacks: {error}")
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning's own code is that of a training that has come to its end
