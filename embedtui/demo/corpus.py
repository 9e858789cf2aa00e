"""The demo's documents: what the user's own Python standard library says about itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from embedtui.demo.questions import ANSWERS

LONGEST = 2000
"""Characters kept of a document; a few docstrings are whole manuals."""

LEFT_OUT = {
    *("__phello__", "distutils", "encodings", "ensurepip", "idlelib", "lib-dynload", "lib2to3", "ntpath"),
    *("antigravity", "pydoc_data", "site-packages", "test", "tests", "this", "turtledemo"),
}
"""Folders and modules that are tests, programs or near copies of others."""

LEAST_WANTED = {
    *("bdb", "cgi", "doctest", "nntplib", "pickletools", "pydoc", "symtable", "telnetlib", "tkinter", "turtle"),
}
"""Modules whose documents go first when there are more than asked for."""

PUBLIC_NAMES = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "concurrent.futures.process": "concurrent.futures",
    "concurrent.futures.thread": "concurrent.futures",
    "genericpath": "os.path",
    "posixpath": "os.path",
    "unittest.case": "unittest",
}
"""Modules known to their users by another name. Private submodules go by their package's name without being listed."""

ASKED_AT_RUN_TIME = {
    **{name: name for name in ("array", "atexit", "binascii", "cmath", "fcntl", "gc", "itertools", "marshal", "math")},
    **{name: name for name in ("mmap", "select", "sys", "time", "unicodedata", "zlib")},
    **{f"_{name}": name for name in ("bz2", "collections", "contextvars", "csv", "datetime", "functools", "hashlib")},
    **{f"_{name}": name for name in ("io", "lzma", "pickle", "queue", "random", "signal", "socket", "sqlite3", "ssl")},
    **{f"_{name}": name for name in ("struct", "weakref")},
    "builtins": "",
    "posix": "os",
    "posixpath": "os.path",
}
"""Modules that matter and are written in C (or assign docstrings) -> their public names."""


@dataclass(frozen=True, slots=True)
class Document:
    """One documented thing: ``name`` as its users write it, ``text`` its signature and docstring."""

    name: str
    text: str


def documents(limit: int = 5000) -> list[Document]:
    """At most ``limit`` documents in order of their names, the same ones whenever this Python is asked.

    Where there are more, all answers to the demo's questions stay, then the longest.
    """
    found = _found()

    def standing(name: str) -> tuple[bool, bool, int, str]:
        return name not in ANSWERS, name.partition(".")[0] in LEAST_WANTED, -len(found[name]), name

    return [Document(name, found[name]) for name in sorted(sorted(found, key=standing)[:limit])]


@cache
def _found() -> dict[str, str]:
    """Text by name of all there is; takes seconds, so it is read once."""
    found: dict[str, str] = {}
    for name, text in (*_from_source(Path(sysconfig.get_path("stdlib"))), *_from_interpreter()):
        found.setdefault(name, text)
    return found


def _from_source(library: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of all public documented things that are written in Python."""
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if any(part in LEFT_OUT or part.startswith("config-") for part in parts):
            continue
        module = _public_module(parts[:-1] if parts[-1] == "__init__" else parts)
        if module is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old modules have invalid escapes
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        yield from _described(module, "", ast.get_docstring(tree))
        yield from _from_body(module, tree.body)


def _public_module(parts: tuple[str, ...]) -> str | None:
    """The name users know a module by; None where they do not know it."""
    name = ".".join(parts)
    if name in PUBLIC_NAMES:
        return PUBLIC_NAMES[name]
    if parts[0].startswith("_"):
        return None
    if parts[0] == "asyncio":
        return "asyncio"
    return ".".join(part for part in parts if not part.startswith("_"))


def _from_body(prefix: str, body: Iterable[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):  # much of os is defined where the system has it
            yield from _from_body(prefix, node.body)
            yield from _from_body(prefix, node.orelse)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield from _described(f"{prefix}.{node.name}", f"({ast.unparse(node.args)})", ast.get_docstring(node))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            bases = ", ".join(map(ast.unparse, node.bases))
            yield from _described(name, f"({bases})" if bases else "", ast.get_docstring(node))
            yield from _from_body(name, node.body)


def _from_interpreter() -> Iterator[tuple[str, str]]:
    """(name, text) of what only the running interpreter can tell."""
    for module, public in ASKED_AT_RUN_TIME.items():
        try:
            members = vars(importlib.import_module(module))
        except ImportError:
            continue
        for key, member in sorted(members.items()):
            if key.startswith("_") or not callable(member):
                continue
            name = f"{public}.{key}" if public else key
            yield from _described(name, _signature(member), _own_doc(member))
            if isinstance(member, type):
                for inner in sorted(vars(member)):
                    method = None if inner.startswith("_") else getattr(member, inner, None)
                    if callable(method):
                        yield from _described(f"{name}.{inner}", _signature(method), _own_doc(method))


def _own_doc(thing: object) -> str | None:
    doc = getattr(thing, "__doc__", None)
    return inspect.cleandoc(doc) if isinstance(doc, str) else None


def _signature(thing: object) -> str:
    """As written in C: inspect.signature would evaluate defaults, and fails on some."""
    text = getattr(thing, "__text_signature__", None)
    return re.sub(r"\$\w+(, /)?(, )?", "", text) if isinstance(text, str) else ""


def _described(name: str, signature: str, doc: str | None) -> Iterator[tuple[str, str]]:
    if doc and doc.strip():
        text = f"{name}{signature}\n\n{doc}".replace("\0", "")
        yield name, text.encode("utf-8", "replace").decode()[:LONGEST].rstrip()
