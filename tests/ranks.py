"""Command lines, one after the other, in each process that ``torchrun`` starts: a process that imports torch anew for each takes longer."""

import json
import sys

from lightning_agg.cli import main

if __name__ == "__main__":
    for args in json.loads(sys.argv[1]):
        main(args)
