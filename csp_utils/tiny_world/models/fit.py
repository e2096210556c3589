"""The training loop of the four tiny models, and what they share around it."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

LOG_EVERY = 50
"""Steps between two log lines, and the number of losses that a log line averages."""


@dataclass(frozen=True)
class Settings:
    """How a tiny model is trained.

    The same settings give the same weights on the same machine with the same number of threads.
    """

    steps: int
    """Optimizer steps."""
    seed: int = 0
    """Seed of the first weights and of the batches."""
    n_scenes: int = 6000
    """Training scenes from which batches are sampled."""
    log: Callable[[str], None] = print
    """Takes a line of text every :data:`LOG_EVERY` steps."""


def fit(name: str, schedule: LRScheduler, loss_of: Callable[[int], torch.Tensor], settings: Settings) -> None:
    """Take ``settings.steps`` optimizer steps, with the norm of the gradient clipped to 1.

    Args:
        name: what is trained; starts each log line.
        schedule: of the learning rate; its optimizer holds the weights.
        loss_of: the loss of a step, given its number from 0.
    """
    optimizer, steps = schedule.optimizer, settings.steps
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    losses, began = deque(maxlen=LOG_EVERY), time.monotonic()
    for step in range(steps):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        done = step + 1
        if done % LOG_EVERY == 0 or done == steps:
            minutes = (time.monotonic() - began) / 60
            settings.log(f"{name}: step {done}/{steps}, loss {np.mean(losses):.3f}, {minutes:.1f} min")


def warm_cosine(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Schedule 50 steps of linear warm-up, then a cosine down to a hundredth of the peak rate."""

    def rate(step: int) -> float:
        return min((step + 1) / 50, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, step / max(1, steps)))))

    return LambdaLR(optimizer, rate)


def write_weights(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write weights as safetensors, in half precision."""
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    safetensors.torch.save_file(half, path)
