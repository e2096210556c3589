"""Verdicts on the disk, so that judging that was interrupted goes on where it stopped.

The file holds hashes and verdicts, and no word of a request or a reply. It has a line for each verdict; a line that a
kill has left half written is skipped, and its reply is judged again.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError, disk_full
from csp_utils.safety.guard import Text, reveal


class VerdictCache:
    """The verdicts of all judges of a run, by judge, request and reply."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.skipped = 0
        """Lines of the file that cannot be read."""
        self._found: dict[str, tuple] = {}
        if self.path.is_file():
            for line in self.path.read_bytes().split(b"\n"):
                self._read(line)

    def _read(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            key, verdict, status, probabilities, why = json.loads(line)
            self._found[str(key)] = (verdict, status, probabilities and tuple(map(float, probabilities)), str(why))
        except (ValueError, TypeError):
            self.skipped += 1

    @staticmethod
    def key(identity: str, request: Text, reply: Text) -> str:
        """Return the hash by which a verdict is found: of the judge with all that it depends on, request and reply."""
        parts = json.dumps([identity, reveal(request), reveal(reply)])
        return hashlib.sha256(parts.encode()).hexdigest()

    def get(self, key: str) -> tuple | None:
        """Return the cached verdict, status, probabilities and reason of a key; None if there are none."""
        return self._found.get(key)

    def add(self, key: str, verdict: tuple[Any, ...]) -> None:
        """Write a verdict to the disk before anything else is judged. A full disk becomes a UserError."""
        self._found[key] = tuple(verdict)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A leading line feed ends a line that a kill has left half written; a single write is never interleaved.
            with self.path.open("ab") as file:
                file.write(b"\n" + json.dumps([key, *verdict]).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if sentence := disk_full(error, f"{self.path} was not written"):
                raise sentence from error
            raise UserError(f"{self.path} cannot be written ({error.strerror}); check its folder's permissions."
                            ) from error  # fmt: skip
