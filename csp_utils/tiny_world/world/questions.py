"""What is asked about a scene: rows as in RLAIF-V, questions as in POPE and AMBER, and the truth of each.

Everything is a pure function of the scene and a seed. Answers come from the scene's ground truth; rejected answers are
the hallucinations a captioner would make (a wrong colour, an object that is not there).
"""

import zlib
from collections.abc import Sequence

import numpy as np

from csp_utils.tiny_world.world.scenes import CAN_LIE, COLORS, NOUNS, Scene


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _other(rng: np.random.Generator, options: Sequence[str], *but: str) -> str:
    return str(rng.choice([o for o in options if o not in but]))


def _absent(scene: Scene) -> list[str]:
    return [noun for noun in NOUNS if noun not in scene.nouns]


def _long_or_short(rng: np.random.Generator, right: str, wrong: str) -> tuple[str, str]:
    """The right and the wrong answer, or with probability 1/2 their first words alone: Yes and No, or No and Yes."""
    return (right, wrong) if rng.random() < 0.5 else (right.partition(",")[0], wrong.partition(",")[0])


def _color_open(scene, thing, rng):
    c, w = thing.color, _other(rng, list(COLORS), thing.color)
    n = thing.noun
    q = str(rng.choice([f"What color is the {n}?", f"What is the color of the {n} in the image?"]))
    return q, f"The {n} is {c}.", f"The {n} is {w}."


def _existence_yes(scene, thing, rng):
    n, c = thing.noun, thing.color
    answers = _long_or_short(rng, f"Yes, there is {article(c)} {n} in the image.", f"No, there is no {n} in the image.")
    return f"Is there {article(n)} in the image?", *answers


def _existence_no(scene, thing, rng):
    n = _other(rng, _absent(scene))
    answers = _long_or_short(rng, f"No, there is no {n} in the image.", f"Yes, there is {article(n)} in the image.")
    return f"Is there {article(n)} in the image?", *answers, n


def _color_yes(scene, thing, rng):
    n, c = thing.noun, thing.color
    answers = _long_or_short(rng, f"Yes, the {n} is {c}.", f"No, the {n} is {_other(rng, list(COLORS), c)}.")
    return f"Is the {n} {c} in this image?", *answers


def _color_no(scene, thing, rng):
    n, c = thing.noun, thing.color
    w = _other(rng, list(COLORS), c)
    answers = _long_or_short(rng, f"No, the {n} is {c}.", f"Yes, the {n} is {w}.")
    return f"Is the {n} {w} in this image?", *answers


def _pose(scene, thing, rng):
    n = thing.noun
    poses = ("lying on its side", "standing upright")
    right, wrong = poses if thing.lying else poses[::-1]
    return f"Is the {n} standing upright or lying on its side?", f"The {n} is {right}.", f"The {n} is {wrong}."


def _count(scene, thing, rng):
    n, k = thing.noun, len(scene.find(thing.noun))
    say = {1: f"There is one {n}.", 2: f"There are two {n}s."}
    return f"How many {n}s are there in the image?", say[k], say[3 - k]


ROW_KINDS = {
    "color_open": (_color_open, 0.25),
    "existence_yes": (_existence_yes, 0.25),
    "existence_no": (_existence_no, 0.06),
    "color_yes": (_color_yes, 0.14),
    "color_no": (_color_no, 0.14),
    "pose": (_pose, 0.06),
    "count": (_count, 0.10),
}
"""Kinds of training rows and their shares. ``existence_no`` speaks of something that has no box: RLAIF-V has such rows
too, and the pipeline must drop and count them."""


def rlaif_rows(scene: Scene, n: int, seed: int = 0) -> list[dict[str, str]]:
    """``n`` question-answer rows about a scene.

    Returns:
        dicts with question, chosen (true), rejected (false), keyword (the noun that the row is about), kind.
    """
    rng = np.random.default_rng([seed, 11, _key(scene)])
    kinds, shares = list(ROW_KINDS), np.array([share for _, share in ROW_KINDS.values()])
    rows, asked = [], set()
    for _ in range(20 * n):  # different questions; a scene has far more than a few
        if len(rows) == n:
            break
        kind = str(rng.choice(kinds, p=shares / shares.sum()))
        thing = scene.things[rng.integers(len(scene.things))]
        if kind == "pose" and thing.noun not in CAN_LIE:
            continue
        question, chosen, rejected, *about = ROW_KINDS[kind][0](scene, thing, rng)
        if question in asked:
            continue
        asked.add(question)
        row = {"question": question, "chosen": chosen, "rejected": rejected}
        rows.append(row | {"keyword": about[0] if about else thing.noun, "kind": kind})
    return rows


def _key(scene: Scene) -> int:
    """A number that names the scene in seeds."""
    return zlib.crc32(scene.name.encode())


def cooccurrence(scenes: Sequence[Scene]) -> np.ndarray:
    """How often noun i and noun j share a scene, (16, 16) int."""
    has = np.array([[noun in scene.nouns for noun in NOUNS] for scene in scenes], int)
    return has.T @ has


def pope_questions(scenes: Sequence[Scene], seed: int = 0) -> dict[str, list[dict]]:
    """POPE's three splits over the scenes: three present and three absent nouns an image.

    As in POPE (Li et al. 2023), absent nouns are drawn at random, from the most frequent, or from those that most often
    share a scene with what is there; the statistics are those of the scenes given.

    Returns:
        split -> rows with image, text, label ("yes" or "no"), in POPE's order (yes and no in turn).
    """
    pairs = cooccurrence(scenes)
    frequent = [NOUNS[i] for i in np.argsort(-np.diag(pairs), kind="stable")]
    out: dict[str, list[dict]] = {"random": [], "popular": [], "adversarial": []}
    for scene in scenes:
        rng = np.random.default_rng([seed, 12, _key(scene)])
        present = [scene.nouns[i] for i in rng.permutation(len(scene.nouns))[:3]]
        absent = _absent(scene)
        together = pairs[[NOUNS.index(n) for n in scene.nouns]].sum(axis=0)
        k = len(present)
        negatives = {
            "random": [absent[i] for i in rng.permutation(len(absent))[:k]],
            "popular": [n for n in frequent if n in absent][:k],
            "adversarial": sorted(absent, key=lambda n: (-together[NOUNS.index(n)], n))[:k],
        }
        for split, nouns in negatives.items():
            for yes, no in zip(present, nouns, strict=True):
                for noun, label in ((yes, "yes"), (no, "no")):
                    text = f"Is there {article(noun)} in the image?"
                    out[split].append({"image": f"{scene.name}.png", "text": text, "label": label})
    return out


def amber_attribute(scene: Scene, seed: int = 0) -> list[dict]:
    """AMBER's attribute questions: each with its opposite, so that yes and no are even.

    Returns:
        rows with image, query, truth ("yes" or "no"), kind ("state", "number" or "action").
    """
    rng = np.random.default_rng([seed, 13, _key(scene)])
    rows = []

    def ask(kind: str, yes: str, no: str) -> None:
        for query, truth in ((yes, "yes"), (no, "no")):
            rows.append({"image": f"{scene.name}.png", "query": query, "truth": truth, "kind": kind})

    nouns = [scene.nouns[i] for i in rng.permutation(len(scene.nouns))]
    for noun in nouns[:2]:
        color = scene.find(noun)[0].color
        wrong = _other(rng, list(COLORS), color)
        ask("state", f"Is the {noun} {color} in this image?", f"Is the {noun} {wrong} in this image?")
    noun = next((n for n in nouns if len(scene.find(n)) == 2), nouns[0]) if rng.random() < 0.5 else nouns[0]
    one, two = f"Is there one {noun} in this image?", f"Are there two {noun}s in this image?"
    ask("number", *((two, one) if len(scene.find(noun)) == 2 else (one, two)))
    for noun in [n for n in nouns if n in CAN_LIE][:1]:
        up, down = f"Does the {noun} stand in this image?", f"Does the {noun} lie in this image?"
        ask("action", *((down, up) if scene.find(noun)[0].lying else (up, down)))
    return rows


def amber_relation(scene: Scene, seed: int = 0) -> list[dict]:
    """AMBER's relation questions (direct contact): every touching pair, and as many pairs that do not touch.

    Returns:
        rows with image, query, truth ("yes" or "no"); pairs that nearly touch, and nouns that occur twice, are not
        asked about.
    """
    rng = np.random.default_rng([seed, 14, _key(scene)])
    single = [i for i, t in enumerate(scene.things) if len(scene.find(t.noun)) == 1]
    pairs = [(i, j) for a, i in enumerate(single) for j in single[a + 1 :] if (i, j) not in scene.unclear]
    yes = [p for p in pairs if p in scene.touching]
    apart = [p for p in pairs if p not in scene.touching]
    no = [apart[k] for k in rng.permutation(len(apart))[: len(yes)]]
    rows = []
    for (i, j), truth in [(p, "yes") for p in yes] + [(p, "no") for p in no]:
        query = f"Is there direct contact between the {scene.things[i].noun} and {scene.things[j].noun}?"
        rows.append({"image": f"{scene.name}.png", "query": query, "truth": truth})
    return rows
