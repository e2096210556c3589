"""Find the code that a result depends on: the definitions that a function uses, followed through the package.

A result is computed again if code changed that can change the result, and only then. Therefore this module follows
*definitions*, not files: from a function to every definition of csp_utils whose name it mentions, and so on. The digest
of a definition is that of its syntax tree without docstrings, comments, type annotations and the texts of raised
errors. The rooms ``base`` and ``results`` store results but do not determine them. They are not followed, except for
the names and number formats that appear in tables and pages.
"""

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from csp_utils.base.run import PROJECT

PACKAGE = "csp_utils"
CARRIES = (f"{PACKAGE}.base", f"{PACKAGE}.results")
DECIDES = f"{PACKAGE}.base.wording"
"""The only module of ``base`` that is followed: tables and pages contain its texts."""
READS = {f"{PACKAGE}.show.published": "assets/published.yaml"}
"""Module -> the file of the project whose content it returns. The file is part of the code that uses the module."""


@dataclass
class Code:
    """The definitions that a computation uses.

    Attributes:
        modules: dotted name of a module, or file name of a script -> digest of its used definitions.
        libraries: top-level names of the other packages that these definitions import.
    """

    modules: dict[str, str] = field(default_factory=dict)
    libraries: set[str] = field(default_factory=set)


def code_of(starts: Iterable[str], files: Iterable[Path] = ()) -> Code:
    """Follow functions and files to all code that they use.

    Args:
        starts: ``module:name``, such as ``csp_utils.stages.mask:compute``.
        files: files that count completely, such as plugins that are loaded by path, notebooks, templates.

    Raises LookupError if a module has no such definition at its top level.
    """
    used = _Used()
    for start in starts:
        module, _, name = start.partition(":")
        if name not in _module(module).digests:
            raise LookupError(f"{module} defines no {name} at its top, whose code could be followed.")
        used.name(module, name)
    code = Code(libraries=used.libraries)
    for file in files:
        if file.suffix in (".py", ".ipynb"):
            used.module(str(file))
        else:  # a template, a style sheet
            code.modules[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    for module, names in used.names.items():
        found = _module(module)
        text = "\n".join(f"{name} {found.digests[name]}" for name in sorted(names))
        label = module if module.startswith(PACKAGE + ".") else Path(module).name
        code.modules[label] = hashlib.sha256(text.encode()).hexdigest()[:16]
    for file in (PROJECT / READS[module] for module in used.names if module in READS):
        if file.is_file():
            code.modules[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return code


class _Used:
    """Collect the used names of each module."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {}
        self.libraries: set[str] = set()

    def module(self, module: str) -> None:
        """Add all definitions of a module."""
        found = _module(module)
        for name in found.digests:
            self.name(module, name)

    def name(self, module: str, name: str) -> None:
        """Add one definition of a module and all that it uses; for an imported name, follow the import."""
        if module != DECIDES and any(module == room or module.startswith(room + ".") for room in CARRIES):
            return
        found = _module(module)
        if module not in self.names:
            self.names[module] = set()
            self.name(module, "")  # the statements that run when the module is imported
        if name in found.imports and name not in found.digests:
            self._imported(*found.imports[name])
            return
        if name not in found.digests or name in self.names[module]:
            return
        self.names[module].add(name)
        for used in found.uses[name]:
            if isinstance(used, str):
                self.name(module, used)
            else:
                self._imported(*used)

    def _imported(self, module: str, name: str | None) -> None:
        """Add ``from module import name``, or all of ``module`` if ``name`` is None."""
        if module.split(".")[0] != PACKAGE:
            self.libraries.add(module.split(".")[0])
        elif name is None:
            self.module(module)
        elif _path(f"{module}.{name}"):
            self.module(f"{module}.{name}")
        else:
            self.name(module, name)


@dataclass
class _Module:
    """A parsed module: definition -> digest, definition -> the names that it uses, and the imports at its top level.

    The key "" holds the statements that run at import and define nothing.
    """

    digests: dict[str, str]
    uses: dict[str, set]
    imports: dict[str, tuple[str, str | None]]


def _path(module: str) -> Path | None:
    """Return the file of a module of the package, or of a script given by its path; None if it does not exist."""
    if module.startswith(PACKAGE + ".") or module == PACKAGE:
        base = PROJECT.joinpath(*module.split("."))
        return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)
    return Path(module) if Path(module).is_file() else None


@cache
def _module(module: str) -> _Module:
    path = _path(module)
    tree = ast.parse(_source(path)) if path else ast.parse("")
    imports = _imports_of([node for node in tree.body if not _only_for_types(node)])
    parts: dict[str, list[ast.AST]] = {"": []}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) or _only_for_types(node):
            if isinstance(node, ast.Import):  # "import a.b" is used for its side effects
                parts[""] += [node] if any(PACKAGE + "." in alias.name for alias in node.names) else []
            continue
        names = _defined(node)
        for name in names or [""]:
            parts.setdefault(name, []).append(node)
    digests, uses = {}, {}
    for name, nodes in parts.items():
        stripped = [_Strip().visit(ast.parse(ast.unparse(node)).body[0]) for node in nodes]
        text = "\n".join(ast.dump(node) for node in stripped if node is not None)
        digests[name] = hashlib.sha256(text.encode()).hexdigest()
        uses[name] = set().union(*(_uses(node, imports, set(parts)) for node in stripped if node is not None))
    return _Module(digests, uses, imports)


def _source(path: Path) -> str:
    """Return Python source; for a notebook, that of its code cells without IPython's magic commands."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    import json

    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    lines = [line for cell in cells for line in "".join(cell["source"]).split("\n")]
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _defined(node: ast.AST) -> list[str]:
    """Return the names that a top-level statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _imports_of(nodes: Iterable[ast.AST]) -> dict[str, tuple[str, str | None]]:
    """Return imported name -> (module, name in that module); the second is None for a module itself."""
    found: dict[str, tuple[str, str | None]] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = (node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                found[name] = (alias.name if alias.asname else alias.name.split(".")[0], None)
        elif isinstance(node, ast.Try | ast.If) and not _only_for_types(node):
            found |= _imports_of([*node.body, *node.orelse])
    return found


def _uses(node: ast.AST, imports: dict, defined: set[str]) -> set:
    """Return the names that a definition uses: names of its own module, and (module, name) of others."""
    inner = [one for one in ast.walk(node) if isinstance(one, ast.Import | ast.ImportFrom)]
    known = imports | _imports_of(inner)
    found: set = set()
    for one in inner:
        if isinstance(one, ast.Import):
            found |= {(alias.name, None) for alias in one.names}
    whole = {id(one.value) for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id in known:
            module, name = known[one.value.id]
            source = module if name is None else f"{module}.{name}"
            if name is None or _path(source):  # of a module, only this name
                found.add((source, one.attr))
            else:
                found.add((module, name))
        elif isinstance(one, ast.Name) and id(one) not in whole and one.id in known:
            found.add(known[one.id])
        elif isinstance(one, ast.Name) and one.id in defined:
            found.add(one.id)
    return found


class _Strip(ast.NodeTransformer):
    """Remove everything that cannot change a number: docstrings, type annotations, the texts of errors."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc, node.cause = node.exc.func, None
        return node
