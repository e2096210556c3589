"""Ask for confidence while noise takes away the evidence for an answer (notebook 08, the stress test).

CSP teaches a model to say c % about an object under the noise of level c (paper, section 3.2). Here the same noise goes
over objects of held-out benchmark images. POPE's answer to the question about each of them is yes. Does the verbalized
confidence in the right answer (Yes) follow c? What happens to the confidence in the wrong one (No)? Three controls say
what a change means: the same noise beside the object, another image without the object, and no image at all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from csp_utils.asking.tables import Rules
from csp_utils.asking.variants import Questionnaire, ask_variants, digest_of_files
from csp_utils.base.errors import UserError
from csp_utils.base.files import write_parquet
from csp_utils.base.params import Finder
from csp_utils.base.progress import Progress, silent
from csp_utils.base.run import RunPaths
from csp_utils.data.benchmarks import find_images, read_pope
from csp_utils.data.images import load_image, png, too_thin
from csp_utils.data.rle import decode_mask, encode_mask
from csp_utils.data.views import Shown, open_shown
from csp_utils.models.masks import TOO_THIN, Found, MaskResult, decide, load_models, look
from csp_utils.models.vlm.load import VLM
from csp_utils.models.vlm.reply import CANDIDATES, Asking, Prompt, draw_seed
from csp_utils.noise.diffusion import Diffusion, generator, region_of
from csp_utils.noise.noised_view import EncodedMask, NoisyImage
from csp_utils.results.origin import Origin, code_and_libraries, plain, source_digest
from csp_utils.results.produce import cached
from csp_utils.words.answers import stated
from csp_utils.words.confidence import read_confidence
from csp_utils.words.prompts import confidence_question, plain_question

REGIONS = ("object", "box", "elsewhere", "everywhere")
"""Places of the noise: the object's mask, the rectangles around it, the mask moved away from it, the whole image. Noise
in the mask alone leaves the object's outline; noise in the box does not."""
CONDITIONS = (*REGIONS, "swapped", "removed")
ANSWERS = {"Yes": "right", "No": "wrong"}
"""Whether a candidate is right about the unchanged image; about a swapped one it is the other way round."""
MOST_OVERLAP = 0.05
"""Largest share of the object that the moved mask may cover; without such a place there is no "elsewhere"."""

COLUMNS = ["model", "variant", "image", "question", "object", "condition", "c", "candidate", "answer", "raw",
           "verbalized", "internal", "plain_answer", "reason", "ended", "mass"]  # fmt: skip

_OBJECT = r"^Is there an? (.+) in the image\?$"
_TRIES = 200


# --------------------------------------------------------------------------------------------------- the questions


def read_objects(folder: Path, n_images: int | None, seed: int) -> pd.DataFrame:
    """Call :func:`choose` on the questions in POPE's folder. Raises UserError for a file that is missing or damaged."""
    questions = read_pope(folder)
    files = find_images(folder, questions)
    return choose(questions.assign(path=[str(files[name]) for name in questions["image"]]), n_images, seed)


def choose(questions: pd.DataFrame, n_images: int | None, seed: int) -> pd.DataFrame:
    """Draw one question about a present object for each image, and an image without that object.

    Args:
        questions: POPE's, with the column path; a question of several splits counts once.
        n_images: number of images; None for all.

    Returns:
        image, question, object, path, other_path (an image about which POPE answers the same question with no; null if
        there is none), row_id (key of the noise). Questions of another form than POPE's are left out.
    """
    unique = questions.drop_duplicates(["image", "question"])
    absent = unique[unique["label"] == "no"].groupby("question")["path"].agg(list).to_dict()
    present = unique[unique["label"] == "yes"].copy()
    present["object"] = present["question"].str.strip().str.extract(_OBJECT)[0]
    present = present.dropna(subset="object")
    present["order"] = [draw_seed(seed, "stress", *row) for row in zip(present["image"], present["question"],
                                                                      strict=True)]  # fmt: skip
    chosen = present.sort_values("order").drop_duplicates("image").head(n_images)
    others = [min(absent.get(row.question, []), default=None,
                  key=lambda path, image=row.image: draw_seed(seed, "swap", image, Path(path).name))
              for row in chosen.itertuples()]  # fmt: skip
    chosen["other_path"] = pd.Series(others, index=chosen.index, dtype=object)  # pandas makes None NaN otherwise
    chosen["row_id"] = [f"{row.image}|{row.object}" for row in chosen.itertuples()]
    return chosen[["image", "question", "object", "path", "other_path", "row_id"]].reset_index(drop=True)


def moved_mask(mask: np.ndarray, seed: int, row_id: str) -> np.ndarray | None:
    """Move a mask, bool (H, W), to the one of 200 random places where it covers the object least.

    A mask that leaves the image on one side comes in on the other. Returns None if it covers more than
    :data:`MOST_OVERLAP` of the object at every place.
    """
    rng = generator(seed, row_id, "elsewhere")
    height, width = mask.shape
    shifts = zip(rng.integers(height, size=_TRIES), rng.integers(width, size=_TRIES), strict=True)
    best = min((np.roll(mask, shift, (0, 1)) for shift in shifts), key=lambda moved: (moved & mask).sum())
    return best if (best & mask).sum() <= MOST_OVERLAP * mask.sum() else None


def find_masks(p: Any, paths: RunPaths, progress: Progress = silent) -> pd.DataFrame:
    """Return the objects of notebook 08's parameters with the masks that GroundingDINO and SAM find.

    The table is cached in ``outputs/<run>/stress/objects`` under its origin.

    Returns:
        the table of :func:`with_masks`, dropped objects included.
    """
    pope = Path(p.pope or paths["data/pope"])
    names = (*Finder.model_fields, "n_images", "torch_dtype")
    parameters = {name: getattr(p, name) for name in names if name not in ("run", "grounding_dino", "sam")}
    code, libraries = code_and_libraries([f"{__name__}:find_masks"])
    inputs = {"pope": source_digest(pope), "grounding_dino": source_digest(p.grounding_dino),
              "sam": source_digest(p.sam)}  # fmt: skip
    origin = Origin("objects of the stress test", plain(parameters), inputs, code, libraries)

    def make(folder: Path) -> None:
        objects = read_objects(pope, p.n_images, p.seed)
        models, found = load_models(p), []
        for row in progress(list(objects.itertuples()), "boxes and masks", unit="image"):
            image = load_image(row.path)
            if too_thin(image.size):
                both = Found(*image.size, drop_reason=TOO_THIN)
            else:
                (both,), = look(models, [image], [[row.object]], p, p.box_threshold)
            found.append(decide(both, p))
        write_parquet(with_masks(objects, found, p.seed), folder / "objects.parquet")

    table = pd.read_parquet(cached(paths["stress/objects"], origin, make) / "objects.parquet")
    for name in ("other_path", "rle_counts", "drop_reason", "boxed", "moved"):
        table[name] = table[name].astype(object).where(table[name].notna(), None)  # Parquet gives NaN for no text
    return table


def with_masks(objects: pd.DataFrame, found: Sequence[MaskResult], seed: int) -> pd.DataFrame:
    """Add the masks of GroundingDINO and SAM, and the moved masks, to the table of :func:`choose`.

    Returns:
        the table with the columns rle_counts (COCO's run lengths), width, height (pixels), drop_reason (null if there
        is a mask), boxed (run lengths of the mask with the rectangles of its boxes) and moved (run lengths of
        :func:`moved_mask`, null if there is no place for it).
    """
    columns = {name: [getattr(one, name) for one in found] for name in ("rle_counts", "width", "height", "drop_reason")}
    objects = objects.assign(**columns)
    boxed, moved = [], []
    for row, one in zip(objects.itertuples(), found, strict=True):
        regions = (None, None)
        if pd.isna(row.drop_reason):
            mask = decode_mask(row.rle_counts, row.width, row.height)
            regions = (region_of(one, mask, "box"), moved_mask(mask, seed, row.row_id))
        for column, region in zip((boxed, moved), regions, strict=True):
            column.append(None if region is None else encode_mask(region))
    return objects.assign(boxed=pd.Series(boxed, dtype=object), moved=pd.Series(moved, dtype=object))


def objects_with_masks(objects: pd.DataFrame) -> pd.DataFrame:
    """Return the objects that have a mask. Raises UserError if no object has one."""
    left = objects[objects["drop_reason"].isna()].reset_index(drop=True)
    if left.empty:
        why = ", ".join(f"{n} {reason}" for reason, n in objects["drop_reason"].value_counts().items()) or "no question"
        raise UserError(f"No object of POPE's images has a mask ({why}); lower box_threshold, or raise n_images.")
    return left


def label(condition: str, c: int | None) -> str:
    """Return the heading of an image in a figure."""
    return f"c = {c} %, {condition}" if c is not None and c < 100 else "original" if c == 100 else condition


def views(row: Any, moved: str | None, p: Any) -> dict[tuple[str, int | None], Shown]:
    """Return the images to show for one question by (condition, level); level 100 of "object" is the image itself.

    Args:
        row: a row of :func:`with_masks`.
        moved: run lengths of the moved mask; None leaves "elsewhere" out.
    """
    path = Path(row.path)
    masks = {region: counts and EncodedMask(counts, row.width, row.height)
             for region, counts in zip(REGIONS, (row.rle_counts, row.boxed, moved, None), strict=True)}
    noise = (row.row_id, p.seed, Diffusion(p.t_max, p.gamma))
    shown: dict[tuple[str, int | None], Shown] = {("object", 100): path}
    for region in p.regions:
        for c in p.levels:
            if c < 100 and (masks[region] is not None or region == "everywhere"):
                shown[region, c] = NoisyImage(path, c, *noise, masks[region])
    if row.other_path is not None:
        shown["swapped", None] = Path(row.other_path)
    shown["removed", None] = None
    return shown


# ------------------------------------------------------------------------------------------------------- the answers


def ask(objects: pd.DataFrame, checkpoints: Mapping[str, str], p: Any, folder: Path, progress: Progress = silent
        ) -> pd.DataFrame:
    """Return the replies of every variant under every condition.

    Args:
        objects: as :func:`objects_with_masks` returns it.
        checkpoints: variant -> folder or hub id.
        p: parameters of notebook 08.
        folder: cache of the replies (:func:`csp_utils.asking.variants.ask_variants`).

    Returns:
        stress.parquet: model, variant, image, question, object, condition, c (percent; null for swapped and removed),
        candidate, answer ("right" or "wrong" about the unchanged image), raw, verbalized (whole percent or null),
        internal (0..1), plain_answer (as stated), reason, ended and mass as in responses.parquet; one row for each
        (question, condition, c, candidate).
    """
    keys, prompts = [], []
    for row in objects.itertuples():
        for (condition, c), shown in views(row, row.moved, p).items():
            texts = [confidence_question(row.question, candidate) for candidate in CANDIDATES]
            prompts += [Prompt(shown, text) for text in (*texts, plain_question(row.question))]
            keys.append((row.image, row.question, row.object, condition, c))

    def replies(vlm: VLM, variant: str) -> pd.DataFrame:
        asking = Asking(p.batch_size, p.max_new_tokens, progress=progress, description=f"asking {variant}")
        three = vlm.ask(prompts, asking)
        rows = [(yes.text, yes.ended, no.text, no.ended, plain.text, plain.first["Yes"], plain.first["No"])
                for yes, no, plain in zip(three[0::3], three[1::3], three[2::3], strict=True)]  # fmt: skip
        columns = ["raw_yes", "ended_yes", "raw_no", "ended_no", "raw_plain", "p_yes", "p_no"]
        return pd.DataFrame(rows, columns=columns)

    images = digest_of_files({*objects["path"], *objects["other_path"].dropna()})
    questionnaire = Questionnaire(replies, f"{__name__}:ask", {"prompts": [str(prompt) for prompt in prompts]},
                          {"images": images}, prompts[:9])  # fmt: skip
    tables = []
    for variant, answers in ask_variants(p, checkpoints, questionnaire, folder):
        tables.append(_table(keys, answers, Rules(p.model_name, p.min_mass)).assign(variant=variant))
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def _table(keys: Sequence[tuple], answers: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    rows = []
    for (image, question, *rest), reply in zip(keys, answers.itertuples(), strict=True):
        mass, answer = reply.p_yes + reply.p_no, stated(reply.raw_plain, question)
        for candidate, raw, ended, probability in (("Yes", reply.raw_yes, reply.ended_yes, reply.p_yes),
                                                   ("No", reply.raw_no, reply.ended_no, reply.p_no)):  # fmt: skip
            read = read_confidence(raw, candidate, ended)
            rows.append((rules.model_name, image, question, *rest, candidate, ANSWERS[candidate], raw, read.value,
                         rules.share(probability, mass), answer, read.reason, bool(ended), mass))  # fmt: skip
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "variant"])
    return table.astype({"c": "Int64", "verbalized": "Int64", "internal": "float64"})


def example(objects: pd.DataFrame, table: pd.DataFrame, p: Any) -> pd.DataFrame:
    """Choose one clear object and store its images under the noise of every level.

    The object is the one of whose presence the first variant is surest in its token probabilities on the unchanged
    image, so that the noise and not the image explains what is said next.

    Args:
        objects, p: as in :func:`ask`.
        table: what :func:`ask` returned.

    Returns:
        stress_example.parquet: image, question, object, condition, c, png (bytes of the image). The noise elsewhere is
        left out, unless there is no other.
    """
    clear = table[(table["condition"] == "object") & (table["c"] == 100) & (table["candidate"] == "Yes")]
    clear = clear[clear["variant"] == clear["variant"].iloc[0]].sort_values("internal", ascending=False, kind="stable")
    row = next(row for row in objects.itertuples() if (row.image, row.question) == tuple(
        clear[["image", "question"]].iloc[0]))  # fmt: skip
    shown = views(row, row.moved, p)
    rows = []
    for condition in [region for region in p.regions if region != "elsewhere"] or p.regions:
        for c in sorted({100, *p.levels}, reverse=True):
            if (view := shown.get(("object", 100) if c == 100 else (condition, c))) is not None:
                image = png(np.asarray(open_shown(view)))
                rows.append((row.image, row.question, row.object, condition, c, image))
    return pd.DataFrame(rows, columns=["image", "question", "object", "condition", "c", "png"])
