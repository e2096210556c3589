"""Count the updates of a training, for its notebook and for --plan."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Updates:
    """What the updates of a training are.

    Attributes:
        rows: training rows, read ``epochs`` times.
        epochs: passes over the rows.
        per_device, accumulation, devices: rows a step and device, steps an update, training processes.
        warmup_ratio: part of the updates in which the learning rate rises.
    """

    rows: int
    epochs: int
    per_device: int
    accumulation: int
    devices: int
    warmup_ratio: float

    @property
    def size(self) -> int:
        """Rows an update."""
        return self.per_device * self.accumulation * self.devices

    @property
    def total(self) -> int:
        """Updates in all. The last update of each epoch may have fewer rows (transformers' Trainer)."""
        steps = math.ceil(self.rows / (self.per_device * self.devices))
        return self.epochs * max(1, math.ceil(steps / self.accumulation)) if self.rows else 0

    @property
    def warmup(self) -> int:
        """Updates in which the learning rate rises."""
        return math.ceil(self.total * self.warmup_ratio)

    def __str__(self) -> str:
        read = f"{self.rows:,} rows" + (f" in {self.epochs} epochs" if self.epochs > 1 else "")
        devices = f"{self.devices} device{'s' * (self.devices > 1)}"
        product = f"{self.per_device} a device x {self.accumulation} steps x {devices}"
        warmup = f"the first {self.warmup:,} of them warm up" if self.warmup else "none of them warms up"
        return f"{read}; {product} = {self.size} rows an update; {self.total:,} updates, {warmup}"


def updates(p: Any, rows: int) -> Updates:
    """Return the updates of notebook 04 or 05 over ``rows`` training rows."""
    ratio = getattr(p, "warmup_ratio", 0.0)  # ms-swift's default, which 04 keeps
    return Updates(rows, p.epochs, p.batch_size, p.gradient_accumulation_steps, p.processes, ratio)


def shares(p: Any, rows: int) -> tuple[int, int]:
    """Return how many of ``rows`` rows train and how many are held out: about, as the draw decides."""
    held_out = round(rows * p.eval_share)
    left = rows - held_out
    return (left if p.n_rows is None else min(left, p.n_rows)), held_out
