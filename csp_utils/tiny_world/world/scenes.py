"""Draws the scenes of the tiny world, with ground truth for everything that is later asked or measured.

A scene is a 112 x 112 RGB picture of three to five drawn objects on a textured background. Objects are glyphs of the
DejaVu Sans font that matplotlib carries, filled, coloured and slightly tilted. As in photographs,

* objects come in themes, so that they co-occur (this gives POPE's "popular" and "adversarial" negatives a meaning);
* one object in five is faint, so that some questions are hard for a reason that can be seen;
* some objects touch (AMBER's relation questions), some come in pairs (its number questions), some lie on their side
  (its action questions).

``draw_scene(split, index, seed)`` depends on its arguments alone. Training scenes never hold the pairs in
:data:`HELD_OUT`; test scenes do.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

SIZE = 112
"""Width and height of a scene in pixels: eight patches of 14, the patch size of Qwen2-VL."""

CELL = 28
"""Objects sit near the centres of a 4 x 4 grid of such cells: one merged image token of Qwen2-VL each."""

GLYPHS = {
    "airplane": "\u2708", "cloud": "\u2601", "moon": "\u263e", "star": "\u2605",
    "horse": "\u265e", "tower": "\u265c", "crown": "\u265b", "flag": "\u2691",
    "flower": "\u273f", "clover": "\u2618", "heart": "\u2665", "face": "\u263b",
    "anchor": "\u2693", "umbrella": "\u2602", "phone": "\u260e", "gear": "\u2699",
}  # fmt: skip
NOUNS = tuple(GLYPHS)
THEMES = (NOUNS[0:4], NOUNS[4:8], NOUNS[8:12], NOUNS[12:16])
"""Sky, castle, garden and harbour: nouns of one theme tend to share a scene."""

_WEIGHTS = (0.7, 1.5, 0.7, 1.7, 0.8, 1.3, 0.7, 1.0, 1.6, 0.6, 1.2, 0.6, 0.8, 1.0, 1.3, 0.7)
FREQUENCY = dict(zip(NOUNS, _WEIGHTS, strict=True))
"""Relative frequency of each noun: some are common, which is what "popular" negatives are made of."""

COLORS = {
    "red": (208, 36, 44), "orange": (240, 136, 24), "yellow": (244, 222, 46), "green": (34, 150, 60),
    "blue": (40, 76, 214), "purple": (138, 48, 178), "white": (248, 248, 248), "black": (22, 22, 24),
}  # fmt: skip

CAN_LIE = ("horse", "tower", "crown", "flag", "anchor", "umbrella", "phone", "heart")
"""Nouns whose upright pose is plain to see, and which therefore can be said to lie on their side."""

HELD_OUT = frozenset(
    [("airplane", "green"), ("cloud", "purple"), ("star", "blue"), ("horse", "red"), ("tower", "yellow"),
     ("flag", "black"), ("flower", "orange"), ("heart", "white"), ("face", "green"), ("anchor", "orange"),
     ("umbrella", "purple"), ("gear", "red")]
)  # fmt: skip
"""Pairs of noun and colour that no training scene shows."""

SPLITS = {"train": 0, "dev": 1, "test": 2, "benchmark": 3}
"""Name of a split and the key of its random numbers. Only ``train`` avoids :data:`HELD_OUT`."""


@dataclass(frozen=True)
class Thing:
    """One drawn object."""

    noun: str
    color: str
    lying: bool
    """Turned by a quarter: it lies on its side."""
    opacity: float
    """1 is solid; faint objects have 0.25 to 0.55."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 of the visible mask in pixels, x1 and y1 exclusive."""
    mask: np.ndarray
    """bool, (112, 112): the pixels of this object that no later object covers."""


@dataclass(frozen=True)
class Scene:
    """A picture and everything that is true of it."""

    name: str
    image: np.ndarray
    """uint8, (112, 112, 3), RGB."""
    things: tuple[Thing, ...]
    touching: frozenset[tuple[int, int]]
    """Index pairs (i < j) of things whose masks touch or overlap."""
    unclear: frozenset[tuple[int, int]]
    """Index pairs that nearly touch: nothing is asked about them."""

    @property
    def nouns(self) -> list[str]:
        """Nouns in the scene, each once, in the order drawn."""
        return list(dict.fromkeys(t.noun for t in self.things))

    def find(self, noun: str) -> list[Thing]:
        """All things of that noun."""
        return [t for t in self.things if t.noun == noun]


@cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 160)


@cache
def _glyph(noun: str) -> tuple[Image.Image, Image.Image]:
    """Ink and filled silhouette of a noun (mode L, cropped to the ink, longest side 96 px)."""
    canvas = Image.new("L", (320, 320))
    ImageDraw.Draw(canvas).text((160, 160), GLYPHS[noun], font=_font(), fill=255, anchor="mm")
    ink = canvas.crop(canvas.getbbox())
    scale = 96 / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.LANCZOS)
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(np.array(ink) > 127, 8), iterations=4))[8:-8, 8:-8]
    return ink, Image.fromarray((np.maximum(solid * 255, np.array(ink))).astype(np.uint8))


def _stamp(noun: str, lying: bool, size: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Ink and silhouette in 0..1, float32 (h, w), with the longest side about ``size`` pixels."""
    turned = angle + (90 if lying else 0)
    out = []
    for layer in _glyph(noun):
        big = layer.rotate(turned, Image.BICUBIC, expand=True)
        out.append(big)
    box = out[1].getbbox()
    scale = size / max(box[2] - box[0], box[3] - box[1])
    shape = (max(6, round((box[2] - box[0]) * scale)), max(6, round((box[3] - box[1]) * scale)))
    return tuple(np.asarray(b.crop(box).resize(shape, Image.BOX), np.float32) / 255 for b in out)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Muted two-colour cloud with fine grain, float32 (112, 112, 3) in 0..255."""
    base = rng.uniform(105, 185) + rng.uniform(-22, 22, 3)
    other = base + rng.uniform(-34, 34) + rng.uniform(-10, 10, 3)
    coarse = Image.fromarray(rng.uniform(0, 255, (5, 5)).astype(np.uint8)).resize((SIZE, SIZE), Image.BICUBIC)
    blend = np.asarray(coarse, np.float32)[..., None] / 255
    if rng.random() < 0.4:  # stripes
        angle, period = rng.uniform(0, np.pi), rng.uniform(9, 26)
        y, x = np.mgrid[0:SIZE, 0:SIZE]
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
        blend = 0.6 * blend + 0.4 * wave[..., None].astype(np.float32)
    grain = rng.normal(0, 5, (SIZE, SIZE, 1))
    return (base + (other - base) * blend + grain).astype(np.float32)


def _choose(rng: np.random.Generator, n: int, train: bool) -> list[tuple[str, str, bool]]:
    """Noun, colour and pose of n things; a noun may come twice, then alike."""
    theme = THEMES[rng.integers(len(THEMES))]
    weight = np.array([FREQUENCY[noun] * (5.0 if noun in theme else 1.0) for noun in NOUNS])
    nouns = list(rng.choice(NOUNS, size=n, replace=False, p=weight / weight.sum()))
    if rng.random() < 0.3:
        nouns[-1] = nouns[0]
    looks: dict[str, tuple[str, bool]] = {}
    for noun in nouns:
        if noun not in looks:
            colors = [c for c in COLORS if not (train and (noun, c) in HELD_OUT)]
            looks[noun] = (str(rng.choice(colors)), bool(noun in CAN_LIE and rng.random() < 0.3))
    return [(str(noun), *looks[noun]) for noun in nouns]


def _places(rng: np.random.Generator, n: int) -> tuple[list[tuple[int, int]], bool]:
    """n distinct cells (row, column); the first two are neighbours if the flag is set (they will touch)."""
    pull = bool(rng.random() < 0.55)
    cells = [(r, c) for r in range(4) for c in range(4)]
    first = cells[rng.integers(16)]
    near = [(r, c) for r, c in cells if abs(r - first[0]) + abs(c - first[1]) == 1]
    second = near[rng.integers(len(near))]
    rest = [cell for cell in cells if cell not in (first, second)]
    order = [rest[i] for i in rng.permutation(len(rest))]
    chosen = ([first, second] if pull else [first]) + order
    return chosen[:n], pull


def draw_scene(split: str, index: int, seed: int = 0) -> Scene:
    """Draw scene ``index`` of a split.

    Args:
        split: a key of :data:`SPLITS`.
        index: number of the scene, from 0.
        seed: another seed, another world.
    """
    rng = np.random.default_rng([seed, SPLITS[split], index])
    n = int(rng.integers(3, 6))
    looks = _choose(rng, n, train=split == "train")
    cells, pull = _places(rng, n)
    canvas = _background(rng)
    order = rng.permutation(n)  # drawn in random order, so that the first two are not always below
    layers: list[tuple[int, np.ndarray, float]] = []
    placed = {}
    for i, (noun, color, lying) in enumerate(looks):
        size = int(rng.integers(23, 32))
        ink, solid = _stamp(noun, lying, size, float(rng.uniform(-8, 8)))
        cy, cx = (CELL * (k + 0.5) + rng.uniform(-2.5, 2.5) for k in cells[i])
        opacity = float(rng.uniform(0.25, 0.55)) if rng.random() < 0.2 else 1.0
        placed[i] = (noun, color, lying, opacity, ink, solid, cx, cy, rng.normal(0, 8, 3))
    if pull:
        _pull_together(placed, cells)
    for i in order:
        noun, color, lying, opacity, ink, solid, cx, cy, tint = placed[i]
        h, w = solid.shape
        x0, y0 = (int(round(np.clip(v - s / 2, 0, SIZE - s))) for v, s in ((cx, w), (cy, h)))
        rgb = np.clip(np.array(COLORS[color]) + tint, 0, 255)
        hole = rgb * 0.72 if sum(COLORS[color]) > 180 else rgb + 60  # holes keep the glyph's drawing visible
        paint = ink[..., None] * rgb + (1 - ink[..., None]) * hole
        part = canvas[y0 : y0 + h, x0 : x0 + w]
        alpha = (solid * opacity)[..., None]
        part[:] = alpha * paint + (1 - alpha) * part
        mask = np.zeros((SIZE, SIZE), bool)
        mask[y0 : y0 + h, x0 : x0 + w] = solid > 0.5
        layers.append((int(i), mask, opacity))
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return _scene(f"{split}_{seed}_{index:06d}", image, placed, layers)


def _pull_together(placed: dict, cells: list[tuple[int, int]]) -> None:
    """Move the first two things towards each other until their boxes overlap by about four pixels."""
    (_, _, _, _, _, sa, ax, ay, _), (_, _, _, _, _, sb, bx, by, _) = placed[0], placed[1]
    across = cells[0][0] == cells[1][0]
    side = 1 if across else 0
    gap = (abs(ax - bx) if across else abs(ay - by)) - (sa.shape[side] + sb.shape[side]) / 2
    shift = (gap + 4) / 2 * (1 if (bx > ax if across else by > ay) else -1)
    if gap + 4 <= 0:
        return
    for k, sign in ((0, 1), (1, -1)):
        t = list(placed[k])
        t[6 if across else 7] += sign * shift
        if across:
            t[7] = (ay + by) / 2
        else:
            t[6] = (ax + bx) / 2
        placed[k] = tuple(t)


def _scene(name: str, image: np.ndarray, placed: dict, layers: list) -> Scene:
    """Ground truth from the drawing order: visible masks, boxes, contacts."""
    covered = np.zeros((SIZE, SIZE), bool)
    full, visible = {}, {}
    for i, mask, opacity in reversed(layers):
        full[i] = mask
        visible[i] = mask & ~covered
        if opacity > 0.5:  # what shines through hides nothing
            covered |= mask
    things, keep = [], [i for i in sorted(visible) if visible[i].sum() >= 0.5 * full[i].sum()]
    for i in keep:
        ys, xs = np.nonzero(visible[i])
        noun, color, lying, opacity = placed[i][:4]
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        things.append(Thing(noun, color, lying, opacity, box, visible[i]))
    touching, unclear = set(), set()
    for a, i in enumerate(keep):
        distance = ndimage.distance_transform_edt(~full[i])
        for b, j in enumerate(keep):
            if b > a:
                d = distance[full[j]].min()
                if d <= 1.5:
                    touching.add((a, b))
                elif d < 4:
                    unclear.add((a, b))
    return Scene(name, image, tuple(things), frozenset(touching), frozenset(unclear))
