"""How fast the measures are: ours for the whole table against libraries for a few of its measures.

    python benchmarks/measures.py [--pairs 100000] [--bootstrap 1000]

All run on one thread, on the same resamples of one split (6 questions an image, as in POPE). The libraries take one
sample at a time: they are called on a few, and their time for all is extrapolated, which the output says. Times are CPU
seconds, the best of a few repetitions, so that the ratios hold on a busy machine, too.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import relplot  # noqa: E402
import torch  # noqa: E402
from netcal.metrics.confidence import ECE  # noqa: E402
from sklearn import metrics as sk  # noqa: E402
from torchmetrics.functional import classification as tm  # noqa: E402

from csp_utils.measures.bootstrap import image_weights  # noqa: E402
from csp_utils.measures.counts import Counts, Protocol  # noqa: E402
from csp_utils.measures.metrics import MEASURES, compute  # noqa: E402


def responses(n_questions: int) -> pd.DataFrame:
    """Two answers a question: overconfident, in fives mostly, somewhat higher for the right one."""
    rng = np.random.default_rng(0)
    truth = rng.random(n_questions) < 0.5
    label = np.stack([~truth, truth], 1).astype(int).ravel()
    percent = np.clip(rng.normal(62 + 15 * label, 18), 0, 100)
    percent = np.where(rng.random(len(percent)) < 0.8, 5 * np.round(percent / 5), np.round(percent)).astype(int)
    question = np.repeat(np.arange(n_questions), 2)
    return pd.DataFrame({
        "question_id": question.astype(str), "image": (question // 6).astype(str), "question": "?", "label": label,
        "candidate": np.tile(["No", "Yes"], n_questions), "verbalized": pd.array(percent, dtype="Int64"),
        "internal": 0.5, "plain_answer": "Yes",
    })  # fmt: skip


def seconds(work: Callable[[], object], repetitions: int) -> float:
    """CPU time of the fastest repetition."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--bootstrap", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts = Counts(responses(args.pairs // 2), Protocol())
    n_images = len(counts.images)
    draw = seconds(lambda: image_weights.__wrapped__(n_images, args.bootstrap, 0), 2)
    weights = image_weights(n_images, args.bootstrap, 0)
    product = seconds(lambda: counts.resample(weights), 5)
    resampled = counts.resample(weights)
    measure = seconds(lambda: counts.measures(resampled), 5)
    ours = product + measure
    print(f"{args.pairs} pairs, {n_images} images, {args.bootstrap} resamples, one thread, CPU seconds")
    print(f"ours, all {len(MEASURES)} measures: {ours:.3f} s (counts {product:.3f}, measures {measure:.3f})")
    print(f"drawing the resamples, once for all variants, tables and splits with as many images: {draw:.3f} s")
    table = responses(5000).assign(model="m", variant="base", split="s", raw="")
    table["internal"] = np.random.default_rng(1).random(len(table))  # a constant has no rank correlation to compute
    whole = seconds(lambda: compute(table, Protocol(), args.bootstrap), 1)
    print(f"the paper's metrics of 5,000 questions, with the two rank correlations: {whole:.1f} s\n")

    rows = resampled.pairs[1]  # one resample as rows, for the libraries
    label, percent = np.divmod(np.repeat(np.arange(202), rows.ravel().astype(int)), 101)
    order = np.random.default_rng(0).permutation(len(label))
    y, p = label[order], percent[order] / 100
    y_tensor, p_tensor = torch.from_numpy(y), torch.from_numpy(p)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "relplot smECE": (lambda: relplot.smECE(p, y), 2),
        "scikit-learn AUC": (lambda: sk.roc_auc_score(y, p), 3),
        "scikit-learn average precision": (lambda: sk.average_precision_score(y, p), 3),
        "scikit-learn Brier score": (lambda: sk.brier_score_loss(y, p), 3),
        "netcal ECE": (lambda: ECE(10).measure(p, y), 3),
        "torchmetrics ECE": (lambda: tm.binary_calibration_error(p_tensor, y_tensor, n_bins=10), 3),
        "torchmetrics AUC": (lambda: tm.binary_auroc(p_tensor, y_tensor), 3),
    }
    print("one measure by a library, extrapolated from a few calls on one resample, against our whole table:")
    total = 0.0
    for name, (call, repetitions) in calls.items():
        time_of_all = seconds(call, repetitions) * (args.bootstrap + 1)
        total += time_of_all
        print(f"  {name:32s} {time_of_all:8.1f} s   {time_of_all / ours:8.0f} x")
    print(f"  {'these together':32s} {total:8.1f} s   {total / ours:8.0f} x")
    print("The libraries' times do not contain making the rows of each resample.")


if __name__ == "__main__":
    main()
