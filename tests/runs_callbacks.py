"""Callbacks that a user might bring."""

import lightning as L


class StopAt(L.Callback):
    """Stops as ``max_time`` does, but after a number of rounds."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.rounds:
            trainer.should_stop = True
