"""A params file: one YAML file that says which notebooks run, and with what.

    run: tiny                    # a key at the top reaches every notebook that has it
    seed: 0
    01_extract:                  # a notebook with a section runs; an empty section takes the defaults
      n_rows: null
    02_mask: {}

A value "source:NAME" is data or a model of assets/sources.yaml (:mod:`csp_utils.data.sources`); a key ``sources`` at the top
can put other folders in place of these. The file is checked completely before the first notebook starts.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from csp_utils.base import params
from csp_utils.base.errors import UserError
from csp_utils.base.needs import needs
from csp_utils.base.run import RunPaths, maker_of
from csp_utils.data import sources as catalogue
from csp_utils.pipeline import branches

Parameters = dict[str, params.Stage]


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand once only; plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *anchor
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                twice = f"{key!r} stands twice"
                raise yaml.constructor.ConstructorError(problem=twice, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path | str) -> dict[str, Any]:
    """The file as it stands. Raises UserError if it is missing, is no YAML, or is not a table of keys."""
    path = Path(path)
    if not path.is_file():
        near = params.nearest(path.name, [other.name for other in sorted(path.parent.glob("*.y*ml"))])
        raise UserError(f"The params file {path} does not exist; {near}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML{where}: {getattr(error, 'problem', None) or error}.") from error
    if not content:
        raise UserError(f"{path} is empty; start from params/tiny.yaml, and see params/README.md.")
    if not isinstance(content, dict):
        raise UserError(f"{path} is a YAML {type(content).__name__}, not keys with values; see params/README.md.")
    return content


def load(path: Path | str) -> list[Parameters]:
    """The checked parameters of every run of the file (:mod:`csp_utils.pipeline.branches`), the main one first.

    A run's are those of each notebook that it has a section for, in the order in which they run.

    Raises UserError for the first unknown key, wrong type, value out of range or file that does not exist.
    """
    runs: list[Parameters] = []
    content, used = _sourced(read(path), path)
    fetched = {source.folder for source in used}  # may come later
    for one in branches.expand(content, path):
        parameters = _checked(one, path)
        _check_files({name: p for name, p in parameters.items() if name != "11_claims"}, runs, fetched, path)
        runs.append(parameters)
    if "11_claims" in runs[0]:  # reads what all runs make
        _check_files({"11_claims": runs[0]["11_claims"]}, runs, fetched, path)
    return runs


def sources(path: Path | str) -> list[catalogue.Source]:
    """The sources that the file names, each once; fetched or not. Raises UserError for one that there is not."""
    return _sourced(read(path), path)[1]


def _sourced(content: dict[str, Any], path: Path | str) -> tuple[dict[str, Any], list[catalogue.Source]]:
    """The content with the folder of each "source:NAME" in its place, and these sources."""
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
        if not known:  # read where a source is named at all
            known.update(catalogue.catalogue())
        used[name] = catalogue.get(name, known)
        return str(used[name].folder)

    return placed(content), list(used.values())


def _checked(content: dict[str, Any], path: Path | str) -> Parameters:
    """The parameters of one run."""
    shared = {key: value for key, value in content.items() if key not in params.NOTEBOOKS}
    sections = {name: content[name] for name in params.NOTEBOOKS if name in content}
    fields = {field for model in params.NOTEBOOKS.values() for field in model.model_fields}
    for key in shared:
        if key not in fields:
            raise UserError(f"Unknown key {key!r} at the top of {path}; "
                            f"{params.nearest(str(key), [*fields, *params.NOTEBOOKS])}")
    if "run" not in shared:
        raise UserError(f"{path} does not say 'run', its folder under outputs/; add a line such as run: mine.")
    if not sections:
        raise UserError(f"{path} has no section, so no notebook would run; valid are: {', '.join(params.NOTEBOOKS)}.")
    unused = [key for key in shared if not any(key in params.NOTEBOOKS[name].model_fields for name in sections)]
    if unused:
        raise UserError(f"No notebook of {path} has a parameter {unused[0]!r}, which stands at its top; remove it.")
    parameters: Parameters = {}
    for name, section in sections.items():
        section = {} if section is None else section
        if not isinstance(section, dict):
            raise UserError(f"Section {name} of {path} is {section!r}, not keys with values; if it has none: {{}}")
        if "run" in section:
            raise UserError(f"'run' stands in section {name} of {path}; it belongs to the top, as it is one for all.")
        own = {key: value for key, value in shared.items() if key in params.NOTEBOOKS[name].model_fields}
        for key in own:  # checked first, so that the error says where a wrong shared value stands
            params.build(name, {key: own[key]}, where=f"the top of {path}")
        params.build(name, section, where=f"section {name} of {path}")
        parameters[name] = params.build(name, {**own, **section}, where=f"section {name} of {path}")
    return parameters


def _check_files(
    parameters: Parameters, before: list[Parameters], fetched: set[Path], path: Path | str
) -> None:
    """Every file that a notebook needs exists, or is fetched, or an earlier notebook of this or another run makes it.

    Args:
        before: the runs before this one.
        fetched: folders that are fetched before the first notebook.
    """
    paths = RunPaths(next(iter(parameters.values())).run)
    earlier: list[str] = []
    for name, p in parameters.items():
        for needed in needs(name, p, paths):
            if needed.exists() or needed in fetched or makes(needed, earlier, parameters):
                continue
            if any(makes(needed, list(other), other) for other in before):
                continue
            maker = maker_of(needed)
            if maker and paths.root in needed.parents:
                hint = f"{maker} makes: add that section before it"
                hint += ", or name your own file" if maker == "00_tiny_world" else ""
            else:
                hint = "does not exist: check the path"
            raise UserError(f"Notebook {name} of {path} reads {needed}, which {hint}.")
        earlier.append(name)


def makes(needed: Path, names: list[str], parameters: Parameters) -> bool:
    """True if one of the notebooks ``names`` makes ``needed``."""
    p = parameters.get("00_tiny_world")
    if "00_tiny_world" in names and isinstance(p, params.TinyWorld):
        home = Path(p.models) if p.models else RunPaths(p.run).tiny_world
        if needed.parent == home and needed.name in p.train:
            return True
    return RunPaths(next(iter(parameters.values())).run).root in needed.parents and maker_of(needed) in names
