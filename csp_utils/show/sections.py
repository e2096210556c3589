"""The report's sections about measurements: their sentences, and what each shows. report.py has the other sections."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from csp_utils.asking import readings
from csp_utils.base.files import read_parquet
from csp_utils.base.wording import VARIANTS, in_order, metric, name_of, number
from csp_utils.measures.methods import METHODS
from csp_utils.measures.methods import missing_methods as not_elicited
from csp_utils.show import reply_tables, saved, tables
from csp_utils.show.figures import fig_calibration, fig_metrics, fig_stress
from csp_utils.show.page import EmbeddedImage, LeftOut, embed
from csp_utils.show.published import published
from csp_utils.show.saved import Saved
from csp_utils.words.confidence import REFUSALS

Values = Mapping[str, Any]
"""What a section's macro in templates/report.j2 shows."""


def read_needed(path: Path, what: str) -> pd.DataFrame:
    """Read a table without which a section is left out."""
    if not path.is_file():
        raise LeftOut(what, path)
    return read_parquet(path)


class Change(NamedTuple):
    """What one variant changes against another, in words."""

    lead: str
    """How many comparisons are better, worse or not clear."""
    items: list[str]
    """A sentence for each metric that moved, and one for all that did not."""


def change(differences: pd.DataFrame, model: str, a: str, b: str) -> Change | None:
    """Say what ``b`` changes against ``a``; None if the run does not have both variants."""
    table = tables.verdicts(differences[differences["model"] == model], a, b)
    if table.empty:
        return None
    count = table["verdict"].value_counts()
    better, worse = int(count.get("better", 0)), int(count.get("worse", 0))
    unclear, splits = len(table) - better - worse, table["split"].nunique()
    lead = (
        f"{name_of(b)} against {name_of(a)}: of {len(table)} comparisons ({table['metric'].nunique()} metrics on "
        f"{splits} splits) {_are(better)} better, {_are(worse)} worse, and {_are(unclear)} not clear (the interval of "
        "the difference includes 0, or a value is undefined)."
    )
    items, still = [], []
    for name in tables.HEADLINE:
        phrase, part = metric(name).phrase or metric(name).name, table[table["metric"] == name]
        moved = "; ".join(filter(None, (_moved(part, verdict, splits) for verdict in ("better", "worse"))))
        if moved:
            items.append(f"{phrase[0].upper()}{phrase[1:]}: {moved}.")
        else:
            still.append(phrase)
    if still:
        items.append(f"No clear change on any split: {', '.join(still)}.")
    return Change(lead, items)


def _are(n: int) -> str:
    return f"{n} is" if n == 1 else f"{n} are"


def _moved(part: pd.DataFrame, verdict: str, splits: int) -> str:
    """Say where a metric moved: "better on 3 of 5 splits (+0.12 to +0.40)"; "" if nowhere."""
    moved = part[part["verdict"] == verdict]
    if moved.empty:
        return ""
    low, high = moved["diff"].min(), moved["diff"].max()
    span = number(low, True) if number(low) == number(high) else f"{number(low, True)} to {number(high, True)}"
    where = f"on all {splits} splits" if len(moved) == splits and splits > 1 else f"on {len(moved)} of {splits} splits"
    if len(moved) < splits and len(moved) <= 2:
        return f"{verdict} {where}: {' and '.join(map(name_of, moved['split']))}, {span}"
    return f"{verdict} {where} ({span})"


def failure(responses: pd.DataFrame, metrics: pd.DataFrame, model: str) -> list[str]:
    """Describe the base model's replies: its usual number, ties and calibration error. Empty without a base."""
    part = responses[(responses["model"] == model) & (responses["variant"] == "base")]
    if part.empty:
        return []
    own = metrics[(metrics["model"] == model) & (metrics["variant"] == "base")]
    value = own.pivot_table(index="split", columns="metric", values="value", dropna=False).astype(float)
    numbers = part["verbalized"].dropna().astype(float)
    found = []
    if len(numbers):
        top = numbers.mode().iloc[0]
        found.append(f"It says “{top:.0f}%” in {100 * (numbers == top).mean():.1f} % of its replies. Half of the "
                     f"answers it judges are right, and on average it says {numbers.mean():.1f} %.")  # fmt: skip
    ties, acc, plain = (_span(100 * value[name]) + " %" for name in ("tie_rate", "acc", "plain_acc"))
    found.append(f"It gives Yes and No the same number in {ties} of the questions of a split, and answers {acc} of "
                 f"them right by its verbalized confidence; asked plainly, it answers {plain} right.")  # fmt: skip
    found.append(f"Its ECE over candidate pairs is {_span(value['ece'], 3)}: the mean gap between its confidence and "
                 "the share of right answers.")  # fmt: skip
    return found


def _span(values: pd.Series, decimals: int = 1) -> str:
    """Give the lowest and the highest value over the splits: "0.4 to 1.2"."""
    if values.dropna().empty:
        return "an undefined"
    low, high = f"{values.min():.{decimals}f}", f"{values.max():.{decimals}f}"
    return low if low == high else f"{low} to {high}"


def direction(differences: pd.DataFrame, model: str, paper_model: str, names: Iterable[str]) -> str:
    """Count the cells in which ours moves clearly as the paper prints for ``paper_model``, and those in which not."""
    table = tables.verdicts(differences[differences["model"] == model], "base", "csp", names)
    paper = published().query("model == @paper_model").set_index(["variant", "split", "metric"])["value"]
    same = other = unclear = 0
    for row in table.itertuples():
        key = (row.split, row.metric)
        if ("base", *key) not in paper.index:
            continue
        change = paper["csp", *key] - paper["base", *key]
        if row.verdict not in ("better", "worse") or change == 0:
            unclear += 1
        elif np.sign(row.diff) == np.sign(change):
            same += 1
        else:
            other += 1
    total = same + other + unclear
    if not total:
        return ""
    return (f"Of the {total} cells that the paper prints for {paper_model}, ours moves clearly in the same direction "
            f"in {same}, clearly in the other in {other}, and not clearly in {unclear}.")  # fmt: skip


# ----------------------------------------------------------------------------------------------- sections


def results(run: Saved) -> Values:
    """Gather the differences with their intervals, first of SFT + SimPO, then of SFT; then every value."""
    changes, judged = [], tables.verdicts(run.own(run.differences), "base", "csp")
    for a, b in (("base", "csp"), ("base", "sft")):
        words, figure = change(run.differences, run.model, a, b), None
        if words and b == "csp":
            figure = embed(fig_metrics.differences(judged, tables.HEADLINE), f"{name_of(b)} minus {name_of(a)} by "
                           "metric and split, with 95 % intervals; the numbers are in the table of differences above.",
                           fig_metrics.differences_caption(a, b))  # fmt: skip
        table = tables.differences(run.differences, run.model, a, b) if words else None
        changes.append({"pair": f"{name_of(b)} against {name_of(a)}", "words": words, "table": table, "figure": figure})
    images = run.responses.groupby("split")["image"].nunique()
    span = f"{images.min()}" if images.min() == images.max() else f"{images.min()} to {images.max()}"
    return {
        "changes": changes, "headline": tables.headline(run.metrics, run.model), "protocol": run.protocol,
        "images": span, "n_intervals": len(judged), "has_p": "p" in run.differences, "resamples": run.resamples,
        "defaults_used": run.computed and not run.protocol_known, "trained": [name_of(v) for v in run.trained],
    }  # fmt: skip


def base(run: Saved) -> Values:
    """Gather ties and overconfidence of the base model, before any training."""
    sentences = failure(run.responses, run.metrics, run.model)
    if not sentences:
        raise LeftOut("the base model", why="this run did not evaluate the variant base")
    figure = embed(
        fig_calibration.verbalized_numbers(run.responses, run.model),
        "Histograms of the verbalized confidence of each variant about right and about wrong answers; the table above "
        "gives their peaks and means.", fig_calibration.NUMBERS_CAPTION,
    )  # fmt: skip
    examples = tables.examples(run.responses, run.model, run.adversarial, run.p.seed)
    return {"failure": sentences, "numbers": reply_tables.replies(run.responses, run.model), "figure": figure,
            "examples": examples, "seed": run.p.seed}  # fmt: skip


def replies(run: Saved) -> Values:
    """Gather how the replies were read, why some were not, and what other rules would say."""
    counts = run.own(read_needed(run.paths["readings.parquet"], "how the replies were read"))
    rules = run.own(read_needed(run.paths["answer_rules.parquet"], "how the replies were read"))
    own = run.own(run.responses)
    path, elicited = run.paths["elicitations.parquet"], None
    if path.is_file():  # without its distributions, which are large
        elicited = run.own(read_parquet(path, ["model", "variant", "prompt", "method", "mass", "value"]))
    unread = counts[~counts["read"]].groupby("reason")["n"].sum().sort_values(ascending=False)
    shown = reply_tables.readings(readings.unread_share(counts), rules, readings.masses(own, elicited))
    return {"tables": shown, "reasons": [(name, int(n), REFUSALS.get(name, "")) for name, n in unread.items()],
            "examples": reply_tables.unread(readings.unread_examples(own))}  # fmt: skip


def paper(run: Saved) -> Values:
    """Gather ours beside the numbers that the paper prints."""
    names, questions = tables.PAPER_METRICS, run.own(run.responses).drop_duplicates(["image", "question"])
    return {"model": run.model, "questions": len(questions), "images": questions["image"].nunique(),
            "direction": direction(run.differences, run.model, run.p.paper_model, names),
            "tables": tables.beside_paper(run.metrics, names)}  # fmt: skip


def measures(run: Saved) -> Values:
    """Gather the further measures, their differences, and risk and coverage."""
    if run.measures is None:
        raise LeftOut("the further measures", run.paths["measures.parquet"])
    first, *others = [run.adversarial, *(split for split in run.splits if split != run.adversarial)]
    table, *more = [tables.measures(run.measures, run.measure_differences, run.model, split, explained=split == first)
                    for split in (first, *others)]  # fmt: skip
    figure = None
    if run.risk_coverage is not None:
        curves, own = run.own(run.risk_coverage), run.own(run.measures)
        figure = embed(
            fig_metrics.risk_coverage(curves, first),
            f"Risk against coverage of every variant on {name_of(first)}; AURC is in the table above.",
            fig_metrics.risk_coverage_caption(curves, own, first), dpi=130,
        )  # fmt: skip
    return {
        "table": table, "others": more, "other_names": ", ".join(map(name_of, others)),
        "missing_differences": run.paths["measure_differences.parquet"] if run.measure_differences is None else None,
        "curves_path": run.paths["risk_coverage.parquet"], "figure": figure,
        "n_bins": run.protocol.n_bins, "has_p": run.measure_differences is not None, "resamples": run.resamples,
    }  # fmt: skip


def methods(run: Saved) -> Values:
    """Gather the verbalized confidence beside the token probability, P(True), self-consistency and recalibrations."""
    table = run.own(read_needed(run.paths["methods.parquet"], "other ways to get a confidence"))
    differences = saved.read_optional(run.paths["method_differences.parquet"])
    differences = None if differences is None else run.own(differences)
    split, variants = run.adversarial, in_order(table["variant"], VARIANTS)
    others = {v: [s for s in run.splits if s != split] if v == variants[-1] else run.splits for v in reversed(variants)}
    figure = embed(
        fig_metrics.methods(table, split),
        f"Accuracy, AUC, ECE and AURC of every method and variant on {name_of(split)}; the numbers are in the caption.",
        fig_metrics.methods_caption(table, split), dpi=150,
    )  # fmt: skip
    return {
        "figure": figure, "table": tables.methods(table, differences, variants[-1], [split]),
        "others": [tables.methods(table, differences, v, splits) for v, splits in others.items() if splits],
        "sources": tables.method_sources(table),
        "not_elicited": [(METHODS[name].name, needs) for name, needs in not_elicited(table).items()],
    }  # fmt: skip


def stress(run: Saved) -> Values:
    """Gather the curves of the stress test and their correlations."""
    paths = [run.paths[f"stress_{name}.parquet"] for name in ("curves", "correlation", "differences")]
    curves, correlations, differences = (run.own(read_needed(path, "the stress test")) for path in paths)
    if curves.empty:
        raise LeftOut("the stress test", why=f"it was made with another model than {run.model}")
    figure = embed(
        fig_stress.curves(curves), "Mean verbalized confidence of every variant against the level of noise, with the "
        "controls; the correlations are in the table below.", fig_stress.caption(curves, correlations), dpi=150,
    )  # fmt: skip
    return {"strip": _strip(run), "example": run.paths["stress_example.parquet"], "figure": figure,
            "correlations": tables.stress_correlations(correlations),
            "differences": tables.stress_differences(differences)}  # fmt: skip


def _strip(run: Saved) -> EmbeddedImage | None:
    """Draw the example of the stress test; None if it was not stored."""
    answers, example = (saved.read_optional(run.paths[f"{name}.parquet"]) for name in ("stress", "stress_example"))
    if answers is None or example is None:
        return None
    own = run.own(answers)
    return embed(fig_stress.strip(example, own), "One object under noise of falling level, with the confidence that "
                 "each variant states.", fig_stress.strip_caption(example, own), dpi=150)  # fmt: skip


def figures(run: Saved) -> Values:
    """Gather the paper's figures 3 to 5 and 7 to 10, drawn from this run's tables."""
    own, metrics, plain = map(run.own, (run.responses, run.metrics, run.plain))
    bins, others = (run.protocol.n_bins, run.protocol.ece_edges), [s for s in run.splits if s != run.adversarial]

    def calibration(split: str) -> EmbeddedImage:
        return embed(fig_calibration.calibration(own, split, *bins), f"ROC curve, reliability diagram and pairs a bin "
                     f"of every variant on {name_of(split)}; AUC, ECE and Brier score are in the caption.",
                     fig_calibration.calibration_caption(own, metrics, split, *bins), dpi=130)  # fmt: skip

    return {
        "calibration": calibration(run.adversarial), "others": [calibration(split) for split in others],
        "other_names": ", ".join(map(name_of, others)),
        "bars": embed(fig_metrics.bars(metrics, run.adversarial), f"Metrics of every variant on "
                      f"{name_of(run.adversarial)}; the numbers are in the caption.",
                      fig_metrics.bars_caption(metrics, run.adversarial), dpi=150),
        "plain": embed(fig_metrics.plain_answers(plain), "Accuracy, precision, recall and F1 of the plain answers by "
                       "split and variant; the numbers are in the caption.",
                       fig_metrics.plain_answers_caption(plain), dpi=150),
    }  # fmt: skip


def correlation(run: Saved) -> Values:
    """Gather table 2 and figure 6."""
    table = read_needed(run.paths["correlation.parquet"], "the paper's table 2 and figure 6")
    own, split = run.own(run.responses), run.adversarial
    return {
        "table": tables.correlation(table, run.model),
        "beside": tables.beside_paper(table, tables.CORRELATIONS),
        "figure": embed(fig_calibration.correlation(own), "Internal against verbalized confidence of every variant and "
                        "split; the correlations are in the table above.",
                        fig_calibration.correlation_caption(own, run.own(table)), dpi=150),
        "tokens": embed(fig_calibration.token_probabilities(own, split), f"Probability of the likelier answer token on "
                        f"{name_of(split)} by variant, of right and of wrong answers; the means are in the caption.",
                        fig_calibration.token_probabilities_caption(own, split), dpi=150),
    }  # fmt: skip
