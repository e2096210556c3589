"""Fetches data and weights (:mod:`csp_utils.data.sources`) from the Hugging Face hub and by plain addresses.

A fetch that was cut goes on where it stopped; a file whose hash is another one is removed; nothing counts as there
before all of it is.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from csp_utils.base.errors import UserError, first_line
from csp_utils.base.files import sha256, write_json
from csp_utils.data.sources import RECORD, Source

TRIES = 3
"""How often one file is asked for before a fetch gives up."""

Say = Callable[[str], None]


class Unreachable(UserError):
    """A server that cannot be reached: what comes from it could not be looked for."""

    def __init__(self, sentence: str, server: str) -> None:
        super().__init__(sentence)
        self.server = server


def fetch(source: Source, say: Say = print) -> Path:
    """Fetches what is not there yet; returns the folder.

    Raises:
        UserError: no network, no such repository or revision, a repository that has to be asked for, too little disk,
            or a file that is not the one that is listed. What was fetched stays, and the next call goes on.
    """
    if source.here:
        return source.folder
    check_disk(source)
    try:
        return _fetch(source, say)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"The disk is full: {source.name} was not fetched to its end; free some space (or set "
                        "CSP_CACHE and HF_HOME to another disk) and run the same command again.") from error


def _fetch(source: Source, say: Say) -> Path:
    say(f"{source.name}: {source.what}, about {source.gigabytes:g} GB, {source.licence}")
    record = []
    for part in source.parts:
        if "repo" in part:
            record.append(_repo(source, part))
        elif "url" in part:
            record.append(_file(source.folder / part["name"], part["url"], part.get("sha256"), source.name))
        elif "coco_images_of" in part:
            record.append(_coco_images(source, part["coco_images_of"], say))
        else:
            record.append(_vlmevalkit(source, part["vlmevalkit"]))
    write_json({"name": source.name, "licence": source.licence, "parts": record}, source.folder / RECORD)
    return source.folder


def check_disk(source: Source) -> None:
    """Raises UserError if the disk cannot take the source."""
    place = next(folder for folder in (source.folder, *source.folder.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free < 1.1 * source.gigabytes:
        raise UserError(f"The source {source.name} takes {source.gigabytes:g} GB and {place} has {free:.1f} GB free; "
                        "free some, or set CSP_CACHE (and HF_HOME) to another disk.")  # fmt: skip


@contextmanager
def _hub(source: Source, name: str, revision: str | None) -> Iterator[None]:
    """Turns what the hub's client raises into one sentence."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    own = own_folders(source.name)
    try:
        yield
    except GatedRepoError as error:
        raise UserError(f"{name} has to be asked for: accept its licence on its page on the hub, log in with "
                        "`hf auth login`, and run the same command again.") from error  # fmt: skip
    except RepositoryNotFoundError as error:
        raise UserError(f"The hub has no {name} (moved, or private); give a folder of your own: {own}.") from error
    except RevisionNotFoundError as error:
        raise UserError(f"The revision {revision} of {name} is no longer on the hub; give another one, or a folder of "
                        "your own, under `sources` in the params file.") from error  # fmt: skip
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _failed(f"{name} cannot be fetched from the hub", error, own) from error


def _repo(source: Source, part: Mapping[str, Any]) -> dict[str, Any]:
    """Links the files of a repository on the hub into the folder."""
    from huggingface_hub import snapshot_download

    name, revision = part["repo"], part.get("revision")
    with _hub(source, name, revision):
        snapshot = Path(snapshot_download(name, repo_type=part.get("type"), revision=revision,
                                          allow_patterns=part.get("files")))  # fmt: skip
    files = sorted(file for file in snapshot.rglob("*") if file.is_file())
    if not files:
        raise UserError(f"{name} holds none of {part.get('files')}; correct `files` of the source {source.name}.")
    for file in files:
        link = source.folder / part.get("into", "") / file.relative_to(snapshot)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
        if part.get("sha256"):
            _check(link, part["sha256"], source.name)
    return {"repo": name, "revision": snapshot.name, "files": len(files)}


def ask(source: Source) -> None:
    """Asks every server of the source whether it has what is listed, and fetches nothing.

    Raises UserError for the first that does not answer, has no such repository, revision or file, or wants to be asked
    for access: before gigabytes of another source were fetched.
    """
    import requests
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    for part in source.parts:
        if "repo" in part:
            if HF_HUB_OFFLINE:
                raise UserError(f"HF_HUB_OFFLINE is set, and {part['repo']} would come from the hub; unset it, or give "
                                f"a folder: {own_folders(source.name)}.")
            with _hub(source, part["repo"], part.get("revision")):
                HfApi().repo_info(part["repo"], repo_type=part.get("type"), revision=part.get("revision"), timeout=15)
        elif url := part.get("url") or part.get("coco_images_of"):
            try:
                answer = requests.head(url, timeout=15, allow_redirects=True)
                if "url" in part:
                    answer.raise_for_status()
            except requests.RequestException as error:
                raise _failed(f"{url} cannot be fetched", error, own_folders(source.name)) from error


def _file(path: Path, url: str, digest: str | None, name: str) -> dict[str, Any]:
    """Fetches one file, whole; one that was cut goes on where it stopped, if the server can."""
    import requests

    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(TRIES):
        if path.is_file():
            break
        start = partial.stat().st_size if partial.exists() else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with requests.get(url, stream=True, timeout=60, headers=headers) as got:
                if got.status_code != 416:  # 416: all of it is there already
                    got.raise_for_status()
                    with partial.open("ab" if got.status_code == 206 else "wb") as file:
                        for chunk in got.iter_content(1 << 20):
                            file.write(chunk)
            os.replace(partial, path)
        except requests.RequestException as error:
            if attempt == TRIES - 1:
                raise _failed(f"{url} cannot be fetched", error, own_folders(name)) from error
    if digest:
        _check(path, digest, name)
    return {"url": url, "sha256": sha256(path)}


def _check(path: Path, digest: str, name: str) -> None:
    if sha256(path) != digest:
        if path.is_symlink():
            path.resolve().unlink(missing_ok=True)  # out of the hub's cache as well, or it would come back
        path.unlink(missing_ok=True)
        raise UserError(f"{path.name} of the source {name} is not the file that assets/sources.yaml lists (its SHA-256 "
                        "differs); it was removed: run the same command again.")  # fmt: skip


def _coco_images(source: Source, base: str, say: Say) -> dict[str, Any]:
    """Fetches every picture that POPE's questions name."""
    from csp_utils.data.benchmarks import read_pope

    names = sorted(read_pope(source.folder)["image"].unique())
    for number, image in enumerate(names):
        _file(source.folder / "images" / image, base + image, None, source.name)
        if number % 100 == 99:
            say(f"{source.name}: {number + 1} of {len(names)} pictures")
    return {"images": len(names), "from": base}


def _vlmevalkit(source: Source, name: str) -> dict[str, Any]:
    """Turns VLMEvalKit's file into the benchmark's own files, beside it."""
    from csp_utils.data.vlmevalkit import convert

    work = source.folder / "own"
    shutil.rmtree(work, ignore_errors=True)
    table = convert(source.folder / name, work)
    for file in sorted(work.iterdir()):
        target = source.folder / file.name
        shutil.rmtree(target, ignore_errors=True) if target.is_dir() else target.unlink(missing_ok=True)
        os.replace(file, target)
    work.rmdir()
    return {"vlmevalkit": name, "questions": len(table)}


def own_folders(*names: str) -> str:
    """How a params file gives folders of one's own for sources."""
    return f"sources: {{{', '.join(f'{name}: {{path: FOLDER}}' for name in names)}}}"


def _failed(what: str, error: BaseException, own: str) -> UserError:
    """The sentence for a request that came to nothing; ``own`` as :func:`own_folders` says it."""
    import requests

    cause: BaseException | None = error
    while cause and not isinstance(cause, (requests.ConnectionError, requests.Timeout)):
        cause = cause.__cause__ or cause.__context__  # the hub's client wraps them
    server = urlsplit(getattr(getattr(cause, "request", None), "url", None) or "").hostname
    reason = f"{server} cannot be reached" if server else first_line(error)[:200]
    sentence = f"{what} ({reason}); check the network and run the same command again, or give a folder: {own}."
    return Unreachable(sentence, server) if server else UserError(sentence)
