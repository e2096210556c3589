"""A reply is taken apart without a guess: what is there is read, what is wrong is one of the named kinds."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.base.errors import UserError
from csp_utils.vlcal.formats import BOX, FORMATS, format_of
from csp_utils.vlcal.prompts import TEMPLATES, fill, read_template
from csp_utils.vlcal.reply import KINDS, WELL_FORMED, count_kinds, read_reply

FORM = FORMATS["decoupled"]
GOOD = ("<vision>star 1 cloud 0</vision><reasoning>3 + 0</reasoning> \\boxed{3} "
        "<vision_confidence>8</vision_confidence><reasoning_confidence>4</reasoning_confidence>")  # fmt: skip
RELEASED = ("<think>\n<vision> A star. </vision>\n<reasoning>One.</reasoning>\n</think>\nSo \\boxed{\\frac{1}{2}}.\n"
            "<analysis>Clear.</analysis>\n<confidence><vision_confidence> 10 </vision_confidence>\n"
            "<reasoning_confidence>0</reasoning_confidence></confidence>")  # fmt: skip


def changed(old: str, new: str) -> str:
    """The good reply with one change, which must be one."""
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_reply_is_read_whole():
    reading = read_reply(GOOD, FORM)
    assert reading[:5] == (WELL_FORMED, "", "star 1 cloud 0", "3 + 0", "3") and reading.well_formed
    assert (reading.visual, reading.reasoned) == (0.8, 0.4)
    assert reading.overall == pytest.approx(2 * 0.8 * 0.4 / 1.2)


def test_the_released_format_needs_its_three_further_parts():
    reading = read_reply(RELEASED, FORMATS["released"])
    assert reading[:5] == (WELL_FORMED, "", "A star.", "One.", "\\frac{1}{2}")
    assert (reading.visual, reading.reasoned, reading.overall) == (1.0, 0.0, 0.0)
    assert read_reply(RELEASED, FORM).well_formed  # decoupled does not mind them
    without = read_reply(GOOD, FORMATS["released"])
    assert (without.kind, without.problem, without.visual) == ("missing tag", "<think>", 0.8)


def test_one_confidence_or_none():
    head = GOOD.partition("<vision_confidence>")[0]
    holistic = read_reply(head + "<confidence>7</confidence>", FORMATS["holistic"])
    assert holistic.well_formed and (holistic.visual, holistic.reasoned, holistic.overall) == (None, None, 0.7)
    plain = read_reply(head, FORMATS["none"])
    assert plain.well_formed and plain.overall is None and plain.answer == "3"


@pytest.mark.parametrize(("reply", "kind", "problem"), [
    ("", "no text", ""), (" \n", "no text", ""), (None, "no text", ""), (3.0, "no text", ""),
    ("The answer is 3.", "missing tag", "<vision>"),
    (changed("</vision>", ""), "missing tag", "</vision>"),
    (changed("<vision>", "<Vision>"), "missing tag", "<vision>"),
    (changed("\\boxed{3}", "3"), "no boxed answer", BOX),
    (changed("\\boxed{3}", "\\boxed{3"), "no boxed answer", BOX),
    (changed("star 1", "<vision>star 1"), "duplicate", "<vision>"),
    (changed("\\boxed{3}", "\\boxed{3} \\boxed{4}"), "duplicate", BOX),
    (changed("\\boxed{3}", "").replace("3 + 0", "\\boxed{3}"), "order", BOX),
    (changed("<reasoning>3 + 0</reasoning>", "").replace("<vision>", "<reasoning>3</reasoning><vision>"), "order",
     "</vision>"),
    (changed("star 1 cloud 0", " \n"), "empty part", "<vision>"),
    (changed("3 + 0", ""), "empty part", "<reasoning>"),
    (changed("\\boxed{3}", "\\boxed{ }"), "empty part", BOX),
    (changed(">8<", ">high<"), "not a number", "'high'"), (changed(">8<", ">8/10<"), "not a number", "'8/10'"),
    (changed(">8<", "><"), "not a number", "''"), (changed(">8<", ">80%<"), "not a number", "'80%'"),
    (changed(">8<", ">nan<"), "not a number", "'nan'"), (changed(">8<", ">\u0668<"), "not a number", "'\u0668'"),
    (changed(">4<", ">11<"), "out of range", "'11'"), (changed(">4<", ">-1<"), "out of range", "'-1'"),
])  # fmt: skip
def test_what_is_wrong_is_named(reply, kind, problem):
    reading = read_reply(reply, FORM)
    assert (reading.kind, reading.problem) == (kind, problem) and not reading.well_formed and kind in KINDS


def test_what_can_be_read_of_a_malformed_reply_is_read():
    reading = read_reply(changed(">8<", ">high<"), FORM)
    assert (reading.answer, reading.visual, reading.reasoned, reading.overall) == ("3", None, 0.4, None)
    inside = read_reply(changed("\\boxed{3}", "").replace("3 + 0", "\\boxed{5}"), FORM)
    assert inside.answer == "5"


@pytest.mark.parametrize("length", range(1, len(GOOD)))
def test_a_reply_that_the_budget_ends_is_cut_and_never_states_another_number(length):
    reading = read_reply(GOOD[:length], FORM, ended=False)
    assert reading.kind in ("cut", "no text") and reading.visual in (None, 0.8) and reading.reasoned is None
    assert reading.answer in (None, "3")


def test_a_reply_that_is_whole_when_the_budget_ends_is_not_cut():
    assert read_reply(GOOD, FORM, ended=False).well_formed
    assert read_reply(changed(">4<", ">11<"), FORM, ended=False).kind == "out of range"


@pytest.mark.parametrize(("text", "answer"), [
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"), ("\\boxed {7}", "7"), ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
    ("\\boxed{\\text{A} \\boxed{B}}", "\\text{A} \\boxed{B}"), ("\\boxed{}} {7}", None),
    ("\\boxed{ \\boxed{7}", "7"), ("} { \\boxed{7}", "7"), ("\\\\boxed{7}", None),
])  # fmt: skip
def test_the_box_ends_at_its_own_brace(text, answer):
    assert read_reply(changed("\\boxed{3}", text), FORM).answer == answer


@pytest.mark.parametrize("reply", [
    "7" * 10_000, " 7" * 10_000, GOOD.replace(">8<", f">{'7' * 10_000}<"), "\\boxed{" * 10_000, "\\boxed{}" * 10_000,
    "{" * 50_000 + "}" * 50_000, "<vision>" * 10_000, "\\boxed{" * 20_000 + "}" * 20_000,
])  # fmt: skip
def test_ten_thousand_tokens_are_read_at_once(reply):
    start = time.process_time()
    reading = read_reply(reply, FORM)
    assert time.process_time() - start < 1 and not reading.well_formed
    assert reading.kind == ("out of range" if reply.startswith("<vision>star") else "missing tag")


@given(st.lists(st.sampled_from([*FORM.marks, "}", "7", " ", "x", "11", "{", "<confidence>"]), max_size=25))
def test_any_order_of_any_marks_is_read_without_an_error(pieces):
    reading = read_reply("".join(pieces), FORM)
    assert reading.well_formed == (reading.kind not in KINDS)
    if reading.well_formed:
        positions = ["".join(pieces).index(mark) for mark in FORM.marks if mark != BOX]
        assert positions == sorted(positions)
        assert reading.description and reading.reasoning and reading.answer and 0 <= reading.overall <= 1


@given(st.integers(0, 10), st.integers(0, 10), st.text("ab {}\n", max_size=9), st.text("ab+1 ", max_size=9))
def test_what_is_written_is_what_is_read(v, r, seen, reasoned):
    reply = (f"<vision>{seen}</vision>{reasoned}<reasoning>{reasoned}</reasoning>\\boxed{{7}}"
             f"<vision_confidence>{v}</vision_confidence><reasoning_confidence> {r}\n</reasoning_confidence>")
    reading = read_reply(reply, FORM)
    assert (reading.visual, reading.reasoned) == (v / 10, r / 10)
    assert (reading.description or "") == seen.strip() and (reading.reasoning or "") == reasoned.strip()
    assert reading.well_formed == bool(seen.strip() and reasoned.strip())


def test_kinds_are_counted_each_reply_once():
    replies = [GOOD, GOOD, "nothing", changed(">8<", ">high<").replace(">4<", ">11<"), ""]
    table = count_kinds(read_reply(reply, FORM) for reply in replies).set_index("kind")
    assert table["n"].sum() == 5 and list(table.index) == [WELL_FORMED, *KINDS]
    assert table["n"][table["n"] > 0].to_dict() == {
        WELL_FORMED: 2, "no text": 1, "missing tag": 1, "not a number": 1}
    assert table["share"][WELL_FORMED] == 0.4
    assert count_kinds([])["n"].sum() == 0


# ------------------------------------------------------------------------------------------------------- the prompt


@pytest.mark.parametrize("name", FORMATS)
def test_our_template_asks_for_every_mark_of_its_format(name):
    prompt = fill(read_template(name), "How many \\frac{1}{2} {stars}?")
    assert prompt.startswith("How many \\frac{1}{2} {stars}?\n")
    assert all(mark in prompt for mark in FORMATS[name].marks) and "{problem}" not in prompt


def test_templates_ask_for_nothing_that_their_format_has_not():
    assert "confidence" not in TEMPLATES["none"] and "<think>" not in TEMPLATES["decoupled"]
    assert "vision_confidence" not in TEMPLATES["holistic"]


def test_a_template_of_the_users_own(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("{{ content | trim }}\nUse " + " ".join(FORM.marks[:-1]) + " " + FORM.marks[-1])
    assert fill(read_template("decoupled", file), " 1 + 1? \\1").startswith("1 + 1? \\1\nUse <vision>")


@pytest.mark.parametrize(("text", "sentence"), [
    ("{problem} Answer.", r"prompt\.txt does not mention <vision> </vision> .*\\boxed\{ .*write the missing ones"),
    ("Use " + " ".join(FORM.marks), r"prompt\.txt has the field \{problem\} 0 times; write it once"),
    ("{problem} {problem}" + " ".join(FORM.marks), "2 times"),
    ("{problem}" + " ".join(FORM.marks[:-1]), "does not mention </reasoning_confidence>, so"),
])
def test_a_template_that_cannot_work_is_refused_in_one_sentence(tmp_path, text, sentence):
    (tmp_path / "prompt.txt").write_text(text)
    with pytest.raises(UserError, match=sentence) as error:
        read_template("decoupled", tmp_path / "prompt.txt")
    assert "\n" not in str(error.value)


def test_other_mistakes_are_said(tmp_path):
    with pytest.raises(UserError, match="missing; point format_prompt"):
        read_template("decoupled", tmp_path / "none.txt")
    with pytest.raises(UserError, match="did you mean 'decoupled'"):
        format_of("decouple")
    (tmp_path / "latin.txt").write_bytes(b"{problem} \xe9")
    with pytest.raises(UserError, match="is not text in UTF-8"):
        read_template("decoupled", tmp_path / "latin.txt")
