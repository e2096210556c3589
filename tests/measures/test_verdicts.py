"""The paper's claims: what keeps, breaks and leaves open a check, and which verdicts follow."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_answers import partly_right
from scipy import stats

from csp_utils.data.benchmarks import SPLITS
from csp_utils.measures import arms, over_seeds, verdicts
from csp_utils.measures.bootstrap import resamples
from csp_utils.measures.metrics import Protocol

ARMS = {"csp": 0.8, "simpo_only": 0.02, "global_noise": 0.5, "original_data": 0.0}


def judged(shares: dict[str, float], splits: tuple[str, ...] = ("pope_adversarial", "amber_relation")) -> tuple:
    """The verdicts about models that know so large a share of the answers; SFT alone knows half of it."""

    def rows(share: float, seed: int, variant: str) -> pd.DataFrame:
        return pd.concat([partly_right(share, seed, variant, 240).assign(split=split) for split in splits])

    runs = {("", 0): rows(0, 0, "base")}
    for arm, share in shares.items():
        for seed in (1, 2, 3):
            found = [rows(share, seed, "csp")] + ([rows(share / 2, seed + 9, "sft")] if arm == "csp" else [])
            runs[arm, seed] = pd.concat(found)
    return verdicts.judge(over_seeds.draws(runs, Protocol(), 200), arms.seeds_of(runs))


def test_every_claim_gets_the_verdict_that_its_models_deserve() -> None:
    found, checks = judged(ARMS)
    assert found["number"].tolist() == list(range(1, 9))
    verdict_of = found.set_index("number")["verdict"].to_dict()
    assert verdict_of[1] == "holds" and verdict_of[2] == "holds" and verdict_of[5] == "holds"
    assert verdict_of[6] == "holds" and verdict_of[8] == "holds"  # hardly anything, and nothing
    assert verdict_of[7] == "does not hold"  # more than half of the whole method's gain
    assert (checks.groupby("number").size() == found.set_index("number")[["kept", "open", "broken"]].sum(axis=1)).all()
    assert found.set_index("number")["n_seeds"].to_dict() == {1: 1, **dict.fromkeys(range(2, 9), 3)}


def test_a_claim_without_its_arm_is_not_tested() -> None:
    found, checks = judged({"csp": 0.8})
    assert found.set_index("number")["verdict"][[6, 7, 8]].tolist() == ["not tested"] * 3
    assert not checks["number"].isin([6, 7, 8]).any()
    found, _ = judged(ARMS, ("amber_relation",))  # the ablations are judged on POPE adversarial
    assert found.set_index("number")["verdict"][[2, 6]].tolist() == ["not tested"] * 2


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_leave_every_claim_about_a_training_open(n: int) -> None:
    rows = {("", 0): partly_right(0, 0, "base", 240)}
    rows |= {("csp", seed): partly_right(0.9, seed, "csp", 240) for seed in range(n)}
    rows = {key: own.assign(split="pope_adversarial") for key, own in rows.items()}
    found, checks = verdicts.judge(over_seeds.draws(rows, Protocol(), 200), arms.seeds_of(rows))
    verdict_of = found.set_index("number")["verdict"]
    assert verdict_of[1] == "holds"  # about the base, which has no training
    assert set(verdict_of[[2, 3, 4]]) == {"open"} and set(verdict_of[[5, 6, 7, 8]]) == {"not tested"}
    trained = checks[checks["number"] > 1]
    assert trained["ci_low"].isna().all() and trained["p"].isna().all() and trained["value"].notna().all()
    assert (trained["reason"] == f"an interval over trainings needs 3 seeds, here {n}").all()


def test_claims_about_pope_alone_are_judged() -> None:
    found, checks = judged(ARMS, ("pope_random", "pope_popular", "pope_adversarial"))
    assert (found["verdict"] != "not tested").all() and not checks["split"].str.startswith("amber").any()
    assert found.set_index("number")["verdict"][[1, 2, 7]].tolist() == ["holds", "holds", "does not hold"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_never_below_the_p_values_and_never_above_bonferroni(p: list[float]) -> None:
    corrected = np.array(verdicts.holm(p))
    assert (corrected >= np.array(p) - 1e-12).all() and (corrected <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()
    assert verdicts.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.04, 1, 0.09, 0.09])


@pytest.mark.parametrize("correlation", [0.0, 0.8])
@pytest.mark.parametrize("n_checks", [5, 25])
def test_a_claim_without_any_effect_gets_a_verdict_in_at_most_5_percent(n_checks: int, correlation: float) -> None:
    rng, found = np.random.default_rng(n_checks), []
    checks = [verdicts.Check("s", "acc", {}, rng.choice([-1, 1])) for _ in range(n_checks)]
    for _ in range(1000):
        z = np.sqrt(correlation) * rng.normal() + np.sqrt(1 - correlation) * rng.normal(size=n_checks)
        p = 2 * stats.norm.sf(np.abs(z))
        measured = [over_seeds.Combined(v, v - 1.96, v + 1.96, q, None, None, 5, None)
                    for v, q in zip(z, p, strict=True)]  # fmt: skip
        outcomes = verdicts.judge_checks(checks, measured)
        found.append(verdicts.verdict(**{name: outcomes.count(name) for name in ("kept", "open", "broken")}))
    assert np.mean([verdict != "open" for verdict in found]) <= 0.065  # 5 %, and three standard errors of 1000 draws


def test_a_claim_holds_if_every_check_is_kept_however_many_there_are() -> None:
    checks = [verdicts.Check("s", "acc", {}, 1) for _ in range(25)]
    measured = [over_seeds.Combined(0.1, 0.01, 0.2, 0.04, None, None, 5, None) for _ in checks]
    assert set(verdicts.judge_checks(checks, measured)) == {"kept"}
    measured[0] = measured[0]._replace(ci_low=-0.01, p=0.07)
    assert set(verdicts.judge_checks(checks, measured)) == {"open"}  # 24 of 25 alone prove nothing


def test_an_undefined_correlation_of_the_base_counts_as_none() -> None:
    _, checks = judged({"csp": 0.8})
    rank = checks[checks["number"] == 4]
    assert rank["value"].notna().all()  # the base says one number, so that its own are undefined


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(-1, 1), st.sampled_from([-1, 1]))
def test_an_outcome_is_a_matter_of_sides(low: float, width: float, than: float, sign: int) -> None:
    high = low + width
    found = verdicts.outcome(low, high, sign, than)
    assert found == verdicts.outcome(-high, -low, -sign, -than)  # the mirror image
    opposite = {"kept": "broken", "broken": "kept", "open": "open"}
    assert verdicts.outcome(low, high, -sign, than) == opposite[found]
    assert (found == "open") == (low <= than <= high)


@pytest.mark.parametrize(("counts", "verdict"), [
    ((3, 0, 0), "holds"), ((3, 1, 0), "holds in part"), ((1, 0, 5), "holds in part"), ((0, 1, 2), "does not hold"),
    ((0, 3, 0), "open"),
])
def test_verdicts(counts: tuple[int, int, int], verdict: str) -> None:
    assert verdicts.verdict(*counts) == verdict


def test_the_criteria_are_those_of_the_paper() -> None:
    """Golden: the number of checks of each claim, and the thresholds that are no zero."""
    found = verdicts.claims()
    assert [len(claim.checks) for claim in found] == [10, 27, 5, 10, 25, 5, 5, 5]
    assert {(c.number, k.metric, k.sign, k.than) for c in found for k in c.checks if k.than} == {
        (1, "acc", -1, 0.2), (1, "ece", 1, 0.35), (2, "acc", 1, 0.4), (2, "auc", 1, 0.75), (3, "plain_acc", 1, -0.02)}
    assert {k.split for c in found for k in c.checks} == set(SPLITS)


def test_nearly_nothing_is_a_part_of_the_whole_gain() -> None:
    check = next(check for check in verdicts.claims()[5].checks if check.metric == "acc")
    of = {(arm, check.split, "acc"): resamples("acc", np.full((1, 5), value), 9)
          for arm, value in (("base", 0.1), ("csp", 0.9), ("simpo_only", 0.3))}  # fmt: skip
    assert over_seeds.combine(of, check.weights, check.split, "acc").value == pytest.approx(0.25 * 0.8 - 0.2)
    assert verdicts.check_text(check) == "simpo_only gains < 0.25 of csp's gain"


def test_every_arm_is_judged_in_the_place_of_the_whole_method() -> None:
    """An arm that knows as much has the same verdicts; one that knows nothing loses claim 2; SFT alone is no arm."""

    def rows(share: float, seed: int, variant: str) -> pd.DataFrame:
        return partly_right(share, seed, variant, 240).assign(split="pope_adversarial")

    runs = {("", 0): rows(0, 0, "base")}
    shares = {"rows_half": 0.8, "nothing": 0.0, "csp": 0.8}
    runs |= {(arm, seed): pd.concat([rows(share, seed, "csp"), rows(share / 2, seed + 9, "sft")])
             for arm, share in shares.items() for seed in (1, 2, 3)}  # fmt: skip
    draws, seeds = over_seeds.draws(runs, Protocol(), 200), arms.seeds_of(runs)
    found = verdicts.judge_arms(draws, seeds)
    assert list(dict.fromkeys(found["arm"])) == ["csp", "rows_half", "nothing"]
    of = found.set_index(["arm", "number"])["verdict"]
    whole, _ = verdicts.judge(draws, seeds)
    for number in verdicts.OF_ANY_ARM:
        assert of["csp", number] == of["rows_half", number] == whole.set_index("number")["verdict"][number]
    assert of["csp", 2] == "holds" and of["nothing", 2] == "does not hold"
