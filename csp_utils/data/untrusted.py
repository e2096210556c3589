"""Check what files of others hold before it is used: the encoding of text, and the names of files."""

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from csp_utils.base.errors import UserError

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip",
               b"\x28\xb5\x2f\xfd": "zstd"}  # fmt: skip
"""First bytes of compressed files, and the name of the compression."""

RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}
"""File names that Windows keeps for devices, whatever their suffix."""


def encoding_of(path: Path) -> str:
    """Tell the encoding of a text file that begins with an ASCII character: UTF-8, UTF-16 or UTF-32.

    A byte order mark or the NUL bytes of the first characters show it; without them it is UTF-8.

    Raises:
        UserError: the file cannot be read, or is compressed.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(f"{path} is compressed ({name}), and is read as plain text; unpack it first")
    return json.detect_encoding(start)


def not_text(path: Path, encoding: str, error: UnicodeError) -> UserError:
    """Return the error about a file whose bytes are not text in the ``encoding`` that its first bytes show."""
    where = path
    if isinstance(error, UnicodeDecodeError) and encoding.startswith("utf-8"):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode(encoding)
                except UnicodeDecodeError:
                    where = f"line {number} of {path}"
                    break
    return UserError(f"{where} is not text in {encoding.upper()} ({error}); save the file in UTF-8 (Latin-1 and other "
                     "encodings cannot be told apart)")  # fmt: skip


def parse_json(text: str, where: str, what_to_do: str) -> Any:
    """Parse JSON of others; ``where`` names its place and ``what_to_do`` the remedy. Raises UserError with both."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "too many brackets")
        raise UserError(f"{where} is not JSON ({reason}); {what_to_do}") from error


def read_text(path: Path) -> str:
    """Read a text file whole, without its byte order mark; line ends stay as they are.

    Raises:
        UserError: the file cannot be read, is compressed, or is text in no Unicode encoding.
    """
    encoding = encoding_of(path)
    try:
        return path.read_bytes().decode(encoding)
    except UnicodeError as error:
        raise not_text(path, encoding, error) from error


def file_name_problem(name: str) -> str:
    """Tell why a name in a file of others is no name of a file below a folder, for a message; "" if it is.

    A name may have subfolders. It may not leave the folder on any operating system, nor be longer than a file name can
    be.
    """
    if any(ord(letter) < 32 for letter in name):
        return "holds control characters"
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if windows.anchor or posix.is_absolute() or ".." in windows.parts:
        return "leads out of its folder"
    if "\\" in name:
        return "holds a backslash; write / between folders"
    if not posix.name or any(part.partition(".")[0].upper().rstrip() in RESERVED for part in posix.parts):
        return "is no file name"
    if any(len(part.encode(errors="surrogatepass")) > 255 for part in posix.parts):
        return "is longer than 255 bytes"
    return ""
