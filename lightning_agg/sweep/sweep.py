"""Many runs, and what they come to."""

import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_agg.cli import LARGEST_SEED
from lightning_agg.errors import require, require_choice, require_count
from lightning_agg.sweep.execution import measure, places, reserved, workers
from lightning_agg.sweep.grid import Trial, check_tune, read_axes, trials
from lightning_agg.sweep.panel import Panel, panels
from lightning_agg.sweep.report import write_figures, write_results
from lightning_agg.sweep.tables import percent, table
from lightning_agg.sweep.trial_run import Result
from lightning_agg.sweep.tuning import best_in_the_worst_column

RUNS = "runs"
"""Where the trials live in a sweep's folder, whatever they are called."""


class Sweep:
    """Every combination of the choices of a few axes, over several seeds: a run each, and their tables and figures.

    Each is a run of ``fit`` and ``test`` with a folder, checkpoints and curves of its own. What is done is not done again, and a
    sweep that was killed goes on with the same command, bit for bit. A run's folder ends with a hash of its whole configuration:
    with another setting it is another run, and nothing is mixed up. (The code, and what is in a file that a setting names, such
    as weights, are not in the hash.)

    ``folder`` has then ``runs``; ``results.csv``, a line per run; ``tables.md``, mean ± standard deviation over the seeds; ``figures``, a heat map and
    curves; TensorBoard shows them beside the runs. A combination that a rule refuses, as Krum more attackers than it can
    bear, is a dash, with the reason below the table.

    Runs are in processes of their own, which import the script that begins them: from Python, call :meth:`run` below
    ``if __name__ == "__main__":``.

    Args:
        axes: What is combined, by name: choices by label, each with the options that it adds (``config`` adds files), or a
            list of values of the option that the name is.
        configs: Files with which every run begins, as ``-c`` of ``fit``.
        settings: Options of every run, none of them given by a file of a choice.
        tune: Options with lists of values, of which each row of a table gets the one whose worst column is best. A choice of
            the rows may have a ``tune`` of its own instead. Only what is chosen is tested.
        seeds: ``seed_everything`` of the runs of each cell.
        rows: The axis that a table has down; the first when null.
        columns: The axis that a table has across; the next when null. Further axes have a table for each choice.
        score: The logged value in the tables; a test is run if its name begins with ``test/``.
        tune_by: The logged value by which is chosen, as it is when training ends; ``score``, of the validation, when null.
        curve: The logged value that is drawn over the rounds; ``tune_by`` when null.
        better: Whether large (``max``) or small (``min``) values of ``score`` and ``tune_by`` are good; when null, small ones of what is
            called a ``loss``, else large ones.
        ckpt_path: The checkpoint that is tested, ``last`` or ``best``.
        processes: Runs at the same time; several have one of the visible GPUs each, in turn.
        folder: Where everything goes.

    Raises:
        SettingError: If a setting breaks a rule.
    """

    def __init__(
        self,
        axes: dict[str, Any],
        configs: list[str] | None = None,
        settings: dict[str, Any] | None = None,
        tune: dict[str, list[Any]] | None = None,
        seeds: list[int] | None = None,
        rows: str | None = None,
        columns: str | None = None,
        score: str = "test/accuracy",
        tune_by: str | None = None,
        curve: str | None = None,
        better: Literal["max", "min"] | None = None,
        ckpt_path: Literal["last", "best"] = "last",
        processes: int = 1,
        folder: str = "logs/sweep",
    ) -> None:
        self.axes = read_axes(axes)
        self.rows = rows or next(iter(self.axes))
        self.columns = columns or next((name for name in self.axes if name != self.rows), None)
        for setting, name in (("rows", self.rows), ("columns", self.columns)):
            known = name in self.axes or (name is None and len(self.axes) == 1)
            require(known, f"{setting} must be one of the axes {', '.join(self.axes)}, got {name!r}.")
        require(
            self.rows != self.columns,
            f"columns must be another axis than rows, got {self.columns!r} for both.",
        )
        seeds = [0] if seeds is None else seeds
        require(
            bool(seeds) and len(set(seeds)) == len(seeds),
            f"seeds must be at least one, and none twice, got {seeds}.",
        )
        for seed in seeds:
            require(0 <= seed <= LARGEST_SEED, f"seeds must be from 0 to {LARGEST_SEED}, got {seed}.")
        check_tune("tune", tune or {})
        tune_by = tune_by or score.replace("test/", "val/")
        require(
            not tune_by.startswith("test/"),
            f"tune_by must not be of the test, which decides nothing, got {tune_by!r}.",
        )
        if better is not None:
            require_choice("better", better, ("max", "min"))
        require(bool(str(folder)), f"folder must have a name, got {folder!r}.")
        require_choice("ckpt_path", ckpt_path, ("last", "best"))
        require_count("processes", processes, 1)
        self.trials = list(trials(self.axes, self.rows, configs or [], settings or {}, tune or {}, seeds))
        self.score = score
        self.tune_by = tune_by
        self.curve = curve or tune_by
        self.better = better
        self.ckpt_path = ckpt_path
        self.processes = processes
        self.folder = Path(folder)

    def run(self) -> list[Panel]:
        """Run what is not done yet, and write the tables and figures.

        Returns:
            The tables, one for each choice on the axes that are neither rows nor columns.

        Raises:
            SettingError: If the command line does not accept some choice, or another sweep is in the folder; nothing has run then.
        """
        require(
            multiprocessing.current_process().name == "MainProcess"
            or multiprocessing.parent_process() is not None,
            'a sweep must be run below `if __name__ == "__main__":` in a script, as each of its processes imports that.',
        )
        with reserved(self.folder), workers(self.processes) as executor:
            homes = places(executor, self.trials, self.folder / RUNS, self.ckpt_path)

            def measured(trials: Sequence[Trial], score: str) -> dict[Trial, Result]:
                return measure(executor, homes, trials, self.ckpt_path, score)

            results, chosen = {}, self.trials
            if any(trial.tuned for trial in self.trials):
                results = measured(self.trials, self.tune_by)
                require(*self._logged("tune_by", self.tune_by, results))
                column = None if self.columns is None else list(self.axes).index(self.columns)
                chosen = best_in_the_worst_column(
                    self.trials, column, results, self.tune_by, self.goodness(self.tune_by)
                )
            # What was refused once is refused again.
            results |= measured(
                [trial for trial in chosen if trial not in results or not results[trial].error], self.score
            )
        tables = panels(
            self.axes, self.rows, self.columns, self.score, {trial: results[trial] for trial in chosen}
        )
        self._write(tables, results)
        return tables

    @staticmethod
    def _logged(setting: str, name: str, results: Mapping[Trial, Result]) -> tuple[bool, str]:
        """Whether some run logs what a setting names, and what to say if not."""
        known = [result.fit for result in results.values() if not result.error]
        told = f"{setting} must be a value that the runs log, got {name!r}; logged are {', '.join(sorted(set().union(*known)))}."
        return not known or any(name in logged for logged in known), told

    def _caption(self) -> str:
        """What is in the tables."""
        seeds = len({trial.seed for trial in self.trials})
        unit = " in %" if percent(self.score) else ""
        over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
        return f"{self.score}{unit}{over}" + (f"; columns: {self.columns}." if self.columns else ".")

    def goodness(self, name: str) -> Callable[[float], float]:
        """Of the values of what is logged under a name: the larger, the better; the least where a training has diverged."""
        sign = -1 if (self.better or ("min" if name.endswith("loss") else "max")) == "min" else 1
        return lambda value: -math.inf if math.isnan(value) else sign * value

    def _write(self, tables: Sequence[Panel], results: Mapping[Trial, Result]) -> None:
        goodness = self.goodness(self.score)
        text = "\n\n".join("\n".join(table(panel, self.rows, self.score, goodness)) for panel in tables)
        write_results(self.folder / "results.csv", list(self.axes), results)
        text = f"{self._caption()}\n\n{text}"
        (self.folder / "tables.md").write_text(f"{text}\n")
        drawn, told = self._logged("curve", self.curve, results)
        if not drawn:
            print(f"no curves: {told}")
        curve = self.curve if drawn else None
        write_figures(self.folder, tables, self.rows, self.columns, self.score, curve, text)
