"""An application's own sequence of random numbers is left as it is: nothing of ours draws from the shared ones."""

from __future__ import annotations

import ast
from pathlib import Path

import embedtui

OWN = {"Random", "SystemRandom", "default_rng", "Generator"}


def test_nothing_draws_from_a_generator_that_the_application_has_too() -> None:
    drawn = [
        f"{path.name}:{node.lineno}"
        for path in Path(embedtui.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr not in OWN
        if ast.unparse(node.value) in {"random", "np.random", "numpy.random"}
    ]
    assert drawn == []
