"""Prints the size of the package, and every file and function that is longer than the house allows.

    python scripts/sizes.py

Exit status 1 if one is: files have at most 300 lines, functions 50 lines and 6 parameters, rooms about a dozen files.
"""

import ast
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE, FUNCTION, PARAMETERS, ROOM = 300, 50, 6, 14


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Return all functions and methods of a module."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def too_large(file: Path) -> list[str]:
    """Return a line for everything in a file that is too long."""
    text = file.read_text(encoding="utf-8")
    name, lines = file.relative_to(ROOT), text.count("\n")
    found = [f"{name}: {lines} lines"] if lines > FILE else []
    for node in functions(ast.parse(text)):
        length = node.end_lineno - node.lineno + 1
        args = node.args
        number = len([a for a in (*args.posonlyargs, *args.args, *args.kwonlyargs) if a.arg not in ("self", "cls")])
        if length > FUNCTION:
            found.append(f"{name}:{node.lineno}: {node.name} has {length} lines")
        if number > PARAMETERS:
            found.append(f"{name}:{node.lineno}: {node.name} has {number} parameters")
    return found


def main() -> int:
    """Print the sizes; return the exit status."""
    files = [file for file in sorted((ROOT / "csp_utils").rglob("*.py"))]
    rooms = Counter(file.parent.relative_to(ROOT) for file in files if file.name != "__init__.py")
    total = sum(file.read_text(encoding="utf-8").count("\n") for file in files)
    print(f"{total} lines of Python in {len(files)} files of csp_utils, {len(rooms)} rooms")
    found = [line for file in files for line in too_large(file)]
    found += [f"{room}: {number} files" for room, number in rooms.items() if number > ROOM]
    print("\n".join(found) or "nothing is longer than the house allows")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
