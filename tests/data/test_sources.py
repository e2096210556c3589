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
from typing import ClassVar

import pytest
import yaml
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.data import fetching, sources
from csp_utils.data.sources import Source
from csp_utils.pipeline import params_file

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
        if path == f"/api/models/org/model/revision/{REVISION}":
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


def test_the_catalogue_is_complete() -> None:
    found = sources.catalogue()
    assert {"rlaif_v", "pope", "amber", "grounding_dino_swin_t", "sam_vit_h", "keyword_llm", "qwen2_vl_7b",
            "internvl2_8b", "phi35_vision", "qwen_vl_chat"} <= set(found)  # fmt: skip
    for source in found.values():
        assert source.what and source.licence and source.gigabytes > 0 and source.parts
        for part in source.parts:
            assert re.fullmatch("[0-9a-f]{64}", part.get("sha256", "0" * 64))
            assert "repo" not in part or part["revision"] is None or re.fullmatch("[0-9a-f]{40}", part["revision"])
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
