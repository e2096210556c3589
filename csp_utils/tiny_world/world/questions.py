"""Ask about scenes: rows as in RLAIF-V, questions as in POPE and AMBER, each with the right answer.

Everything is a pure function of the scene and a seed. Right answers come from the scene's ground truth. Rejected
answers are hallucinations that a captioner would make (a wrong colour, an object that is not there).
"""

import zlib
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from csp_utils.tiny_world.world.scenes import CAN_LIE, COLORS, NOUNS, Scene, Thing
from csp_utils.words.english import article


def is_there(noun: str) -> str:
    """Ask POPE's question about a noun."""
    return f"Is there {article(noun)} in the image?"


def absent_nouns(scene: Scene) -> list[str]:
    """Return the nouns of the tiny world that the scene does not show."""
    return [noun for noun in NOUNS if noun not in scene.nouns]


def other_color(rng: np.random.Generator, color: str) -> str:
    """Sample another colour."""
    return str(rng.choice([c for c in COLORS if c != color]))


ROW_KINDS = {"color_open": 0.25, "existence_yes": 0.25, "existence_no": 0.06, "color_yes": 0.14, "color_no": 0.14,
             "pose": 0.06, "count": 0.10}  # fmt: skip
"""Kinds of training rows and their shares. ``existence_no`` asks about an object that is not in the image, so it has no
box. RLAIF-V has such rows too, and the pipeline must drop and count them."""


def _row(kind: str, n: str, thing: Thing, scene: Scene, rng: np.random.Generator) -> tuple[str, str, str]:
    """Write question, right answer and wrong answer of a row about a noun ``n``, the thing's own or an absent one."""
    c = thing.color
    if kind == "color_open":
        w = other_color(rng, c)
        question = str(rng.choice([f"What color is the {n}?", f"What is the color of the {n} in the image?"]))
        return question, f"The {n} is {c}.", f"The {n} is {w}."
    if kind == "pose":
        right, wrong = ("lying on its side", "standing upright")[:: 1 if thing.lying else -1]
        return f"Is the {n} standing upright or lying on its side?", f"The {n} is {right}.", f"The {n} is {wrong}."
    if kind == "count":
        k, say = len(scene.find(n)), {1: f"There is one {n}.", 2: f"There are two {n}s."}
        return f"How many {n}s are there in the image?", say[k], say[3 - k]
    if kind == "existence_yes":
        question, right = is_there(n), f"Yes, there is {article(c)} {n} in the image."
        wrong = f"No, there is no {n} in the image."
    elif kind == "existence_no":
        question, right = is_there(n), f"No, there is no {n} in the image."
        wrong = f"Yes, there is {article(n)} in the image."
    else:
        w = other_color(rng, c)
        yes = kind == "color_yes"
        question = f"Is the {n} {c if yes else w} in this image?"
        right, wrong = f"{'Yes' if yes else 'No'}, the {n} is {c}.", f"{'No' if yes else 'Yes'}, the {n} is {w}."
    if rng.random() >= 0.5:
        right, wrong = right.partition(",")[0], wrong.partition(",")[0]  # Yes and No alone
    return question, right, wrong


def rlaif_rows(scene: Scene, n: int, seed: int = 0) -> list[dict[str, str]]:
    """Make ``n`` rows about a scene, all with different questions.

    Returns:
        dicts with question, chosen (true), rejected (false), keyword (the noun that the row is about), kind.
    """
    rng = np.random.default_rng([seed, 11, _key(scene)])
    kinds, shares = list(ROW_KINDS), np.array(list(ROW_KINDS.values()))
    rows: dict[str, dict[str, str]] = {}
    for _ in range(20 * n):  # tries: questions may repeat
        if len(rows) == n:
            break
        kind = str(rng.choice(kinds, p=shares / shares.sum()))
        thing = scene.things[rng.integers(len(scene.things))]
        if kind == "pose" and thing.noun not in CAN_LIE:
            continue
        noun = str(rng.choice(absent_nouns(scene))) if kind == "existence_no" else thing.noun
        question, chosen, rejected = _row(kind, noun, thing, scene, rng)
        row = {"question": question, "chosen": chosen, "rejected": rejected, "keyword": noun, "kind": kind}
        rows.setdefault(question, row)
    return list(rows.values())


def _key(scene: Scene) -> int:
    """Turn the scene's name into a number for seeds."""
    return zlib.crc32(scene.name.encode())


def cooccurrence(scenes: Sequence[Scene]) -> np.ndarray:
    """Count how often noun i and noun j share a scene: int (16, 16)."""
    has = np.array([[noun in scene.nouns for noun in NOUNS] for scene in scenes], int)
    return has.T @ has


def pope_questions(scenes: Sequence[Scene], seed: int = 0) -> dict[str, list[dict]]:
    """Make POPE's three splits: each asks about three present and three absent nouns an image.

    As in POPE (Li et al. 2023), the absent nouns are a random sample, the most frequent nouns, or the nouns that most
    often share a scene with the present ones. Both statistics are counted over the scenes given.

    Returns:
        split -> rows with image, text, label ("yes" or "no"), in POPE's order (yes and no in turn).
    """
    pairs = cooccurrence(scenes)
    frequent = [NOUNS[i] for i in np.argsort(-np.diag(pairs), kind="stable")]
    out: dict[str, list[dict]] = {"random": [], "popular": [], "adversarial": []}
    for scene in scenes:
        rng = np.random.default_rng([seed, 12, _key(scene)])
        present = [scene.nouns[i] for i in rng.permutation(len(scene.nouns))[:3]]
        absent = absent_nouns(scene)
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
                    out[split].append({"image": f"{scene.name}.png", "text": is_there(noun), "label": label})
    return out


def amber_attribute(scene: Scene, seed: int = 0) -> list[dict]:
    """Ask AMBER's attribute questions, each with its opposite, so that yes and no are equally frequent.

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
        wrong = other_color(rng, color)
        ask("state", f"Is the {noun} {color} in this image?", f"Is the {noun} {wrong} in this image?")
    noun = next((n for n in nouns if len(scene.find(n)) == 2), nouns[0]) if rng.random() < 0.5 else nouns[0]
    one, two = f"Is there one {noun} in this image?", f"Are there two {noun}s in this image?"
    ask("number", *((two, one) if len(scene.find(noun)) == 2 else (one, two)))
    for noun in [n for n in nouns if n in CAN_LIE][:1]:
        up, down = f"Does the {noun} stand in this image?", f"Does the {noun} lie in this image?"
        ask("action", *((down, up) if scene.find(noun)[0].lying else (up, down)))
    return rows


def contact_question(one: str, other: str) -> str:
    """Ask AMBER's relation question."""
    return f"Is there direct contact between the {one} and {other}?"


def contact_pairs(scene: Scene) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the pairs of things that touch and those that do not.

    Pairs that nearly touch are left out, and nouns that occur twice.
    """
    single = [i for i, t in enumerate(scene.things) if len(scene.find(t.noun)) == 1]
    pairs = [pair for pair in combinations(single, 2) if pair not in scene.unclear]
    return [p for p in pairs if p in scene.touching], [p for p in pairs if p not in scene.touching]


def amber_relation(scene: Scene, seed: int = 0) -> list[dict]:
    """Ask AMBER's relation question (direct contact) about every touching pair and as many pairs that do not touch.

    Returns:
        rows with image, query, truth ("yes" or "no").
    """
    rng = np.random.default_rng([seed, 14, _key(scene)])
    yes, apart = contact_pairs(scene)
    no = [apart[k] for k in rng.permutation(len(apart))[: len(yes)]]
    rows = []
    for (i, j), truth in [*((p, "yes") for p in yes), *((p, "no") for p in no)]:
        query = contact_question(scene.things[i].noun, scene.things[j].noun)
        rows.append({"image": f"{scene.name}.png", "query": query, "truth": truth})
    return rows
