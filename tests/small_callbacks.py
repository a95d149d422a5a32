"""Callbacks that steer a small run."""

from __future__ import annotations

from fusedstep.callbacks import Callback


class Script(Callback):
    """Write given values into the history, as a column to monitor."""

    def __init__(self, values):
        self.values = values

    def on_train_begin(self, run):
        run.columns = (*run.columns, "scripted")

    def on_epoch_end(self, run):
        run.history.rows[-1]["scripted"] = self.values[run.epoch - 1]


class Kill(Exception):
    pass


class KillAt(Callback):
    """End the run as a crash would."""

    def __init__(self, epoch, batch):
        self.at = (epoch, batch)

    def before_step(self, run):
        if (run.epoch, run.batch_index) == self.at:
            raise Kill
