"""scripts/try_gpu.sh: its comparisons, what it says without a GPU, and its shortest part on the CPU (slow)."""

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from csp_utils.data.rle import encode_mask

SCRIPT = ROOT / "scripts" / "try_gpu.sh"


def start(*options: str) -> subprocess.CompletedProcess:
    """Run the script with this Python and without a GPU; stdout and stderr apart."""
    environment = {**os.environ, "CSP_PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([str(SCRIPT), *options], env=environment, text=True, capture_output=True, timeout=1200)


def tables(text: str) -> dict[str, list[dict[str, str]]]:
    """Return the rows of all Markdown tables by the first word of their title."""
    found = {}
    for title, head, body in re.findall(r"^## (\S+).*\n\n\| (.*) \|\n\|[ -|]*\n((?:\|.*\n)+)", text, re.M):
        found[title] = [dict(zip(head.split(" | "), line.strip("| ").split(" | "), strict=True))
                        for line in body.splitlines()]  # fmt: skip
    return found


def test_without_a_gpu_it_says_so() -> None:
    done = start()
    assert done.returncode == 2 and "no GPU can be used here" in done.stderr


def test_an_unknown_part_is_named() -> None:
    done = start("--small", "sped")
    assert done.returncode == 2 and "no such part: sped" in done.stderr


def test_masks_and_replies_that_differ_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.syspath_prepend(str(ROOT))
    from try_gpu import mask_differences, reply_differences

    square, wider = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    square[:4, :4] = wider[:4, :5] = True
    size = {"width": 8, "height": 8}

    def masks(*drawn: np.ndarray | None) -> pd.DataFrame:
        return pd.DataFrame({"rle_counts": None if one is None else encode_mask(one), **size,
                             "drop_reason": "no_box" if one is None else None} for one in drawn)  # fmt: skip

    assert mask_differences(masks(square, square, None), masks(square, wider, square)) == {
        "rows": 3, "masks": 2, "masks that differ": 1, "least IoU": 0.8, "dropped in one alone": 1}  # fmt: skip
    replies = pd.DataFrame({"path": ["a", "a"], "prompt": ["x", "y"], "raw": ["75%", "Yes"], "p_yes": [0.1, 0.9]})
    other = replies.assign(raw=["70%", "Yes"], p_yes=[0.1, 0.75])
    found = reply_differences(replies, other)
    assert found["replies"] == 2 and found["replies that differ"] == 1
    assert found["largest difference of p_yes"] == pytest.approx(0.15)


@pytest.mark.slow
def test_the_stages_agree_in_small_on_the_cpu() -> None:
    """Run the shortest part; scripts/try_gpu.sh --small runs all of them, in minutes."""
    done = start("--small", "agreement")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.findall(r"^## (Stages? \S+)", done.stdout, re.M) == ["Stage 02,", "Stage 06,"]
    replies = {row["type"]: row for row in tables(done.stdout)["Stage"]}  # of stage 06, the last
    assert replies["float32"]["replies that differ"] == "0"
    assert int(replies["bfloat16"]["replies"]) > 50
