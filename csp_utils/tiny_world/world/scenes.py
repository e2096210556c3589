"""Generate the scenes of the tiny world, with the ground truth of everything that is later asked or measured.

A scene is a 112 x 112 RGB image of three to five objects on a textured background. Objects are glyphs of matplotlib's
DejaVu Sans font, filled, coloured and slightly tilted. As in photographs,

* objects come in themes, so that they co-occur (this gives POPE's "popular" and "adversarial" negatives a meaning);
* one object in five is faint, so that some questions are hard for a visible reason;
* some objects touch (AMBER's relation questions), some come in pairs (its number questions), some lie on their side
  (its action questions).

``draw_scene(split, index, seed)`` depends on its arguments alone. Training scenes never show the pairs in
:data:`HELD_OUT`; test scenes do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

SIZE = 112
"""Width and height of a scene in pixels: eight patches of 14, the patch size of Qwen2-VL."""

CELL = 28
"""Side in pixels of the cells of a 4 x 4 grid, near whose centres objects lie; each is one merged token of Qwen2-VL."""

GLYPHS = {
    "airplane": "\u2708", "cloud": "\u2601", "moon": "\u263e", "star": "\u2605",
    "horse": "\u265e", "tower": "\u265c", "crown": "\u265b", "flag": "\u2691",
    "flower": "\u273f", "clover": "\u2618", "heart": "\u2665", "face": "\u263b",
    "anchor": "\u2693", "umbrella": "\u2602", "phone": "\u260e", "gear": "\u2699",
}  # fmt: skip
NOUNS = tuple(GLYPHS)
THEMES = (NOUNS[0:4], NOUNS[4:8], NOUNS[8:12], NOUNS[12:16])
"""Sky, castle, garden and harbour. Nouns of one theme tend to share a scene."""

_WEIGHTS = (0.7, 1.5, 0.7, 1.7, 0.8, 1.3, 0.7, 1.0, 1.6, 0.6, 1.2, 0.6, 0.8, 1.0, 1.3, 0.7)
FREQUENCY = dict(zip(NOUNS, _WEIGHTS, strict=True))
"""Relative frequency of each noun. The common ones make POPE's "popular" negatives."""

COLORS = {
    "red": (208, 36, 44), "orange": (240, 136, 24), "yellow": (244, 222, 46), "green": (34, 150, 60),
    "blue": (40, 76, 214), "purple": (138, 48, 178), "white": (248, 248, 248), "black": (22, 22, 24),
}  # fmt: skip

CAN_LIE = ("horse", "tower", "crown", "flag", "anchor", "umbrella", "phone", "heart")
"""Nouns whose upright pose is obvious, so that one can see when they lie on their side."""

HELD_OUT = frozenset(
    [("airplane", "green"), ("cloud", "purple"), ("star", "blue"), ("horse", "red"), ("tower", "yellow"),
     ("flag", "black"), ("flower", "orange"), ("heart", "white"), ("face", "green"), ("anchor", "orange"),
     ("umbrella", "purple"), ("gear", "red")]
)  # fmt: skip
"""Pairs of noun and colour that no training scene shows."""

SPLITS = {"train": 0, "dev": 1, "test": 2, "benchmark": 3, "models": 4}
"""Each split's key in the seed of a scene. The four models are trained on "models", choices are made on "dev", models
and code are tested on "test", POPE and AMBER ask about "benchmark", and a run trains on "train". (The shipped models
are older than the split "models": they were trained on "train".)

Only ``train`` and ``models`` avoid :data:`HELD_OUT`."""


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    noun: str
    color: str
    lying: bool
    """Turned by 90 degrees, so that it lies on its side."""
    opacity: float
    """1 is solid; faint objects have 0.25 to 0.55."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 of the visible mask in pixels, x1 and y1 exclusive."""
    mask: np.ndarray
    """bool (112, 112): the pixels of this object that no later object covers."""


@dataclass(frozen=True)
class Scene:
    """An image and everything that is true of it."""

    name: str
    image: np.ndarray
    """uint8 (112, 112, 3), RGB."""
    things: tuple[Thing, ...]
    touching: frozenset[tuple[int, int]]
    """Index pairs (i < j) of things whose masks touch or overlap."""
    unclear: frozenset[tuple[int, int]]
    """Index pairs (i < j) of things that nearly touch. No question asks about their contact."""

    @property
    def nouns(self) -> list[str]:
        """The nouns in the scene, each once."""
        return list(dict.fromkeys(t.noun for t in self.things))

    def find(self, noun: str) -> list[Thing]:
        """Return all things of a noun."""
        return [t for t in self.things if t.noun == noun]


@dataclass
class _Stamp:
    """An object before it is painted."""

    noun: str
    color: str
    lying: bool
    opacity: float
    ink: np.ndarray
    """float32 (h, w), 0 to 1: the glyph's strokes."""
    solid: np.ndarray
    """float32 (h, w), 0 to 1: the glyph with its holes filled."""
    center: list[float]
    """Row and column in pixels."""
    tint: np.ndarray
    """Added to the colour's red, green and blue."""

    def paint(self, canvas: np.ndarray) -> np.ndarray:
        """Paint onto a canvas, float32 (112, 112, 3), in place and return the covered pixels, bool (112, 112)."""
        (cy, cx), (h, w) = self.center, self.solid.shape
        y0, x0 = (int(round(np.clip(v - s / 2, 0, SIZE - s))) for v, s in ((cy, h), (cx, w)))
        rgb = np.clip(np.array(COLORS[self.color]) + self.tint, 0, 255)
        hole = rgb * 0.72 if sum(COLORS[self.color]) > 180 else rgb + 60  # another shade, so that strokes stay visible
        ink, alpha = self.ink[..., None], (self.solid * self.opacity)[..., None]
        region = np.s_[y0 : y0 + h, x0 : x0 + w]
        canvas[region] = alpha * (ink * rgb + (1 - ink) * hole) + (1 - alpha) * canvas[region]
        mask = np.zeros((SIZE, SIZE), bool)
        mask[region] = self.solid > 0.5
        return mask


@cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 160)


@cache
def _glyph(noun: str) -> tuple[Image.Image, Image.Image]:
    """Render a noun's glyph: ink and filled silhouette (mode L, cropped to the ink, longest side 96 px)."""
    canvas = Image.new("L", (320, 320))
    ImageDraw.Draw(canvas).text((160, 160), GLYPHS[noun], font=_font(), fill=255, anchor="mm")
    ink = canvas.crop(canvas.getbbox())
    scale = 96 / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.LANCZOS)
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(np.array(ink) > 127, 8), iterations=4))[8:-8, 8:-8]
    return ink, Image.fromarray((np.maximum(solid * 255, np.array(ink))).astype(np.uint8))


def _turned_glyph(noun: str, lying: bool, size: int, angle: float) -> tuple[np.ndarray, ...]:
    """Turn ink and silhouette of a noun and scale their longest side to ``size`` pixels: float32 (h, w), 0 to 1."""
    layers = [layer.rotate(angle + (90 if lying else 0), Image.BICUBIC, expand=True) for layer in _glyph(noun)]
    box = layers[1].getbbox()
    width, height = box[2] - box[0], box[3] - box[1]
    scale = size / max(width, height)
    shape = (max(6, round(width * scale)), max(6, round(height * scale)))
    return tuple(np.asarray(layer.crop(box).resize(shape, Image.BOX), np.float32) / 255 for layer in layers)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Render a muted cloud of two colours, in some scenes with stripes: float32 (112, 112, 3), 0 to 255."""
    base = rng.uniform(105, 185) + rng.uniform(-22, 22, 3)
    other = base + rng.uniform(-34, 34) + rng.uniform(-10, 10, 3)
    coarse = Image.fromarray(rng.uniform(0, 255, (5, 5)).astype(np.uint8)).resize((SIZE, SIZE), Image.BICUBIC)
    blend = np.asarray(coarse, np.float32)[..., None] / 255
    if rng.random() < 0.4:
        angle, period = rng.uniform(0, np.pi), rng.uniform(9, 26)
        y, x = np.mgrid[0:SIZE, 0:SIZE]
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
        blend = 0.6 * blend + 0.4 * wave[..., None].astype(np.float32)
    texture = rng.normal(0, 5, (SIZE, SIZE, 1))
    return (base + (other - base) * blend + texture).astype(np.float32)


def _looks(rng: np.random.Generator, n: int, train: bool) -> list[tuple[str, str, bool]]:
    """Sample noun, colour and pose of n things. A noun may come twice, then with one look."""
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
    """Sample n distinct cells (row, column), and whether the first two are neighbours that will touch."""
    touch = bool(rng.random() < 0.55)
    cells = [(r, c) for r in range(4) for c in range(4)]
    first = cells[rng.integers(16)]
    near = [(r, c) for r, c in cells if abs(r - first[0]) + abs(c - first[1]) == 1]
    second = near[rng.integers(len(near))]
    rest = [cell for cell in cells if cell not in (first, second)]
    order = [rest[i] for i in rng.permutation(len(rest))]
    return (([first, second] if touch else [first]) + order)[:n], touch


def draw_scene(split: str, index: int, seed: int = 0) -> Scene:
    """Generate scene ``index`` of a split.

    Args:
        split: a key of :data:`SPLITS`.
        index: number of the scene, from 0.
        seed: another seed gives another world.
    """
    rng = np.random.default_rng([seed, SPLITS[split], index])
    n = int(rng.integers(3, 6))
    looks = _looks(rng, n, train=split in ("train", "models"))
    cells, touch = _places(rng, n)
    canvas = _background(rng)
    order = rng.permutation(n)  # of painting: at random, so that the first two things are not always below the others
    stamps = []
    for (noun, color, lying), cell in zip(looks, cells, strict=True):
        size = int(rng.integers(23, 32))
        ink, solid = _turned_glyph(noun, lying, size, float(rng.uniform(-8, 8)))
        center = [CELL * (k + 0.5) + rng.uniform(-2.5, 2.5) for k in cell]
        opacity = float(rng.uniform(0.25, 0.55)) if rng.random() < 0.2 else 1.0
        stamps.append(_Stamp(noun, color, lying, opacity, ink, solid, center, rng.normal(0, 8, 3)))
    if touch:
        _pull_together(*stamps[:2], axis=1 if cells[0][0] == cells[1][0] else 0)
    masks = {int(i): stamps[i].paint(canvas) for i in order}
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return _scene(f"{split}_{seed}_{index:06d}", image, stamps, masks)


def _pull_together(a: _Stamp, b: _Stamp, axis: int) -> None:
    """Move two neighbours along an axis (0 rows, 1 columns) until their boxes overlap by about four pixels."""
    gap = abs(a.center[axis] - b.center[axis]) - (a.solid.shape[axis] + b.solid.shape[axis]) / 2
    if gap + 4 <= 0:
        return
    shift = (gap + 4) / 2 * (1 if b.center[axis] > a.center[axis] else -1)
    a.center[axis] += shift
    b.center[axis] -= shift
    a.center[1 - axis] = b.center[1 - axis] = (a.center[1 - axis] + b.center[1 - axis]) / 2


def _scene(name: str, image: np.ndarray, stamps: Sequence[_Stamp], masks: dict[int, np.ndarray]) -> Scene:
    """Derive the ground truth (visible masks, boxes, contacts) from each stamp's mask, in the order of painting."""
    covered, visible = np.zeros((SIZE, SIZE), bool), {}
    for i in reversed(masks):
        visible[i] = masks[i] & ~covered
        if stamps[i].opacity > 0.5:  # faint objects hide nothing
            covered |= masks[i]
    things, recognizable = [], [i for i in sorted(visible) if visible[i].sum() >= 0.5 * masks[i].sum()]
    for i in recognizable:
        ys, xs = np.nonzero(visible[i])
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        things.append(Thing(stamps[i].noun, stamps[i].color, stamps[i].lying, stamps[i].opacity, box, visible[i]))
    distances = [ndimage.distance_transform_edt(~masks[i]) for i in recognizable]
    touching, unclear = set(), set()
    for a, b in combinations(range(len(things)), 2):
        distance = distances[a][masks[recognizable[b]]].min()
        if distance < 4:
            (touching if distance <= 1.5 else unclear).add((a, b))
    return Scene(name, image, tuple(things), frozenset(touching), frozenset(unclear))
