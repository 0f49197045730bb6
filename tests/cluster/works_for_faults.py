"""Operations with faults; workers import them from this folder."""

import os
import re
import signal
import time
from pathlib import Path
from typing import ClassVar

import ray
import torch

from stillhouse.methods.core.training import train
from stillhouse.search.stages.core.stage import Operation, StageResult
from stillhouse.search.tuning.trial import TrialTrainable


class Steady(Operation):
    """Logs every start with its epoch and its node; saves every epoch."""

    kind: ClassVar[str] = "steady"
    log: str
    name: str
    length: int = 4
    pause: float = 0.0
    gate: int | None = None
    """After so many epochs it waits until there is a file ``go`` beside the log."""

    @property
    def epochs(self):
        return self.length

    def run(self, data, parents, context):
        saved = context.checkpointer.load()
        done = int(saved["epoch"]) if saved else 0
        node = ray.get_runtime_context().get_node_id()
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{self.name} {done} {node}\n")
        for epoch in range(done, self.length):
            time.sleep(self.pause)
            while epoch == self.gate and not Path(self.log).with_name("go").exists():
                time.sleep(0.05)
            self.happen(epoch)
            if self.saves_now(context):
                context.checkpointer.save({"epoch": torch.tensor(epoch + 1)})
            yield {"epoch": epoch + 1.0}
        total = sum(float(parent.tensors["sum"]) for parent in parents) + 1
        return StageResult({"sum": torch.tensor(total)}, {"sum": total})

    def saves_now(self, context):
        return True

    def happen(self, epoch):
        """The fault, if any."""

    @property
    def first(self):
        """Whether this is the first attempt."""
        starts = Path(self.log).read_text(encoding="utf-8").splitlines()
        return sum(line.split()[0] == self.name for line in starts) == 1


class Thrifty(Steady):
    """Saves only when a checkpoint is due, as training does."""

    def saves_now(self, context):
        return context.checkpointer.is_due()


class Killed(Steady):
    """Kills its worker in every third epoch."""

    def happen(self, epoch):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)


class Unlucky(Steady):
    """Each attempt kills its worker one epoch later."""

    def happen(self, epoch):
        starts = Path(self.log).read_text(encoding="utf-8").splitlines()
        if epoch == sum(line.split()[0] == self.name for line in starts):
            os.kill(os.getpid(), signal.SIGKILL)


class Greedy(Steady):
    """Allocates memory until Ray ends it."""

    gigabytes: int = 6

    def happen(self, epoch):
        taken = []
        for _ in range(self.gigabytes * 8):
            taken.append(bytearray(os.urandom(1)) * 2**27)
            time.sleep(0.1)
        time.sleep(30)


class TooLarge(Steady):
    """Allocates more memory than the machine has."""

    def happen(self, epoch):
        torch.empty(2**50)


class Hanging(Steady):
    """Hangs in the third epoch: it sleeps, or holds the interpreter."""

    how: str = "sleep"
    always: bool = False

    def happen(self, epoch):
        if epoch == 2 and (self.always or self.first):
            hang(self.how)


class StopsItself(Steady):
    """Raises a timeout of its own."""

    def happen(self, epoch):
        raise TimeoutError("the data set did not answer")


def hang(how="sleep"):
    if how == "sleep":
        time.sleep(3600)
    re.match("(a*)*b", "a" * 60)


class HangingTrial(TrialTrainable):
    """A trial whose fourth epoch hangs, once for each line of a file in the library."""

    def setup(self, config, experiment, library):
        ran = train._TrainingRun.epoch

        def epoch(run):
            if len(run.curve) == 3 and _take(Path(library, "hangs")):
                hang()
            return ran(run)

        if not hasattr(train._TrainingRun, "hangs"):
            train._TrainingRun.hangs = True
            train._TrainingRun.epoch = epoch
        super().setup(config, experiment, library)


def _take(file):
    """Remove a line of the file; whether there was one."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    file.write_text("\n".join(lines[1:]), encoding="utf-8")
    return bool(lines)
