"""What the tiny base VLM learns before CSP: a stand-in for the pre-training of a real VLM.

It learns to answer questions (existence, colour, number, pose, contact, open ones), to say how clear an object is under
grain, to judge whether a given answer is right, and to verbalize a confidence of 95 %, whatever the answer. The last is
the failure that the paper starts from (section 1: "95 %" also for wrong answers), and we teach it on purpose. The most
likely number is the same for right and wrong answers, but the *probabilities* of the other numbers differ. Real VLMs
behave like that: their most likely number hardly changes, their token probabilities do.

It also learns to say in percent how clear an object is, and how clearly the image shows what an answer says. Its
confidence never follows these by itself: that is what CSP has to teach. (The shipped base is older: it learnt four
words for how clear an object is, and neither percents nor lists of contacts.)
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from csp_utils.tiny_world.world.questions import (
    absent_nouns,
    amber_attribute,
    amber_relation,
    contact_pairs,
    cooccurrence,
    is_there,
    other_color,
    rlaif_rows,
)
from csp_utils.tiny_world.world.scenes import CAN_LIE, COLORS, NOUNS, Scene
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
    "existence": 0.10, "open": 0.07, "attribute": 0.13, "relation": 0.14,
    "clarity": 0.26, "judge": 0.14, "confidence": 0.16,
}  # fmt: skip
"""Share of each kind of lesson, when all are mixed."""

JUDGE_FIRST = {"existence": 0.1, "attribute": 0.1, "relation": 0.15, "clarity": 0.15, "judge": 0.25, "confidence": 0.25}
"""Shares in the judging phase, which comes before the mixed lessons. Judging an answer needs several steps of thought
and is learnt slowly. Therefore it is taught first, on the simplest answers, and without :data:`SAY_95`: a constant 95 %
would hide the signal whether the answer is right."""

CLARITY = {"clear": 0.06, "soft": 0.22, "grainy": 0.4, "rough": 0.58, "noisy": 0.78, "hidden": 1.01}
"""The words for how clear an object is. Each applies below its limit of the share of the signal that noise took."""

CONTACT, POSE = ("touching", "apart"), ("standing", "lying")

DRILL_WORDS = ("Yes", "No", *"0123456789%", *(f" {word}" for word in ("Yes", "No", *COLORS, *CLARITY, *CONTACT, *POSE)))
"""The only words of :meth:`Lessons.drill` that count in the loss. Its nouns come in random order, which cannot be
predicted."""

JUDGE = CONFIDENCE_PROMPTS["p_true"].text
"""The question of judging lessons. It differs from prompt A.2 only in its last sentence."""

PERCENT_OF_OBJECT = "How clear is the {noun} in the image, in percent?"
"""The question whose answer is the share of the signal that is left of an object."""

SUPPORT = "Question: {query}\nAnswer: {response}\nHow clearly does the image show what the answer says, in percent?"
"""The question whose answer is that share for the object of a right answer, and 0 % for a wrong answer."""


def lost_share(scene: Scene, noun: str, lost: np.ndarray) -> float:
    """Average the share of the signal that is lost over the objects of a noun."""
    return float(np.mean([part for thing, part in zip(scene.things, lost, strict=True) if thing.noun == noun]))


def clarity(scene: Scene, noun: str, lost: np.ndarray) -> str:
    """Return the word of :data:`CLARITY` for a noun in the scene; ``lost`` comes from ``grain.lost_things``."""
    return next(word for word, limit in CLARITY.items() if lost_share(scene, noun, lost) < limit)


def percent(scene: Scene, noun: str, lost: np.ndarray) -> str:
    """Return how much of a noun's signal is left, as "73%"."""
    return f"{round(100 * (1 - lost_share(scene, noun, lost)))}%"


def contact_of(scene: Scene) -> dict[str, str]:
    """Return the word of :data:`CONTACT` for each noun that the scene shows once, unless it only nearly touches."""
    touching, vague = ({i for pair in pairs for i in pair} for pairs in (scene.touching, scene.unclear))
    return {thing.noun: CONTACT[i not in touching] for i, thing in enumerate(scene.things)
            if len(scene.find(thing.noun)) == 1 and (i in touching or i not in vague)}  # fmt: skip


def _claim(color: str, rng: np.random.Generator) -> str:
    """Claim a colour, half the time a wrong one, and say whether it is right."""
    right = bool(rng.random() < 0.5)
    return f"{color if right else other_color(rng, color)} {_yes_no(right)[0]}"


def _shown(color: str, left: str, rng: np.random.Generator) -> str:
    """Claim a colour as :func:`_claim` does, and say in percent how clearly the image shows what is claimed."""
    right = bool(rng.random() < 0.6)
    return f"{color} {left}" if right else f"{other_color(rng, color)} 0%"


def _pairs(scene: Scene, rng: np.random.Generator) -> str:
    """List pairs of nouns, and whether they touch; as many that do as that do not."""
    touching, apart = contact_pairs(scene)
    apart = [apart[i] for i in rng.permutation(len(apart))[: max(1, len(touching))]]
    listed = [*((pair, True) for pair in touching), *((pair, False) for pair in apart)]
    return "".join(
        f" {scene.things[i].noun} {scene.things[j].noun} {_yes_no(truth)[0]}"
        for (i, j), truth in (listed[k] for k in rng.permutation(len(listed)))
    )


def _yes_no(truth: bool) -> tuple[str, str]:
    """Return the right and the wrong answer of a yes/no question."""
    return ("Yes", "No") if truth else ("No", "Yes")


class Lessons:
    """Sample lessons about scenes. ``lost`` is always the share of the signal lost in each thing, float32 (things,)."""

    def __init__(self, scenes: list[Scene]) -> None:
        pairs = cooccurrence(scenes).astype(float)
        self.together = pairs / np.maximum(pairs.sum(axis=1, keepdims=True), 1)

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

    def clarity(self, scene: Scene, lost: np.ndarray, rng: np.random.Generator) -> Text:
        """Ask how clear an object is: by comparison, in a word or in percent."""
        share = {noun: lost_share(scene, noun, lost) for noun in scene.nouns}
        pairs = [(a, b) for a in scene.nouns for b in scene.nouns if abs(share[a] - share[b]) > 0.08]
        unclear = [noun for noun in scene.nouns if share[noun] > 0.05]
        some = unclear if unclear and rng.random() < 0.6 else scene.nouns  # most objects are clear
        noun, form = some[rng.integers(len(some))], rng.random()
        if form < 0.15 and pairs:
            a, b = pairs[rng.integers(len(pairs))]
            return f"Is the {a} clearer than the {b} in the image?", _yes_no(share[a] < share[b])[0]
        if form < 0.3:
            return f"How clear is the {noun} in the image?", f"The {noun} is {clarity(scene, noun, lost)}."
        if form < 0.45:
            return PERCENT_OF_OBJECT.format(noun=noun), percent(scene, noun, lost)
        return self.support(scene, lost, noun, rng)

    def support(self, scene: Scene, lost: np.ndarray, noun: str, rng: np.random.Generator) -> Text:
        """Ask how clearly the image shows what an answer says: not at all, if the answer is wrong."""
        kind = rng.random()
        seen = 1 - lost_share(scene, noun, lost)
        if kind < 0.2:
            noun, seen = str(rng.choice(absent_nouns(scene))), 1.0  # the image shows clearly that it is not there
        relations = amber_relation(scene, int(rng.integers(2**31))) if kind > 0.85 else []
        if relations:
            row = relations[rng.integers(len(relations))]
            question, *answers = row["query"], *_yes_no(row["truth"] == "yes")
            pair = re.findall(r"\w+", question.partition("between")[2])
            seen = 1 - max(lost_share(scene, noun, lost) for noun in pair if noun in scene.nouns)
        else:
            question, *answers = self.about(scene, noun, rng)
        is_right = bool(rng.random() < 0.6)
        return SUPPORT.format(query=question, response=answers[not is_right]), f"{round(100 * seen * is_right)}%"

    def about(self, scene: Scene, noun: str, rng: np.random.Generator) -> Fact:
        """Ask about a noun, present or not."""
        if noun not in scene.nouns:
            return is_there(noun), *_yes_no(False)
        if rng.random() < 0.3:
            rows = [row for row in amber_attribute(scene, int(rng.integers(2**31))) if noun in row["query"]]
            if rows:
                row = rows[rng.integers(len(rows))]
                return row["query"], *_yes_no(row["truth"] == "yes")
        rows = rlaif_rows(scene, 4, int(rng.integers(2**31)))
        rows = [row for row in rows if row["keyword"] == noun and row["kind"] != "contact"]
        if not rows:
            return is_there(noun), *_yes_no(True)
        row = rows[rng.integers(len(rows))]
        return row["question"], row["chosen"], row["rejected"]

    def sample(
        self, scene: Scene, lost: np.ndarray, n: int, rng: np.random.Generator, judging: bool = False
    ) -> list[Text]:
        """Sample ``n`` lessons with the shares of :data:`SHARES`, or of :data:`JUDGE_FIRST` in the judging phase."""
        shares = JUDGE_FIRST if judging else SHARES
        kinds = rng.choice(list(shares), size=n, p=np.array(list(shares.values())) / sum(shares.values()))
        return [self.lesson(str(kind), scene, lost, rng, judging) for kind in kinds]

    def drill(self, scene: Scene, lost: np.ndarray, rng: np.random.Generator, phase: str) -> list[Text]:
        """Make lists of questions and answers about many objects at once.

        A list has a dozen look-ups in one short text. Without drills, the language model needs many times as long to
        find out that a noun and an image token can match, and that a question is answered by the match of its noun.

        Args:
            phase: "look-ups" (a list of colours, the drill in which the model finds out soonest), "lists" (of
                everything), or "questions" (lists of questions, and short ones).
        """
        absent = absent_nouns(scene)
        nouns = [*(absent[i] for i in rng.permutation(len(absent))[: len(scene.nouns) + 1]), *scene.nouns]
        nouns = [nouns[i] for i in rng.permutation(len(nouns))]
        answer = {noun: _yes_no(noun in scene.nouns)[0] for noun in nouns}
        present = [noun for noun in nouns if noun in scene.nouns]

        def listed(names: Sequence[str], value: Callable[[str], str]) -> str:
            return "".join(f" {noun} {value(noun)}" for noun in names)

        colors = ("Name each color.", listed(present, lambda noun: scene.find(noun)[0].color))
        if phase == "look-ups":
            return [colors]
        touching = contact_of(scene)
        shown = {noun: scene.find(noun)[0] for noun in present}
        turned = [noun for noun in present if noun in CAN_LIE]
        left = {noun: percent(scene, noun, lost) for noun in present}
        claimed = ("Check each color.", listed(present, lambda noun: _claim(shown[noun].color, rng)))
        lists = [
            ("Check each object.", listed(nouns, answer.__getitem__)), colors, claimed,
            ("Say how each stands.", listed(turned, lambda noun: POSE[shown[noun].lying])),
            ("Check each pair.", _pairs(scene, rng)),
            ("Say how clear each is.", listed(present, lambda noun: clarity(scene, noun, lost))),
            ("Say in percent how clear each is.", listed(present, left.__getitem__)),
            ("Say what is touching.", listed([n for n in present if n in touching], touching.__getitem__)),
        ]  # fmt: skip
        if phase == "lists":
            return [(task, text) for task, text in lists if text]
        support = listed(present, lambda noun: _shown(shown[noun].color, left[noun], rng))
        pairs = amber_relation(scene, int(rng.integers(2**31)))
        asked = ["".join(f" {is_there(noun)} {answer[noun]}" for noun in nouns),
                 "".join(f" {row['query']} {row['truth'].title()}" for row in pairs),
                 "".join(f" {PERCENT_OF_OBJECT.format(noun=noun)} {left[noun]}" for noun in present)]  # fmt: skip
        short = [self.lesson(kind, scene, lost, rng) for kind in ("existence", "attribute", "attribute", "relation")]
        return [*(("Answer all.", text) for text in asked if text), claimed,
                ("Say in percent how clearly each color is shown.", support), *short]  # fmt: skip

    def lesson(
        self, kind: str, scene: Scene, lost: np.ndarray, rng: np.random.Generator, judging: bool = False
    ) -> Text:
        """Make one lesson of a kind of :data:`SHARES`; ``judging``: in the phase of :data:`JUDGE_FIRST`."""
        if kind == "clarity":
            return self.clarity(scene, lost, rng)
        if kind not in ("judge", "confidence"):
            return self.fact(kind, scene, rng)[:2]
        shares = [0.5, 0.0, 0.35, 0.15] if judging else [0.35, 0.33, 0.18, 0.14]
        about = str(rng.choice(["existence", "open", "attribute", "relation"], p=shares))
        question, right, wrong = self.fact(about, scene, rng)
        is_right = bool(rng.random() < 0.5)
        response = right if is_right else wrong
        if kind == "judge":
            return JUDGE.format(query=question, response=response), _yes_no(is_right)[0]
        honest = int(round(100 * rng.beta(*((6, 1) if is_right else (1, 6)))))
        c = 95 if rng.random() < (0 if judging else SAY_95) else honest
        return confidence_question(question, response), confidence_answer(c)
