"""Callbacks that a user might bring."""

import lightning as L


class StopAt(L.Callback):
    """Stops as ``max_time`` does, but after a number of rounds."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.rounds:
            trainer.should_stop = True


class KilledError(Exception):
    """Instead of a kill."""


class Raising(StopAt):
    """Ends the training there without another word."""

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.rounds:
            raise KilledError
