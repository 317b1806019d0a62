"""The training loop of a stage: its schedule, and a checkpoint from which an interrupted stage resumes."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import checkpoints
import torch
from torch import nn

SAVE_EVERY = 120.0  # seconds
PRINT_EVERY = 20  # steps


@dataclass(frozen=True)
class Schedule:
    """Duration and learning rate of a stage, which ends after `steps` or `minutes`, whichever comes first."""

    steps: int
    batch: int
    minutes: float = 45.0
    rate: float = 3e-4
    decay: float = 0.0  # weight decay
    warm: int = 40  # warm-up steps; then the rate falls to 0 along half a cosine
    longest: float = 5.0  # the norm to which the gradient of the first module is clipped
    seed: int = 0


class TrainingLoop:
    """The steps of a stage: iterate over the loop, and call `learn` with the loss of each step."""

    def __init__(
        self, name: str, parts: Sequence[tuple[nn.Module, float]], schedule: Schedule, checkpoint: Path, made_from: str
    ) -> None:
        """Prepare the modules, which are trained in place, and load the checkpoint if there is one.

        Args:
            name: printed before the figures.
            parts: modules and their learning rates, as multiples of the schedule's.
            schedule: duration and learning rate.
            checkpoint: the file in which the state is stored regularly and at the end.
            made_from: fingerprint of the inputs, see `checkpoints.fingerprint`.

        Raises:
            RuntimeError: the checkpoint was made from other inputs.
        """
        self._name, self._schedule, self._checkpoint = name, schedule, checkpoint
        self._parts, self._rates = [part for part, _ in parts], [rate * schedule.rate for _, rate in parts]
        groups = [{"params": list(part.parameters())} for part, _ in parts]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=schedule.decay, fused=True)
        self.step, self._spent, self._loss = 0, 0.0, math.nan
        # A longer schedule continues the same training.
        self._made_from = checkpoints.fingerprint(made_from, replace(schedule, steps=0, minutes=0))
        if state := checkpoints.load(checkpoint, self._made_from):
            for part, held in zip(self._all(), state["parts"], strict=True):
                part.load_state_dict(held)
            self.step, self._spent = state["step"], state["spent"]

    def __iter__(self) -> Iterator[None]:
        """Yield once per step until the stage ends."""
        begun, started, saved = self.step, time.monotonic() - self._spent, time.monotonic()
        while True:
            self._spent = time.monotonic() - started
            passed = max(self.step / self._schedule.steps, self._spent / 60 / self._schedule.minutes)
            if self.step > begun and (passed >= 1 or time.monotonic() - saved > SAVE_EVERY):
                parts = [part.state_dict() for part in self._all()]
                state = {"parts": parts, "step": self.step, "spent": self._spent}
                checkpoints.save(state, self._checkpoint, self._made_from)
                saved = time.monotonic()
            if passed >= 1:
                print(
                    f"{self._name}: {self.step} of {self._schedule.steps} steps in {self._spent / 60:.0f} minutes",
                    flush=True,
                )
                return
            speed = min(1.0, (self.step + 1) / self._schedule.warm) * 0.5 * (1 + math.cos(math.pi * passed))
            for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
                group["lr"] = rate * speed
            yield
            if self.step % PRINT_EVERY == 0:
                print(f"{self._name}: step {self.step}, {passed:.0%}, loss {self._loss:.3f}", flush=True)

    def learn(self, loss: torch.Tensor) -> None:
        """Take one optimisation step."""
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parts[0].parameters(), self._schedule.longest)
        self._optimiser.step()
        self.step += 1
        self._loss = loss.item() if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * loss.item()

    def _all(self) -> list[nn.Module | torch.optim.Optimizer]:
        return [*self._parts, self._optimiser]
