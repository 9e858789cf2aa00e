"""What the engine's threads are said to do, as its own code words it, with long figures: a snapshot's own are short."""

from __future__ import annotations

import ast
from pathlib import Path

import embedtui.engine
from embedtui.model.bridge import DOING

_SAYING = ("doing", "at_work", "_await")
"""Functions of the engine that take such words."""
LEAF = "support_articles_of_2026_and_later"


def doings() -> tuple[str, ...]:
    """All of them."""
    found: dict[str, None] = {}
    for file in sorted(Path(embedtui.engine.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _SAYING:
                for given in node.args:
                    if isinstance(given, ast.Constant | ast.JoinedStr) and (said := _said(given)):
                        found.setdefault(said)
                        break  # what a wait says after it is a note
    return tuple(found)


def _said(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else _filled(ast.unparse(part.value))
        for part in node.values
        if isinstance(part, ast.Constant | ast.FormattedValue)
    )


def _filled(name: str) -> str:
    if name.startswith("counted("):
        return f"1,024 {ast.literal_eval(name.rpartition(', ')[2].rstrip(')'))}"
    return {
        "DOING": DOING, "shard.leaf": LEAF, "shard.first_block": "1234432", "shard.last_block": "1234687",
        "status.phase": "building index: loading tuples", "share": " 44 %", "waiting": ", waiting for pid 2213",
    }.get(name, "1,024")  # fmt: skip
