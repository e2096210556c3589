"""Make the training rows, each with its level c and its perturbed image (paper, sections 3.2 and 3.3).

The rows come from masks.parquet and RLAIF-V. ``outputs/<run>/perturbed`` gets the images, rows.parquet, the same rows
in ms-swift's format for SFT and for SimPO and, with ``dataset: true``, as a Hugging Face data set.

Images are PNG files. PNG is lossless; JPEG would smear the noise and touch pixels outside the mask. With
``images: drawn`` no perturbed image is written. The folder then holds the recipe by which
:mod:`csp_utils.noise.rendered` makes the same pixels whenever an image is opened.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pyarrow as pa
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.files import portable, write_jsonl, write_parquet
from csp_utils.base.progress import Progress
from csp_utils.base.run import RunPaths
from csp_utils.data.rlaif_v import RlaifV
from csp_utils.noise.diffusion import alpha_bar, draw_levels, noise_steps, row_at
from csp_utils.noise.rendered import image_name
from csp_utils.results.stage import Shard
from csp_utils.words import prompts
from csp_utils.words.control_tokens import control_token

if TYPE_CHECKING:
    from datasets import Dataset

IMAGES = "images"
"""Folder of the perturbed images, in ``outputs/<run>/perturbed``."""

COLUMNS = {
    "row_id": "string",
    "c": "int64",
    "T_c": "int64",
    "alpha_bar": "float64",
    "image": "string",
    "q_c": "string",
    "r_c": "string",
    "rejected": "string",
    "simpo_drop_reason": "string",
}
"""Columns of rows.parquet and their types. In the Hugging Face data set, ``image`` holds the image itself."""

SCHEMA = pa.schema(COLUMNS)


def speaks_of(texts: "pd.Series", words: Sequence[str]) -> "pd.Series":
    """Return which texts hold one of ``words``, whole or with a plural's s, in any case; without words, none."""
    if not words:
        return texts.notna() & False
    return texts.fillna("").str.contains(rf"\b(?:{'|'.join(words)})s?\b", case=False)


def rows_with_masks(masks: "pd.DataFrame", leave_out: Sequence[str] = ()) -> "pd.DataFrame":
    """Return the rows of masks.parquet that have a mask and whose texts speak of no word to leave out.

    Raises UserError if no row is left.
    """
    rows = masks[masks["drop_reason"].isna()]
    if rows.empty:
        why = ", ".join(f"{n} {reason}" for reason, n in masks["drop_reason"].value_counts().items()) or "no rows"
        raise UserError(
            f"No row of masks.parquet has a mask ({why}); lower box_threshold in 02_mask, or use more rows."
        )
    left = rows[~(rows["question"] + "\n" + rows["answer"] + "\n" + rows["keyword"]).pipe(speaks_of, leave_out)]
    if left.empty:
        raise UserError(f"Every row speaks of one of {', '.join(leave_out)}; name fewer words in leave_out.")
    return left


def training_rows(question: str, answer: str, c: int, image: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return one sample in ms-swift's format: for SFT, and for SimPO (None at c = 50).

    SimPO's rejected response is 100 - c (paper, section 3.3). At c = 50 both responses would be the same: the pair
    would carry no preference, and ms-swift refuses it.

    Args:
        question, answer: of RLAIF-V; they go into prompt A.2.
        c: the level, in percent.
        image: path of the perturbed image, as ms-swift is to read it.
    """
    query = prompts.confidence_question(question, answer)
    return _samples(query, prompts.confidence_answer(c), prompts.confidence_answer(100 - c), image)


def original_rows(
    question: str, answer: str, rejected: str, image: str
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return one sample of RLAIF-V as it is, in the form of :func:`training_rows`.

    This is the paper's ablation "Original RLAIF" (section 4.3.2). The sample for SimPO is None if the data prefer no
    answer to the other.
    """
    return _samples(question.strip(), answer.strip(), (rejected or "").strip() or answer.strip(), image)


def _samples(query: str, chosen: str, rejected: str, image: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if token := control_token(f"{query}\n{chosen}\n{rejected}"):
        raise UserError(f"The row of {image} says {token} in its text, which ms-swift or a tokenizer takes for its own "
                        "token; run notebook 01_extract again, which drops such rows.")  # fmt: skip
    messages = [{"role": "user", "content": f"<image>{query}"}, {"role": "assistant", "content": chosen}]
    sft = {"messages": messages, "images": [image]}
    return sft, None if chosen == rejected else {**sft, "rejected_response": rejected}


class Source(NamedTuple):
    """The data behind the training rows: the table masks.parquet, and the RLAIF-V rows that it was made from."""

    masks: pd.DataFrame
    data: RlaifV


def perturb_rows(
    source: Source, paths: RunPaths, p: Any, progress: Progress, shard: Shard, folder: Path
) -> pd.DataFrame:
    """Draw levels for the rows of a shard and perturb their images.

    The images go to ``images/`` in ``folder``, unless ``images: drawn``.

    Args:
        p: parameters of notebook 03, with the schedule that counts (:func:`csp_utils.noise.diffusion.scheduled`).

    Returns:
        the shard's rows of rows.parquet, indexed by position: row_id, c (percent), T_c (diffusion steps), alpha_bar,
        image (the path after publication), q_c, r_c, rejected, simpo_drop_reason ("chosen_equals_rejected" at c = 50,
        else null).
    """
    masks, data = source
    rows, original = rows_with_masks(masks, p.leave_out), p.answers == "original"
    preferred = data.rows.set_index("row_id")["rejected"]
    draws = 1 if original else p.draws_per_row
    images, table = folder / IMAGES, {}
    if p.images == "files":
        images.mkdir(exist_ok=True)
    for number, row in progress(shard.block(list(enumerate(rows.itertuples()))), "perturb"):
        levels = [100] if original else draw_levels(p.seed, row.row_id, draws, p.levels)
        for draw, c in enumerate(levels):
            name = image_name(row.row_id, c)
            if p.images == "files":
                # Noise does not compress; level 1 is several times faster than the default and hardly larger.
                Image.fromarray(row_at(row, data.image_bytes(row.row_id), c, p)).save(images / name, compress_level=1)
            path = portable(paths["perturbed/images"] / name)
            if original:
                sample, pair = original_rows(row.question, row.answer, preferred[row.row_id], path)
            else:
                sample, pair = training_rows(row.question, row.answer, c, path)
            table[number * draws + draw] = _table_row(row.row_id, c, sample, pair, p)
    return pd.DataFrame.from_dict(table, orient="index", columns=list(COLUMNS))


def write_rows(whole: pa.Table, p: Any, folder: Path) -> None:
    """Write the rows in the formats of all their readers: all of ``outputs/<run>/perturbed`` but images/.

    With ``answers: original`` (an ablation) the rows are RLAIF-V's own, about unchanged images. The images' paths in
    the files for ms-swift are relative to the project's root where the run is in it, so that the project can be moved.

    Args:
        whole: rows.parquet, of all shards.
        p: parameters of notebook 03.
        folder: takes sft.jsonl, simpo.jsonl, rows.parquet and dataset/; holds images/.
    """
    samples = [_samples(row["q_c"], row["r_c"], row["rejected"], row["image"]) for row in whole.to_pylist()]
    write_jsonl([sft for sft, _ in samples], folder / "sft.jsonl")
    write_jsonl([pair for _, pair in samples if pair], folder / "simpo.jsonl")
    write_parquet(whole, folder / "rows.parquet")
    if p.dataset:
        _save_dataset(whole.to_pylist(), folder / IMAGES, folder / "dataset", p)


def _table_row(row_id: str, c: int, sample: dict[str, Any], pair: dict[str, Any] | None, p: Any) -> dict[str, Any]:
    """Return a row of rows.parquet from the two samples for ms-swift."""
    steps = noise_steps(c, p.t_max)
    question, chosen = (message["content"] for message in sample["messages"])
    return {
        "row_id": row_id,
        "c": c,
        "T_c": steps,
        "alpha_bar": alpha_bar(steps, p.gamma),
        "image": sample["images"][0],
        "q_c": question.removeprefix("<image>"),
        "r_c": chosen,
        "rejected": pair["rejected_response"] if pair else chosen,
        "simpo_drop_reason": None if pair else "chosen_equals_rejected",
    }


def _save_dataset(table: list[dict[str, Any]], images: Path, folder: Path, p: Any) -> "Dataset":
    """Write ``table`` as a Hugging Face data set, for ``datasets.load_from_disk(folder)``.

    The data set holds the images themselves; with ``images: drawn`` it holds their paths.
    """
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    features = Features({name: Value(kind) for name, kind in COLUMNS.items()})
    if p.images == "files":
        features = Features(features | {"image": ImageFeature()})
        table = [row | {"image": str(images / Path(row["image"]).name)} for row in table]
    saved = Dataset.from_list(table, features=features)
    saved.save_to_disk(folder)
    return saved
