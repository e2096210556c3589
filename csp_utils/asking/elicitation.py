"""Ask a VLM about benchmark images: its verbalized confidence, its plain answer, and the probabilities behind it.

Any model that ms-swift loads can be asked, with its own chat template (paper, section 4.1 and appendix A.2;
docs/fidelity.md). Each unique (image, question) gets the paper's three prompts, decoded greedily: prompt A.2 with the
response Yes, prompt A.2 with the response No, and the question itself. A :class:`Plan` adds other prompts and other
ways to read a confidence.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from csp_utils.data.benchmarks import find_images, read_amber, read_pope
from csp_utils.data.views import Blurred
from csp_utils.models.vlm.load import VLM
from csp_utils.models.vlm.reply import CANDIDATES, Asking, Prompt, draw_seed
from csp_utils.results.cost import Asked
from csp_utils.results.stage import WHOLE, Shard
from csp_utils.words.confidence_prompts import CONFIDENCE_PROMPTS, confidence_prompt, level_strings
from csp_utils.words.prompts import confidence_question, plain_question

PLAIN, BLURRED, PAPER, BOTH = "plain", "blurred", "third_person", "both"
KINDS = (*CANDIDATES, PLAIN)
"""The three prompts of a question: prompt A.2 about the response Yes, about No, and the question itself."""


def prompt_of(question: str, kind: str) -> str:
    """Return the text of the prompt for one of :data:`KINDS`."""
    return plain_question(question) if kind == PLAIN else confidence_question(question, kind)


@dataclass(frozen=True)
class Plan:
    """The prompts for each (image, question); the plain question and prompt A.2 (greedy) are always among them.

    The fields are those of :class:`csp_utils.stages.evaluate.Eval`.
    """

    prompts: tuple[str, ...] = (PAPER,)
    methods: tuple[str, ...] = ("greedy",)
    n_samples: int = 5
    temperature: float = 1.0
    blurs: tuple[float, ...] = ()
    seed: int = 0

    def kinds(self) -> list[tuple[str, str]]:
        """Return (name, kind) of all prompts of one question.

        The kind is a candidate, plain or both. For the plain question about a blurred image it is the blur.
        """
        others = [name for name in dict.fromkeys(self.prompts) if name != PAPER]
        pairs = [(PAPER, c) for c in CANDIDATES] + [(PLAIN, PLAIN)] + [(BLURRED, f"{blur:g}") for blur in self.blurs]
        for name in others:
            pairs += [(name, BOTH)] if CONFIDENCE_PROMPTS[name].reads == "both" else [(name, c) for c in CANDIDATES]
        return pairs

    def asked(self, images: int, questions: int) -> Asked:
        """Count what is asked of every variant about ``questions`` different questions on ``images`` images."""
        prompts = [self.prompt("", "", *pair) for pair in self.kinds()]
        return Asked(images * (1 + len(self.blurs)), questions * len(prompts),
                     questions * sum(len(prompt.seeds) for prompt in prompts),
                     questions * sum(len(prompt.answers) for prompt in prompts))  # fmt: skip

    def prompt(self, path: str, question: str, name: str, kind: str) -> Prompt:
        """Return one prompt. A draw's seed depends on the image's name, the text, the draw and ``seed`` alone."""
        if name == BLURRED:
            return Prompt(Blurred(Path(path), float(kind)), plain_question(question))
        if name == PLAIN:
            text = plain_question(question)
        else:
            text = confidence_prompt(name, question, None if kind == BOTH else kind)
        levels: tuple[str, ...] = ()
        seeds: tuple[int, ...] = ()
        if name in self.prompts and "expected" in self.methods:
            levels = sum((level_strings(name, c) for c in (CANDIDATES if kind == BOTH else (kind,))), ())
        sampled = name == PLAIN or (name in self.prompts and CONFIDENCE_PROMPTS[name].reads != "yes_no")
        if sampled and "sampled" in self.methods:
            seeds = tuple(draw_seed(self.seed, Path(path).name, text, draw) for draw in range(self.n_samples))
        return Prompt(Path(path), text, levels, seeds)


def read_questions(pope: Path, amber: Path | None, n_questions: int | None) -> pd.DataFrame:
    """Read POPE's and AMBER's questions with the path of each one's image.

    Args:
        pope, amber: the benchmarks' folders; no AMBER if that is None.
        n_questions: first questions of each split; None for all.

    Returns:
        the table of :mod:`csp_utils.data.benchmarks` and the column path.

    Raises:
        UserError: a file is missing or damaged, or images are missing (counted, the first named).
    """
    tables = []
    for folder, read in ((pope, read_pope), (amber, read_amber)):
        if folder is None:
            continue
        table = read(folder)
        if n_questions is not None:
            table = table.groupby("split", sort=False).head(n_questions)
        images = find_images(folder, table)
        tables.append(table.assign(path=[str(images[name]) for name in table["image"]]))
    return pd.concat(tables, ignore_index=True)


def unique_questions(questions: pd.DataFrame) -> pd.DataFrame:
    """Return the (path, question) pairs, each once, however many splits hold it."""
    return questions[["path", "question"]].drop_duplicates(ignore_index=True)


def elicit(vlm: VLM, questions: pd.DataFrame, asking: Asking, plan: Plan = Plan(), shard: Shard = WHOLE
           ) -> pd.DataFrame:
    """Ask everything once.

    Args:
        questions: with the columns path (image file) and question.
        shard: the shard of the batches.

    Returns:
        one row per unique (path, question) and (prompt, kind) of :meth:`Plan.kinds`, indexed by position: path,
        question, name (of the prompt, plain or blurred), kind (Yes, No, plain, both, or the blur), prompt (the text),
        raw, ended (whether the model ended the reply), p_yes and p_no (probabilities, 0..1, of the two candidates as
        the first token of the reply), levels (101 probabilities, float32: the engines compute no more digits; 202 for
        kind both: Yes, then No; empty without method expected), samples (list of replies) and samples_ended.
    """
    pairs = pd.DataFrame(plan.kinds(), columns=["name", "kind"])
    table = unique_questions(questions).merge(pairs, how="cross")
    prompts = [plan.prompt(*row) for row in table[["path", "question", "name", "kind"]].itertuples(index=False)]
    replies = vlm.ask(prompts, replace(asking, temperature=plan.temperature), shard=shard)
    table["prompt"] = [prompt.text for prompt in prompts]
    table = table[[reply is not None for reply in replies]].copy()
    replies = [reply for reply in replies if reply is not None]
    values = {"raw": [reply.text for reply in replies], "p_yes": [reply.first["Yes"] for reply in replies],
              "p_no": [reply.first["No"] for reply in replies],
              "levels": [np.array(reply.answers, np.float32) for reply in replies],
              "samples": [list(reply.samples) for reply in replies], "ended": [reply.ended for reply in replies],
              "samples_ended": [list(reply.samples_ended) for reply in replies]}  # fmt: skip
    types = {"p_yes": float, "p_no": float, "ended": bool}
    for name, column in values.items():  # with types, as a shard may have no rows
        table[name] = pd.Series(column, table.index, dtype=types.get(name, object))
    return table
