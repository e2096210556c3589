"""Download data and weights (:mod:`csp_utils.data.sources`) from the Hugging Face hub and from plain URLs.

An interrupted download is resumed where it stopped. A file with a wrong SHA-256 is removed. A source counts as present
only when all of it is.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from csp_utils.base.errors import UserError, disk_full, first_line
from csp_utils.base.files import sha256, write_json
from csp_utils.data.sources import RECORD, Source

TRIES = 3
"""Attempts to download one file before we give up."""

Say = Callable[[str], None]


class Unreachable(UserError):
    """A server cannot be reached, so nothing is known of the files that it should have.

    Attributes:
        server: host name.
    """

    def __init__(self, sentence: str, server: str) -> None:
        super().__init__(sentence)
        self.server = server


def fetch(source: Source, say: Say = print) -> Path:
    """Download a source unless it is here; return its folder.

    Args:
        source: an entry of the catalogue.
        say: prints progress.

    Raises:
        UserError: no network, no such repository or revision, a gated repository, too little disk space, or a file
            with another SHA-256 than the catalogue's. Finished files are kept, and the next call resumes.
    """
    if source.here:
        return source.folder
    check_disk(source)
    try:
        return _fetch(source, say)
    except OSError as error:
        advice = "free some space (or set CSP_CACHE and HF_HOME to another disk)"
        if sentence := disk_full(error, f"{source.name} was not fetched to its end", advice):
            raise sentence from error
        raise


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
    """Raise UserError if the disk has less than 1.1 times the source's size free."""
    place = next(folder for folder in (source.folder, *source.folder.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free < 1.1 * source.gigabytes:
        raise UserError(f"The source {source.name} takes {source.gigabytes:g} GB and {place} has {free:.1f} GB free; "
                        "free some, or set CSP_CACHE (and HF_HOME) to another disk.")  # fmt: skip


@contextmanager
def _hub(source: Source, name: str, revision: str | None) -> Iterator[None]:
    """Turn the exceptions of huggingface_hub into UserErrors of one sentence."""
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
        if disk_full(error):
            raise
        raise _failed(f"{name} cannot be fetched from the hub", error, own) from error


def _repo(source: Source, part: Mapping[str, Any]) -> dict[str, Any]:
    """Download a repository of the hub into its cache, and link its files into the source's folder."""
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
    """Check that every part of the source can be downloaded, without downloading anything.

    A run calls this for all its sources first, so that a missing one is reported before gigabytes of the others come.
    Raises UserError for the first server that does not answer, has no such repository, revision or file, or requires
    permission.
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
    """Download one file completely; resume an interrupted download if the server supports ranges."""
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
                if got.status_code != 416:  # 416: nothing is left to send, the file is complete
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
            path.resolve().unlink(missing_ok=True)  # in the hub's cache, or it would be linked again
        path.unlink(missing_ok=True)
        raise UserError(f"{path.name} of the source {name} is not the file that assets/sources.yaml lists (its SHA-256 "
                        "differs); it was removed: run the same command again.")  # fmt: skip


def _coco_images(source: Source, base: str, say: Say) -> dict[str, Any]:
    """Download every image that POPE's questions name."""
    from csp_utils.data.benchmarks import read_pope  # here, because it imports pandas: the pipeline starts without

    names = sorted(read_pope(source.folder)["image"].unique())
    for number, image in enumerate(names):
        _file(source.folder / "images" / image, base + image, None, source.name)
        if number % 100 == 99:
            say(f"{source.name}: {number + 1} of {len(names)} images")
    return {"images": len(names), "from": base}


def _vlmevalkit(source: Source, name: str) -> dict[str, Any]:
    """Convert VLMEvalKit's file into the benchmark's own files, beside it."""
    from csp_utils.data.vlmevalkit import convert  # here, because it imports pandas

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
    """Return the line of a params file that names the user's own folders for sources."""
    return f"sources: {{{', '.join(f'{name}: {{path: FOLDER}}' for name in names)}}}"


def _failed(what: str, error: BaseException, own: str) -> UserError:
    """Build the error of a failed request; ``own`` is the advice of :func:`own_folders`."""
    import requests

    cause: BaseException | None = error
    while cause and not isinstance(cause, (requests.ConnectionError, requests.Timeout)):
        cause = cause.__cause__ or cause.__context__  # huggingface_hub wraps the network error
    server = urlsplit(getattr(getattr(cause, "request", None), "url", None) or "").hostname
    reason = f"{server} cannot be reached" if server else first_line(error)[:200]
    sentence = f"{what} ({reason}); check the network and run the same command again, or give a folder: {own}."
    return Unreachable(sentence, server) if server else UserError(sentence)
