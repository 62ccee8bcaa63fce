"""Figures for TensorBoard."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from lightning_agg.modules.episode import Episode


def label_figure(counts: np.ndarray, classes: Sequence[str], byzantine: Collection[int] = ()) -> Figure:
    """One bar per worker, divided by class; ``counts`` is ``(M, C)``. Byzantine workers are marked on the axis."""
    figure = Figure(figsize=(max(5.0, 0.35 * len(counts) + 2.5), 4), layout="constrained")
    axes = figure.subplots()
    colors = palette(len(classes))
    bottom = np.zeros(len(counts))
    for label, column in enumerate(counts.T):
        axes.bar(
            np.arange(len(counts)),
            column,
            bottom=bottom,
            color=colors[label],
            label=classes[label],
            width=0.85,
        )
        bottom += column
    ticks = np.unique(np.linspace(0, len(counts) - 1, min(len(counts), 25)).astype(int))
    axes.set_xticks(ticks, [f"{worker}*" if worker in byzantine else str(worker) for worker in ticks])
    axes.set(xlabel="worker (* Byzantine)" if byzantine else "worker", ylabel="samples")
    axes.legend(
        title="label",
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        fontsize="small",
        ncols=1 + len(classes) // 15,
    )
    return figure


def confusion_figure(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Share of each true class (row) that is predicted as each class; ``counts`` is ``(C, C)``."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize="small")
    axes.set_yticks(range(len(classes)), classes, fontsize="small")
    if len(classes) <= 20:
        for row, column in np.ndindex(share.shape):
            if counts[row, column]:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(
                    column,
                    row,
                    f"{100 * share[row, column]:.0f}",
                    ha="center",
                    va="center",
                    color=color,
                    fontsize=7,
                )
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figure


def curves_figure(episodes: Mapping[str, "Episode"], largest: float) -> Figure:
    """One panel per episode: loss over rounds, the learned aggregator in black; losses above ``largest`` are cut off."""
    columns = min(3, len(episodes))
    rows = -(-len(episodes) // columns)
    figure = Figure(figsize=(3.5 * columns + 1.5, 2.8 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, (name, episode) in zip(panels, episodes.items(), strict=False):
        for color, (baseline, curve) in zip(
            palette(len(episode.baselines)), episode.baselines.items(), strict=True
        ):
            axes.plot(curve.rounds, _plotted(curve.losses), color=color, label=baseline)
        learned = episode.learned
        axes.plot(learned.rounds, _plotted(learned.losses), color="black", linewidth=2, label="learned")
        axes.set(title=name, yscale="log")
    for axes in panels[len(episodes) :]:
        axes.set_axis_off()
    curves = [curve for e in episodes.values() for curve in (e.learned, *e.baselines.values())]
    losses = np.concatenate([_plotted(curve.losses) for curve in curves])
    shown = losses[(losses > 0) & (losses <= largest)]
    panels[0].set_ylim(0.9 * np.min(shown, initial=largest / 2), largest)  # of all panels: they share it
    figure.supxlabel("round")
    figure.supylabel("loss")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _plotted(losses: Tensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = losses.double().cpu().numpy()  # NumPy has no bfloat16
    return values


def palette(size: int) -> list[tuple[float, ...]]:
    """Colors that differ, one for each of ``size`` things."""
    from matplotlib import colormaps

    return [
        tuple(colormaps["tab10" if size <= 10 else "hsv"](i if size <= 10 else i / size)) for i in range(size)
    ]
