"""Confidence labels and diffusion noise in the key object (paper, section 3.2).

A label c in percent becomes T_c steps of the forward diffusion process, which are applied to the pixels of the mask:

    T_c = floor(T_max (1 - c/100)),   v_t ~ N(sqrt(1 - gamma) v_{t-1}, gamma I),   v = m v_{T_c} + (1 - m) v_0.

Steps of equal gamma compose to one Gaussian, so v_T = sqrt(abar) v_0 + sqrt(1 - abar) eps with abar = (1 - gamma)^T
(Ho et al. 2020, equation 4). Values are in [-1, 1], as in DDPM; the result is clipped and rounded to 8 bits.

Every random draw has its own generator, keyed by what it is for and not by when it happens: neither the order of the
rows nor their distribution over machines changes a pixel.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from csp_utils import prompts
from csp_utils.artifacts import RunPaths, missing, portable, whole_folder, write_jsonl, write_parquet
from csp_utils.errors import UserError
from csp_utils.params import Perturb
from csp_utils.rle import decode_mask

if TYPE_CHECKING:
    import pandas as pd

    from csp_utils.datasets import RlaifV

Sampler = Literal["closed_form", "chain"]

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
"""Columns of rows.parquet and their types; in the Hugging Face data set, ``image`` holds the picture itself."""


def noise_steps(c: int, t_max: int) -> int:
    """T_c, the number of diffusion steps for confidence ``c`` (percent, 0..100), in exact integer arithmetic."""
    if not 0 <= c <= 100:
        raise UserError(f"Confidence level {c} is not between 0 and 100 percent; correct `levels`.")
    return t_max * (100 - c) // 100


def alpha_bar(steps: int, gamma: float) -> float:
    """Share of the signal's variance that is left after ``steps`` steps of variance ``gamma``: (1 - gamma)^steps."""
    return (1.0 - gamma) ** steps


def generator(seed: int, row_id: str, use: str) -> np.random.Generator:
    """The random numbers of one row for one use, such as "noise 75".

    The key is a SHA-256 of the three, so that it is the same on every machine (Python's ``hash`` is not).
    """
    digest = hashlib.sha256(f"{seed}\0{row_id}\0{use}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def draw_levels(seed: int, row_id: str, draws: int, levels: Sequence[int] | None = None) -> list[int]:
    """Confidence labels of a row: ``draws`` different ones, each uniform over ``levels`` (None: 0, 1, ... 100).

    They do not repeat within a row, because a row and its level name one image. More draws only add labels to those
    of fewer draws. Raises UserError if there are fewer levels than draws.
    """
    levels = list(range(101)) if levels is None else list(levels)
    if draws > len(levels):
        raise UserError(f"draws_per_row is {draws}, but there are only {len(levels)} levels; lower it or add levels.")
    order = generator(seed, row_id, "levels").permutation(len(levels))
    return [levels[i] for i in order[:draws]]


def diffuse(
    v_0: np.ndarray, steps: int, gamma: float, rng: np.random.Generator, sampler: Sampler = "closed_form"
) -> np.ndarray:
    """v_T after ``steps`` diffusion steps.

    Args:
        v_0: float array of any shape, values in [-1, 1].
        steps: T, at least 0; 0 gives ``v_0`` itself.
        gamma: variance that each step adds, in (0, 1).
        rng: source of the noise.
        sampler: "closed_form" draws v_T at once; "chain" takes the steps one by one. The distribution is the same,
            single draws differ, and the chain takes T times as long.

    Returns:
        float32 array of the same shape, not clipped.
    """
    v = np.asarray(v_0, np.float32)
    if steps == 0:
        return v.copy()
    if sampler == "chain":
        keep, add = np.float32((1.0 - gamma) ** 0.5), np.float32(gamma**0.5)
        for _ in range(steps):
            v = keep * v + add * rng.standard_normal(v.shape, dtype=np.float32)
        return v
    left = alpha_bar(steps, gamma)
    return np.float32(left**0.5) * v + np.float32((1.0 - left) ** 0.5) * rng.standard_normal(v.shape, dtype=np.float32)


def perturb(
    image: np.ndarray,
    mask: np.ndarray | None,
    c: int,
    rng: np.random.Generator,
    t_max: int = 1000,
    gamma: float = 0.005,
    sampler: Sampler = "closed_form",
) -> np.ndarray:
    """The image with noise of confidence level ``c`` inside ``mask``.

    The noise is drawn for the whole image and then selected by the mask, so that one generator gives a pixel the same
    noise whatever the mask. The selection is made on 8-bit values: outside the mask every pixel is the original one,
    bit for bit, and c = 100 leaves the whole image as it is.

    Args:
        image: uint8, (H, W, 3).
        mask: bool, (H, W); None for the whole image (the ablation "global noise").
        c: confidence level in percent, 0..100.
        rng: source of the noise; see :func:`generator`.
        t_max, gamma, sampler: see :func:`noise_steps` and :func:`diffuse`.

    Returns:
        uint8, (H, W, 3).
    """
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}, not uint8 (H, W, 3)")
    if mask is not None and (mask.dtype != bool or mask.shape != image.shape[:2]):
        raise ValueError(f"mask is {mask.dtype} {mask.shape}, not bool {image.shape[:2]}")
    steps = noise_steps(c, t_max)
    if steps == 0:
        return image.copy()
    v = diffuse(image / np.float32(127.5) - 1, steps, gamma, rng, sampler)
    noised = np.rint((np.clip(v, -1, 1) + 1) * 127.5).astype(np.uint8)
    return noised if mask is None else np.where(mask[:, :, None], noised, image)


def perturb_row(
    image: np.ndarray,
    mask: np.ndarray | None,
    c: int,
    row_id: str,
    seed: int,
    t_max: int = 1000,
    gamma: float = 0.005,
    sampler: Sampler = "closed_form",
) -> np.ndarray:
    """:func:`perturb` with the noise of this row at this level: keyed by (seed, row_id, c)."""
    return perturb(image, mask, c, generator(seed, row_id, f"noise {c}"), t_max, gamma, sampler)


def scheduled(p: Perturb) -> Perturb:
    """The parameters with t_max and gamma of ``schedule_file``, if one is given.

    Raises UserError if the file is missing or holds no schedule.
    """
    if p.schedule_file is None:
        return p
    path = Path(p.schedule_file)
    if not path.is_file():
        raise missing(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Perturb(**p.model_dump() | {name: found[name] for name in ("t_max", "gamma")})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no schedule (t_max and gamma); make it with notebook 10_schedule.") from error


def speaks_of(texts: "pd.Series", words: Sequence[str]) -> "pd.Series":
    """Which texts hold one of ``words``, whole or with a plural's s, in any case; none if there are no words."""
    if not words:
        return texts.notna() & False
    return texts.fillna("").str.contains(rf"\b(?:{'|'.join(words)})s?\b", case=False)


def kept(masks: "pd.DataFrame", leave_out: Sequence[str] = ()) -> "pd.DataFrame":
    """The rows of masks.parquet that have a mask, without those whose texts speak of a word to leave out.

    Raises UserError if there is none.
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


def image_and_mask(row: Any, data: "RlaifV") -> tuple[np.ndarray, np.ndarray]:
    """Image, uint8 (H, W, 3), and mask, bool (H, W), of a row of masks.parquet.

    Raises UserError if the image is not the one the mask was made from.
    """
    image = np.asarray(data.image(row.row_id))
    if image.shape[:2] != (row.height, row.width):
        raise UserError(
            f"The image of row {row.row_id} has {image.shape[1]} x {image.shape[0]} pixels, but its "
            f"mask has {row.width:.0f} x {row.height:.0f}; rlaif_v has changed: run notebook 02_mask again."
        )
    return image, decode_mask(row.rle_counts, row.width, row.height)


def training_rows(question: str, answer: str, c: int, image: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """One sample in ms-swift's format: for SFT, and for SimPO (None at c = 50).

    SimPO's rejected response is 100 - c (paper, section 3.3); at c = 50 it would be the chosen one, so that the pair
    would carry no preference (ms-swift refuses it).

    Args:
        question, answer: of the original data; they go into prompt A.2.
        c: confidence label in percent.
        image: path of the perturbed image, as ms-swift is to read it.
    """
    query = prompts.confidence_question(question, answer)
    return _samples(query, prompts.confidence_answer(c), prompts.confidence_answer(100 - c), image)


def original_rows(
    question: str, answer: str, rejected: str, image: str
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """One sample of RLAIF-V as it is (the paper's ablation "Original RLAIF", section 4.3.2), as :func:`training_rows`.

    None for SimPO if the data prefer no answer to the other.
    """
    return _samples(question.strip(), answer.strip(), (rejected or "").strip() or answer.strip(), image)


def _samples(query: str, chosen: str, rejected: str, image: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if "<image>" in query:
        raise UserError(
            f"The row of {image} says <image> in its text, which ms-swift reads as a second picture; remove it "
            "from the data."
        )
    messages = [{"role": "user", "content": f"<image>{query}"}, {"role": "assistant", "content": chosen}]
    sft = {"messages": messages, "images": [image]}
    return sft, None if chosen == rejected else {**sft, "rejected_response": rejected}


def perturb_all(
    masks: "pd.DataFrame",
    data: "RlaifV",
    paths: RunPaths,
    p: Perturb,
    progress: Callable[..., Iterable] = lambda rows, *args, **kwargs: rows,
) -> "pd.DataFrame":
    """Perturbs every row that has a mask and writes ``outputs/<run>/perturbed`` whole.

    With ``answers: original`` the rows are RLAIF-V's own, about unchanged images, in the same files: an ablation.
    Images are PNG (lossless: JPEG would smear the noise and touch pixels outside the mask). Their paths in the files
    for ms-swift are relative to the project root where the run lies in it, so that the project can be moved.

    Args:
        masks: table of notebook 02.
        data: the RLAIF-V rows that the masks were made from.
        paths: of the run.
        p: parameters of notebook 03.
        progress: wraps the rows, such as :func:`csp_utils.notebook.progress`.

    Returns:
        the table rows.parquet: row_id, c, T_c, alpha_bar, image, q_c, r_c, rejected, simpo_drop_reason
        ("chosen_equals_rejected" at c = 50, else null).
    """
    import pyarrow as pa

    table, sft, simpo = [], [], []
    rows, original = kept(masks, p.leave_out), p.answers == "original"
    preferred = data.rows.set_index("row_id")["rejected"]
    with whole_folder(paths.perturbed) as folder:
        (folder / paths.perturbed_images.name).mkdir()
        for row in progress(list(rows.itertuples()), "perturb"):
            image, mask = image_and_mask(row, data)
            for c in [100] if original else draw_levels(p.seed, row.row_id, p.draws_per_row, p.levels):
                region = None if p.noise_region == "global" else mask
                noised = perturb_row(image, region, c, row.row_id, p.seed, p.t_max, p.gamma, p.sampler)
                name = f"{row.row_id}_c{c:03d}.png"
                # Noise does not compress; level 1 is several times faster than the default and hardly larger.
                Image.fromarray(noised).save(folder / paths.perturbed_images.name / name, compress_level=1)
                path = portable(paths.perturbed_images / name)
                if original:
                    sample, pair = original_rows(row.question, row.answer, preferred[row.row_id], path)
                else:
                    sample, pair = training_rows(row.question, row.answer, c, path)
                sft.append(sample)
                simpo += [pair] if pair else []
                table.append(_table_row(row.row_id, c, sample, pair, p))
        write_jsonl(sft, folder / paths.sft_jsonl.name)
        write_jsonl(simpo, folder / paths.simpo_jsonl.name)
        whole = pa.Table.from_pylist(table, schema=pa.schema(COLUMNS))
        write_parquet(whole, folder / paths.perturbed_rows.name)
        _save_dataset(table, folder / paths.perturbed_images.name, folder / paths.dataset.name)
    return whole.to_pandas()


def _table_row(row_id: str, c: int, sample: dict[str, Any], pair: dict[str, Any] | None, p: Perturb) -> dict[str, Any]:
    """A row of rows.parquet, from what ms-swift is given."""
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


def _save_dataset(table: list[dict[str, Any]], images: Path, folder: Path) -> None:
    """Writes ``table`` as a Hugging Face data set that holds its images: ``datasets.load_from_disk(folder)``."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    features = Features({name: Value(kind) for name, kind in COLUMNS.items()} | {"image": ImageFeature()})
    rows = [row | {"image": str(images / Path(row["image"]).name)} for row in table]
    Dataset.from_list(rows, features=features).save_to_disk(folder)
