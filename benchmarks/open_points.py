"""What the protocol's open points change on the tiny world: the same answers scored, the same rows masked, otherwise.

    python benchmarks/open_points.py outputs/tiny

needs a finished ./run_all.sh. No model is asked anew for the metrics; the masks of the first 300 rows are made again
with each setting (about a minute each on two cores), and held against the truth that notebook 00 wrote.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from csp_utils.base.files import read_parquet
from csp_utils.base.params import Mask  # noqa: E402
from csp_utils.base.run import RunPaths  # noqa: E402
from csp_utils.data.rlaif_v import read_rlaif_v  # noqa: E402
from csp_utils.data.rle import decode_mask  # noqa: E402
from csp_utils.measures.counts import Protocol  # noqa: E402
from csp_utils.measures.metrics import compute  # noqa: E402
from csp_utils.models import masks  # noqa: E402

SPLIT, ROWS = "pope_adversarial", 300
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


def masked(paths: RunPaths) -> pd.DataFrame:
    """Of the first rows: the share that is kept, and the mean IoU of their masks with the visible named objects."""
    keywords, data = read_parquet(paths["keywords.parquet"]).head(ROWS), read_rlaif_v(paths["data/rlaif_v/train.parquet"])
    models, truth = masks.load_models(Mask()), read_parquet(paths["data/truth/objects.parquet"])
    rows = []
    for name, setting in MASKS.items():
        table = masks.mask_rows(keywords, data, models, Mask(**setting), lambda items, *_, **__: items)
        kept = table[table["drop_reason"].isna()]
        ious = []
        for row in kept.itertuples():
            said = np.array([noun in row.keyword for noun in truth["noun"]])
            meant = truth[(truth["image"] == Path(row.image_path).name) & said]
            if len(meant):
                named = np.any([decode_mask(rle, row.width, row.height) for rle in meant["rle"]], axis=0)
                found = decode_mask(row.rle_counts, row.width, row.height)
                ious.append((found & named).sum() / (found | named).sum())
        rows.append({"setting": name, "kept": len(kept) / ROWS, "IoU": np.mean(ious),
                     "area": kept["area_fraction"].mean()})  # fmt: skip
    return pd.DataFrame(rows).set_index("setting")


def main(folder: str) -> None:
    paths = RunPaths(Path(folder).name, Path(folder).parent)
    print(scored(read_parquet(paths["responses.parquet"])).round(3).to_string(), "\n")
    print(masked(paths).round(3).to_string())


if __name__ == "__main__":
    main(sys.argv[1])
