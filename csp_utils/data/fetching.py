"""Download data and weights (:mod:`csp_utils.data.sources`) from the Hugging Face hub and from plain URLs.

An interrupted download is resumed where it stopped. A source counts as present only when all of it is. Only what this
module has made is ever removed: its own downloads and links in the source's folder. The hub's cache is the user's, and
nothing is deleted there.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from csp_utils.base.errors import UserError, disk_full, first_line
from csp_utils.base.files import sha256, write_json
from csp_utils.base.lock import locked
from csp_utils.data.sources import RECORD, Source, cache
from csp_utils.data.space import takes, too_full

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
    waiting = f"{source.name} is being fetched by another process; waiting for it."
    try:
        with locked(cache() / f".{source.name}.lock", waiting, say):
            return source.folder if source.here else _fetch(source, say)
    except OSError as error:
        advice = "free some space (or set CSP_CACHE and HF_HOME to another disk)"
        if sentence := disk_full(error, f"{source.name} was not fetched to its end", advice):
            raise sentence from error
        raise


def _fetch(source: Source, say: Say) -> Path:
    say(f"{source.name}: {source.what}, about {source.gigabytes:g} GB, {source.licence}")
    before = source.record.get("files") or {}
    (source.folder / RECORD).unlink(missing_ok=True)  # not whole from here to the end
    came: list[dict[str, Any]] = []
    names: set[str] = set()
    for part in source.parts:
        if "repo" in part:
            got, files = _repo(source, part)
        elif "url" in part:
            digest = _digests(part, [part["name"]], source.name).get(part["name"])
            got, files = _file(source.folder / part["name"], part["url"], digest, source.name), [part["name"]]
        elif "coco_images_of" in part:
            got, files = _coco_images(source, part["coco_images_of"], say)
        else:
            got, files = _vlmevalkit(source, part["vlmevalkit"])
        came.append(got)
        names |= set(files)
    _remove_stale(source.folder, before, names)
    write_json({"name": source.name, "licence": source.licence, "asked": source.parts, "parts": came,
                "files": {name: (source.folder / name).stat().st_size for name in sorted(names)}},
               source.folder / RECORD)  # fmt: skip
    return source.folder


def _remove_stale(folder: Path, before: Iterable[str], names: set[str]) -> None:
    """Remove what an earlier fetch has made and this one does not ask for.

    That is the files of its record, and links into the hub's cache. Other files in the folder are the user's.
    """
    links = [path for path in folder.rglob("*") if path.is_symlink() and _leads_to_hub(path)]
    for path in {*links, *(folder / name for name in before)}:
        if path.relative_to(folder).as_posix() not in names and (path.is_file() or path.is_symlink()):
            path.unlink()


def _leads_to_hub(link: Path) -> bool:
    """Tell whether a link leads into a cache of the Hugging Face hub, wherever that is or was."""
    return link.is_symlink() and any(part.startswith(("models--", "datasets--", "spaces--"))
                                     for part in link.readlink().parts)  # fmt: skip


def check_disk(source: Source) -> None:
    """Raise UserError if a disk has less than 1.1 times free of what the source writes there."""
    for place, gigabytes, free in too_full((place, 1.1 * size) for place, size in takes(source).items()):
        raise UserError(f"The source {source.name} takes {gigabytes / 1.1:g} GB and {place} has {free:.1f} GB free; "
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


def _repo(source: Source, part: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Download files of a repository into the hub's cache, and link them into the source's folder.

    Only the files that the part asks for are looked at: the cache may hold others of the same revision, which are the
    user's. Returns the part's record, and the names of the links.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    repo, kind, patterns = part["repo"], part.get("type"), part.get("files")
    with _hub(source, repo, part.get("revision")):
        # the list of the hub, because without a network snapshot_download returns what the cache happens to hold
        info = HfApi().repo_info(repo, repo_type=kind, revision=part.get("revision"), timeout=60)
        every = [file.rfilename for file in info.siblings or []]
        names = sorted(filter_repo_objects(every, allow_patterns=patterns))
        if not names:
            raise UserError(f"{repo} holds none of {patterns}; correct `files` of the source {source.name}.")
        digests = _digests(part, names, source.name)
        snapshot = Path(snapshot_download(repo, repo_type=kind, revision=info.sha, allow_patterns=patterns))
    links = [(Path(part.get("into", "")) / name).as_posix() for name in names]
    for name, place in zip(names, links, strict=True):
        link, file = source.folder / place, snapshot / name
        if link.is_symlink():
            link.unlink()
        if not file.is_file():
            raise UserError(f"{name} of {repo} did not come from the hub; run the same command again.")
        if link.exists():
            raise UserError(f"{link} is a file of your own, and {name} of the source {source.name} belongs there; move "
                            "it away and run the same command again.")  # fmt: skip
        if name in digests and sha256(file) != digests[name]:
            raise UserError(f"{file}, in the hub's cache, is not the file {name} that the source {source.name} lists "
                            "(its SHA-256 differs); delete it there, or set HF_HOME to another folder, and run the "
                            "same command again.")  # fmt: skip
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    return {"repo": repo, "revision": info.sha, "files": len(names)}, links


def _digests(part: Mapping[str, Any], names: list[str], source: str) -> dict[str, str]:
    """Return file name -> SHA-256 of a part whose files are ``names``; a single hash is that of a single file."""
    given = part.get("sha256") or {}
    if isinstance(given, str):
        if len(names) != 1:
            raise UserError(f"A part of the source {source} gives one sha256 for {len(names)} files; give one by name: "
                            "sha256: {FILE: HASH}.")  # fmt: skip
        return {names[0]: given}
    if unknown := set(given) - set(names):
        raise UserError(f"A part of the source {source} gives the sha256 of {min(unknown)}, which it does not fetch; "
                        "correct the name.")  # fmt: skip
    return dict(given)


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
            if digest and sha256(partial) != digest:
                partial.unlink()
                raise UserError(f"{path.name} of the source {name} is not the file that assets/sources.yaml lists (its "
                                "SHA-256 differs); it was removed: run the same command again.")  # fmt: skip
            os.replace(partial, path)
        except requests.RequestException as error:
            if attempt == TRIES - 1:
                raise _failed(f"{url} cannot be fetched", error, own_folders(name)) from error
    found = sha256(path)
    if digest and found != digest:
        raise UserError(f"{path} is not the file that the source {name} lists (its SHA-256 differs), and was there "
                        "before; move it away and run the same command again.")  # fmt: skip
    return {"url": url, "sha256": found}


def _coco_images(source: Source, base: str, say: Say) -> tuple[dict[str, Any], list[str]]:
    """Download every image that POPE's questions name; return the part's record and the files' names."""
    from csp_utils.data import benchmarks  # here, because it imports pandas: the pipeline starts without

    names = sorted(benchmarks.image_names(source.folder, benchmarks.read_pope(source.folder)))
    for number, image in enumerate(names):
        _file(source.folder / "images" / image, base + image, None, source.name)
        if number % 100 == 99:
            say(f"{source.name}: {number + 1} of {len(names)} images")
    return {"images": len(names), "from": base}, [f"images/{name}" for name in names]


def _vlmevalkit(source: Source, name: str) -> tuple[dict[str, Any], list[str]]:
    """Convert VLMEvalKit's file into the benchmark's own files, beside it; return the part's record and their names."""
    from csp_utils.data.vlmevalkit import convert  # here, because it imports pandas

    work = source.folder / "own"
    shutil.rmtree(work, ignore_errors=True)
    table = convert(source.folder / name, work)
    names = [file.relative_to(work).as_posix() for file in work.rglob("*") if file.is_file()]
    for file in names:
        (source.folder / file).parent.mkdir(exist_ok=True)
        os.replace(work / file, source.folder / file)
    shutil.rmtree(work)
    return {"vlmevalkit": name, "questions": len(table)}, names


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
