"""Aggregators that are trained already: ``--model.aggregator Recurrent --model.aggregator.weights mnist_arnn_lstm``.

Beside the weights of each lies its card, a Markdown file: what it was trained on, the scores measured, and the
command that rebuilds it.
"""

from pathlib import Path

from lightning_agg.errors import SettingError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """What is shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def locate(weights: str) -> Path:
    """The file of ``weights``: a path, or the name of a shipped aggregator.

    Raises:
        SettingError: If it is neither.
    """
    path = Path(weights)
    if path.is_file():
        return path
    if weights in names():
        return FOLDER / f"{weights}.safetensors"
    raise SettingError(
        f"Recurrent.weights must be an existing file or one of {', '.join(names())}, got {weights}."
    )
