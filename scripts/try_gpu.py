"""Tries the project on one GPU: does it compute what the CPU computes, does it train, how fast is it?

scripts/try_gpu.sh starts this and says what it needs. Each part runs in a process of its own, because ms-swift reads
the size of an image once a process.
"""

import argparse
import contextlib
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from benchmarks import gpu  # noqa: E402
from benchmarks.gpu import device_name, table  # noqa: E402
from csp_utils.base.files import write_parquet  # noqa: E402
from csp_utils.base.memory import free_models  # noqa: E402
from csp_utils.base.run import RunPaths  # noqa: E402
from csp_utils.data.rle import decode_mask  # noqa: E402
from csp_utils.models.masks import decide_rows  # noqa: E402
from csp_utils.results.produce import origin_of, produce  # noqa: E402
from csp_utils.results.stage import WHOLE, Job  # noqa: E402
from csp_utils.stages import stages  # noqa: E402
from csp_utils.stages.mask import Mask  # noqa: E402

LEAST_IOU = 0.98
"""Of a mask in float32 on the GPU with the CPU's: convolutions there use TF32, which has 10 bits of mantissa."""
FAR = {"p_yes": 1e-3, "loss": 1e-3}
"""How far a probability, and the loss of the first update (relative), in float32 on the GPU may be from the CPU's."""


# ----------------------------------------------------------------------------------------------- agreement with the CPU


def rows_of(name: str, paths: RunPaths, **parameters: Any) -> tuple[pd.DataFrame, float]:
    """Return all rows that a stage computes, and the seconds that this took, loading the models among them."""
    stage = stages[name]
    p = stage.params(run=paths.run, **parameters)
    job = Job(stage, p, paths, paths[".out"], origin_of(stage, p, paths))
    assert stage.open_shard
    free_models()
    start = time.monotonic()
    rows = stage.open_shard(job)(WHOLE, job.out)
    seconds = time.monotonic() - start
    print(f"{name}, {p.torch_dtype} on {p.device}: {len(rows)} rows in {seconds:.1f} s", flush=True)
    return rows, seconds


def write_data(cpu: RunPaths, small: bool) -> None:
    """Write the data of stage 00, and stage 01's keywords and stage 02's masks as the CPU computes them."""
    from csp_utils.tiny_world.world.data import write_world

    write_world(cpu, 16 if small else 48, 2, 2 if small else 8, seed=0)
    keywords, _ = rows_of("01_extract", cpu, n_rows=None, device="cpu")
    write_parquet(keywords, cpu["keywords.parquet"])
    boxes, seconds = rows_of("02_mask", cpu, device="cpu")
    write_parquet(decide_rows(boxes, Mask()), cpu["masks.parquet"])
    cpu["seconds"].write_text(str(seconds))


def mask_differences(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    """Compare two tables of masks: how many differ in a pixel, in being dropped, and the least IoU of two masks."""
    dropped = one["drop_reason"].fillna("") != other["drop_reason"].fillna("")
    both = one["rle_counts"].notna() & other["rle_counts"].notna()
    differ = both & (one["rle_counts"] != other["rle_counts"])
    ious = [1.0]
    for a, b in zip(one[differ].itertuples(), other[differ].itertuples(), strict=True):
        x, y = (decode_mask(row.rle_counts, row.width, row.height) for row in (a, b))
        ious.append((x & y).sum() / (x | y).sum())
    return {"rows": len(one), "masks": int(both.sum()), "masks that differ": int(differ.sum()),
            "least IoU": round(float(min(ious)), 4), "dropped in one alone": int(dropped.sum())}  # fmt: skip


def reply_differences(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    """Compare two tables of replies: how many texts differ, and the largest difference of p_yes."""
    assert one[["path", "prompt"]].equals(other[["path", "prompt"]])
    return {"replies": len(one), "replies that differ": int((one["raw"] != other["raw"]).sum()),
            "largest difference of p_yes": float((one["p_yes"] - other["p_yes"]).abs().max())}  # fmt: skip


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let convolutions on the GPU multiply in TF32 (torch's default) or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def agreement(folder: Path, small: bool) -> list[str]:
    """Compare stages 01, 02 and 06 on the GPU with the CPU; return what departs by more than it may."""
    cpu, device = RunPaths("cpu", folder), "cpu" if small else "cuda"
    write_data(cpu, small)
    wrong, found = [], []
    keywords, known = pd.read_parquet(cpu["keywords.parquet"]), pd.read_parquet(cpu["masks.parquet"])
    again, seconds = rows_of("01_extract", cpu, n_rows=None, device=device)
    other = int((keywords["keyword"].fillna("") != again["keyword"].fillna("")).sum())
    print(f"\nStage 01, float32, {device_name(device)}: {other} of {len(keywords)} keywords differ ({seconds:.1f} s).")
    wrong += [f"{other} keywords differ"] if other else []
    kinds = [("float32", True), ("float32", False), ("bfloat16", True)]
    for dtype, allowed in kinds[::2] if small else kinds:
        with tf32(allowed):
            boxes, seconds = rows_of("02_mask", cpu, device=device, torch_dtype=dtype)
        row = {"type": dtype if allowed else f"{dtype}, no TF32"} | mask_differences(known, decide_rows(boxes, Mask()))
        found.append(row | {"s": seconds, "s on the CPU": float(cpu["seconds"].read_text())})
        if dtype == "float32" and (row["least IoU"] < LEAST_IOU or row["dropped in one alone"]):
            wrong.append(f"masks in {row['type']}: least IoU {row['least IoU']}, {row['dropped in one alone']} dropped")
    table(f"Stage 02, tiny models: {device_name(device)} beside the CPU in float32", found)

    asked = {"variants": ["base"], "n_questions": 8 if small else None, "pope": str(cpu["data/pope"]),
             "amber": str(cpu["data/amber"])}  # fmt: skip
    base, on_cpu = rows_of("06_eval", cpu, device="cpu", **asked)
    found = []
    for dtype, engine, allowed in (("float32", "shared", True), ("float32", "shared", False),
                                   ("float32", "plain", True), ("bfloat16", "shared", True)):  # fmt: skip
        if small and (engine == "plain" or not allowed):
            continue
        paths = RunPaths(f"{dtype}_{engine}_{allowed}", folder)  # replies are cached by run, and not by device
        with tf32(allowed):
            replies, seconds = rows_of("06_eval", paths, device=device, torch_dtype=dtype, engine=engine, **asked)
        row = {"type": dtype if allowed else f"{dtype}, no TF32", "engine": engine} | reply_differences(base, replies)
        found.append(row | {"s": seconds, "s on the CPU": on_cpu})
        if dtype == "float32" and row["largest difference of p_yes"] > FAR["p_yes"]:
            wrong.append(f"replies in {row['type']}: p_yes differs by {row['largest difference of p_yes']:.2g}")
    table(f"Stage 06, tiny model: {device_name(device)} beside the CPU in float32", found)
    return wrong


# ------------------------------------------------------------------------------------------------------------- training


def training(folder: Path, small: bool) -> list[str]:
    """Train by ms-swift, SFT and from its checkpoint SimPO, and compare the losses with the CPU's."""
    cpu, device = RunPaths("cpu", folder), "cpu" if small else "cuda"
    if not cpu["masks.parquet"].exists():
        write_data(cpu, small)
    produce(stages["03_perturb"], stages["03_perturb"].params(run="cpu"), cpu, say=lambda line: None)
    size = {"n_rows": 16 if small else 64, "learning_rate": 1e-4, "gradient_accumulation_steps": 4}
    wrong, found = [], []
    for name in ("04_sft", "05_simpo"):
        stage, losses = stages[name], {}
        for where, dtype in (("cpu", "float32"), (device, "float32"), (device, "bfloat16")):
            if small and (where, dtype) in losses:
                continue
            own = RunPaths(f"{where}_{dtype}", folder)
            rows = cpu["perturbed"] / ("sft.jsonl" if name == "04_sft" else "simpo.jsonl")
            start = {} if name == "04_sft" else {"model": str(RunPaths("cpu_float32", folder)["sft/checkpoint"])}
            p = stage.params(run=own.run, rows_file=str(rows), device=where, torch_dtype=dtype, **size, **start)
            began = time.monotonic()
            produce(stage, p, own, say=lambda line: None)
            log = pd.read_parquet(own[f"{p.folder}/log.parquet"])
            mine = losses[where, dtype] = log["loss"].to_numpy()
            reference = losses["cpu", "float32"]
            far = np.abs(mine - reference) / np.abs(reference)
            memory = [column for column in log if column.startswith("memory")]
            found.append({"training": name, "on": where, "type": dtype, "updates": len(log),
                          "first losses": " ".join(f"{loss:.4f}" for loss in mine[:3]),
                          "relative difference, first": float(far[0]), "largest": float(far.max()),
                          "GiB": float(log[memory[0]].max()) if memory else "-",
                          "s an update": float(log["train_speed(s/it)"].iloc[-1]),
                          "s in all": time.monotonic() - began})  # fmt: skip
            if dtype == "float32" and far[0] > FAR["loss"]:
                wrong.append(f"the first loss of {name} in float32 differs by {100 * far[0]:.2g} %")
    table(f"Stages 04 and 05 by ms-swift, tiny model, on {device_name(device)}", found)
    return wrong


def speed(folder: Path, small: bool) -> list[str]:
    """Time the three large models with random weights; nothing is compared."""
    gpu.speed("cpu" if small else "cuda", small)
    return []


PARTS = {"agreement": agreement, "training": training, "speed": speed}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--small", action="store_true", help="on the CPU, everything tiny")
    parser.add_argument("--folder", type=Path, help="one part, in this folder")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    if not options.small and not torch.cuda.is_available():
        parser.error("no GPU can be used here; --small tries everything on the CPU")
    if options.folder:
        warnings.simplefilter("ignore")  # the libraries' words to their own authors
        wrong = PARTS[options.parts[0]](options.folder, options.small)
        for sentence in wrong:
            print(f"DEPARTS: {sentence}")
        return len(wrong)
    name = device_name("cpu" if options.small else "cuda")
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}", flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts or PARTS:
            start = time.monotonic()
            words = [sys.executable, __file__, part, "--folder", folder, *(["--small"] if options.small else [])]
            failed += [part] if subprocess.run(words).returncode else []
            print(f"{part}: {time.monotonic() - start:.0f} s{', FAILED' if part in failed else ''}", flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
