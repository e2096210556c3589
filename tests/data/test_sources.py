"""Fetching: a hub and a file server on this machine, cut connections, wrong hashes, and folders of the user's own."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import yaml
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.base.lock import try_lock
from csp_utils.data import fetching, sources, space
from csp_utils.data.sources import Source, of_run
from csp_utils.pipeline import params_file, plan

REVISION = "a" * 40


class Server(BaseHTTPRequestHandler):
    """Files by path, with ranges; below /api and /resolve a hub with one repository, org/model."""

    files: ClassVar[dict[str, bytes]] = {}
    cut: ClassVar[dict[str, int]] = {}
    """Path -> the connection breaks after so many bytes, once."""
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_HEAD(self) -> None:
        """As GET, without the content."""
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        """One file, whole or from where the client asks."""
        path = self.path.split("?")[0]
        self.asked.append((path, self.headers.get("Range", "")))
        if path in ("/api/models/org/model", f"/api/models/org/model/revision/{REVISION}"):
            names = [name.removeprefix("hub/") for name in self.files if name.startswith("hub/")]
            return self._send(json.dumps({"id": "org/model", "sha": REVISION, "siblings": [
                {"rfilename": name} for name in names]}).encode(), body)  # fmt: skip
        if path.startswith("/api/models/org/model/revision/"):
            return self._fail("RevisionNotFound")
        if path.startswith("/api/models/org/gated/"):
            return self._fail("GatedRepo", 403)
        if path.startswith("/api/"):
            return self._fail("RepoNotFound")
        name = path.removeprefix(f"/org/model/resolve/{REVISION}/")
        name = "hub/" + name if name != path else path[1:]
        return self._send(self.files[name], body) if name in self.files else self._fail("EntryNotFound")

    def _send(self, content: bytes, body: bool) -> None:
        start = int(re.findall(r"\d+", self.headers.get("Range", "0"))[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(content[start : self.cut.pop(self.path, len(content))])

    def _fail(self, code: str, status: int = 404) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of its own; the cache is a temporary folder."""
    Server.files, Server.cut, Server.asked = {}, {}, []
    monkeypatch.setenv("CSP_CACHE", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def file_source(address: str, digest: str | None = None) -> Source:
    return Source("one", "a file", "MIT", 0.0, [{"name": "w.bin", "url": f"{address}/w.bin", "sha256": digest}])


def test_a_file_is_fetched_once_checked_and_recorded(address: str) -> None:
    Server.files["w.bin"] = bytes(range(256)) * 5000
    source = file_source(address, hashlib.sha256(Server.files["w.bin"]).hexdigest())
    assert not source.here
    folder = fetching.fetch(source, lambda text: None)
    assert (folder / "w.bin").read_bytes() == Server.files["w.bin"] and source.here
    assert json.loads((folder / sources.RECORD).read_text())["licence"] == "MIT"
    fetching.fetch(source)
    assert len(Server.asked) == 1


def test_a_cut_file_goes_on_where_it_stopped(address: str) -> None:
    Server.files["w.bin"], Server.cut["/w.bin"] = os.urandom(3_000_000), 2_000_000
    folder = fetching.fetch(file_source(address), lambda text: None)
    assert (folder / "w.bin").read_bytes() == Server.files["w.bin"]
    assert len(Server.asked) == 2 and re.fullmatch(r"bytes=[1-9]\d+-", Server.asked[1][1])


def test_a_wrong_hash_removes_the_file_and_leaves_the_source_unfinished(address: str) -> None:
    Server.files["w.bin"] = b"other"
    source = file_source(address, "0" * 64)
    with pytest.raises(UserError, match="w.bin of the source one is not the file that assets/sources.yaml lists"):
        fetching.fetch(source, lambda text: None)
    assert not source.here and not (source.folder / "w.bin").exists()


def test_no_server_and_no_disk_are_one_sentence(address: str) -> None:
    source = Source("one", parts=[{"name": "w.bin", "url": "http://127.0.0.1:9/w.bin"}])
    said = r"w.bin cannot be fetched \(127\.0\.0\.1 cannot be reached\); .*: sources: {one: {path: FOLDER}}"
    with pytest.raises(UserError, match=said):
        fetching.fetch(source, lambda text: None)
    with pytest.raises(UserError, match=r"takes 1e\+06 GB and .* GB free; free some, or set CSP_CACHE"):
        fetching.fetch(Source("huge", gigabytes=1e6), lambda text: None)


def test_all_are_asked_before_any_is_fetched(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Server.files["w.bin"] = b"rows"
    fetching.ask(file_source(address))
    assert not file_source(address).folder.exists()
    with pytest.raises(UserError, match=r"v\.bin cannot be fetched .*sources: \{one: \{path: FOLDER\}\}"):
        fetching.ask(Source("one", parts=[{"name": "v.bin", "url": f"{address}/v.bin"}]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and org/model"):
        fetching.ask(Source("one", parts=[{"repo": "org/model"}]))


def test_a_disk_that_fills_up_is_one_sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Server.files["w.bin"] = b"rows"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching.os, "replace", full)
    with pytest.raises(UserError, match="The disk is full: one was not fetched to its end"):
        fetching.fetch(file_source(address), lambda text: None)
    assert not file_source(address).here


def test_a_wrong_file_of_the_users_own_stays_where_it_is(address: str) -> None:
    source = file_source(address, "0" * 64)
    source.folder.mkdir(parents=True)
    (source.folder / "w.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"one/w\.bin is not the file that the source one lists .* was there before"):
        fetching.fetch(source, lambda text: None)
    assert (source.folder / "w.bin").read_bytes() == b"mine" and not source.here


def test_a_source_whose_file_is_gone_or_changed_is_fetched_again(address: str) -> None:
    Server.files["w.bin"] = b"rows"
    source = file_source(address)
    file = fetching.fetch(source, lambda text: None) / "w.bin"
    file.unlink()
    assert not source.here and (fetching.fetch(source, lambda text: None) / "w.bin").read_bytes() == b"rows"
    assert source.here and len(Server.asked) == 2


def test_another_list_of_parts_is_another_source(address: str) -> None:
    """What an earlier fetch has made and is no longer asked for goes; a file of the user's own stays."""
    Server.files |= {"w.bin": b"rows", "v.bin": b"more"}
    both = Source("one", parts=[{"name": name, "url": f"{address}/{name}"} for name in ("w.bin", "v.bin")])
    folder = fetching.fetch(both, lambda text: None)
    (folder / "notes.txt").write_text("mine")
    (folder / "own.bin").symlink_to(folder / "notes.txt")
    first = Source("one", parts=both.parts[:1])
    assert both.here and not first.here
    fetching.fetch(first, lambda text: None)
    assert {file.name for file in folder.iterdir()} == {"w.bin", "notes.txt", "own.bin", sources.RECORD}
    assert first.here and not both.here


def test_two_processes_fetch_one_source_one_after_the_other(address: str) -> None:
    Server.files["w.bin"], said = os.urandom(100_000), []
    source = file_source(address)
    lock = try_lock(sources.cache() / ".one.lock")
    thread = threading.Thread(target=fetching.fetch, args=(source, said.append))
    thread.start()
    thread.join(0.5)
    assert said == ["one is being fetched by another process; waiting for it."] and not Server.asked
    lock.release()
    thread.join(30)
    assert source.here and (source.folder / "w.bin").read_bytes() == Server.files["w.bin"]


HUB_PARTS = [{"repo": "org/model"}, {"repo": "org/model", "files": ["a"]}]


@pytest.mark.parametrize(("parts", "places"), [
    ([HUB_PARTS[0]], {"hub": 10}),
    ([HUB_PARTS[0], {"name": "w", "url": "http://x/w"}], {"hub": 10}),
    ([{"name": "w", "url": "http://x/w"}], {"cache/big": 10}),
    ([{"coco_images_of": "http://x/"}], {"cache/big": 10}),
    ([HUB_PARTS[1], {"vlmevalkit": "a"}], {"hub": 10, "cache/big": 7.5}),
    ([{"name": "a", "url": "http://x/a"}, {"vlmevalkit": "a"}], {"cache/big": 17.5}),
])  # fmt: skip
def test_each_disk_has_to_hold_what_is_written_on_it(parts: list, places: dict, tmp_path: Path, monkeypatch) -> None:
    """Both the check before a fetch and the plan look at the disks of the hub's cache and of the project's own."""
    monkeypatch.setenv("CSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for folder in ("cache", "hub"):
        (tmp_path / folder).mkdir()
    real = Path.stat
    disks = {tmp_path / "hub": 1, tmp_path / "cache": 2}
    monkeypatch.setattr(Path, "stat", lambda self, **how: SimpleNamespace(st_dev=disks[self])
                        if self in disks and not how else real(self, **how))  # fmt: skip
    monkeypatch.setattr(Path, "exists", lambda self: os.path.exists(self))
    source = Source("big", gigabytes=10, parts=parts)
    assert space.takes(source) == {tmp_path / place: size for place, size in places.items()}
    for short in ("hub", "cache"):
        free = {tmp_path / "hub": 1e15, tmp_path / "cache": 1e15} | {tmp_path / short: 5e9}
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free[path]))
        if any(place.startswith(short) for place in places):
            with pytest.raises(UserError, match=f"{short} has 5.0 GB free"):
                fetching.check_disk(source)
            assert list(plan.lacks([], [source], elsewhere=True))
        else:
            fetching.check_disk(source)
            assert not list(plan.lacks([], [source], elsewhere=True))


def from_hub(address: str, part: dict, cache: Path) -> subprocess.CompletedProcess:
    """Fetches a source of one repository in a process that knows this hub from its start."""
    code = ("import json, sys; from csp_utils.data import fetching, sources\n"
            "from csp_utils.base.errors import UserError\n"
            "source = sources.Source('s', parts=[json.loads(sys.argv[1])])\n"
            "try: fetching.ask(source); print(fetching.fetch(source, lambda text: None))\n"
            "except UserError as error: sys.exit(str(error))")  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS"))}
    env |= {"HF_ENDPOINT": address, "HF_HOME": str(cache / "hf"), "CSP_CACHE": str(cache), "PYTHONPATH": str(ROOT),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    return subprocess.run([sys.executable, "-c", code, json.dumps(part)], env=env, text=True, capture_output=True,
                          timeout=120)  # fmt: skip


@pytest.mark.slow
def test_a_repository_is_linked_from_the_hubs_cache(address: str, tmp_path: Path) -> None:
    Server.files |= {"hub/config.json": b"{}", "hub/sub/w.safetensors": os.urandom(100_000), "hub/README.md": b"#"}
    part = {"repo": "org/model", "revision": REVISION, "files": ["*.json", "*.safetensors"], "into": "m"}
    run = from_hub(address, part, tmp_path)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "s" / "m"
    assert (folder / "sub/w.safetensors").read_bytes() == Server.files["hub/sub/w.safetensors"]
    assert (folder / "config.json").is_symlink() and not (folder / "README.md").exists()
    assert str(tmp_path / "hf") in str((folder / "config.json").resolve())
    record = json.loads((tmp_path / "s" / sources.RECORD).read_text())
    assert record["parts"] == [{"repo": "org/model", "revision": REVISION, "files": 2}]


def cached(tmp_path: Path, name: str) -> Path:
    return tmp_path / "hf/hub/models--org--model/snapshots" / REVISION / name


@pytest.mark.slow
def test_the_users_cache_is_left_as_it_is(address: str, tmp_path: Path) -> None:
    """A whole repository is cached; a source asks for one file by its hash, and then for another list of files."""
    Server.files |= {"hub/w.pth": b"weights", "hub/v.pth": b"others", "hub/README.md": b"#"}
    part = {"repo": "org/model", "revision": REVISION}
    assert from_hub(address, part, tmp_path).returncode == 0
    folder, before = tmp_path / "s", sorted((tmp_path / "hf").rglob("*"))
    one = {**part, "files": ["w.pth"], "sha256": hashlib.sha256(b"weights").hexdigest()}
    run = from_hub(address, one, tmp_path)
    assert run.returncode == 0, run.stderr
    assert {file.name for file in folder.iterdir()} == {"w.pth", sources.RECORD}
    run = from_hub(address, {**one, "sha256": {"w.pth": "0" * 64}}, tmp_path)
    assert run.returncode == 1 and re.search(r"w\.pth, in the hub's cache, is not the file w\.pth", run.stderr)
    assert {file.name for file in folder.iterdir()} == set()
    assert sorted((tmp_path / "hf").rglob("*")) == before and cached(tmp_path, "v.pth").read_bytes() == b"others"
    run = from_hub(address, {**part, "sha256": "0" * 64}, tmp_path)
    assert run.returncode == 1 and "gives one sha256 for 3 files" in run.stderr


@pytest.mark.slow
def test_links_that_lead_nowhere_are_repaired(address: str, tmp_path: Path) -> None:
    Server.files |= {"hub/w.pth": b"weights"}
    part = {"repo": "org/model", "files": ["*.pth"]}
    assert from_hub(address, part, tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "hf")  # as `hf cache delete`
    run = from_hub(address, part, tmp_path)
    assert run.returncode == 0 and (tmp_path / "s/w.pth").read_bytes() == b"weights", run.stderr


@pytest.mark.slow
def test_what_the_cache_happens_to_hold_is_not_taken_for_the_whole(address: str, tmp_path: Path) -> None:
    Server.files |= {"hub/w.pth": b"weights", "hub/v.pth": b"others"}
    part = {"repo": "org/model", "revision": REVISION}
    assert from_hub(address, {**part, "files": ["w.pth"]}, tmp_path).returncode == 0
    run = from_hub("http://127.0.0.1:9", {**part, "files": ["*.pth"]}, tmp_path)
    assert run.returncode == 1 and "cannot be reached" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("part", "message"), [
    ({"repo": "org/model", "revision": "b" * 40}, "The revision b{40} of org/model is no longer on the hub"),
    ({"repo": "org/gated", "revision": REVISION}, "org/gated has to be asked for: accept its licence"),
    ({"repo": "org/moved", "revision": REVISION}, r"The hub has no org/moved \(moved, or private\)"),
])
def test_what_the_hub_does_not_give_is_one_sentence(address: str, tmp_path: Path, part: dict, message: str) -> None:
    run = from_hub(address, part, tmp_path)
    assert run.returncode == 1 and re.search(message, run.stderr) and "Traceback" not in run.stderr
    assert not (tmp_path / "s" / sources.RECORD).exists()


RECORDED_BY_THE_RUN = {"openbmb/RLAIF-V-Dataset", "yifanzhang114/AMBER_base64"}
"""Repositories without a revision in the catalogue; each run records the one that came. The list may only shrink."""


def test_the_catalogue_is_complete() -> None:
    found = sources.catalogue()
    assert {"rlaif_v", "pope", "amber", "grounding_dino_swin_t", "sam_vit_h", "keyword_llm", "qwen2_vl_7b",
            "internvl2_8b", "phi35_vision", "qwen_vl_chat"} <= set(found)  # fmt: skip
    for source in found.values():
        assert source.what and source.licence and source.gigabytes > 0 and source.parts
        for part in source.parts:
            assert re.fullmatch("[0-9a-f]{64}", part.get("sha256", "0" * 64))
            assert "repo" not in part or part["repo"] in RECORDED_BY_THE_RUN or re.fullmatch(
                "[0-9a-f]{40}", part["revision"] or "")  # fmt: skip
            assert "url" not in part or "sha256" in part or re.search("/[0-9a-f]{40}/", part["url"])


def test_a_source_that_is_not_pinned_is_listed_here() -> None:
    """Their content may change from one download to the next. The list may only become shorter."""
    loose = {name for name, source in sources.catalogue().items() for part in source.parts
             if "repo" in part and part["revision"] is None or "coco_images_of" in part}  # fmt: skip
    assert loose == {"rlaif_v", "rlaif_v_first", "amber", "pope"}


def test_a_folder_of_ones_own_takes_the_place_of_a_source(tmp_path: Path) -> None:
    found = sources.catalogue({"sam_vit_h": {"path": str(tmp_path)}})
    assert found["sam_vit_h"].here and fetching.fetch(found["sam_vit_h"]) == tmp_path
    with pytest.raises(UserError, match="the path of the source sam_vit_h in the params file, does not exist"):
        sources.catalogue({"sam_vit_h": {"path": str(tmp_path / "no")}})
    for changes, message in (({"x": 3}, "The source 'x' of the params file is 3"), ([1], r"'sources' of .* is \[1\]"),
                             ({"x": {"parts": [{"repos": "a"}]}}, "A part of the source x has the key 'repos'")):
        with pytest.raises(UserError, match=message):
            sources.catalogue(changes)
    with pytest.raises(UserError, match="There is no source 'sam_vith'; did you mean 'sam_vit_h'?"):
        sources.get("sam_vith", found)


def test_the_hashes_of_pope_are_those_of_its_files(official: Path) -> None:
    listed = {part["name"]: part["sha256"] for part in yaml.safe_load(sources.CATALOGUE.read_text())["pope"]["parts"]
              if "name" in part}  # fmt: skip
    files = (official / "pope").iterdir()
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == listed


PARAMS = """\
run: mini
sources: {mine: {parts: [{name: w.bin, url: URL/w.bin}], gigabytes: 0}}
rlaif_v: source:mine
01_extract: {keyword_model: some/model}
"""


def test_a_params_file_names_sources_by_name(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(PARAMS.replace("URL", address))
    (run,) = params_file.load("p.yaml")
    folder = tmp_path / "cache" / "mine"
    assert run["01_extract"].rlaif_v == str(folder)  # may be fetched later
    assert [source.name for source in params_file.sources("p.yaml")] == ["mine"]
    Path("p.yaml").write_text(PARAMS.replace("source:mine", "source:mime"))
    with pytest.raises(UserError, match="There is no source 'mime'; did you mean 'mine'?"):
        params_file.load("p.yaml")
    assert params_file.sources(ROOT / "params" / "tiny.yaml") == []


# ----------------------------------------------------------------------------------- what a run was computed with

OLD, NEW = "a" * 40, "b" * 40


def here_in(revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **part) -> Source:
    """A source without a revision of its own, of which this revision is on the machine."""
    monkeypatch.setenv("CSP_CACHE", str(tmp_path / "cache"))
    source = Source("rlaif", parts=[{"repo": "org/rows", "revision": None, **part}])
    source.folder.mkdir(parents=True, exist_ok=True)
    (source.folder / "w.bin").write_bytes(b"rows")
    (source.folder / sources.RECORD).write_text(json.dumps({
        "asked": source.parts, "parts": [{"repo": "org/rows", "revision": revision, "files": 1}],
        "files": {"w.bin": 4}}))  # fmt: skip
    return source


def test_a_run_keeps_the_revision_that_it_was_computed_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, own = tmp_path / "run/sources.json", Source("mine", path=tmp_path)
    source = here_in(OLD, tmp_path, monkeypatch)
    assert of_run.as_recorded([source, own], file) == [source, own]
    of_run.write([source, own], file)
    assert json.loads(file.read_text()) == {
        "rlaif": {"parts": [{"repo": "org/rows", "revision": OLD, "files": 1}]}, "mine": {"path": str(tmp_path)}}
    assert of_run.as_recorded([source, own], file) == [source, own]
    here_in(NEW, tmp_path, monkeypatch)  # another run has fetched it again
    said = (rf"revision {OLD} of org/rows \(source rlaif, .*{NEW} is on this machine.*pin the `revision`.* or delete "
            r"the entry rlaif of .*sources\.json")  # fmt: skip
    with pytest.raises(UserError, match=said) as caught:
        of_run.as_recorded([source, own], file)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is on this machine"):
        of_run.write([source, own], file)
    (source.folder / "w.bin").unlink()  # it has to be fetched again: as the run has it
    again, _ = of_run.as_recorded([source, own], file)
    assert again.parts == [{"repo": "org/rows", "revision": OLD}] and again.folder == source.folder
    pinned = Source("rlaif", parts=[{"repo": "org/rows", "revision": NEW}])
    with pytest.raises(UserError, match=f"{NEW} is asked for"):
        of_run.as_recorded([pinned], file)
    file.write_text(json.dumps({"mine": {}}))  # the entry is deleted: the new data is wanted
    assert of_run.as_recorded([source], file) == [source]
    file.write_text("[3]")
    with pytest.raises(UserError, match=r"sources\.json does not tell which sources"):
        of_run.as_recorded([source], file)


def test_a_source_that_was_pinned_to_what_is_here_needs_no_fetch(tmp_path: Path, monkeypatch) -> None:
    here_in(OLD, tmp_path, monkeypatch)
    for revision, here in ((None, True), (OLD, True), (NEW, False)):
        assert Source("rlaif", parts=[{"repo": "org/rows", "revision": revision}]).here is here


@pytest.mark.slow
def test_the_pipeline_fetches_before_the_first_notebook(address: str, project, monkeypatch) -> None:
    monkeypatch.delenv("CSP_CACHE")
    Server.files["w.bin"] = b"rows"
    text = PARAMS[:PARAMS.index("rlaif_v")] + "20_count: {rows: source:mine, n_rows: 3}\n"
    project.params.write_text(text.replace("URL", address))
    shutil.copytree(ROOT / "assets", project.folder / "assets", ignore=lambda *_: ["tiny_world"])
    env = {**project.env, "CSP_CACHE": str(project.folder / "cache")}
    command = project.command()
    run = subprocess.run(command, cwd=project.folder, env=env, text=True, capture_output=True, timeout=300)
    assert run.returncode == 0 and "mine: , about 0 GB" in run.stdout, run.stdout + run.stderr
    assert (project.folder / "cache/mine/w.bin").read_bytes() == b"rows"
    again = subprocess.run(command, cwd=project.folder, env=env, text=True, capture_output=True, timeout=300)
    assert "nothing to do" in again.stdout and len(Server.asked) == 2  # whether it is there, and for it
    record, computed = project.folder / "outputs/mini/sources.json", project.computed()
    (part,) = json.loads(record.read_text())["mine"]["parts"]
    assert part == {"url": f"{address}/w.bin", "sha256": hashlib.sha256(b"rows").hexdigest()}
    record.write_text(record.read_text().replace(part["sha256"], "0" * 64))
    project.params.write_text(project.params.read_text().replace("n_rows: 3", "n_rows: 4"))
    other = subprocess.run(command, cwd=project.folder, env=env, text=True, capture_output=True, timeout=300)
    assert other.returncode == 1 and "delete the entry mine of outputs/mini/sources.json" in other.stderr
    assert project.computed() == computed
