"""Ask any server with OpenAI's chat interface for verdicts, on this machine unless another one is allowed by name.

Requests and replies of a safety set leave the machine only if ``may_leave_machine`` is true, because a provider's terms
may forbid such content; those of a sexual category never do. A key is read from an environment variable alone. What
fails is a status and is asked for again the next time.
"""

import ipaddress
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from csp_utils.base.errors import UserError
from csp_utils.base.wording import counted
from csp_utils.safety.judges.prompt import LETTERS, judge_prompt, prompt_identity
from csp_utils.safety.judges.verdicts import READ, Case, Verdict

if TYPE_CHECKING:
    import requests

_LETTER = re.compile(rf"\W*(?:answer|letter)?\W*([{''.join(LETTERS)}])\W*", re.IGNORECASE)
_THINKING = re.compile(r"^.*?</think(?:ing)?>", re.DOTALL)


def is_loopback(url: str) -> bool:
    """Return True if a URL is surely on this machine: localhost, 127.0.0.0/8 or ::1. No name is looked up."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_letter(text: str) -> str | None:
    """Return the class of the one letter that a judge wrote, such as "B", "(B)" or "Answer: B."; None for more.

    Reasoning before </think> is left out. A sentence is not searched for letters: "A refusal" would be class A.
    """
    match = _LETTER.fullmatch(_THINKING.sub("", text).strip())
    return LETTERS[match[1].upper()] if match else None


@dataclass(frozen=True)
class EndpointJudge:
    """Judge by a model behind a server with OpenAI's chat interface (such as vLLM's)."""

    url: str
    """Up to /v1, such as http://127.0.0.1:8000/v1."""
    model: str
    may_leave_machine: bool = False
    """Allow an address that is not on this machine."""
    key_variable: str | None = None
    """Name of the environment variable that holds the key; None sends none."""
    timeout: float = 60.0
    """Seconds to wait for a reply."""
    max_tokens: int = 16
    give_up_after: int = 5
    """Failures of the connection in a row after which the rest is not asked."""
    name: str = "endpoint"
    _key: str | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"The judge's address {self.url!r} is no http address; write http://127.0.0.1:8000/v1.")
        if parts.username or parts.password or parts.query:
            raise UserError("The judge's address holds a name, a key or a query; put the key into an environment "
                            "variable and name that as `key_variable`.")  # fmt: skip
        if not is_loopback(self.url) and not self.may_leave_machine:
            raise UserError(f"The judge at {parts.hostname} is not on this machine, and requests and replies of a "
                            "safety set would be sent there; use a local server, or set judge_may_leave_machine: true "
                            "after reading its terms.")  # fmt: skip
        if self.key_variable is not None:
            if not os.environ.get(self.key_variable):
                raise UserError(f"The environment variable {self.key_variable}, which should hold the judge's key, is "
                                "not set; set it in the shell that starts the run.")  # fmt: skip
            object.__setattr__(self, "_key", os.environ[self.key_variable])

    @property
    def identity(self) -> str:
        """Address, model, prompt and token budget."""
        return f"endpoint {self.url} {self.model} {prompt_identity()} {self.max_tokens}"

    def verdicts(self, cases: Sequence[Case], done: Callable[[int, Verdict], None]) -> None:
        """Ask for one case after the other; see :class:`csp_utils.safety.judges.verdicts.Judge`.

        After ``give_up_after`` failures of the connection in a row the rest gets the status "not asked".

        Raises:
            UserError: the address is not on this machine and a case is of a sexual category.
        """
        if not is_loopback(self.url) and (sexual := sum(case.sexual for case in cases)):
            raise UserError(f"{counted(sexual, 'item')} of a sexual category would be sent to "
                            f"{urlsplit(self.url).hostname}; they never leave this machine: take the category off, or "
                            "use a judge on this machine.")  # fmt: skip
        failures = 0
        with self._session() as session:
            for number, case in enumerate(cases):
                if failures >= self.give_up_after:
                    done(number, Verdict(None, "not asked"))
                    continue
                verdict = self._ask(session, case)
                failures = 0 if verdict.status in (READ, "unread") else failures + 1
                done(number, verdict)

    def _session(self) -> "requests.Session":
        """Return a session that sends nothing elsewhere: to this machine neither by a proxy nor with others' keys."""
        import requests

        session = requests.Session()
        session.trust_env = not is_loopback(self.url)
        if self._key:
            session.headers["Authorization"] = f"Bearer {self._key}"
        return session

    def _ask(self, session: "requests.Session", case: Case) -> Verdict:
        """Send one case, and read the verdict or the failure."""
        import requests

        body = {"model": self.model, "temperature": 0, "max_tokens": self.max_tokens,
                "messages": [{"role": "user", "content": judge_prompt(case)}]}  # fmt: skip
        try:
            # A redirection could lead from this machine to another one.
            response = session.post(f"{self.url.rstrip('/')}/chat/completions", json=body, timeout=self.timeout,
                                    allow_redirects=False)  # fmt: skip
            if response.status_code != 200:
                return Verdict(None, "refused by server", why=f"HTTP {response.status_code}")
            return _read(response.json())
        except requests.Timeout:
            return Verdict(None, "timeout", why=f"{self.timeout:g} s")
        except (requests.JSONDecodeError, json.JSONDecodeError):
            return Verdict(None, "unread", why="no JSON")
        except requests.RequestException as error:
            return Verdict(None, "unreachable", why=type(error).__name__)


def _read(content: Any) -> Verdict:
    """Read the verdict from a server's answer; its words are not repeated, as they may be the reply's."""
    try:
        text = content["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return Verdict(None, "unread", why="no message")
    if not isinstance(text, str):
        return Verdict(None, "unread", why="no text")
    verdict = read_letter(text)
    return Verdict(verdict) if verdict else Verdict(None, "unread", why=f"{len(text)} characters, no letter")
