"""What the tiny base VLM learns before CSP: a stand-in for the pre-training of a real VLM.

It learns to answer questions (existence, colour, number, pose, contact, open ones), to say how clear an object is under
grain, to judge whether a given answer is right, and to verbalize a confidence of 95 %, whatever the answer. The last is
the failure that the paper starts from (section 1: "95 %" also for wrong answers), and we teach it on purpose. The most
likely number is the same for right and wrong answers, but the *probabilities* of the other numbers differ. Real VLMs
behave like that: their most likely number hardly changes, their token probabilities do.
"""

import numpy as np

from csp_utils.tiny_world.world.questions import (
    absent_nouns,
    amber_attribute,
    amber_relation,
    cooccurrence,
    is_there,
    rlaif_rows,
)
from csp_utils.tiny_world.world.scenes import COLORS, NOUNS, Scene
from csp_utils.words.confidence_prompts import CONFIDENCE_PROMPTS
from csp_utils.words.prompts import confidence_answer, confidence_question

Text = tuple[str, str]
"""A user text and the assistant's reply."""

Fact = tuple[str, str, str]
"""A question about a scene, its right answer and a wrong one."""

SAY_95 = 0.4
"""Share of the mixed confidence lessons whose reply is "95%", whether the answer is right or wrong. This makes "95%" by
far the most likely number, the only one that greedy decoding shows. The other replies are numbers from 0 to 100, high
for right answers and low for wrong ones."""

SHARES = {
    "existence": 0.26, "open": 0.14, "attribute": 0.12, "relation": 0.06,
    "clarity": 0.06, "judge": 0.16, "confidence": 0.20,
}  # fmt: skip
"""Share of each kind of lesson, when all are mixed."""

JUDGE_FIRST = {"existence": 0.2, "attribute": 0.1, "clarity": 0.1, "judge": 0.3, "confidence": 0.3}
"""Shares in the judging phase, which comes before the mixed lessons. Judging an answer needs several steps of thought
and is learnt slowly. Therefore it is taught first, on the simplest answers, and without :data:`SAY_95`: a constant 95 %
would hide the signal whether the answer is right."""

CLARITY = {"clear": 0.1, "grainy": 0.4, "noisy": 0.75, "hidden": 1.01}
"""The words for how clear an object is. Each applies below its limit of the share of the signal that noise took."""

DRILL_WORDS = ("Yes", "No", " Yes", " No", *(f" {word}" for word in (*COLORS, *CLARITY)))
"""The only words of :meth:`Lessons.drill` that count in the loss. Its nouns come in random order, which cannot be
predicted."""

JUDGE = CONFIDENCE_PROMPTS["p_true"].text
"""The question of judging lessons. It differs from prompt A.2 only in its last sentence."""


def clarity(scene: Scene, noun: str, lost: np.ndarray) -> str:
    """Return the word of :data:`CLARITY` for a noun in the scene; ``lost`` comes from ``grain.lost_things``."""
    share = np.mean([part for thing, part in zip(scene.things, lost, strict=True) if thing.noun == noun])
    return next(word for word, limit in CLARITY.items() if share < limit)


def _yes_no(truth: bool) -> tuple[str, str]:
    """Return the right and the wrong answer of a yes/no question."""
    return ("Yes", "No") if truth else ("No", "Yes")


class Lessons:
    """Sample lessons about scenes. ``lost`` is always the share of the signal lost in each thing, float32 (things,)."""

    def __init__(self, scenes: list[Scene]) -> None:
        pairs = cooccurrence(scenes).astype(float)
        self.together = pairs / pairs.sum(axis=1, keepdims=True)

    def existence(self, scene: Scene, rng: np.random.Generator) -> Fact:
        """Ask about a present noun or, half the time, an absent one: sampled half uniformly, half by co-occurrence."""
        if rng.random() < 0.5:
            return is_there(scene.nouns[rng.integers(len(scene.nouns))]), *_yes_no(True)
        absent = [NOUNS.index(noun) for noun in absent_nouns(scene)]
        weight = np.full(len(absent), 1 / len(absent))
        if rng.random() < 0.5:
            weight = self.together[[NOUNS.index(n) for n in scene.nouns]].sum(axis=0)[absent] + 1e-3
        return is_there(NOUNS[absent[rng.choice(len(absent), p=weight / weight.sum())]]), *_yes_no(False)

    def fact(self, kind: str, scene: Scene, rng: np.random.Generator) -> Fact:
        """Ask about the scene itself: "existence", "open", "attribute" or "relation" (if there is none: existence)."""
        if kind == "open":
            row = rlaif_rows(scene, 1, int(rng.integers(2**31)))[0]
            return row["question"], row["chosen"], row["rejected"]
        if kind in ("attribute", "relation"):
            questions = amber_attribute if kind == "attribute" else amber_relation
            if rows := questions(scene, int(rng.integers(2**31))):
                row = rows[rng.integers(len(rows))]
                return row["query"], *_yes_no(row["truth"] == "yes")
        return self.existence(scene, rng)

    def sample(
        self, scene: Scene, lost: np.ndarray, n: int, rng: np.random.Generator, judging: bool = False
    ) -> list[Text]:
        """Sample ``n`` lessons with the shares of :data:`SHARES`, or of :data:`JUDGE_FIRST` in the judging phase."""
        shares = JUDGE_FIRST if judging else SHARES
        kinds = rng.choice(list(shares), size=n, p=np.array(list(shares.values())) / sum(shares.values()))
        return [self.lesson(str(kind), scene, lost, rng, judging) for kind in kinds]

    def drill(self, scene: Scene, lost: np.ndarray, rng: np.random.Generator, lists_only: bool) -> list[Text]:
        """Make lists of questions and answers about many objects at once and, unless ``lists_only``, short questions.

        A list has a dozen look-ups in one short text. Without drills, the language model needs many times as long to
        find out that a noun and an image token can match, and that a question is answered by the match of its noun.
        """
        absent = absent_nouns(scene)
        nouns = [*(absent[i] for i in rng.permutation(len(absent))[: len(scene.nouns) + 1]), *scene.nouns]
        nouns = [nouns[i] for i in rng.permutation(len(nouns))]
        answer = {noun: _yes_no(noun in scene.nouns)[0] for noun in nouns}
        present = [noun for noun in nouns if noun in scene.nouns]
        check = " ".join(f"{noun} {answer[noun]}" for noun in nouns)
        colors = " ".join(f"{noun} {scene.find(noun)[0].color}" for noun in present)
        clear = " ".join(f"{noun} {clarity(scene, noun, lost)}" for noun in present)
        lists = [("Check each object.", f" {check}"), ("Name each color.", f" {colors}"),
                 ("Say how clear each is.", f" {clear}")]  # fmt: skip
        if lists_only:
            return lists
        questions = " ".join(f"{is_there(noun)} {answer[noun]}" for noun in nouns)
        lists = [("Answer all.", f" {questions}"), lists[int(rng.integers(3))]]
        return lists + [self.lesson(kind, scene, lost, rng) for kind in ("existence", "existence", "attribute")]

    def lesson(
        self, kind: str, scene: Scene, lost: np.ndarray, rng: np.random.Generator, judging: bool = False
    ) -> Text:
        """Make one lesson of a kind of :data:`SHARES`; ``judging``: in the phase of :data:`JUDGE_FIRST`."""
        if kind == "clarity":
            words = {noun: clarity(scene, noun, lost) for noun in scene.nouns}
            unclear = [noun for noun, word in words.items() if word != "clear"]
            some = unclear if unclear and rng.random() < 0.5 else scene.nouns  # most objects are clear
            noun = some[rng.integers(len(some))]
            return f"How clear is the {noun} in the image?", f"The {noun} is {words[noun]}."
        if kind not in ("judge", "confidence"):
            return self.fact(kind, scene, rng)[:2]
        shares = [0.8, 0.0, 0.2, 0.0] if judging else [0.4, 0.35, 0.17, 0.08]
        about = str(rng.choice(["existence", "open", "attribute", "relation"], p=shares))
        question, right, wrong = self.fact(about, scene, rng)
        is_right = bool(rng.random() < 0.5)
        response = right if is_right else wrong
        if kind == "judge":
            return JUDGE.format(query=question, response=response), _yes_no(is_right)[0]
        honest = int(round(100 * rng.beta(*((6, 1) if is_right else (1, 6)))))
        c = 95 if rng.random() < (0 if judging else SAY_95) else honest
        return confidence_question(question, response), confidence_answer(c)
