"""What training loses when the weights themselves are bfloat16: the share of weights that an SFT changes at all.

    python benchmarks/bfloat16.py outputs/tiny [--rows 512] [--rates 1e-5 1e-4 1e-3]

It needs a finished ./run_all.sh, and takes two to three minutes on two cores. The same rows, batches and learning
rates are trained in float32 (rounded to bfloat16 at the end, which is what DeepSpeed's float32 copies of the weights
lead to) and in bfloat16 from the start. AdamW moves a weight by about the learning rate. bfloat16 has 8 bits of
precision, so a move of less than about 1/512 of the weight is rounded away.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from csp_utils.base.run import RunPaths  # noqa: E402
from csp_utils.stages.sft import Sft  # noqa: E402
from csp_utils.training import command as training  # noqa: E402

RATES = (1e-5, 1e-4, 1e-3)
"""Learning rates. The first is ms-swift's for full training, and so the one of params/paper."""
MODEL = "assets/tiny_world/vlm"


def trained(rows: str, work: Path, torch_dtype: str, rate: float) -> dict[str, torch.Tensor]:
    """Return the weights after one epoch of the paper's SFT."""
    p = Sft(torch_dtype=torch_dtype, learning_rate=rate, device="cpu")
    out = work / f"{torch_dtype}-{rate}"
    subprocess.run(training.command(p, MODEL, rows, str(out)), check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, env=os.environ | training.environment(p, MODEL, work))  # fmt: skip
    return load_file(next(out.rglob("model.safetensors")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--rows", type=int, default=512, help="rows of SFT to train on")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates")
    options = parser.parse_args()
    paths = RunPaths(options.run_folder.name, options.run_folder.parent)
    before = {name: weight.bfloat16() for name, weight in load_file(f"{MODEL}/model.safetensors").items()}
    names = [name for name in before if "visual" not in name]  # the vision tower is frozen
    weights = sum(before[name].numel() for name in names)
    found = []
    with tempfile.TemporaryDirectory() as work:
        rows = f"{work}/rows.jsonl"
        lines = paths["perturbed/sft.jsonl"].read_text().splitlines(keepends=True)[: options.rows]
        Path(rows).write_text("".join(lines))
        for rate in options.rates:
            for torch_dtype in ("float32", "bfloat16"):
                after = trained(rows, Path(work), torch_dtype, rate)
                changed = sum(int((after[name].bfloat16() != before[name]).sum()) for name in names)
                share = round(changed / weights, 4)
                found.append({"learning rate": rate, "weights": torch_dtype, "share changed": share})
    table = pd.DataFrame(found).pivot(index="learning rate", columns="weights", values="share changed")
    table["ratio"] = (table["bfloat16"] / table["float32"]).round(3)
    print(table.to_string())


if __name__ == "__main__":
    main()
