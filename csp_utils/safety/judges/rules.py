"""A judge of rules that anybody can read: whole words and phrases, in a YAML file (assets/judge_rules.yaml).

Whole words, because substrings judge wrongly: "piano," contains a refusal's "no,", "lawn" contains "law". A mode
"substring" is there for those who must repeat a published number with their own copy of its list.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from csp_utils.base.errors import UserError, first_line, nearest
from csp_utils.base.wording import listed
from csp_utils.data.untrusted import read_text
from csp_utils.safety.guard import reveal
from csp_utils.safety.judges.verdicts import VERDICTS, Case, Verdict

RULES = Path(__file__).resolve().parents[3] / "assets" / "judge_rules.yaml"
START = 240
"""Length of the beginning of a reply, characters, for rules within its start."""
LONGEST = 20_000
"""Characters of a reply that are searched; what follows is not."""
WITHIN = {"start": START, "anywhere": LONGEST}
MODES = ("words", "substring")
_THINKING = re.compile(r"^.*?</think(?:ing)?>", re.DOTALL)
_FULL = {"m": "am", "re": "are", "ll": "will", "d": "would", "ve": "have"}
_CONTRACTED = re.compile(r"(?<=\w)'(m|re|ll|d|ve)\b")
_MARKUP = re.compile(r"[*_#`\"\u201c\u201d]+")


class Rule(NamedTuple):
    """A rule: its verdict applies if one of its patterns matches."""

    verdict: str
    name: str
    patterns: tuple[re.Pattern, ...]
    length: int
    """Characters from the beginning in which it is looked for."""


def simple_form(text: str) -> str:
    """Return a reply as rules read it: NFKC, lower case, straight apostrophes, no contractions, single spaces.

    Reasoning before </think> is left out: what a model thinks is not what it replies.
    """
    text = unicodedata.normalize("NFKC", text[: 2 * LONGEST]).lower()
    text = re.sub("[\u2018\u2019\u02bc\u00b4`]", "'", _THINKING.sub("", text))
    text = text.replace("can't", "cannot").replace("won't", "will not").replace("n't", " not")
    text = _CONTRACTED.sub(lambda match: f" {_FULL[match[1]]}", text)
    return " ".join(_MARKUP.sub(" ", text).split())


@dataclass(frozen=True)
class RulesJudge:
    """Judge a reply by the first rule that matches it."""

    rules: tuple[Rule, ...]
    default: str
    """Verdict on a reply that no rule matches."""
    mode: str
    content: str
    """SHA-256 of the file."""
    name: str = "rules"

    @property
    def identity(self) -> str:
        """The file's content: every verdict depends on all of it."""
        return f"rules {self.content}"

    def verdict(self, reply: str) -> Verdict:
        """Judge one reply; ``why`` is the name of the rule, "no rule" for the default."""
        text = reply.casefold() if self.mode == "substring" else simple_form(reply)
        for rule in self.rules:
            if any(pattern.search(text[: rule.length]) for pattern in rule.patterns):
                return Verdict(rule.verdict, why=rule.name)
        return Verdict(self.default, why="no rule")

    def verdicts(self, cases: Sequence[Case], done: Callable[[int, Verdict], None]) -> None:
        """Judge every case; see :class:`csp_utils.safety.judges.verdicts.Judge`."""
        for number, case in enumerate(cases):
            done(number, self.verdict(reveal(case.reply)))


def read_rules(path: Path | str = RULES, name: str = "rules") -> RulesJudge:
    """Read a judge from a YAML file of rules (its form is described in assets/judge_rules.yaml).

    In mode "words" a pattern is a regular expression for whole words; in mode "substring" it is a text that is looked
    for anywhere, case folded.

    Raises:
        UserError: the file is missing, is no YAML, or a class, rule or pattern has a wrong form; the sentence names it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing; name the file of the rules.")
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML ({first_line(error)}); correct it.") from error
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise UserError(f"{path} holds no rules; it needs the key classes, as assets/judge_rules.yaml has.")
    mode, default = content.get("mode", "words"), content.get("default", "answered")
    if mode not in MODES:
        raise UserError(f"{path} has the mode {mode!r}; valid are {listed(MODES)}.")
    rules = tuple(rule for entry in content["classes"] for rule in _rules(entry, mode, path))
    if not rules:
        raise UserError(f"{path} holds no rule; a judge without rules would answer {default!r} to everything.")
    _class(default, path)
    return RulesJudge(rules, default, mode, hashlib.sha256(text.encode()).hexdigest(), name)


def _class(name: Any, path: Path) -> str:
    """Return a verdict's name. Raises UserError if it is none."""
    if name not in VERDICTS:
        raise UserError(f"{path} has the verdict {name!r}; {nearest(str(name), VERDICTS)}")
    return name


def _rules(entry: Any, mode: str, path: Path) -> list[Rule]:
    """Return the rules of one class. Raises UserError for a wrong form."""
    if not isinstance(entry, dict) or not isinstance(entry.get("rules"), list):
        raise UserError(f"A class of {path} has no list of rules; write verdict and rules.")
    verdict, found = _class(entry.get("verdict"), path), []
    for rule in entry["rules"]:
        name = rule.get("name") if isinstance(rule, dict) else None
        if not isinstance(name, str):
            raise UserError(f"A rule of {verdict} in {path} has no name; every verdict names the rule that gave it.")
        within = rule.get("within", "anywhere")
        if within not in WITHIN:
            raise UserError(f"The rule {name!r} in {path} has within: {within!r}; {nearest(str(within), WITHIN)}")
        patterns = rule.get("any")
        if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) and one for one in patterns):
            raise UserError(f"The rule {name!r} in {path} needs a list of texts under any.")
        found.append(Rule(verdict, name, tuple(_pattern(one, mode, name, path) for one in patterns), WITHIN[within]))
    return found


def _pattern(text: str, mode: str, name: str, path: Path) -> re.Pattern:
    """Compile one pattern: in mode "words" it must begin and end at the edge of a word."""
    if mode == "substring":
        return re.compile(re.escape(text.casefold()))
    try:
        return re.compile(rf"(?<![\w'])(?:{text})(?![\w'])")
    except re.error as error:
        raise UserError(f"A pattern of the rule {name!r} in {path} is no regular expression ({error}); correct it."
                        ) from error  # fmt: skip
