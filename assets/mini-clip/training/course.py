"""The course of a stage of training: how long, how fast, and kept on the disk so that it goes on where it stopped."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import kept
import torch
from torch import nn

SAVE_EVERY = 120.0  # seconds
TELL_EVERY = 20  # steps


@dataclass(frozen=True)
class Schedule:
    """How long and how fast; it ends at whichever of steps and minutes comes first."""

    steps: int
    batch: int
    minutes: float = 45.0
    rate: float = 3e-4
    decay: float = 0.0  # of weights
    warm: int = 40  # steps until the full rate, which then falls to 0 by half a cosine
    longest: float = 5.0  # gradient of the first part; a longer one is shortened
    seed: int = 0


class Course:
    """The steps of a stage: iterate over it, and give `learn` the loss of each step."""

    def __init__(
        self, name: str, parts: Sequence[tuple[nn.Module, float]], schedule: Schedule, checkpoint: Path, made_from: str
    ) -> None:
        """Take what is trained, in place, with the rate of each part in parts of the schedule's.

        Args:
            name: what is printed before the figures.
            parts: modules and their rates; they get the state of the checkpoint, where there is one.
            schedule: how long and how fast.
            checkpoint: file that holds the state every so many seconds, and the last one.
            made_from: mark of what it is made from, see `kept.mark`.

        Raises:
            RuntimeError: the checkpoint was made from something else.
        """
        self._name, self._schedule, self._checkpoint = name, schedule, checkpoint
        self._parts, self._rates = [part for part, _ in parts], [rate * schedule.rate for _, rate in parts]
        groups = [{"params": list(part.parameters())} for part, _ in parts]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=schedule.decay, fused=True)
        self.step, self._spent, self._loss = 0, 0.0, math.nan
        # Going on for longer is no other training.
        self._made_from = kept.mark(made_from, replace(schedule, steps=0, minutes=0))
        if state := kept.load(checkpoint, self._made_from):
            for part, held in zip(self._all(), state["parts"], strict=True):
                part.load_state_dict(held)
            self.step, self._spent = state["step"], state["spent"]

    def __iter__(self) -> Iterator[None]:
        """Yield for each step, until the end."""
        begun, started, saved = self.step, time.monotonic() - self._spent, time.monotonic()
        while True:
            self._spent = time.monotonic() - started
            passed = max(self.step / self._schedule.steps, self._spent / 60 / self._schedule.minutes)
            if self.step > begun and (passed >= 1 or time.monotonic() - saved > SAVE_EVERY):
                parts = [part.state_dict() for part in self._all()]
                state = {"parts": parts, "step": self.step, "spent": self._spent}
                kept.save(state, self._checkpoint, self._made_from)
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
            if self.step % TELL_EVERY == 0:
                print(f"{self._name}: step {self.step}, {passed:.0%}, loss {self._loss:.3f}", flush=True)

    def learn(self, loss: torch.Tensor) -> None:
        """Take a step down the loss."""
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parts[0].parameters(), self._schedule.longest)
        self._optimiser.step()
        self.step += 1
        self._loss = loss.item() if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * loss.item()

    def _all(self) -> list[nn.Module | torch.optim.Optimizer]:
        return [*self._parts, self._optimiser]
