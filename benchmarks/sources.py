"""The version of the code that a figure depends on: a hash of source files, found by following imports."""

import ast
import functools
import hashlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("benchmarks", "birnn_forecast")


@functools.cache
def code_version(modules: frozenset[str], root: Path = ROOT, without: tuple[str, ...] = ()) -> str:
    """Return the hash of the modules of ``PACKAGES`` that `modules` name or import, comments and docstrings left out.

    Modules `without` are not followed.

    A package's ``__init__.py`` counts where something is imported that stands in it, not where it only passes a name on
    from another module or lies on the way to one.
    """
    found: set[Path] = set()
    skipped = {_file(module, root) for module in without}
    waiting = [file for module in modules if (file := _file(module, root))]
    while waiting:
        file = waiting.pop()
        if file not in found and file not in skipped:
            found.add(file)
            waiting += _imported(file, root)
    digest = hashlib.sha256()
    for file in sorted(found):
        digest.update(f"{file.relative_to(root).as_posix()}\n{_code(file)}\n".encode())
    return digest.hexdigest()


def modules_of(function: Any) -> set[str]:
    """Return the names of the modules that hold a function, and those that it was put together from.

    A model's `run` may be a function, a ``partial``, or made by a factory that keeps others in its closure.
    """
    names: set[str] = set()
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or not (callable(one) or isinstance(one, list | tuple | dict)):
            continue
        seen.add(id(one))
        if isinstance(one, functools.partial):
            waiting += [one.func, *one.args, *one.keywords.values()]
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, dict):
            waiting += one.values()
        else:
            names.add(getattr(one, "__module__", None) or type(one).__module__)
            cells = getattr(one, "__closure__", None) or ()
            waiting += [cell.cell_contents for cell in cells] + list(getattr(one, "__defaults__", None) or ())
            waiting += [one.__self__] if hasattr(one, "__self__") else []
            if not isinstance(one, type) and hasattr(one, "__dict__"):
                waiting += vars(one).values()
    return names


def _file(module: str, root: Path) -> Path | None:
    """Return the source file of a module, None for one that is not ours."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@functools.cache
def _imported(file: Path, root: Path) -> list[Path]:
    """Return the files that a file imports from."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [_file(alias.name, root) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [_home(_source(node, file, root), alias.name, root) for alias in node.names]
    return [one for one in found if one]


def _source(node: ast.ImportFrom, file: Path, root: Path) -> str:
    """Return the full name of the module that is imported from."""
    package = file.relative_to(root).parent.parts
    above = package[: len(package) - node.level + 1] if node.level else ()
    return ".".join([*above, *([node.module] if node.module else [])])


def _home(source: str, name: str, root: Path) -> Path | None:
    """Return the file of ``from source import name``: that of a module, or the one that a package passes it on from."""
    file = _file(f"{source}.{name}", root) or _file(source, root)
    if file is None or file.name != "__init__.py":
        return file
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
            return _home(_source(node, file, root), original, root) or file
    return file


@functools.cache
def _code(file: Path) -> str:
    """Return a file's code as it was when this process first asked, which is the code that it runs."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
