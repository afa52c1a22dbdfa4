"""A long module or function is a design question."""

import ast

import pytest

from tests.house.tree import name, sources

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
"""A migration is exempt: it is a list of statements, frozen once released."""


def _long_functions(text: str) -> list[str]:
    found = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    sized = ((node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in found)
    return [f"{node.name} ({lines} lines)" for node, lines in sized if lines > MAX_FUNCTION_LINES]


def test_no_module_is_over_400_lines() -> None:
    sized = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {path: lines for path, lines in sized.items() if lines > MAX_MODULE_LINES} == {}


def test_no_function_is_over_60_lines() -> None:
    found = {name(path): _long_functions(path.read_text(encoding="utf-8")) for path in sources() if "migrations" not in path.parts}
    assert {path: functions for path, functions in found.items() if functions} == {}


@pytest.mark.parametrize(("lines", "long"), [(60, []), (61, ["f (61 lines)"])])
def test_a_function_of_61_lines_is_found(lines: int, long: list[str]) -> None:
    assert _long_functions("def f():\n" + "    pass\n" * (lines - 1)) == long
