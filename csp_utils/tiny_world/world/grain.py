"""Grain: image noise in the training images of the tiny base VLM, since real VLMs have seen grainy photographs too.

Patches of Gaussian noise of every strength (ellipses, rectangles and outlines of objects) cover objects, parts of them
and the background. The right answers stay those of the scene without noise, so the VLM learns to be unsure where it
cannot see. It also learns to say how clear an object is, as real VLMs can; it is never taught to connect that with the
confidence that it verbalizes.
"""

import numpy as np

from csp_utils.tiny_world.world.scenes import SIZE, Scene

WEAKEST, STRONGEST = 5e-4, 5e-3
"""Range of the variance that each of a thousand diffusion steps adds, as in the noise of notebook 03."""


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
    for _ in range(rng.integers(1, 5)):
        region = _patch(scene, rng)
        gamma = np.exp(rng.uniform(np.log(WEAKEST), np.log(STRONGEST)))
        alpha_bar = (1 - gamma) ** rng.uniform(0, 1000)
        noise = rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32)
        noisy = np.sqrt(alpha_bar) * out + np.sqrt(1 - alpha_bar) * noise
        out = np.where(region[..., None], np.clip(noisy, -1, 1), out)
        signal = np.where(region, signal * np.float32(np.sqrt(alpha_bar)), signal)
    return np.clip(np.rint((out + 1) * 127.5), 0, 255).astype(np.uint8), 1 - signal


def _patch(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Sample where a patch lies, bool (112, 112): on all objects of a noun, on one object, or anywhere."""
    if rng.random() < 0.2:
        return _shape((*rng.uniform(10, SIZE - 10, 2), *rng.uniform(8, 18, 2)), rng)
    thing = scene.things[rng.integers(len(scene.things))]
    things = scene.find(thing.noun) if rng.random() < 0.7 else [thing]
    outline, exact = rng.random() < 0.4, rng.random() < 0.5
    region = np.zeros((SIZE, SIZE), bool)
    for thing in things:
        x0, y0, x1, y1 = thing.box
        wider, higher = (1, 1) if exact else rng.uniform(0.9, 1.4, 2)
        place = ((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2 * wider, (y1 - y0) / 2 * higher)
        region |= thing.mask if outline else _shape(place, rng, rectangle=exact)
    return region


def _shape(place: tuple[float, ...], rng: np.random.Generator, rectangle: bool = False) -> np.ndarray:
    """Fill a rectangle or, half the time unless ``rectangle``, an ellipse: bool (112, 112).

    Args:
        place: x and y of the centre, half of the width and half of the height, in pixels.
    """
    cx, cy, rx, ry = place
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    u, v = (x - cx) / rx, (y - cy) / ry
    ellipse = not rectangle and rng.random() < 0.5
    return (u**2 + v**2 < 1.3) if ellipse else (np.abs(u) < 1) & (np.abs(v) < 1)


def lost_things(scene: Scene, lost: np.ndarray) -> np.ndarray:
    """Average ``lost`` of :func:`add_grain` over each object's visible pixels: float32 (things,)."""
    return np.array([lost[thing.mask].mean() for thing in scene.things], np.float32)
