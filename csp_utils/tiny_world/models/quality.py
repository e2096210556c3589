"""Train the tiny world's four models and measure their quality on scenes that training never saw."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from csp_utils.base.files import MANIFEST, manifest_files, write_json

AIMS = {
    ("keyword_lm", "exact_match"): (0.98, None),
    ("grounding_dino", "recall_at_0.5"): (0.90, None),
    ("grounding_dino", "absent_no_box"): (0.90, None),
    ("sam", "mean_mask_iou_from_predicted_boxes"): (0.90, None),
    ("vlm", "adversarial_plain_acc"): (0.75, 0.92),
    ("vlm", "attribute_plain_acc"): (0.80, None),
    ("vlm", "relation_plain_acc"): (0.80, None),
    ("vlm", "adversarial_acc_by_confidence"): (None, 0.20),
    ("vlm", "adversarial_ece"): (0.35, None),
}
"""Aims: (model, measure) -> (at least, at most). The VLM should be imperfect and overconfident."""


def train_models(
    folder: Path, names: Sequence[str], steps: dict[str, int], n_scenes: int, seed: int, log: Callable[[str], None]
) -> None:
    """Train models from random weights into ``folder/<name>``.

    Args:
        names: ``keyword_lm``, ``grounding_dino``, ``sam``, ``vlm``.
        steps: optimizer steps of each, and of ``vlm_tower``.
        n_scenes: training scenes of the three models that see images.
    """
    from csp_utils.tiny_world.models import grounding_dino, keyword_lm, sam, vlm_training
    from csp_utils.tiny_world.models.fit import Settings

    functions = {
        "keyword_lm": keyword_lm.train,
        "grounding_dino": grounding_dino.train,
        "sam": sam.train,
        "vlm": lambda *given: vlm_training.train(*given, tower_steps=steps["vlm_tower"]),
    }
    for name, train in functions.items():
        if name in names:
            train(folder / name, Settings(steps[name], seed, n_scenes, log))


def vlm_quality(folder: Path, data: Path, n_scenes: int, batch_size: int = 64) -> dict[str, float]:
    """Measure a VLM, by the code of notebook 06, on questions about the first ``n_scenes`` images of a run.

    Args:
        data: folder ``data`` of the run, with pope and amber.

    Returns:
        adversarial_plain_acc: accuracy of the plain answers to POPE's adversarial questions; also attribute_plain_acc
            and relation_plain_acc, of AMBER's.
        adversarial_acc_by_confidence: accuracy by verbalized confidence; a tie is an error.
        adversarial_tie_rate: share of ties.
        adversarial_ece: ECE over both candidate answers of all questions.
        n: number of POPE's questions.
    """
    from csp_utils.asking.elicitation import elicit
    from csp_utils.asking.tables import Rules, responses_table
    from csp_utils.data.benchmarks import find_images, read_amber, read_pope
    from csp_utils.measures.metrics import Protocol, compute
    from csp_utils.models.vlm.load import ModelChoice, load_vlm
    from csp_utils.models.vlm.reply import Asking
    from csp_utils.tiny_world.world.scenes import SIZE

    parts = []
    for source, read in ((data / "pope", read_pope), (data / "amber", read_amber)):
        questions = read(source)
        questions = questions[questions["image"].isin(questions["image"].unique()[:n_scenes])]
        paths = find_images(source, questions)
        parts.append(questions.assign(path=[str(paths[image]) for image in questions["image"]]))
    questions = pd.concat(parts).query("split not in ('pope_random', 'pope_popular')").reset_index(drop=True)
    vlm = load_vlm(ModelChoice(str(folder), "qwen2_vl", "qwen2_vl", SIZE * SIZE))
    replies = elicit(vlm, questions, Asking(batch_size, max_new_tokens=8))
    table = compute(responses_table(replies, questions, "base", Rules("tiny")), Protocol(), n_bootstrap=1)[0]
    value = table.set_index(["split", "metric"])["value"]
    names = {"plain_acc": "plain_acc", "acc": "acc_by_confidence", "tie_rate": "tie_rate", "ece": "ece"}
    found = {f"adversarial_{new}": value["pope_adversarial", old] for old, new in names.items()}
    found |= {f"{split}_plain_acc": value[f"amber_{split}", "plain_acc"] for split in ("attribute", "relation")
              if (f"amber_{split}", "plain_acc") in value}  # fmt: skip
    n = int((questions["split"] == "pope_adversarial").sum())
    return {name: _number(one) for name, one in found.items()} | {"n": n}


def score_models(folder: Path, data: Path, n_scenes: int) -> dict[str, dict[str, float]]:
    """Measure the models in ``folder`` on scenes of the split "test", the VLM on those of a run's folder ``data``."""
    from csp_utils.tiny_world.models import grounding_dino, keyword_lm, sam

    measures: dict[str, Callable[[], dict[str, float]]] = {
        "keyword_lm": lambda: keyword_lm.quality(folder / "keyword_lm", n_scenes, "test"),
        "grounding_dino": lambda: grounding_dino.quality(folder / "grounding_dino", n_scenes, "test"),
        "sam": lambda: sam.quality(folder / "sam", folder / "grounding_dino", n_scenes, "test"),
        "vlm": lambda: vlm_quality(folder / "vlm", data, n_scenes),
    }
    return {name: measure() for name, measure in measures.items() if (folder / name).is_dir()}


def write_manifest(folder: Path, quality: dict[str, dict[str, float]], made_by: str) -> None:
    """Write ``folder/MANIFEST.json``: the SHA-256 of every file, the quality, and how the models were made."""
    write_json({"made_by": made_by, "quality": quality, "files": manifest_files(folder)}, folder / MANIFEST)


def quality_table(quality: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Tabulate model, measure, value, aim (text) and met (True, False, or None where there is no aim)."""
    rows = []
    for model, measures in quality.items():
        for measure, value in measures.items():
            low, high = AIMS.get((model, measure), (None, None))
            aim = " and ".join(f"{sign} {x:g}" for sign, x in ((">=", low), ("<=", high)) if x is not None)
            known = value is not None and bool(aim)
            met = (low is None or value >= low) and (high is None or value <= high) if known else None
            rows.append({"model": model, "measure": measure, "value": value, "aim": aim, "met": met})
    return pd.DataFrame(rows)


def _number(value) -> float | None:
    return None if value is None or value != value else float(value)
