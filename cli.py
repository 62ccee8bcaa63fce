"""``python cli.py`` is the same as ``lightning-agg``."""

from lightning_agg.console import console

if __name__ == "__main__":
    console()
