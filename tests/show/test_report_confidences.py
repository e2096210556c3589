"""The report's sections about other confidences and the stress test: what the tables say, and what is not there."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from finished_run import NOTHING_ELICITED, responses, stress_example, stress_replies

from csp_utils.base.files import write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.measures import stress_curves
from csp_utils.measures.methods import confidences_by_method
from csp_utils.measures.metrics import Protocol, compute, compute_methods
from csp_utils.show import sections
from csp_utils.show.page import section
from csp_utils.show.saved import Saved, load
from csp_utils.stages.report import Report


def html(gather: Callable[[Saved], sections.Values], loaded: Saved) -> str:
    return section("report.j2", gather.__name__, "t", partial(gather, loaded)).html


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run that has what the report cannot do without."""
    paths, said = RunPaths("fake", tmp_path), responses(24)
    write_parquet(said, paths["responses.parquet"])
    write_parquet(compute(said, Protocol(), 20)[0], paths["metrics.parquet"])
    return paths


def test_what_was_not_made_is_said_with_its_notebook(paths: RunPaths) -> None:
    saved = load(Report(run="fake"), paths)
    for gather, maker in ((sections.methods, "06_eval"), (sections.stress, "08_stress")):
        assert f"(notebook {maker} makes it)" in html(gather, saved) and "Left out" in html(gather, saved)


def test_the_methods_are_shown_with_their_values_and_what_is_missing(paths: RunPaths) -> None:
    values, differences = compute_methods(confidences_by_method(responses(24), NOTHING_ELICITED), Protocol(), 60)
    write_parquet(values, paths["methods.parquet"])
    write_parquet(differences, paths["method_differences.parquet"])
    shown = html(sections.methods, load(Report(run="fake"), paths))
    found = values.set_index(["variant", "split", "method", "metric"])
    row = found.loc[("csp", "pope_adversarial", "token_probability", "auc")]
    mark = differences.set_index(["variant", "split", "method", "metric"]).loc[row.name]
    arrow = "" if mark["ci_low"] <= 0 <= mark["ci_high"] else " ▲" if mark["diff"] > 0 else " ▼"
    assert f"{row['value']:.2f}{arrow}\n<small>[{row['ci_low']:.3f}, {row['ci_high']:.3f}]" in shown
    assert "self-consistency (methods: &#34;sampled&#34;)" in shown and "Guo et al. 2017" in shown


def test_the_stress_test_is_shown(paths: RunPaths) -> None:
    asked = stress_replies()
    at = asked.index[asked["variant"] == "base"]
    asked.loc[at, "verbalized"] = np.random.default_rng(0).integers(80, 100, len(at))
    write_parquet(stress_curves.curves(asked, 20, 0), paths["stress_curves.parquet"])
    correlation, differences = stress_curves.correlations(asked, 20, 0)
    write_parquet(correlation, paths["stress_correlation.parquet"])
    write_parquet(differences, paths["stress_differences.parquet"])
    shown = html(sections.stress, load(Report(run="fake"), paths))
    key = ["variant_a", "variant_b", "region", "answer", "metric"]
    row = differences.set_index(key).loc[("base", "csp", "object", "right", "spearman")]
    assert f"{row['diff']:+.2f}".replace("-", "−") in shown and f"{row['p']:.3f}" in shown
    assert "noise on the object, right answer" in shown and "always the same number" in shown
    assert "one object under the noise of every level; " in shown and "surest before the noise" not in shown
    write_parquet(asked, paths["stress.parquet"])
    write_parquet(stress_example(), paths["stress_example.parquet"])
    assert "surest before the noise" in html(sections.stress, load(Report(run="fake"), paths))
    write_parquet(stress_curves.curves(asked.assign(model="another"), 20, 0), paths["stress_curves.parquet"])
    assert "made with another model" in html(sections.stress, load(Report(run="fake"), paths))
