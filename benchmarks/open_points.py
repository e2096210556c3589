"""What the protocol's open points change on the tiny world: the same answers scored, the same rows masked, otherwise.

    python benchmarks/open_points.py outputs/tiny [--rows 300]

It needs a finished ./run_all.sh. The metrics are computed from the saved replies. The masks of the first rows are made
again with each setting (about a minute each on two cores) and compared with the truth that notebook 00 wrote.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from csp_utils.base.files import read_parquet  # noqa: E402
from csp_utils.base.progress import silent  # noqa: E402
from csp_utils.base.run import RunPaths  # noqa: E402
from csp_utils.data.rlaif_v import read_rlaif_v  # noqa: E402
from csp_utils.data.rle import decode_mask  # noqa: E402
from csp_utils.measures.counts import Protocol  # noqa: E402
from csp_utils.measures.metrics import compute  # noqa: E402
from csp_utils.models import masks  # noqa: E402
from csp_utils.stages.mask import Mask  # noqa: E402

SPLIT = "pope_adversarial"
PROTOCOLS = {
    "the defaults": Protocol(),
    "ties: first": Protocol(ties="first"),
    "ties: random": Protocol(ties="random"),
    "ece_edges: left": Protocol(ece_edges="left"),
    "n_bins: 15": Protocol(n_bins=15),
    "positive: no": Protocol(positive="no"),
}
MASKS = {
    "the defaults": {},
    "boxes: top1": {"boxes": "top1"},
    "box_threshold: 0.25": {"box_threshold": 0.25},
    "box_threshold: 0.45": {"box_threshold": 0.45},
    "max_area_fraction: 0.3": {"max_area_fraction": 0.3},
}


def scored(responses: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, F1 and ECE of every variant under each protocol."""
    rows = []
    for name, protocol in PROTOCOLS.items():
        table, *_ = compute(responses[responses["split"] == SPLIT], protocol, 1)
        found = table.set_index(["variant", "metric"])["value"]
        rows.append({"setting": name} | {f"{variant} {metric}": found[variant, metric]
                                         for metric in ("acc", "f1", "ece") for variant in ("base", "sft", "csp")})
    return pd.DataFrame(rows).set_index("setting")


def masked(paths: RunPaths, n_rows: int) -> pd.DataFrame:
    """Of the first rows: the share that is kept, and the mean IoU of their masks with the visible named objects."""
    keywords = read_parquet(paths["keywords.parquet"]).head(n_rows)
    data, truth = read_rlaif_v(paths["data/rlaif_v/train.parquet"]), read_parquet(paths["data/truth/objects.parquet"])
    models = masks.load_models(Mask())
    rows = []
    for name, setting in MASKS.items():
        table = masks.decide_rows(masks.find_boxes(keywords, data, models, Mask(**setting), silent), Mask(**setting))
        kept = table[table["drop_reason"].isna()]
        ious = []
        for row in kept.itertuples():
            said = np.array([noun in row.keyword for noun in truth["noun"]])
            meant = truth[(truth["image"] == Path(row.image_path).name) & said]
            if len(meant):
                named = np.any([decode_mask(rle, row.width, row.height) for rle in meant["rle"]], axis=0)
                found = decode_mask(row.rle_counts, row.width, row.height)
                ious.append((found & named).sum() / (found | named).sum())
        rows.append({"setting": name, "kept": len(kept) / len(keywords), "IoU": np.mean(ious),
                     "area": kept["area_fraction"].mean()})  # fmt: skip
    return pd.DataFrame(rows).set_index("setting")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--rows", type=int, default=300, help="rows of keywords.parquet whose masks are made again")
    options = parser.parse_args()
    paths = RunPaths(options.run_folder.name, options.run_folder.parent)
    print(scored(read_parquet(paths["responses.parquet"])).round(3).to_string(), "\n")
    print(masked(paths, options.rows).round(3).to_string())


if __name__ == "__main__":
    main()
