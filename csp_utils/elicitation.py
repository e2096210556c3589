"""What a VLM says: the confidence it puts into words, its plain answer, and the probabilities behind that answer.

Any model that ms-swift loads, with its chat template (paper, section 4.1 and appendix A.2; docs/fidelity.md). Three
prompts per unique (image, question): prompt A.2 with the response Yes, prompt A.2 with the response No, and the
question itself. Decoding is greedy.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.artifacts import write_json, write_parquet
from csp_utils.datasets import find_images, read_amber, read_pope
from csp_utils.devices import pick_device
from csp_utils.params import Eval
from csp_utils.prompts import confidence_question, parse_confidence, parse_yes_no, plain_question
from csp_utils.vlm import CANDIDATES, VLM, Progress, load_vlm

PLAIN = "plain"
KINDS = (*CANDIDATES, PLAIN)
"""The three prompts of a question: prompt A.2 about the response Yes, about No, and the question itself."""


def prompt_of(question: str, kind: str) -> str:
    """The text that the model is shown, beside the image, for one of :data:`KINDS`."""
    return plain_question(question) if kind == PLAIN else confidence_question(question, kind)


def read_questions(pope: Path, amber: Path, n_questions: int | None) -> pd.DataFrame:
    """POPE's and AMBER's questions with the path of each one's image.

    Args:
        pope, amber: the benchmarks' folders.
        n_questions: first questions of each split; None for all.

    Returns:
        the table of :mod:`csp_utils.datasets` and the column path.

    Raises:
        UserError: a file is missing or damaged, or images are missing (counted, the first named).
    """
    tables = []
    for folder, read in ((pope, read_pope), (amber, read_amber)):
        table = read(folder)
        if n_questions is not None:
            table = table.groupby("split", sort=False).head(n_questions)
        images = find_images(folder, table)
        tables.append(table.assign(path=[str(images[name]) for name in table["image"]]))
    return pd.concat(tables, ignore_index=True)


def unique_questions(questions: pd.DataFrame) -> pd.DataFrame:
    """The (path, question) pairs to ask: each once, however many splits hold it."""
    return questions[["path", "question"]].drop_duplicates(ignore_index=True)


def elicit(vlm: VLM, questions: pd.DataFrame, batch_size: int, max_new_tokens: int,
           progress: Progress = lambda batches, _: batches, description: str = "asking") -> pd.DataFrame:
    """Ask everything once.

    Args:
        questions: with the columns path (image file) and question.

    Returns:
        one row per unique (path, question) and kind (:data:`KINDS`): path, question, kind, prompt, raw, and p_yes and
        p_no, the probabilities of the two candidates as the first token of the reply.
    """
    asked = unique_questions(questions).merge(pd.Series(KINDS, name="kind"), how="cross")
    asked["prompt"] = [prompt_of(q, kind) for q, kind in zip(asked["question"], asked["kind"], strict=True)]
    prompts = [(Path(path), text) for path, text in zip(asked["path"], asked["prompt"], strict=True)]
    replies = vlm.ask(prompts, batch_size, max_new_tokens, progress, description)
    asked["raw"] = [reply.text for reply in replies]
    for name, candidate in (("p_yes", "Yes"), ("p_no", "No")):
        asked[name] = [reply.first[candidate] for reply in replies]
    return asked


def responses_table(asked: pd.DataFrame, questions: pd.DataFrame, model: str, variant: str) -> pd.DataFrame:
    """The rows of responses.parquet for one variant (columns: :mod:`csp_utils.metrics`).

    Args:
        asked: as :func:`elicit` returns it.
        questions: the table of :mod:`csp_utils.datasets` with the column path.
    """
    said = {(row.path, row.question, row.kind): row for row in asked.itertuples()}
    rows = []
    for q in questions.itertuples():
        plain = said[q.path, q.question, PLAIN]
        total = plain.p_yes + plain.p_no
        for candidate, p in (("Yes", plain.p_yes), ("No", plain.p_no)):
            raw = said[q.path, q.question, candidate].raw
            rows.append(
                {
                    "model": model, "variant": variant, "split": q.split, "question_id": q.question_id,
                    "image": q.image, "question": q.question, "label": int(q.label == candidate.lower()),
                    "candidate": candidate, "raw": raw, "verbalized": parse_confidence(raw),
                    "internal": p / total if total > 0 else None, "plain_answer": parse_yes_no(plain.raw),
                }
            )  # fmt: skip
    return pd.DataFrame(rows).astype({"label": "int64", "verbalized": "Int64", "internal": "float64"})


def fingerprint(model: str, questions: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """What the replies depend on, in 16 hex digits: questions, prompts, settings, and the model's files (by size and
    time of writing; a hub id by its name)."""
    folder = Path(model)
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    state = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    asked = unique_questions(questions).values.tolist()
    images = sorted((path, Path(path).stat().st_mtime_ns) for path in questions["path"].unique())
    facts = [str(model), state, asked, images, [prompt_of("{}", kind) for kind in KINDS], dict(settings)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def kept_or_elicited(folder: Path, variant: str, key: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The replies of a variant: those kept from a run that was cut, if `key` is the same, else made and kept."""
    path = folder / f"{variant}-{key}.parquet"
    if not path.is_file():
        write_parquet(make(), path)
        for old in folder.glob(f"{variant}-*.parquet"):
            if old != path:
                old.unlink()
    return pd.read_parquet(path)


def elicit_variants(p: Eval, checkpoints: Mapping[str, str], questions: pd.DataFrame, folder: Path,
                    progress: Progress = lambda batches, _: batches) -> pd.DataFrame:
    """The table of responses of all variants, one model in memory at a time.

    Args:
        checkpoints: variant -> folder or hub id.
        questions: as :func:`read_questions` returns it.
        folder: where the replies of each finished variant are kept, and settings.json says how they were made.

    Raises:
        UserError: a model cannot be loaded, or was trained with another MAX_PIXELS; a GPU or an image is missing.
    """
    device = pick_device(p.device)
    names = ("model_type", "template", "max_pixels", "torch_dtype", "batch_size", "max_new_tokens")
    settings = {"device": device} | {name: getattr(p, name) for name in names}
    tables, record = [], {}
    for variant, checkpoint in checkpoints.items():
        began = time.monotonic()

        def make(checkpoint: str = checkpoint, variant: str = variant) -> pd.DataFrame:
            vlm = load_vlm(checkpoint, p.model_type, p.template, p.max_pixels, p.torch_dtype, device)
            return elicit(vlm, questions, p.batch_size, p.max_new_tokens, progress, f"asking {variant}")

        asked = kept_or_elicited(folder, variant, fingerprint(checkpoint, questions, settings), make)
        seconds = round(time.monotonic() - began, 1)  # next to nothing where the replies were kept
        record[variant] = {"checkpoint": checkpoint, "prompts": len(asked), "seconds": seconds} | settings
        tables.append(responses_table(asked, questions, p.model_name, variant))
    write_json(record, folder / "settings.json")
    return pd.concat(tables, ignore_index=True)
