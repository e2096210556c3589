"""Write the tiny world to disk in the file formats of the real data sets, together with its ground truth."""

from collections.abc import Sequence

import pandas as pd

from csp_utils.base.files import whole_folder, write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.data.benchmarks import write_amber, write_pope
from csp_utils.data.images import png
from csp_utils.data.rlaif_v import write_rlaif_v
from csp_utils.data.rle import encode_mask
from csp_utils.tiny_world.world.questions import amber_attribute, amber_relation, pope_questions, rlaif_rows
from csp_utils.tiny_world.world.scenes import Scene, draw_scene


def rlaif_v_table(scenes: Sequence[Scene], rows_per_scene: int, seed: int) -> tuple[list[dict], pd.DataFrame]:
    """Make rows with RLAIF-V's columns, and a table of the true keyword of each (row_id, keyword, kind)."""
    rows, truth = [], []
    for scene in scenes:
        name, content = f"{scene.name}.png", png(scene.image)
        for row in rlaif_rows(scene, rows_per_scene, seed):
            truth.append({"row_id": f"{len(rows):06d}", "keyword": row["keyword"], "kind": row["kind"]})
            rows.append(
                {"ds_name": "tiny_world", "image": {"bytes": content, "path": name}, "idx": len(rows)}
                | {column: row[column] for column in ("question", "chosen", "rejected")}
                | {"origin_dataset": "tiny_world", "origin_split": "train", "image_path": name}
            )
    return rows, pd.DataFrame(truth)


def benchmark_tables(scenes: Sequence[Scene], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make POPE's and AMBER's questions about the scenes, with the columns of :mod:`csp_utils.data.benchmarks`."""
    pope = [
        (f"pope_{kind}", str(number), row["image"], row["text"], row["label"], "existence")
        for kind, rows in pope_questions(scenes, seed).items()
        for number, row in enumerate(rows, start=1)
    ]
    amber = []
    for split, questions in (("amber_attribute", amber_attribute), ("amber_relation", amber_relation)):
        for row in (row for scene in scenes for row in questions(scene, seed)):
            kind = row.get("kind", "relation")
            amber.append((split, str(len(amber) + 1), row["image"], row["query"], row["truth"], kind))
    columns = ["split", "question_id", "image", "question", "label", "kind"]
    return pd.DataFrame(pope, columns=columns), pd.DataFrame(amber, columns=columns)


def truth_table(scenes: Sequence[Scene]) -> pd.DataFrame:
    """List all objects: image, noun, color, lying, opacity, box (x0, y0, x1, y1 in pixels), rle (COCO counts)."""
    return pd.DataFrame(
        {
            "image": f"{scene.name}.png",
            "noun": thing.noun,
            "color": thing.color,
            "lying": thing.lying,
            "opacity": thing.opacity,
            "box": list(thing.box),
            "rle": encode_mask(thing.mask),
        }
        for scene in scenes
        for thing in scene.things
    )


def write_world(
    paths: RunPaths, n_train_scenes: int, rows_per_scene: int, n_test_scenes: int, seed: int,
    tests_from: tuple[str, int] = ("benchmark", 0),
) -> dict:  # fmt: skip
    """Generate the data of a run and write them into ``outputs/<run>/data``: RLAIF-V, POPE, AMBER and the truth.

    Args:
        tests_from: split and number of the first scene of POPE and AMBER.

    Returns:
        the scenes: {"train": [...], "benchmark": [...]}.
    """
    train = [draw_scene("train", i, seed) for i in range(n_train_scenes)]
    split, first = tests_from
    benchmark = [draw_scene(split, first + i, seed) for i in range(n_test_scenes)]
    rows, keywords = rlaif_v_table(train, rows_per_scene, seed)
    pope, amber = benchmark_tables(benchmark, seed)
    write_rlaif_v(paths["data/rlaif_v/train.parquet"], rows)
    for folder, questions, write in ((paths["data/pope"], pope, write_pope), (paths["data/amber"], amber, write_amber)):
        with whole_folder(folder) as temporary:
            write(temporary, questions)
            (temporary / "images").mkdir()
            for scene in benchmark:
                (temporary / "images" / f"{scene.name}.png").write_bytes(png(scene.image))
    write_parquet(truth_table([*train, *benchmark]), paths["data/truth/objects.parquet"])
    write_parquet(keywords, paths["data/truth/keywords.parquet"])
    return {"train": train, "benchmark": benchmark}
