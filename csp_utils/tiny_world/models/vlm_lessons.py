"""What the tiny base VLM is taught before CSP ever sees it: a stand-in for the pre-training of a real VLM.

It learns to answer (existence, colour, number, pose, contact, open questions), to say how clear an object is under
grain, to judge another model's answer when asked whether it is right, and to say about any answer that it is 95 %
certain. The last is the failure that the paper starts from (section 1: "95 %" also when it is wrong), and it is taught
openly: the likeliest number is the same for right and wrong answers, while the *probabilities* of the others are not.
Real VLMs are like that: their most likely number hardly moves, their token probabilities do.
"""

import numpy as np

from csp_utils.tiny_world.world.questions import amber_attribute, amber_relation, article, cooccurrence, rlaif_rows
from csp_utils.tiny_world.world.scenes import COLORS, NOUNS, Scene
from csp_utils.words.confidence_prompts import CONFIDENCE_PROMPTS
from csp_utils.words.prompts import confidence_answer, confidence_question

SAY_95 = 0.4
"""Chance that the base is taught to say "95%", whatever the answer: by far its most likely number, and all that greedy
decoding ever shows. Otherwise it says a number between 0 and 100, high for right answers and low for wrong ones."""

SHARES = {
    "existence": 0.26, "open": 0.14, "attribute": 0.12, "relation": 0.06,
    "clarity": 0.06, "judge": 0.16, "confidence": 0.20,
}  # fmt: skip
"""Share of each kind of lesson."""

JUDGE_FIRST = {"existence": 0.2, "attribute": 0.1, "clarity": 0.1, "judge": 0.3, "confidence": 0.3}
"""Shares while the judging skill is learnt, about the simplest answers and without :data:`SAY_95`: right or wrong is
the longest chain of thought of all, and hard to find behind a number that hardly depends on it."""

CLARITY = {"clear": 0.1, "grainy": 0.4, "noisy": 0.75, "hidden": 1.01}
"""What is said about an object of which less than this share of the signal is lost."""

DRILL_WORDS = ("Yes", "No", " Yes", " No", *(f" {word}" for word in (*COLORS, *CLARITY)))
"""The words of :meth:`Lessons.drill` that are to be predicted; the order of its nouns is random."""

JUDGE = CONFIDENCE_PROMPTS["p_true"].text
"""The judging skill; its words differ from prompt A.2 only in what is asked at the end."""


def clarity(scene: Scene, noun: str, lost: np.ndarray) -> str:
    """The word of :data:`CLARITY` for an object that is there; ``lost`` as :func:`grain.lost_things` gives it."""
    share = np.mean([part for thing, part in zip(scene.things, lost, strict=True) if thing.noun == noun])
    return next(word for word, limit in CLARITY.items() if share < limit)


class Lessons:
    """Draws lessons about scenes. The chance that an absent noun is asked about follows its co-occurrence."""

    def __init__(self, scenes: list[Scene]):
        pairs = cooccurrence(scenes).astype(float)
        self.together = pairs / pairs.sum(axis=1, keepdims=True)

    def existence(self, scene: Scene, rng: np.random.Generator) -> tuple[str, str, str]:
        """Question, right answer, wrong answer. Absent nouns are drawn half evenly, half by co-occurrence."""
        if rng.random() < 0.5:
            noun, truth = scene.nouns[rng.integers(len(scene.nouns))], True
        else:
            absent = [i for i, n in enumerate(NOUNS) if n not in scene.nouns]
            weight = np.full(len(absent), 1 / len(absent))
            if rng.random() < 0.5:
                weight = self.together[[NOUNS.index(n) for n in scene.nouns]].sum(axis=0)[absent] + 1e-3
            noun, truth = NOUNS[absent[rng.choice(len(absent), p=weight / weight.sum())]], False
        return (f"Is there {article(noun)} in the image?", *(("Yes", "No") if truth else ("No", "Yes")))

    def fact(self, kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str, str]:
        """Question, right answer, wrong answer of a kind of :data:`SHARES` that asks about the scene itself."""
        rows = []
        if kind == "open":
            row = rlaif_rows(scene, 1, int(rng.integers(2**31)))[0]
            return row["question"], row["chosen"], row["rejected"]
        if kind == "attribute":
            rows = amber_attribute(scene, int(rng.integers(2**31)))
        elif kind == "relation":
            rows = amber_relation(scene, int(rng.integers(2**31)))
        if not rows:
            return self.existence(scene, rng)
        row = rows[rng.integers(len(rows))]
        return (row["query"], *(("Yes", "No") if row["truth"] == "yes" else ("No", "Yes")))

    def draw(
        self, scene: Scene, lost: np.ndarray, n: int, rng: np.random.Generator, first: bool = False
    ) -> list[tuple[str, str]]:
        """``n`` pairs of user text and assistant text; ``first``: those that come before all others."""
        shares = JUDGE_FIRST if first else SHARES
        kinds = rng.choice(list(shares), size=n, p=np.array(list(shares.values())) / sum(shares.values()))
        return [self.one(str(kind), scene, lost, rng, first) for kind in kinds]

    def drill(self, scene: Scene, lost: np.ndarray, rng: np.random.Generator, look: bool) -> list[tuple[str, str]]:
        """Lists of questions and answers about many objects at once; if not only to ``look``, also short questions.

        Only the answer words count (:data:`DRILL_WORDS`). A dozen look-ups in one short text: without such drills the
        language model needs many times as long to find out that a noun and an image token can match, and that a
        question is answered by what was found at its noun.
        """
        absent = [noun for noun in NOUNS if noun not in scene.nouns]
        some = [absent[i] for i in rng.permutation(len(absent))[: len(scene.nouns) + 1]]
        both = [*some, *scene.nouns]
        nouns = [both[i] for i in rng.permutation(len(both))]
        said = {noun: "Yes" if noun in scene.nouns else "No" for noun in nouns}
        there = " ".join(f"{noun} {said[noun]}" for noun in nouns)
        present = [noun for noun in nouns if noun in scene.nouns]
        colors = " ".join(f"{noun} {scene.find(noun)[0].color}" for noun in present)
        clear = " ".join(f"{noun} {clarity(scene, noun, lost)}" for noun in present)
        asked = " ".join(f"Is there {article(noun)} in the image? {said[noun]}" for noun in nouns)
        lists = [
            ("Check each object.", f" {there}"), ("Name each color.", f" {colors}"),
            ("Say how clear each is.", f" {clear}"),
        ]  # fmt: skip
        if look:
            return lists
        lists = [("Answer all.", f" {asked}"), lists[int(rng.integers(3))]]
        return lists + [self.one(kind, scene, lost, rng) for kind in ("existence", "existence", "attribute")]

    def one(
        self, kind: str, scene: Scene, lost: np.ndarray, rng: np.random.Generator, first: bool = False
    ) -> tuple[str, str]:
        """One lesson of a kind; ``first``: as :data:`JUDGE_FIRST` says."""
        if kind == "clarity":
            words = {noun: clarity(scene, noun, lost) for noun in scene.nouns}
            unclear = [noun for noun, word in words.items() if word != "clear"]
            some = unclear if unclear and rng.random() < 0.5 else scene.nouns  # most objects are clear
            noun = some[rng.integers(len(some))]
            return f"How clear is the {noun} in the image?", f"The {noun} is {words[noun]}."
        if kind not in ("judge", "confidence"):
            question, right, _ = self.fact(kind, scene, rng)
            return question, right
        shares = [0.8, 0.0, 0.2, 0.0] if first else [0.4, 0.35, 0.17, 0.08]
        about = str(rng.choice(["existence", "open", "attribute", "relation"], p=shares))
        question, right, wrong = self.fact(about, scene, rng)
        is_right = bool(rng.random() < 0.5)
        response = right if is_right else wrong
        if kind == "judge":
            return JUDGE.format(query=question, response=response), "Yes" if is_right else "No"
        spread = int(round(100 * rng.beta(*((6, 1) if is_right else (1, 6)))))
        said = 95 if rng.random() < (0 if first else SAY_95) else spread
        return confidence_question(question, response), confidence_answer(said)
