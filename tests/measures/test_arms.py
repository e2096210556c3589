"""Arms: the runs that trained them, by name, and their questions, split by words."""

import numpy as np
import pandas as pd
import pytest
from known_answers import partly_right

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_parquet
from csp_utils.base.params import PARAMETERS
from csp_utils.base.run import RunPaths
from csp_utils.measures import arms


def test_questions_are_split_anew_by_the_words_they_speak_of() -> None:
    splits = ("pope_random", "pope_popular", "amber_relation")
    rows = pd.concat([partly_right(0.5, 1).assign(split=split) for split in splits])
    rows["question"] = np.where(rows["question_id"].str[-1].isin(list("02468")), "Is there an ox?", "Are there Boxes?")
    found = arms.by_words({("csp", 1): rows}, ["ox"])["csp", 1]
    assert set(found["split"]) == {f"{b}, {w}" for b in ("pope", "amber") for w in ("left out", "others")}
    assert (found["split"].str.endswith("left out") == (found["question"] == "Is there an ox?")).all()
    pairs = rows[rows["split"] == "pope_random"].drop_duplicates(["image", "question", "candidate"])
    assert found["split"].str.startswith("pope").sum() == len(pairs)  # asked twice, counted once


def test_runs_are_read_by_their_names(tmp_path) -> None:
    both = pd.concat([partly_right(0, 0, "base"), partly_right(0.5, 1)])
    write_parquet(both, RunPaths("m", tmp_path)["responses.parquet"])
    write_parquet(partly_right(0.7, 2), RunPaths("m.csp.3", tmp_path)["responses.parquet"])
    found = arms.read_responses("m", 0, ["m.csp.3"], str(tmp_path))
    assert list(found) == [("", 0), ("csp", 0), ("csp", 3)] and set(found["", 0]["variant"]) == {"base"}
    with pytest.raises(UserError, match="Both m and m.csp.0 trained branch csp with seed 0"):
        arms.read_responses("m", 0, ["m.csp.0"], str(tmp_path))
    for name in ("other.csp.1", "m.csp", "m.csp.x"):
        with pytest.raises(UserError, match=f"{name} is no run of m"):
            arms.branch_of(name, "m")
    assert arms.read_stress("m", ["m.csp.3"], str(tmp_path)) is None


def test_runs_whose_replies_were_read_otherwise_are_not_compared(tmp_path) -> None:
    for run, rule in (("m", "benchmark"), ("m.csp.3", "stated")):
        rows = partly_right(0.7, 2)
        rows.attrs = {PARAMETERS: {"answer_rule": rule, "min_mass": 0.05}}
        write_parquet(rows, RunPaths(run, tmp_path)["responses.parquet"])
    with pytest.raises(UserError, match="m was made with answer_rule 'benchmark' and m.csp.3 with 'stated'"):
        arms.read_responses("m", 0, ["m.csp.3"], str(tmp_path))


def test_what_the_untrained_base_reaches_by_other_confidences_stands_beside_the_arms(tmp_path):
    paths = RunPaths("main", str(tmp_path))
    rows = [("m", variant, method, "pope_random", "auc", 0.7, 0.6, 0.8, 9, None)
            for variant in ("base", "csp") for method in ("spoken", "token_probability", "p_true")]  # fmt: skip
    columns = ["model", "variant", "method", "split", "metric", "value", "ci_low", "ci_high", "n", "reason"]
    assert arms.read_baselines("main", str(tmp_path)).empty
    write_parquet(pd.DataFrame(rows, columns=columns), paths["methods.parquet"])
    found = arms.read_baselines("main", str(tmp_path))
    assert sorted(found["arm"]) == ["base/p_true", "base/token_probability"]
    assert found[["value", "ci_low", "ci_high", "n_seeds"]].to_numpy().tolist() == [[0.7, 0.6, 0.8, 1]] * 2
