"""The trials of a sweep in processes of their own, several at a time."""

import difflib
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from lightning_agg.errors import SettingError, require
from lightning_agg.locks import lock
from lightning_agg.sweep.grid import Trial
from lightning_agg.sweep.process import begin, visible_devices
from lightning_agg.sweep.trial_run import Result, homes, run


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of a folder, as long as this process lives.

    Raises:
        SettingError: If another sweep is in it, or no folder can be made there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder)
    except OSError as error:
        raise SettingError(
            f"folder must be one that can be written to, got {folder}: {error.strerror}."
        ) from error
    if held is None:
        raise SettingError(f"folder must not be that of a sweep that is running, got {folder}.")
    with held:
        yield


@contextmanager
def workers(processes: int) -> Iterator[Executor]:
    """Processes that end with this one, and at once when it is interrupted.

    Raises:
        SettingError: If one of them is gone.
    """
    context = multiprocessing.get_context("spawn")  # not forked: torch's threads do not survive that
    begun, devices = context.Value("i"), visible_devices() if processes > 1 else []
    executor = ProcessPoolExecutor(processes, context, initializer=begin, initargs=(begun, devices))
    try:
        yield executor
    except BrokenProcessPool:
        raise SettingError(
            f"processes must be so few that they all have memory, got {processes}: one is gone, killed or for the reason above. The same command goes on."
        ) from None
    except BaseException:
        # A run may take hours, and goes on from its checkpoint another time; told to terminate, a process would take the next one.
        for process in list((executor._processes or {}).values()):  # and none of the caller's own
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def places(executor: Executor, trials: Sequence[Trial], folder: Path, ckpt_path: str) -> dict[Trial, Path]:
    """Where each trial lives.

    Raises:
        SettingError: If the command line does not accept the arguments of a trial, or a sweep has no use for them.
    """
    print(f"{len(trials)} runs in {folder}", flush=True)
    cells: dict[tuple[tuple[str, ...], ...], list[Trial]] = defaultdict(list)
    for trial in trials:
        cells[trial.labels, trial.tuned].append(trial)
    futures = [(cell, executor.submit(homes, cell, folder, ckpt_path)) for cell in cells.values()]
    return {
        trial: home for cell, future in futures for trial, home in zip(cell, future.result(), strict=True)
    }


def measure(
    executor: Executor,
    places: Mapping[Trial, Path],
    trials: Sequence[Trial],
    ckpt_path: str,
    score: str,
) -> dict[Trial, Result]:
    """The result of each trial, tested if that is where ``score`` is logged; told as it comes."""
    begun = time.monotonic()
    tested = score.startswith("test/")
    futures = {executor.submit(run, trial, places[trial], ckpt_path, tested): trial for trial in trials}
    results = {}
    for count, future in enumerate(as_completed(futures), start=1):
        trial, result = futures[future], future.result()
        results[trial] = result
        value = result.get(score)
        told = result.error or (_missing(score, result) if value is None else f"{score} {value:.4f}")
        print(f"[{count}/{len(futures)}, {time.monotonic() - begun:.0f} s] {trial.name}: {told}", flush=True)
    return results


def _missing(score: str, result: Result) -> str:
    """That a run does not log what others may, and what it logs instead.

    Raises:
        SettingError: If it is a misspelt one of these: that is told with the first run, and not after all of them.
    """
    known = sorted(result.fit.keys() | result.test.keys())
    meant = difflib.get_close_matches(score, known, n=1, cutoff=0.8) or [
        name for name in known if name.endswith(f"/{score}")
    ]
    require(
        not meant,
        f"score and tune_by must be values that the runs log, got {score!r}; did you mean {' or '.join(meant)}?",
    )
    return f"no {score}; logged are {', '.join(known) or 'none'}"
