"""Grain: image noise in the training images of the tiny base VLM, since real VLMs have seen grainy photographs too.

Patches of Gaussian noise (ellipses and rectangles, not the outlines of objects) cover parts of objects and of the
background. The right answers stay those of the scene without noise, so the VLM learns to be unsure where it cannot see.
It also learns to say how clear an object is, as real VLMs can; it is never taught to connect that with the confidence
that it verbalizes.
"""

import numpy as np

from csp_utils.tiny_world.world.scenes import SIZE, Scene


def add_grain(scene: Scene, rng: np.random.Generator, share: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Add one to four grainy patches to a scene's image, with probability ``share``.

    Returns:
        image: uint8 (112, 112, 3).
        lost: float32 (112, 112), the share of the signal that noise took from each pixel, 0 to 1.
    """
    image, signal = scene.image, np.ones((SIZE, SIZE), np.float32)
    if rng.random() >= share:
        return image, 1 - signal
    out = image.astype(np.float32) / 127.5 - 1
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    for _ in range(rng.integers(1, 5)):
        if rng.random() < 0.7:
            x0, y0, x1, y1 = scene.things[rng.integers(len(scene.things))].box
            cx, cy, rx, ry = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
            rx, ry = rx * rng.uniform(0.9, 1.4), ry * rng.uniform(0.9, 1.4)
        else:
            cx, cy, rx, ry = rng.uniform(10, SIZE - 10), rng.uniform(10, SIZE - 10), *rng.uniform(8, 18, 2)
        u, v = (x - cx) / rx, (y - cy) / ry
        region = (u**2 + v**2 < 1.3) if rng.random() < 0.5 else (np.abs(u) < 1) & (np.abs(v) < 1)
        alpha_bar = rng.uniform(0, 1) ** 1.5
        noise = rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32)
        noisy = np.sqrt(alpha_bar) * out + np.sqrt(1 - alpha_bar) * noise
        out = np.where(region[..., None], np.clip(noisy, -1, 1), out)
        signal = np.where(region, signal * np.float32(np.sqrt(alpha_bar)), signal)
    return np.clip(np.rint((out + 1) * 127.5), 0, 255).astype(np.uint8), 1 - signal


def lost_things(scene: Scene, lost: np.ndarray) -> np.ndarray:
    """Average ``lost`` of :func:`add_grain` over each object's visible pixels: float32 (things,)."""
    return np.array([lost[thing.mask].mean() for thing in scene.things], np.float32)
