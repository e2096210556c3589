"""The published forms of benchmarks, each as a function that turns one row into one item, or says why it cannot.

Every problem gets the mark ``<image>`` where each of its images belongs, as ms-swift expects, and a choice gets its
options as text. The words that we add are in this module.
"""

import ast
import re
from collections.abc import Callable, Mapping
from string import ascii_uppercase
from typing import Any, NamedTuple

from csp_utils.vlcal.items.answers import AnswerKind, bare, kind_of, letter_of, number_of
from csp_utils.vlcal.items.records import ImageCell, Place

IMAGE = "<image>"
"""The mark of an image in a problem."""

ONE_LETTER = "Answer with the letter of the right option alone."
THREE_DECIMALS = "Answer with a number, to at least three decimals."

REASONS = {
    "no problem": "has no question",
    "no answer": "has no answer, or one that is no text or number",
    "no image": "has no image, or a question that names one which is not there",
    "unreadable options": "has options that are no list of texts",
    "answer is no option": "has an answer that is none of its options",
    "answer is no number": "has an answer that is no number, although its type says so",
    "unknown answer type": "has an answer type that its data set does not describe",
    "damaged image": "has an image that cannot be opened",
    "control token": "has a text in its question that a model's template reads as something else",
    "id twice": "has the id of an earlier row",
}
"""Reasons for which a row is dropped -> what it has or lacks."""

_MARK = re.compile(r"<image\s*(\d*)>")


class Dropped(Exception):
    """A row that makes no item; the argument is one of :data:`REASONS`."""


class Item(NamedTuple):
    """One problem with its answer."""

    item_id: str
    problem: str
    """Text with a mark :data:`IMAGE` for each image, in their order; of a choice, with its options."""
    answer: str
    """The truth; of a choice, a capital letter."""
    kind: AnswerKind
    """How an answer is compared with the truth."""
    options: tuple[str, ...]
    """Texts of the options A, B ...; () if there are none, or if only the problem or the image has them."""
    subject: str
    """The data set's own subject or category; "" without one."""
    images: tuple[ImageCell, ...]
    """Where the images are, in the order of the marks."""


class Form(NamedTuple):
    """A form in which a data set is published."""

    columns: tuple[str, ...]
    """Columns that each file must have."""
    read: Callable[[Mapping[str, Any], Place], Item]
    """Turns a row into an item. Raises :class:`Dropped`."""
    source: str
    """The data set, and where its form was read."""


def _text(value: Any, reason: str) -> str:
    """Return a text or a number as stripped text. Raises Dropped for anything else, and for an empty text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise Dropped(reason)
    return str(value).strip()


def _place_images(text: str, images: Mapping[int, ImageCell]) -> tuple[str, tuple[ImageCell, ...]]:
    """Put a mark where the text first mentions each image; images that it does not mention go before the text.

    Args:
        text: mentions images as ``<image 2>`` or ``<image2>``, or one after the other as ``<image>``.
        images: the images by their numbers, from 1.
    """
    if not images:
        raise Dropped("no image")
    order: list[int] = []
    mentions = _MARK.findall(text)
    others = [number for number in sorted(images) if str(number) not in mentions]
    unnumbered, before = iter(others), others[mentions.count("") :]

    def mark(match: re.Match) -> str:
        number = int(match[1]) if match[1] else next(unnumbered, 0)
        if number not in images:
            raise Dropped("no image")
        if number in order:
            return f"image {order.index(number) + 1 + len(before)}"
        order.append(number)
        return IMAGE

    text = _MARK.sub(mark, text)
    return "\n".join([*[IMAGE] * len(before), text]), tuple(images[number] for number in (*before, *order))


def _with_options(problem: str, options: tuple[str, ...]) -> str:
    """Append options to a problem, each with its letter; options that are but their letters are in the image."""
    letters = ascii_uppercase[: len(options)]
    if tuple(letters) == options:
        return f"{problem}\nOptions: {', '.join(letters)}\n{ONE_LETTER}"
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    return "\n".join([problem, "Options:", *lines, ONE_LETTER])


def _options(value: Any) -> tuple[str, ...]:
    """Return options from a list, or from the text of a Python list, as MMMU-Pro writes them."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise Dropped("unreadable options") from error
    if not isinstance(value, list | tuple) or len(value) > len(ascii_uppercase):
        raise Dropped("unreadable options")
    return tuple(_text(option, "unreadable options") for option in value)


def _letter(value: Any, options: tuple[str, ...]) -> str:
    """Return the right option's letter. Raises Dropped if the answer is none of the options."""
    letter = letter_of(_text(value, "no answer"), options)
    if letter is None:
        raise Dropped("answer is no option")
    return letter


def _subject(row: Mapping[str, Any], *names: str) -> str:
    return next((str(row[name]) for name in names if row.get(name)), "")


def _generic(row: Mapping[str, Any], place: Place) -> Item:
    """Problem, answer, images: the form of EasyR1's data, Geo3K and ViRL39K among them; answers may be boxed."""
    cells = row.get("images")
    cells = cells if isinstance(cells, list) else [] if cells is None else None
    images = {1: ImageCell("images")} if cells is None else {k + 1: ImageCell("images", k) for k in range(len(cells))}
    problem, order = _place_images(_text(row.get("problem"), "no problem"), images)
    answer = bare(_text(row.get("answer"), "no answer"))
    if not answer:
        raise Dropped("no answer")
    kind = kind_of(answer)
    answer = _letter(answer, ()) if kind == "choice" else answer
    own = row.get("id", row.get("qid"))
    item_id = str(own) if own is not None else f"{place.file.stem}:{place.group}:{place.row}"
    return Item(item_id, problem, answer, kind, (), _subject(row, "subject", "category", "data_source"), order)


def _math_vision(row: Mapping[str, Any], place: Place) -> Item:
    """MathVision: a question about ``<image1>``, five options or none, and the image in decoded_image."""
    options = _options(row.get("options") or [])
    problem = _text(row.get("question"), "no problem")
    images = {} if row.get("decoded_image") is None else {1: ImageCell("decoded_image")}
    problem, order = _place_images(_with_options(problem, options) if options else problem, images)
    answer = _letter(row.get("answer"), options) if options else bare(_text(row.get("answer"), "no answer"))
    kind = "choice" if options else kind_of(answer)
    return Item(_text(row.get("id"), "no problem"), problem, answer, kind, options, _subject(row, "subject"), order)


def _mmmu_pro(row: Mapping[str, Any], place: Place) -> Item:
    """MMMU-Pro: options as the text of a list and up to seven images, or ("vision") one image with the question."""
    options = _options(row.get("options"))
    if row.get("image") is not None:
        images, problem = {1: ImageCell("image")}, "The image shows a question and its options."
    else:
        images = {k: ImageCell(f"image_{k}") for k in range(1, 8) if row.get(f"image_{k}") is not None}
        problem = _text(row.get("question"), "no problem")
    shown = tuple(ascii_uppercase[: len(options)]) if row.get("image") is not None else options
    problem, order = _place_images(_with_options(problem, shown), images)
    return Item(_text(row.get("id"), "no problem"), problem, _letter(row.get("answer"), options), "choice", options,
                _subject(row, "subject"), order)  # fmt: skip


def _dynamath(row: Mapping[str, Any], place: Place) -> Item:
    """DynaMath: ten variants of each question, in files of their own; options are part of the question."""
    kinds: dict[str, AnswerKind] = {"float": "number", "multiple choice": "choice", "text": "text"}
    kind = kinds.get(str(row.get("answer_type")))
    if kind is None:
        raise Dropped("unknown answer type")
    answer = bare(_text(row.get("ground_truth"), "no answer"))
    if kind == "number" and number_of(answer) is None:
        raise Dropped("answer is no number")
    answer = _letter(answer, ()) if kind == "choice" else answer
    problem = _text(row.get("question"), "no problem")
    hint = {"choice": f"\n{ONE_LETTER}", "number": f"\n{THREE_DECIMALS}"}.get(kind, "")
    images = {} if row.get("decoded_image") is None else {1: ImageCell("decoded_image")}
    problem, order = _place_images(problem + hint, images)
    variant = re.search(r"variant\s*_?(\d+)", place.file.stem)
    item_id = f"{_text(row.get('id'), 'no problem')}:{variant[1] if variant else place.file.stem}"
    return Item(item_id, problem, answer, kind, (), _subject(row, "subject"), order)


FORMS: dict[str, Form] = {
    "generic": Form(("problem", "answer", "images"), _generic, "problem, answer and images, as EasyR1's data sets"),
    "geo3k": Form(("problem", "answer", "images"), _generic, "hiyouga/geometry3k"),
    "mathvision": Form(("id", "question", "options", "decoded_image", "answer"), _math_vision, "MathLLMs/MathVision"),
    "mmmu_pro": Form(("id", "options", "answer"), _mmmu_pro, "MMMU/MMMU_Pro, each of its three configurations"),
    "dynamath": Form(("id", "question", "decoded_image", "ground_truth", "answer_type"), _dynamath,
                     "DynaMath/DynaMath_Sample, the splits sample_variant1 to sample_variant10"),
}  # fmt: skip
"""All forms by their names in the parameters."""
