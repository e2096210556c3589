"""The prompt that asks for a reply in one of the formats. It is a template: a file of the user's can replace it.

The words are ours. The published template can be used as a file: its field ``{{ content | trim }}`` is understood, too.
"""

import re
from pathlib import Path

from csp_utils.base.errors import UserError
from csp_utils.data.untrusted import read_text
from csp_utils.vlcal.formats import BOX, FORMATS, format_of

PROBLEM = "{problem}"
"""The field of a template, in whose place the problem is put."""

_FIELD = re.compile(r"\{problem\}|\{\{\s*content\s*(?:\|\s*trim\s*)?\}\}")
_BOX = re.compile(r"\\boxed\s*\{")

_SEE = ("Look before you reason. First write down everything in the image that the question needs, and nothing else, "
        "between <vision> and </vision>.")  # fmt: skip
_REASON = "Then work out the answer from what you wrote down, between <reasoning> and </reasoning>."
_ANSWER = "Give the answer alone in \\boxed{}."
_SCALE = "a whole number from 0 (certainly wrong) to 10 (certainly right)"
_TWO = (f"Last, say how sure you are, each time with {_SCALE}: that you saw everything rightly, between "
        "<vision_confidence> and </vision_confidence>, and that you reasoned rightly from it, between "
        "<reasoning_confidence> and </reasoning_confidence>")  # fmt: skip
_ONE = f"Last, say how sure you are of the answer, with {_SCALE}, between <confidence> and </confidence>."

TEMPLATES: dict[str, str] = {
    "decoupled": "\n".join((PROBLEM, "", _SEE, _REASON, _ANSWER, f"{_TWO}.")),
    "holistic": "\n".join((PROBLEM, "", _SEE, _REASON, _ANSWER, _ONE)),
    "none": "\n".join((PROBLEM, "", _SEE, _REASON, _ANSWER)),
    "released": "\n".join((
        PROBLEM, "", _SEE, _REASON, "Put <think> before these two parts and </think> after them.", _ANSWER,
        "Then weigh, between <analysis> and </analysis>, what speaks for and against both of these parts.",
        f"{_TWO}; put <confidence> before both numbers and </confidence> after them.")),
}  # fmt: skip
"""Our template for each format."""


def read_template(name: str, path: str | Path | None = None) -> str:
    """Return the template for a format: ours, or the text of a file.

    Args:
        name: name of the format, a key of :data:`csp_utils.vlcal.formats.FORMATS`.
        path: a UTF-8 text file that has the field ``{problem}`` once, all tags of the format and ``\\boxed{``; None for
            our own template.

    Raises:
        UserError: there is no such format; or the file is missing, no text, lacks tags of the format, or does not have
            the field exactly once.
    """
    required = format_of(name)
    if path is None:
        return TEMPLATES[name]
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing; point format_prompt to a file with the prompt, or leave it out for ours.")
    text = read_text(path)
    if lacking := [mark for mark in required.marks if not (_BOX.search(text) if mark == BOX else mark in text)]:
        raise UserError(f"{path} does not mention {' '.join(lacking)}, so a model would not know the format {name!r}; "
                        "write the missing ones into the prompt, or choose another format.")  # fmt: skip
    if (number := len(_FIELD.findall(text))) != 1:
        raise UserError(f"{path} has the field {PROBLEM} {number} times; write it once, where the problem belongs.")
    return text


def fill(template: str, problem: str) -> str:
    """Put a problem, stripped of outer white space, into a template. Braces in the problem have no meaning."""
    return _FIELD.sub(lambda _: problem.strip(), template, count=1)


assert TEMPLATES.keys() == FORMATS.keys()
