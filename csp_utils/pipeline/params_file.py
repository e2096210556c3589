"""Read and check a params file: one YAML file with the notebooks to run and their parameters.

    run: tiny                    # a key at the top reaches every notebook that has it
    seed: 0
    01_extract:                  # a notebook with a section runs; an empty section takes the defaults
      n_rows: null
    02_mask: {}

A value "source:NAME" is a data set or a model of assets/sources.yaml (:mod:`csp_utils.data.sources`). A key ``sources``
at the top can replace their folders by others. The file is checked completely before the first notebook starts.
"""

import sys
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from csp_utils.base.errors import UserError, nearest, of_system, short
from csp_utils.base.params import Params, conflicts, is_hub_id, problems
from csp_utils.base.run import RunPaths, maker_of
from csp_utils.data import sources as catalogue
from csp_utils.pipeline import branches
from csp_utils.results.stage import classes
from csp_utils.stages import stages

Parameters = dict[str, Params]
"""Name of a notebook -> its checked parameters, for one run, in the order in which the notebooks run."""


DEEPEST, MOST_NODES = 50, 100_000
"""Levels and values (each alias counted as what it stands for) of a YAML file that no experiment needs to exceed."""


class _Loader(yaml.SafeLoader):
    """Load YAML and refuse duplicate keys; plain YAML silently keeps the last one."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the file's only document, and refuse one whose aliases make it endless or huge before it is built."""
        node = super().get_single_node()
        if node is not None:
            _size(node, {}, 0)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and value.bit_length() > 63:
                raise OverflowError
        except (ValueError, KeyError, AttributeError, OverflowError) as error:  # "!!int abc", 2020-13-45
            wrong = f"{short(node.value)} cannot be read as {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(problem=wrong, problem_mark=node.start_mark) from error
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *anchor
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                wrong = "a key cannot be a list or a table (a template's {{ }} was not filled in?)"
                raise yaml.constructor.ConstructorError(problem=wrong, problem_mark=key_node.start_mark)
            if key in seen:
                twice = f"{key!r} stands twice"
                raise yaml.constructor.ConstructorError(problem=twice, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, int], level: int) -> int:
    """Count the values of a node, each alias as what it stands for. Raises YAMLError where that is endless or huge."""
    if id(node) not in known:
        known[id(node)] = 0  # until it is known: it is being counted
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = parts if isinstance(node, yaml.CollectionNode) else []
        known[id(node)] = 1 + sum(_size(part, known, level + 1) for part in parts)
    wrong = {
        "an alias stands inside of what it names": known[id(node)] == 0,
        f"it is nested more than {DEEPEST} levels deep": level > DEEPEST,
        f"its aliases stand for more than {MOST_NODES:,} values": known[id(node)] > MOST_NODES,
    }
    for problem in (problem for problem, found in wrong.items() if found):
        raise yaml.composer.ComposerError(problem=problem, problem_mark=node.start_mark)
    return known[id(node)]


def read(path: Path | str) -> dict[str, Any]:
    """Return the unchecked content of the file.

    Raises UserError if the file is missing, cannot be read, is not YAML, or is not a table of keys.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_bytes().decode("utf-8"), Loader=_Loader)
    except OSError as error:
        raise _unread(path, error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: its byte {error.start + 1} is no UTF-8; save it as text in "
                        "UTF-8.") from error  # fmt: skip
    except yaml.reader.ReaderError as error:
        line = path.read_bytes().decode("utf-8")[: error.position].count("\n") + 1
        raise UserError(f"{path} is not valid YAML in line {line}: it holds the character U+{error.character:04X}, "
                        "which is no text; remove it, and save the file in UTF-8.") from error  # fmt: skip
    except OverflowError as error:
        raise UserError(f"{path} is not valid YAML: an escape (\\U...) is beyond the last character.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = (getattr(error, "problem", None) or str(error)).replace("\n", " ")
        problem = "a second document begins there" if problem == "but found another document" else problem
        raise UserError(f"{path} is not valid YAML{where}: {problem}.") from error
    except RecursionError as error:
        raise UserError(f"{path} is not valid YAML: it is nested more than {DEEPEST} levels deep.") from error
    if not content:
        raise UserError(f"{path} is empty; start from params/tiny.yaml, and see params/README.md.")
    if not isinstance(content, dict):
        raise UserError(f"{path} is a YAML {type(content).__name__}, not keys with values; see params/README.md.")
    return content


def _unread(path: Path, error: OSError) -> UserError:
    """Return the sentence about a params file that cannot be opened."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        known = [str(file) for file in sorted(Path("params").rglob("*.y*ml"))]
        hint = nearest(str(path), known) if known else "see params/README.md."
        return UserError(f"The params file {path} does not exist; {hint}")
    if isinstance(error, IsADirectoryError):
        inside = ", ".join(str(file) for file in sorted(path.rglob("*.y*ml"))[:10]) or "it holds none"
        return UserError(f"{path} is a folder; name a params file: {inside}.")
    return UserError(f"The params file {path} cannot be read ({error.strerror}); check its name and permissions.")


def load(path: Path | str) -> list[Parameters]:
    """Return the checked parameters of every run of the file (:mod:`csp_utils.pipeline.branches`), the main one first.

    Raises UserError with a sentence for every unknown key, wrong type, value out of range and file that does not exist.
    """
    content, used = _sourced(read(path), path)
    fetched = {source.folder for source in used}  # these folders need not exist yet
    runs: list[Parameters] = []
    found: list[str] = []
    for one in branches.expand(content, path):
        parameters, wrong = _checked(one, path)
        found += wrong
        runs.append(parameters)
    if not found:
        absent: list[tuple[Path, str]] = []
        for number, parameters in enumerate(runs):
            own = {name: p for name, p in parameters.items() if stages[name].follows != "all"}
            absent += _absent(own, runs[:number], fetched, path)
        last = {name: p for name, p in runs[0].items() if stages[name].follows == "all"}  # reads results of all runs
        absent += _absent(last, runs, fetched, path)
        found = list(dict(reversed(absent)).values())[::-1]  # one sentence a file, about its first reader
    if found:
        raise UserError("\n".join(dict.fromkeys(found)))
    return runs


def sources(path: Path | str) -> list[catalogue.Source]:
    """Return the sources that the file names, without duplicates, whether fetched or not.

    Raises UserError for an unknown source.
    """
    return _sourced(read(path), path)[1]


def _sourced(content: dict[str, Any], path: Path | str) -> tuple[dict[str, Any], list[catalogue.Source]]:
    """Return the content with each "source:NAME" replaced by its folder, and these sources."""
    changes = content.pop("sources", None)
    known = catalogue.catalogue(changes, str(path)) if changes is not None else {}
    used: dict[str, catalogue.Source] = {}

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(one) for key, one in value.items()}
        if isinstance(value, list):
            return [placed(one) for one in value]
        name = catalogue.named(value)
        if name is None:
            return value
        if not known:  # the catalogue is read only if a source is named
            known.update(catalogue.catalogue())
        used[name] = catalogue.get(name, known)
        return str(used[name].folder)

    return placed(content), list(used.values())


def _checked(content: dict[str, Any], path: Path | str) -> tuple[Parameters, list[str]]:
    """Return the parameters of one run, and a sentence for every error in them."""
    if odd := [key for key in content if not isinstance(key, str)]:
        return {}, [f"The key {short(odd[0])} at the top of {path} is no text; put it in quotes, or remove it."]
    shared = {key: value for key, value in content.items() if key not in stages}
    sections = {name: content[name] for name in stages if name in content}
    fields = dict.fromkeys(field for stage in stages.values() for field in stage.params.model_fields)
    found = [f"Unknown key {key!r} at the top of {path}; {nearest(key, [*fields, *stages])}"
             for key in shared if key not in fields]  # fmt: skip
    if "run" not in shared:
        found.append(f"{path} does not say 'run', its folder under outputs/; add a line such as run: mine.")
    if not sections:
        found.append(f"{path} has no section, so no notebook would run; valid are: {', '.join(stages)}.")
    else:
        found += [f"No notebook of {path} has a parameter {key!r}, which stands at its top; remove it."
                  for key in shared
                  if key in fields and not any(key in _fields(name) for name in sections)]  # fmt: skip
    parameters: Parameters = {}
    for name, section in sections.items():
        values, wrong = _section(name, section, shared, path)
        found += wrong
        if not wrong:
            parameters[name] = stages[name].params.model_validate(values)
            found += conflicts(parameters[name], f"section {name} of {path}")
    return parameters, found


def _fields(name: str) -> Mapping[str, Any]:
    return stages[name].params.model_fields


def _section(name: str, section: Any, shared: Mapping[str, Any], path: Path | str) -> tuple[dict[str, Any], list[str]]:
    """Return the values of one notebook, and a sentence for every error in them.

    Shared values are checked on their own, so that the sentence names the place where a wrong one is written.
    """
    section = {} if section is None else section
    if not isinstance(section, dict):
        return {}, [f"Section {name} of {path} is {short(section)}, not keys with values; if it has none: {{}}"]
    if odd := [key for key in section if not isinstance(key, str)]:
        return {}, [f"Unknown parameter {short(odd[0])} in section {name} of {path}; "
                    f"{nearest(str(odd[0]), _fields(name))} (YAML reads no as False and ~ as None; thousands are "
                    "written without a comma.)"]  # fmt: skip
    if "run" in section:
        return {}, [f"'run' stands in section {name} of {path}; it belongs to the top, as it is one for all."]
    own = {key: value for key, value in shared.items() if key in _fields(name)}
    model, others = stages[name].params, classes()
    wrong = [sentence for key in own for sentence in problems(model, {key: own[key]}, f"the top of {path}", others)]
    wrong += problems(model, section, f"section {name} of {path}", others)
    values = {**own, **section}
    return values, wrong or problems(model, values, f"section {name} of {path}", others)


def _absent(parameters: Parameters, before: list[Parameters], fetched: set[Path], path: Path | str
            ) -> Iterator[tuple[Path, str]]:
    """Yield (input, sentence) for each input that does not exist, is not fetched, and that no earlier notebook makes.

    Args:
        before: the runs before this one, or all of them.
        fetched: folders that are fetched before the first notebook.
    """
    earlier: Parameters = {}
    for name, p in parameters.items():
        paths = RunPaths(p.run)
        for source in stages[name].reads(p, paths).values():
            needed = Path(source)
            try:
                if isinstance(source, str) and is_hub_id(source) or needed.exists():
                    continue
            except OSError as error:  # the name is too long, or a folder above it may not be looked into
                yield needed, (f"Notebook {name} of {path} reads {short(str(needed))}, which cannot be looked up "
                               f"({error.strerror}): check the path and its permissions.")  # fmt: skip
                continue
            if needed in fetched or any(makes(needed, other) for other in (earlier, *before)):
                continue
            maker = maker_of(needed)
            if maker and paths.root in needed.parents:
                hint = f"{maker} makes: add that section before it"
                hint += ", or name your own file" if maker == "00_tiny_world" else ""
            else:
                hint = "does not exist: check the path"
            shown = str(needed) if str(needed).isprintable() else repr(str(needed))
            yield needed, f"Notebook {name} of {path} reads {shown}, which {hint}."
        earlier[name] = p


def makes(needed: Path, parameters: Parameters) -> bool:
    """Return True if one of these notebooks makes ``needed`` or a folder that contains it."""
    return any(path == needed or path in needed.parents for name, p in parameters.items() for path in results(name, p))


def results(name: str, p: Params) -> list[Path]:
    """Return the paths of all results of a notebook with these parameters."""
    paths = RunPaths(p.run)
    return [*(paths[made] for made in stages[name].makes), *stages[name].also_makes(p, paths)]


def main(arguments: list[str]) -> str:
    """Run ``python -m csp_utils.pipeline.params_file check FILE``; return the text to print."""
    if len(arguments) != 2 or arguments[0] != "check":
        raise UserError("usage: python -m csp_utils.pipeline.params_file check FILE")
    return "\n".join(f"{arguments[1]}: run {next(iter(run.values())).run}: {', '.join(run)}: all parameters are valid"
                     for run in load(arguments[1]))  # fmt: skip


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except (UserError, OSError) as error:
        sys.exit(str(error if isinstance(error, UserError) else of_system(error)))
