"""The documentation: figures, paths, commands, tables, terms and the citation agree with the project and each other."""

import json
import re

import pytest
import yaml
from conftest import ROOT

PAGES = ["README.md", "params/README.md", "benchmarks/README.md",
         *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]  # fmt: skip
NOTEBOOKS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
SCRIPTS = ["run_all.sh", "run_tests.sh"]
DURATION = r"(?:about )?(?:\d+ to )?\d+(?::\d\d)? (?:s|min|minutes|hours?)\b"


def text(name):
    """The text of a file: of a notebook its Markdown cells, of a script its help, that is the comment at its top."""
    content = (ROOT / name).read_text(encoding="utf-8")
    if name in NOTEBOOKS:
        cells = json.loads(content)["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return content.partition("\nset -")[0] if name in SCRIPTS else content


def tables(content):
    """Every Markdown table outside code blocks, as a list of rows of cells."""
    content = re.sub(r"^```.*?^```", "", content, flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"(?:^\|.*\n?)+", content, flags=re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines()]
            for block in blocks]  # fmt: skip


def times():
    """(time, disk) of each command in docs/times.md."""
    (table,) = tables(text("docs/times.md"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text("docs/times.md").splitlines()
            if line.startswith("| `")]  # fmt: skip
    assert len(rows) == len(table) - 2
    return {command: (time, disk) for command, time, disk, _ in rows}


# ------------------------------------------------------------------------------------------------- times and disk


@pytest.mark.parametrize(("name", "command", "key"), [
    ("README.md", "`./run_all.sh`", "`./run_all.sh`"),
    ("README.md", "`./run_all.sh` again", "`./run_all.sh` again"),
    ("README.md", "`./run_tests.sh`", "`./run_tests.sh`"),
    ("run_all.sh", None, "`./run_all.sh`"),
    ("run_tests.sh", None, "`./run_tests.sh`"),
    ("params/README.md", "`tiny.yaml`", "`./run_all.sh`"),
    *(("params/README.md", f"`{name}.yaml`", f"`./run_all.sh params/{name}.yaml`")
      for name in ("tiny_full", "tiny_claims", "tiny_world", "smoke", "demo", "tiny_choices")),
])  # fmt: skip
def test_time_and_disk_of_a_command_are_the_same_everywhere(name, command, key):
    time, disk = times()[key]
    place = text(name)
    if command is not None:
        (place,) = [line for line in place.splitlines() if line.startswith(f"| {command} |")]
    assert time in place
    assert disk in place or name == "params/README.md"  # its table has no column for the disk


@pytest.mark.parametrize("name", ["README.md", *SCRIPTS])
def test_no_other_duration_is_given(name):
    known = text("docs/times.md")
    other = {"54 s", "5 s"}  # Colab's first cell, measured by scripts/try_colab.sh
    assert [found for found in re.findall(DURATION, text(name)) if found not in known and found not in other] == []


# ------------------------------------------------------------------------------------------------ paths and commands


@pytest.mark.parametrize("name", PAGES + NOTEBOOKS)
def test_every_path_that_is_named_exists(name):
    named = re.findall(r"(?<![\w/])((?:csp_utils|tests|scripts|benchmarks|params|docs|assets|profiles|notebooks)/"
                       r"[\w/.-]*\w)", text(name))  # fmt: skip
    missing = {path for path in named if not (ROOT / path).exists()}
    assert missing - {"params/mine.yaml"} == set()  # the reader's own file


@pytest.mark.parametrize("name", PAGES + NOTEBOOKS)
def test_every_link_leads_somewhere(name):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(name)):
        assert target.startswith("http") or ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("name", PAGES + NOTEBOOKS)
def test_every_module_that_is_named_can_be_run(name):
    for module in re.findall(r"python -m (csp_utils[\w.]*)", text(name)):
        file = ROOT / f"{module.replace('.', '/')}.py"
        package = file.with_suffix("") / "__main__.py"
        assert package.is_file() or 'if __name__ == "__main__":' in file.read_text(encoding="utf-8"), module


@pytest.mark.parametrize("name", PAGES + NOTEBOOKS)
def test_jupyterlab_is_started_so_that_the_project_is_its_root(name):
    # A folder or a notebook as argument would make its own folder the root, and hide outputs/, docs/ and params/.
    for after in re.findall(r"jupyter[ -]lab\b([^`\n]*)", text(name)):
        assert all(word.startswith("-") for word in after.split()), after


def test_the_readme_says_which_notebook_to_open_first():
    content = text("README.md")
    assert content.index("jupyter lab") < content.index("Open `notebooks/00_tiny_world.ipynb`")


# --------------------------------------------------------------------------------------------------- form and terms


@pytest.mark.parametrize("name", PAGES)
def test_no_table_is_interrupted(name):
    for table in tables(text(name)):
        assert len(table) > 2 and all(set(cell) <= set("-:") for cell in table[1]), table[0]


def terms():
    """The first column of docs/glossary.md."""
    (table,) = tables(text("docs/glossary.md"))
    return [row[0] for row in table[2:]]


def test_the_glossary_is_in_alphabetical_order():
    def key(term):
        first = re.sub(r"^[^a-zA-Z]+, | \([\d, ]+\)$", "", term).split(",")[0]  # "γ, gamma (03)" -> "gamma"
        return re.sub("[^a-z0-9]", "", first.lower())

    assert terms() == sorted(terms(), key=key) and len(set(map(key, terms()))) == len(terms())


def test_the_glossary_has_the_terms_of_the_project():
    found = "\n".join(terms())
    wanted = """cache, cache key, shard, checkpoint, resume, reply, verbalized confidence, internal confidence, prompt,
        tie, parse failure, chance level, ablation arm, seed, batch, token budget, level c, T_c, alpha-bar, mask,
        funnel, drop reason, origin, record, stage, run, params file, variant, split, POPE, AMBER, SFT, SimPO,
        ECE, Brier, AUC, risk-coverage"""
    for term in re.split(r",\s+", wanted):
        assert re.search(rf"(?m)(^|, ){term}\b", found), term
    assert "(docs/glossary.md)" in text("README.md")


# ----------------------------------------------------------------------------------------------------- the citation


def test_readme_and_citation_file_name_the_same_paper():
    cited = yaml.safe_load(text("CITATION.cff"))["preferred-citation"]
    names = [f"{author['family-names']}, {author['given-names']}" for author in cited["authors"]]
    entry = text("README.md").split("```bibtex\n")[1].split("```")[0]
    assert f"author  = {{{' and '.join(names)}}}" in entry and len(names) == 8
    assert f"title   = {{{cited['title']}}}" in entry and cited["url"] in entry and str(cited["year"]) in entry
    assert cited["identifiers"] == [{"type": "other", "value": "arXiv:2504.14848"}] and cited["journal"] in entry
