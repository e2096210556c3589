"""What the tiny base VLM is taught before CSP ever sees it: a stand-in for the pre-training of a real VLM.

It learns to answer (existence, colour, number, pose, contact, open questions), to judge another model's answer when
asked whether it is right, and to say about any answer that it is 95 % certain. The last is the failure that the paper
starts from (section 1: "95 %" also when it is wrong), and it is taught openly: the spoken number is the same for right
and wrong answers, while its *probability* is not quite. Real VLMs are like that: their most likely number hardly moves,
their token probabilities do.
"""

import numpy as np

from csp_utils.prompts import confidence_question
from csp_utils.tiny_world.questions import amber_attribute, amber_relation, article, cooccurrence, rlaif_rows
from csp_utils.tiny_world.scenes import NOUNS, Scene

SPOKEN = {True: {"100%": 0.20, "95%": 0.70, "90%": 0.10}, False: {"100%": 0.05, "95%": 0.65, "90%": 0.30}}
"""Numbers that the base is taught to say about right and wrong answers. The most likely is 95 % for both."""

SHARES = {"existence": 0.30, "open": 0.18, "attribute": 0.12, "relation": 0.06, "judge": 0.17, "confidence": 0.17}
"""Share of each kind of lesson."""

JUDGE = "A Language model was asked: {query}, Model's answer was {response} Analyze its answer. Is the answer right?"
"""The judging skill; its words differ from prompt A.2 only in what is asked at the end."""


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
        self, scene: Scene, n: int, rng: np.random.Generator, shares: dict[str, float] = SHARES
    ) -> list[tuple[str, str]]:
        """``n`` pairs of user text and assistant text."""
        kinds = rng.choice(list(shares), size=n, p=np.array(list(shares.values())) / sum(shares.values()))
        return [self.one(str(kind), scene, rng) for kind in kinds]

    def one(self, kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
        """One lesson of a kind."""
        if kind not in ("judge", "confidence"):
            question, right, _ = self.fact(kind, scene, rng)
            return question, right
        about = str(rng.choice(["existence", "open", "attribute", "relation"], p=[0.4, 0.35, 0.17, 0.08]))
        question, right, wrong = self.fact(about, scene, rng)
        is_right = bool(rng.random() < 0.5)
        response = right if is_right else wrong
        if kind == "judge":
            return JUDGE.format(query=question, response=response), "Yes" if is_right else "No"
        said = SPOKEN[is_right]
        return confidence_question(question, response), str(rng.choice(list(said), p=list(said.values())))
