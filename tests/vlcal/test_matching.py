"""Answers are matched with truths: cheaply where the text is enough, and never longer than the time limit."""

import os
import subprocess
import sys
import time
from decimal import Decimal

import psutil
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.base.errors import UserError
from csp_utils.vlcal.items import matching
from csp_utils.vlcal.items.answers import bare, kind_of, letter_of, number_of, same_text
from csp_utils.vlcal.items.matching import REASONS, Match, Matcher

FOR_EVER = r"9^{9^{9^{9}}}"


@pytest.fixture(scope="module")
def matcher():
    """One matcher for the fast questions, so that the library is imported once."""
    with Matcher(seconds=30) as found:
        yield found


# ------------------------------------------------------------------------------------------- without computer algebra


@pytest.mark.parametrize(("answer", "options", "letter"), [
    ("B", (), "B"), ("(B)", (), "B"), ("b", (), "B"), ("B.", (), "B"), ("\\text{B}", (), "B"), ("$B$", (), "B"),
    ("Option B", (), "B"), ("The correct answer is (B).", (), "B"), ("B. 12 cm", (), "B"), ("(B) 12 cm", (), "B"),
    ("\\boxed{B}", (), "B"), ("12 cm", ("3 cm", "12 cm"), "B"), ("12CM", ("3 cm", "12 cm"), "B"),
    ("A", ("D", "A"), "A"), ("E", ("1", "2"), None), ("I", ("II", "I"), "B"), ("x", ("x", "x"), None),
    ("A, B", (), None), ("(A) (B)", (), None), ("(A) or (B)", (), None), ("A. I only", (), "A"),
    ("AB", (), None), ("", (), None), ("12", (), None), ("A and B", ("1", "2"), None),
    ("Both", ("1", "2"), None),
])  # fmt: skip
def test_which_option_is_named(answer, options, letter):
    assert letter_of(answer, options) == letter


@pytest.mark.parametrize(("answer", "kind"), [
    ("C", "choice"), ("(C)", "choice"), ("yes", "text"), ("Product C", "text"), ("Sep", "text"), ("x", "math"),
    ("3", "math"), ("2 \\sqrt { 221 }", "math"), ("y = 4", "math"), ("3 cm", "math"), ("\\pi", "math"),
])  # fmt: skip
def test_the_kind_of_a_truth(answer, kind):
    assert kind_of(answer) == kind


@pytest.mark.parametrize(("text", "number"), [
    ("3", "3"), ("-3.50", "-3.50"), ("1,234,567", "1234567"), ("\u22123", "-3"), ("$7$", "7"),
    (".5", "0.5"), ("7.", "7"), ("-16.899999999999995", "-16.899999999999995"), ("9" * 10_000, "9" * 10_000),
    ("1,23", None), ("1/2", None), ("", None), (".", None), ("-", None), ("3 cm", None), ("nan", None),
    ("inf", None), ("1e5", None), ("\u0663", None),
])  # fmt: skip
def test_plain_numbers(text, number):
    assert number_of(text) == (None if number is None else Decimal(number))


def test_what_carries_no_meaning_is_stripped():
    assert bare(" $\\boxed{\\text{3}\\, cm}$ ") == "3 cm" and bare("\\boxed{1}+\\boxed{2}") == "\\boxed{1}+\\boxed{2}"
    assert same_text("2\\sqrt{221}", "2 \\sqrt { 221 }", "math") and not same_text("", " ", "text")
    assert same_text("YES.", "yes", "text") and not same_text("X", "x", "math")
    for one, other in [("1 1/2", "11/2"), (".5", "5"), ("10\u00b2", "102"), ("1\u00bd", "11/2"), ("-3", "3")]:
        assert not same_text(one, other, "math") and not same_text(one, other, "text")


@given(st.text(max_size=30), st.sampled_from(["choice", "number", "text", "math"]))
def test_the_truth_itself_is_always_right(truth, kind):
    if same_text(truth, truth, kind) and (kind != "choice" or letter_of(truth)):
        with Matcher() as matcher:
            assert matcher.match(truth, truth, kind).right and matcher._process is None


@given(st.text(max_size=30))
def test_readers_of_answers_take_any_text(text):
    assert letter_of(text, ("1", "2")) in (None, "A", "B")
    kind_of(text), number_of(text)  # no error is the test


# ---------------------------------------------------------------------------------------------- with computer algebra


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "truth", "kind", "expected"), [
    ("\\frac{1}{2}", "0.5", "math", (True, "same value")),
    ("\\sqrt{884}", "2 \\sqrt { 221 }", "math", (True, "same value")),
    ("40^\\circ", "40", "math", (True, "same value")), ("x = 5", "5", "math", (True, "same value")),
    ("7 \\text{ cm}", "7", "math", (True, "same value")), ("0.3333", "\\frac{1}{3}", "math", (False, "different")),
    ("eys", "yes", "text", (False, "different")), ("17:06", "17:06", "text", (True, "same text")),
    ("22/04/2006", "11/02/2006", "text", (False, "different")), ("(0,6)", "(0, 6)", "text", (True, "same text")),
    ("(0, \\frac{12}{2})", "(0, 6)", "text", (True, "same value")), ("(6, 0)", "(0, 6)", "text", (False, "different")),
    ("\\frac{2\\pi}{3}", "2.0944", "number", (True, "same value")),
    ("2.0954", "2.0944", "number", (True, "same value")),
    ("2.0955", "2.0944", "number", (False, "different")), ("2.0955", "2.0944", "math", (False, "different")),
    ("1" * 40 + "2", "1" * 40 + "3", "math", (False, "different")),
    ("10.0", "10.000000000000004", "number", (True, "same value")),
    ("about two", "2", "number", (False, "different")), ("3.14", "\\pi", "number", (False, "different")),
    ("3.141", "\\pi", "number", (True, "same value")), ("1.0", "1", "math", (True, "same value")),
    ("", "1", "math", (False, "no answer")), (None, "1", "math", (False, "no answer")),
    ("9" * 10_000, "9", "math", (False, "too long")), ("C", "B", "choice", (False, "different")),
    ("(B)", "B", "choice", (True, "same option")), ("neither", "B", "choice", (False, "no option")),
    ("__import__('os')", "1", "math", (False, "different")), ("1", "?!", "math", (False, "truth unreadable")),
    ("\\begin{", "1", "math", (False, "different")),
])  # fmt: skip
def test_by_hand(matcher, answer, truth, kind, expected):
    assert matcher.match(answer, truth, kind) == expected


@pytest.mark.slow
def test_an_answer_that_is_evaluated_for_ever_ends_is_counted_and_harms_no_other():
    with Matcher(seconds=1) as matcher:
        assert matcher.match("\\frac{1}{2}", "0.5", "math") == (True, "same value")
        first = matcher._process
        start = time.monotonic()
        assert matcher.match(FOR_EVER, "9", "math") == Match(False, "time limit")
        assert time.monotonic() - start < 4
        assert first.poll() is not None  # the process that hung is gone
        assert matcher.match(FOR_EVER, "9", "math") == (False, "time limit")  # known, so without a second wait
        assert time.monotonic() - start < 4 and matcher._process is None
        assert matcher.match("\\frac{3}{2}", "1.5", "math") == (True, "same value")
        numbers = matcher.table().set_index("reason")["n"]
        assert numbers["time limit"] == 2 and numbers["same value"] == 2 and numbers.sum() == 4
        assert list(numbers.index) == list(REASONS)
        last = matcher._process
    assert last.poll() is not None


@pytest.mark.slow
def test_a_process_that_nobody_reads_any_more_ends_by_itself():
    """A trainer that is killed while an answer is evaluated leaves nothing behind."""
    code = ("import os; from csp_utils.vlcal.items.matching import Matcher; m = Matcher(1)\n"
            "p = m._started(); print(p.pid, flush=True)\n"
            f"import json; p.stdin.write((json.dumps(dict(answer={FOR_EVER!r}, truth='9', tolerance=None)) + "
            "chr(10)).encode()); p.stdin.flush(); import time; time.sleep(0.3); os._exit(1)")  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    pid, end = int(found.stdout), time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_it_works_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(others))
    with Matcher() as matcher:
        assert matcher.match("\\frac{1}{2}", "0.5", "math").right


def test_a_process_that_does_not_start_is_said(monkeypatch):
    monkeypatch.setattr(matching.sys, "executable", "/bin/false")
    with Matcher() as matcher, pytest.raises(UserError, match="does not start; install math-verify"):
        matcher.match("\\frac{1}{2}", "0.5", "math")
