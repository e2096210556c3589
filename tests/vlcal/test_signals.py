"""Signals, labels, rewards and factors: by hand-computed numbers, against exact distributions, and by invariants."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from csp_utils.base.errors import UserError
from csp_utils.vlcal import advantages as A
from csp_utils.vlcal import certainty as C
from csp_utils.vlcal import rewards as R
from csp_utils.vlcal.choices import RELEASED, Choices, choices

LOG2 = math.log(2)
T = torch.tensor
scores_of = st.lists(st.floats(-20, 20) | st.just(math.nan), min_size=1, max_size=30)


def close(found, expected, tolerance=1e-6):
    """Equality of a tensor and numbers, NaN included."""
    torch.testing.assert_close(found.double(), T(expected, dtype=torch.float64), rtol=0, atol=tolerance, equal_nan=True)


# ------------------------------------------------------------------------------------------------------ of each token


def test_token_kl_by_hand():
    p, q = T([0.5, 0.25, 0.5]).log(), T([0.25, 0.5, 0.5]).log()
    close(C.token_kl(p, q), [0.5 - 1 + LOG2, 2 - 1 - LOG2, 0.0])  # q/p - 1 - log(q/p)
    close(C.token_kl(p, q, "released"), [0.5 * LOG2, 0.0, 0.0])  # p log(p/q), not below 0
    with pytest.raises(ValueError, match="full_kl"):
        C.token_kl(p, q, "full")


def test_token_kl_is_limited():
    far = T([0.0, -100.0, -math.inf]), T([-100.0, 0.0, 0.0])
    close(C.token_kl(*far), [10.0, 10.0, 10.0])
    close(C.token_kl(*far, "released"), [10.0, 0.0, 0.0])


def test_small_differences_are_exact_in_float32():
    difference = 1e-3  # e^-d + d - 1 = d^2/2 - d^3/6: formed from terms near 1, it would be wrong in the third digit
    close(C.token_kl(T([0.0]), T([-difference])), [difference**2 / 2 - difference**3 / 6], 1e-10)


def test_full_kl_and_entropy_by_hand():
    logits, masked = T([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log(), T([[0.25, 0.5, 0.25], [0.5, 0.5, 0.0]]).log()
    close(C.full_kl(logits, masked), [0.5 * LOG2 - 0.25 * LOG2, LOG2])
    close(C.full_entropy(logits), [1.5 * LOG2, 0.0])
    close(C.full_entropy(torch.zeros(1, 8) + 5), [3 * LOG2])
    assert C.full_kl(masked, logits)[1] == math.inf  # q has no chance of what p says in half of the cases
    close(C.surprisal(T([0.5]).log()), [LOG2])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=2, max_size=8))
def test_k3_and_surprisal_have_the_full_formulas_as_their_expectation(pairs):
    logits, masked = (T(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    log_p, log_q = logits.log_softmax(-1), masked.log_softmax(-1)
    ratio = log_q - log_p
    if (ratio.exp() - 1 - ratio).max() > 9.9:  # the limit of a token's KL would act
        return
    close((log_p.exp() * C.token_kl(log_p, log_q)).sum(), C.full_kl(logits, masked).item(), 1e-4)
    close((log_p.exp() * C.surprisal(log_p)).sum(), C.full_entropy(logits).item(), 1e-4)


def test_the_released_kl_has_another_expectation():
    log_p, log_q = T([0.5, 0.25, 0.25]).log(), T([0.25, 0.5, 0.25]).log()
    expected = (log_p.exp() * C.token_kl(log_p, log_q, "released")).sum()
    close(expected, 0.25 * LOG2)
    close(C.full_kl(log_p, log_q), 0.25 * LOG2)  # here it agrees by accident ...
    log_p, log_q = log_q, T([0.125, 0.75, 0.125]).log()
    close((log_p.exp() * C.token_kl(log_p, log_q, "released")).sum(), 2 * 0.0625 * LOG2)
    close(C.full_kl(log_p, log_q), 0.5 * LOG2 - 0.5 * math.log(1.5))  # ... and here it does not


def test_the_description_is_marked_wherever_the_padding_is():
    mask = T([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    marked = C.description_mask([range(1, 3), range(0, 1), None], mask)
    assert marked.int().tolist() == [[0, 0, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="beyond its 3 tokens"):
        C.description_mask([range(2, 4)], mask[:1])


# ------------------------------------------------------------------------------------------------------ of each reply


def test_reply_mean_and_visual_certainty_by_hand():
    where = T([[True, True, False], [False, False, False]])
    close(C.reply_mean(T([[1.0, 3.0, math.nan], [1.0, 1.0, 1.0]]), where), [2.0, math.nan])
    kl, entropy = T([math.e, 1.0, math.nan, 0.0]), T([1.0, math.e, 1.0, 0.0])
    close(C.visual_certainty(kl, entropy), [1.0, -1.0, math.nan, 0.0])
    close(C.visual_certainty(kl, entropy, "kl"), [1.0, 0.0, math.nan, math.log(1e-8)], 1e-5)
    close(C.visual_certainty(kl, entropy, "entropy"), [0.0, -1.0, 0.0, -math.log(1e-8)], 1e-5)


def test_soft_labels_by_hand():
    sigmoid = [1 / (1 + math.exp(-z)) for z in (-1.0, 1.0)]
    close(C.soft_labels(T([1.0, math.nan, 3.0])), [sigmoid[0], math.nan, sigmoid[1]])  # mean 2, population std 1
    close(C.soft_labels(T([2.0, 2.0])), [0.5, 0.5])
    close(C.soft_labels(T([7.0])), [0.5])
    close(C.soft_labels(T([math.nan, math.inf])), [math.nan, math.nan])
    close(C.soft_labels(T([5.0, 9.0, math.nan, 7.0]), "rank"), [0.0, 1.0, math.nan, 0.5])
    close(C.soft_labels(T([4.0, 4.0]), "rank"), [1.0, 0.0])
    close(C.soft_labels(T([4.0]), "rank"), [1.0])


@given(scores_of, st.sampled_from(["z_score", "rank"]))
def test_labels_keep_the_order_and_lie_around_one_half(scores, how):
    labels = C.soft_labels(T(scores), how)
    known = ~T(scores).isnan()
    assert labels.isnan().tolist() == (~known).tolist()
    values = labels[known]
    assert ((values >= 0) & (values <= 1)).all()
    order = T(scores)[known].argsort()
    if how == "z_score":
        assert (values[order].diff() >= 0).all()
    elif known.sum() > 1:
        assert values.mean() == pytest.approx(0.5, abs=1e-6)


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=30), st.floats(0.5, 3), st.floats(-5, 5))
def test_only_the_place_among_the_others_counts(scores, factor, shift):
    if T(scores).double().std(correction=0) > 1e-3:
        one, other = C.soft_labels(T(scores).double()), C.soft_labels(T(scores).double() * factor + shift)
        close(one, other.tolist(), 1e-5)


@given(scores_of, scores_of)
def test_two_processes_give_the_labels_of_one(first, second):
    """Each process takes its slice of the labels of the gathered scores; the other order of gathering agrees, too."""
    together, swapped = C.soft_labels(T(first + second)), C.soft_labels(T(second + first))
    close(together[: len(first)], swapped[len(second) :].tolist(), 1e-6)
    close(together[len(first) :], swapped[: len(second)].tolist(), 1e-6)


# ------------------------------------------------------------------------------------------------------------ rewards


def test_overall_confidence_by_hand():
    found = R.overall_confidence([0.8, 1.0, 0.0, 0.0, np.nan], [0.4, 1.0, 0.9, 0.0, 1.0])
    np.testing.assert_allclose(found, [2 * 0.32 / 1.2, 1.0, 0.0, 0.0, np.nan])


@given(st.integers(0, 10), st.integers(0, 10))
def test_overall_confidence_is_scipys_harmonic_mean(v, r):
    found = float(R.overall_confidence(v / 10, r / 10))
    assert found == pytest.approx(stats.hmean([v, r]) / 10) and min(v, r) - 1e-9 <= 10 * found <= max(v, r) + 1e-9


def test_rewards_by_hand():
    assert R.accuracy_reward([True, False]).tolist() == R.format_reward([True, False]).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(R.calibration_reward([0.8, 0.8, np.nan], [True, False, True]), [-0.04, -0.64, -1.0])
    np.testing.assert_allclose(R.visual_reward([0.9, 0.9, np.nan], [0.5, np.nan, 0.5]), [-0.16, -1.0, -1.0])
    parts = {"accuracy": [1.0, 0.0], "calibration": [-0.04, -1.0], "format": [1.0, 0.0], "visual": [-0.16, -1.0]}
    np.testing.assert_allclose(R.total_reward(parts), [1 - 0.08 + 0.4 - 0.064, -2.0 - 0.4])
    np.testing.assert_allclose(R.total_reward({"accuracy": [1.0]}, R.Weights(accuracy=3.0)), [3.0])
    with pytest.raises(KeyError, match="vision"):
        R.total_reward({"vision": [1.0]})


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_calibration_reward_is_best_at_the_true_rate(rate, other):
    def mean(said):
        return float(rate * R.calibration_reward(said, True) + (1 - rate) * R.calibration_reward(said, False))

    assert mean(rate) >= mean(other) - 1e-12


# ------------------------------------------------------------------------------------------------------------ factors


def signals(kl, entropy, mask=None, description=None) -> A.TokenSignals:
    """Signals of which mask and description are everywhere by default."""
    whole = torch.ones(T(kl).shape, dtype=torch.bool)
    return A.TokenSignals(T(kl), T(entropy), whole if mask is None else T(mask),
                          whole if description is None else T(description))  # fmt: skip


def test_token_weights_by_hand():
    # log KL - log H is 0, 2, 4 with padding: mean 2, sample deviation 2, so z is -1, 0, 1
    e = math.e
    one = signals([[1.0, e**2, e**4, math.nan]], [[1.0, 1.0, 1.0, math.nan]], [[True, True, True, False]],
                  [[True, True, True, False]])  # fmt: skip
    low, high = 1 / (1 + e), e / (1 + e)
    close(A.token_certainty(one), [[low, 0.5, high, 0.5]])
    weights = [1 + 0.1 * (1 - 2 * low), 1.0, 1 + 0.1 * (1 - 2 * high), 1.0]
    close(A.token_weights(T([[-1.0, -1.0, -1.0, -1.0]]), one), [weights])
    close(A.token_weights(T([[-1.0]]), one), [weights])
    close(A.token_weights(T([[1.0, 0.0, -1.0, 0.0]]), one), [[1.0, 1.0, weights[2], 1.0]])
    assert all(1.1 - 0.2 * share == pytest.approx(1 + 0.1 * (1 - 2 * share)) for share in (low, high))  # as published


def test_words_outside_the_description_set_the_scale_but_keep_their_advantage():
    e = math.e
    part = signals([[1.0, e**2, e**4]], [[1.0, 1.0, 1.0]], None, [[True, False, False]])
    close(A.token_weights(T([[-1.0]]), part, 0.5), [[1 + 0.5 * (1 - 2 / (1 + e)), 1.0, 1.0]])


def test_replies_in_which_no_token_stands_out_keep_their_advantages():
    equal = signals([[2.0, 2.0], [3.0, math.nan], [math.nan, math.nan]], [[1.0, 1.0], [1.0, 9.0], [1.0, 1.0]],
                    [[True, True], [True, False], [False, False]])  # fmt: skip
    close(A.token_weights(torch.full((3, 2), -1.0), equal), [[1.0, 1.0]] * 3)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 6), st.booleans(), st.booleans()), min_size=1, max_size=20),
       st.floats(0, 1))
def test_weights_stay_in_their_band_and_blame_certain_words_less(tokens, strength):
    kl, entropy, mask, seen = (list(column) for column in zip(*tokens, strict=True))
    one = signals([kl], [entropy], [mask], [[a and b for a, b in zip(mask, seen, strict=True)]])
    weights = A.token_weights(T([[-1.0]]), one, strength)[0]
    assert ((weights >= 1 - strength - 1e-6) & (weights <= 1 + strength + 1e-6)).all()
    assert (weights[~one.description[0]] == 1).all()
    certain = C.visual_certainty(one.kl, one.entropy)[0][one.description[0]]
    assert (weights[one.description[0]][certain.argsort()].diff() <= 1e-6).all()


def test_top_tokens_by_hand():
    kl = T([[5.0, 1.0, 4.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    mask = T([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    assert A.top_tokens(kl, mask, 0.5).int().tolist() == [[1, 0, 1, 0, 0], [1, 1, 0, 0, 0]]  # 2 of 4, 2 of 3
    assert A.top_tokens(kl, mask, 0.2).int().tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    close(A.top_token_weights(kl, mask, 0.2), [[3.5, 0, 0, 0, 0], [3.5, 0, 0, 0, 0]])  # 7 tokens, 2 chosen
    close(A.top_token_weights(kl, mask, 1), [[1.0] * 5] * 2)


@pytest.mark.parametrize("share", [0.01, 0.07, 0.1, 0.2, 0.29, 0.55, 0.57])
def test_the_number_of_top_tokens_is_exact(share):
    hundred = torch.arange(100.0)[None]
    assert A.top_tokens(hundred, torch.ones(1, 100), share).sum() == round(100 * share)
    assert any(math.ceil(100 * share) != round(100 * share) for share in (0.07, 0.29, 0.55))  # the trap is real


@settings(max_examples=60)
@given(st.data(), st.floats(0.01, 1))
def test_the_mean_over_all_tokens_becomes_that_over_the_chosen_ones(data, share):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 12)))
    draw = np.random.default_rng(data.draw(st.integers(0, 999)))
    kl, loss = (T(draw.random(shape), dtype=torch.float32) for _ in "ab")
    mask = T(draw.random(shape) < 0.7)
    if mask.any():
        chosen = A.top_tokens(kl, mask, share)
        assert not (chosen & ~mask).any()
        assert (chosen.sum(1) == torch.ceil(mask.sum(1) * share - 1e-9)).all()
        mean = (A.top_token_weights(kl, mask, share) * loss)[mask].mean()
        close(mean, loss[chosen].mean().item(), 1e-5)


# ------------------------------------------------------------------------------------------------------------ choices


def test_every_difference_of_the_published_code_is_a_choice():
    paper, released = (dataclasses.asdict(choices(which)) for which in (False, True))
    assert paper == dataclasses.asdict(Choices())
    assert {name: value for name, value in released.items() if value != paper[name]} == RELEASED
    assert choices(True, top_tokens=1.0).top_tokens == 1.0 and choices(True).kl == "released"


def test_labels_are_ranks_only_where_the_code_has_one_signal():
    assert [choices(True, certainty=use).labels for use in ("both", "kl", "entropy")] == ["z_score", "rank", "rank"]
    assert {choices(certainty=use).labels for use in ("both", "kl", "entropy")} == {"z_score"}


@pytest.mark.parametrize(("change", "sentence"), [
    ({"kl": "k1"}, "kl cannot be 'k1'; did you mean 'k3'"), ({"strength": 1.5}, "strength is 1.5"),
    ({"top_tokens": 0}, "top_tokens is 0"), ({"kll": "k3"}, "no choice named 'kll'; did you mean 'kl'"),
    ({"format": "holist"}, "did you mean 'holistic'"), ({"entropy": "exact"}, "entropy cannot be 'exact'"),
])  # fmt: skip
def test_a_choice_that_does_not_exist_is_said(change, sentence):
    with pytest.raises(UserError, match=sentence):
        choices(**change)
