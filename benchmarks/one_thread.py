"""What is timed must not be spread over threads, neither torch's nor NumPy's."""

import argparse
import os

import torch


def use_one_thread(parser: argparse.ArgumentParser) -> None:
    """Set torch to one thread; end with an error unless NumPy, which reads its number when loaded, has one, too."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1 in the environment: NumPy's products would use every core.")
    torch.set_num_threads(1)
