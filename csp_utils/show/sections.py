"""What each section of the report about measurements shows, gathered from a run; report.py has the other sections."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.base.files import read_parquet
from csp_utils.base.wording import VARIANTS, in_order, name_of
from csp_utils.measures.methods import METHODS
from csp_utils.measures.methods import left_out as not_elicited
from csp_utils.show import fig_calibration, fig_confidences, fig_metrics, fig_stress, saved, sentences, tables
from csp_utils.show.page import LeftOut, Picture, drawn
from csp_utils.show.saved import Saved

Values = Mapping[str, Any]
"""What a section's macro in templates/report.j2 shows."""


def needed(path: Path, what: str) -> pd.DataFrame:
    """Read a table without which a section is left out."""
    if not path.is_file():
        raise LeftOut(what, path)
    return read_parquet(path)


def results(run: Saved) -> Values:
    """Gather the differences with their intervals, first of SFT + SimPO, then of SFT; then every value."""
    changes, judged = [], sentences.verdicts(run.own(run.differences), "base", "csp")
    for a, b in (("base", "csp"), ("base", "sft")):
        words, figure = sentences.change(run.differences, run.model, a, b), None
        if words and b == "csp":
            figure = drawn(fig_metrics.differences(judged, sentences.HEADLINE), f"{name_of(b)} minus {name_of(a)} by "
                           "metric and split, with 95 % intervals; the numbers are in the table of differences above.",
                           fig_metrics.differences_caption(a, b))  # fmt: skip
        table = tables.differences(run.differences, run.model, a, b) if words else None
        changes.append({"pair": f"{name_of(b)} against {name_of(a)}", "words": words, "table": table, "figure": figure})
    images = run.responses.groupby("split")["image"].nunique()
    span = f"{images.min()}" if images.min() == images.max() else f"{images.min()} to {images.max()}"
    return {
        "changes": changes, "headline": tables.headline(run.metrics, run.model), "protocol": run.protocol,
        "images": span, "n_intervals": len(judged), "has_p": "p" in run.differences, "resamples": run.resamples,
        "defaults_used": run.computed and not run.protocol_known,
    }  # fmt: skip


def base(run: Saved) -> Values:
    """Gather ties and overconfidence of the base model, before any training."""
    failure = sentences.failure(run.responses, run.metrics, run.model)
    if not failure:
        raise LeftOut("the base model", why="this run did not evaluate the variant base")
    figure = drawn(
        fig_confidences.verbalized_numbers(run.responses, run.model),
        "Histograms of the verbalized confidence of each variant about right and about wrong answers; the table above "
        "gives their peaks and means.", fig_confidences.NUMBERS_CAPTION,
    )  # fmt: skip
    examples = tables.examples(run.responses, run.model, run.adversarial, run.p.seed)
    return {"failure": failure, "numbers": tables.verbalized(run.responses, run.model), "figure": figure,
            "examples": examples, "seed": run.p.seed}  # fmt: skip


def paper(run: Saved) -> Values:
    """Gather ours beside the numbers that the paper prints."""
    names = tables.PAPER_METRICS
    return {"direction": sentences.direction(run.differences, run.model, run.p.paper_model, names),
            "tables": tables.beside_paper(run.metrics, names)}  # fmt: skip


def measures(run: Saved) -> Values:
    """Gather the further measures, their differences, and risk and coverage."""
    if run.measures is None:
        raise LeftOut("the further measures", run.paths.measures)
    first, *others = [run.adversarial, *(split for split in run.splits if split != run.adversarial)]
    table, *more = [tables.measures(run.measures, run.measure_differences, run.model, split, explained=split == first)
                    for split in (first, *others)]  # fmt: skip
    figure = None
    if run.risk_coverage is not None:
        curves, own = run.own(run.risk_coverage), run.own(run.measures)
        figure = drawn(
            fig_metrics.risk_coverage(curves, first),
            f"Risk against coverage of every variant on {name_of(first)}; AURC is in the table above.",
            fig_metrics.risk_coverage_caption(curves, own, first), dpi=130,
        )  # fmt: skip
    return {
        "table": table, "others": more, "other_names": ", ".join(map(name_of, others)),
        "missing_differences": run.paths.measure_differences if run.measure_differences is None else None,
        "curves_path": run.paths.risk_coverage, "figure": figure,
        "n_bins": run.protocol.n_bins, "has_p": run.measure_differences is not None, "resamples": run.resamples,
    }  # fmt: skip


def methods(run: Saved) -> Values:
    """Gather the verbalized confidence beside the token probability, P(True), self-consistency and recalibrations."""
    table = run.own(needed(run.paths.methods, "other ways to get a confidence"))
    differences = saved.optional(run.paths.method_differences)
    differences = None if differences is None else run.own(differences)
    split, variants = run.adversarial, in_order(table["variant"], VARIANTS)
    others = {v: [s for s in run.splits if s != split] if v == variants[-1] else run.splits for v in reversed(variants)}
    figure = drawn(
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
    paths = run.paths.stress_curves, run.paths.stress_correlation, run.paths.stress_differences
    curves, correlations, differences = (run.own(needed(path, "the stress test")) for path in paths)
    if curves.empty:
        raise LeftOut("the stress test", why=f"it was made with another model than {run.model}")
    figure = drawn(
        fig_stress.curves(curves), "Mean verbalized confidence of every variant against the level of noise, with the "
        "controls; the correlations are in the table below.", fig_stress.caption(curves, correlations), dpi=150,
    )  # fmt: skip
    return {"figure": figure, "correlations": tables.stress_correlations(correlations),
            "differences": tables.stress_differences(differences)}  # fmt: skip


def figures(run: Saved) -> Values:
    """Gather the paper's figures 3 to 5 and 7 to 10, drawn from this run's tables."""
    own, metrics, plain = map(run.own, (run.responses, run.metrics, run.plain))
    bins, others = (run.protocol.n_bins, run.protocol.ece_edges), [s for s in run.splits if s != run.adversarial]

    def calibration(split: str) -> Picture:
        return drawn(fig_calibration.calibration(own, split, *bins), f"ROC curve, reliability diagram and pairs a bin "
                     f"of every variant on {name_of(split)}; AUC, ECE and Brier score are in the caption.",
                     fig_calibration.calibration_caption(own, metrics, split, *bins), dpi=130)  # fmt: skip

    return {
        "calibration": calibration(run.adversarial), "others": [calibration(split) for split in others],
        "other_names": ", ".join(map(name_of, others)),
        "bars": drawn(fig_metrics.bars(metrics, run.adversarial), f"Metrics of every variant on "
                      f"{name_of(run.adversarial)}; the numbers are in the caption.",
                      fig_metrics.bars_caption(metrics, run.adversarial), dpi=150),
        "plain": drawn(fig_metrics.plain_answers(plain), "Accuracy, precision, recall and F1 of the plain answers by "
                       "split and variant; the numbers are in the caption.",
                       fig_metrics.plain_answers_caption(plain), dpi=150),
    }  # fmt: skip


def correlation(run: Saved) -> Values:
    """Gather table 2 and figure 6."""
    table = needed(run.paths.correlation, "the paper's table 2 and figure 6")
    own, split = run.own(run.responses), run.adversarial
    return {
        "table": tables.correlation(table, run.model),
        "beside": tables.beside_paper(table, tables.CORRELATIONS),
        "figure": drawn(fig_confidences.correlation(own), "Internal against verbalized confidence of every variant and "
                        "split; the correlations are in the table above.",
                        fig_confidences.correlation_caption(own, run.own(table)), dpi=150),
        "tokens": drawn(fig_confidences.token_probabilities(own, split), f"Probability of the likelier answer token on "
                        f"{name_of(split)} by variant, of right and of wrong answers; the means are in the caption.",
                        fig_confidences.token_probabilities_caption(own, split), dpi=150),
    }  # fmt: skip
