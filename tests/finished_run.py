"""A run folder as the notebooks leave one, with made-up answers whose gain is known, for the tests of the report."""

from pathlib import Path

import numpy as np
import pandas as pd
from known_answers import partly_right

from csp_utils.asking import readings, stress
from csp_utils.asking.tables import DTYPES
from csp_utils.base.files import write_json, write_parquet, write_text
from csp_utils.base.params import PARAMETERS, recorded
from csp_utils.base.run import RunPaths
from csp_utils.data import rle
from csp_utils.data.benchmarks import SPLITS
from csp_utils.data.image_keys import image_keys
from csp_utils.data.images import png
from csp_utils.data.rlaif_v import read_rlaif_v
from csp_utils.measures import stress_curves
from csp_utils.measures.methods import confidences_by_method
from csp_utils.measures.metrics import (
    RESPONSE_COLUMNS,
    Protocol,
    compute,
    compute_measures,
    compute_methods,
    risk_coverage_table,
)
from csp_utils.models import masks
from csp_utils.results.produce import produce
from csp_utils.stages import stages
from csp_utils.stages.claims import Claims, judge
from csp_utils.stages.evaluate import Eval
from csp_utils.stages.perturb import Perturb

VARIANTS = ("base", "sft", "csp")
NOTHING_ELICITED = pd.DataFrame(columns=list(DTYPES)).astype(DTYPES)


def responses(n: int = 48, better: bool = True, variants: tuple[str, ...] = VARIANTS) -> pd.DataFrame:
    """Make the answers of a base that says 90 or 95 about everything, and of variants surer of the right answer.

    With ``better`` false these are surer of the wrong one.
    """
    rng, rows = np.random.default_rng(0), []
    for variant in variants:
        for split in SPLITS:
            for i in range(n):
                question = np.random.default_rng([SPLITS.index(split), i])  # the same for every variant
                truth, knows = question.random() < 0.5, question.random() < 0.85
                for candidate in ("Yes", "No"):
                    label = int(truth == (candidate == "Yes"))
                    told = label if better else 1 - label
                    said = 95 if rng.random() < 0.9 else 90
                    if variant != "base":
                        said = int(np.clip(rng.normal(35 + 40 * told, 18), 0, 100))
                    answer = "Yes" if truth == knows else "No"
                    inside = 0.8 if answer == candidate else 0.2
                    rows.append(("tiny-qwen2-vl", variant, split, str(i), f"{i // 4}.png", f"Is there a thing {i}?",
                                 label, candidate, f"{said}%", said, inside + rng.normal(0, 0.02), answer))  # fmt: skip
    return pd.DataFrame(rows, columns=RESPONSE_COLUMNS).astype({"verbalized": "Int64"})


def make_run(folder: Path, name: str = "fake", scenes: int = 8, **how) -> RunPaths:
    """Fill a run folder as notebooks 00 to 08 do: drawn scenes with true masks, made-up trainings and answers."""
    from csp_utils.tiny_world.world.data import write_world

    paths = RunPaths(name, folder)
    things = [scene.find for scene in write_world(paths, scenes, 2, 2, 0)["train"] for _ in range(2)]
    data = read_rlaif_v(paths["data/rlaif_v/train.parquet"])
    truth = pd.read_parquet(paths["data/truth/keywords.parquet"]).set_index("row_id")["keyword"]
    keywords = data.rows[["row_id", "image_path", "question", "answer"]].copy()
    keywords["keyword"] = keywords["row_id"].map(truth)
    keywords["image_sha1"] = image_keys(data, None)["image_sha1"]
    keywords["raw"], keywords["drop_reason"] = " " + keywords["keyword"], None
    write_parquet(keywords, paths["keywords.parquet"])
    write_parquet(_masks(keywords, things), paths["masks.parquet"])
    write_parquet(masks.funnel(pd.read_parquet(paths["masks.parquet"])), paths["funnel.parquet"])
    produce(stages["03_perturb"], Perturb(run=name), paths, say=lambda line: None)
    _trainings(paths)
    said = responses(**how)
    made_with = {PARAMETERS: recorded(Eval(run=name, n_bootstrap=60))}
    metrics, (measures, further) = compute(said, Protocol(), 60)[0], compute_measures(said, Protocol(), 60)
    quality = [("vlm", "adversarial_plain_acc", 0.84, ">= 0.75 and <= 0.92", True),
               ("sam", "mean_mask_iou_from_predicted_boxes", 0.7, ">= 0.9", False), ("vlm", "n", 600.0, "", None)]
    for file, made in {
        "responses": said, "metrics": metrics, "measures": measures, "measure_differences": further,
        "correlation": metrics[metrics["metric"].isin(["spearman", "kendall"])],
        "risk_coverage": risk_coverage_table(said, Protocol()), **_other_tables(said),
        "readings": readings.readings(said), "answer_rules": readings.answer_rules(said),
        "tiny_world_quality": pd.DataFrame(quality, columns=["model", "measure", "value", "aim", "met"]),
    }.items():
        made.attrs = made_with
        write_parquet(made, paths.root / f"{file}.parquet")
    for notebook in stages:
        parameters = {"03_perturb": {"gamma": 0.004}, "06_eval": {"n_bootstrap": 60},
                      "09_report": {"title": "A recorded title"}}.get(notebook, {})
        record = {"parameters": parameters, "start_time": "2025-01-02T03:04:05", "duration": 61.5}
        write_json({"cells": [], "metadata": {"papermill": record}}, paths.notebooks / f"{notebook}.ipynb")
    return paths


def _other_tables(said: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Make the tables of other confidences and of the stress test."""
    methods, method_differences = compute_methods(confidences_by_method(said, NOTHING_ELICITED), Protocol(), 20)
    table = stress_replies()
    correlation, differences = stress_curves.correlations(table, 20, 0)
    return {"methods": methods, "method_differences": method_differences, "stress_correlation": correlation,
            "stress_curves": stress_curves.curves(table, 20, 0), "stress_differences": differences, "stress": table,
            "stress_example": stress_example()}  # fmt: skip


def stress_example() -> pd.DataFrame:
    """Make the images of one object under three levels of noise."""
    rows = [("0.png", "Is there a cat in the image?", "cat", "object", c, png(np.full((8, 8, 3), c, np.uint8)))
            for c in (100, 50, 0)]  # fmt: skip
    return pd.DataFrame(rows, columns=["image", "question", "object", "condition", "c", "png"])


def stress_replies() -> pd.DataFrame:
    """Make the replies of a stress test in which the base always says 95, the others the c of the object."""
    shown = [("object", c) for c in (100, 50, 0)] + [("elsewhere", 50), ("swapped", None), ("removed", None)]
    rows = [("tiny-qwen2-vl", variant, f"{i}.png", "Is there a cat in the image?", "cat", condition, c, candidate,
             stress.ANSWERS[candidate], "?",
             95 if variant == "base" else 100 if condition == "elsewhere" else (c or 5), 0.5, "Yes")
            for variant in VARIANTS for i in range(4) for condition, c in shown for candidate in ("Yes", "No")]
    columns = ["model", "variant", "image", "question", "object", "condition", "c", "candidate", "answer", "raw",
               "verbalized", "internal", "plain_answer"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).astype({"c": "Int64", "verbalized": "Int64"})


def _masks(keywords: pd.DataFrame, things: list) -> pd.DataFrame:
    rows = []
    for row, find in zip(keywords.itertuples(), things, strict=True):
        found = find(row.keyword)
        mask = np.logical_or.reduce([t.mask for t in found]) if found else None
        rows.append({
            "row_id": row.row_id, "image_path": row.image_path, "question": row.question, "answer": row.answer,
            "keyword": row.keyword, "image_sha1": row.image_sha1, "width": 112, "height": 112,
            "boxes": [list(t.box) for t in found], "scores": [0.9] * len(found), "phrases": [row.keyword] * len(found),
            "rle_counts": rle.encode_mask(mask) if found else None,
            "area_fraction": float(mask.mean()) if found else None, "drop_reason": None if found else "no_box",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _trainings(paths: RunPaths) -> None:
    steps = np.arange(1, 41)
    log = pd.DataFrame({"step": steps, "loss": 3 * np.exp(-steps / 15) + 0.5, "learning_rate": 1e-5 / steps})
    rewards = {f"rewards/{name}": steps / 20 for name in ("chosen", "rejected", "margins", "accuracies")}
    write_parquet(log, paths["sft/log.parquet"])
    write_parquet(log.assign(**rewards), paths["simpo/log.parquet"])
    write_text("USE_HF=1 \\\n  python -m swift.cli.sft --loss <x> & y\n", paths["sft/command.txt"])
    write_text("python -m swift.cli.rlhf\n", paths["simpo/command.txt"])
    write_json({"learning_rate": 1e-5}, paths["sft/args.json"])
    write_json({"beta": 2.0, "cpo_alpha": 0.0, "simpo_gamma": 1.0, "learning_rate": 1e-5}, paths["simpo/args.json"])


# ----------------------------------------------------------------------------------------------- a run with branches

WORDS = ["ox"]
SHARES = {"csp": 0.8, "simpo_only": 0.05, "global_noise": 0.5, "gamma_0_02": 0.6, "words_left_out": 0.4}
"""Branch -> share of the questions that its model knows."""


def _stress_of_arm(variant: str) -> pd.DataFrame:
    """Make the replies of a stress test to a model that says c about both answers, or to a base that says 95."""
    shown = [("object", 100), ("object", 50), ("object", 0), ("elsewhere", 50), ("elsewhere", 0)]
    rows = [(f"{i}.png", condition, c, candidate, answer, 95 if variant == "base" else c, 0.5, "Yes")
            for i in range(4) for condition, c in shown
            for candidate, answer in (("Yes", "right"), ("No", "wrong"))]  # fmt: skip
    columns = ["image", "condition", "c", "candidate", "answer", "verbalized", "internal", "plain_answer"]
    return pd.DataFrame(rows, columns=columns).assign(model="m", variant=variant).astype({"c": "Int64"})


def make_run_with_branches(outputs: Path) -> tuple[Claims, RunPaths]:
    """Fill the folders of a run and its branches as notebooks 06, 08 and 11 do; return the parameters of 11 as well."""
    paths, names = RunPaths("m", outputs), []

    def asked(share: float, seed: int, variant: str) -> pd.DataFrame:
        rows = partly_right(share, seed, variant, 60)
        rows["question"] = np.where(rows["question_id"].str[-1].isin(list("02468")), "Is there an ox?", "A cow?")
        return pd.concat([rows.assign(split="pope_adversarial"), rows.assign(split="amber_relation")])

    write_parquet(asked(0, 0, "base"), paths["responses.parquet"])
    write_parquet(_stress_of_arm("base"), paths["stress.parquet"])
    for branch, share in SHARES.items():
        for seed in (1, 2, 3)[: 2 if branch == "words_left_out" else 3]:  # two seeds have no interval
            names.append(f"m.{branch}.{seed}")
            own = RunPaths(names[-1], outputs)
            sft = [asked(share / 2, seed + 5, "sft")] if branch == "csp" else []
            write_parquet(pd.concat([*sft, asked(share, seed, "csp")]), own["responses.parquet"])
            if branch in ("csp", "global_noise"):
                write_parquet(_stress_of_arm("csp"), own["stress.parquet"])
    p = Claims(run="m", runs=names, leave_out=WORDS, n_bootstrap=40)
    for name, table in judge(p, str(outputs))[1].items():
        write_parquet(table, paths[f"{name}.parquet"])
    return p, paths
