"""A long module or function is a design question. Statements count, so that width hides nothing."""

import ast
from typing import Final

import pytest

from tests.house.tree import name, sources

MAX_MODULE_STATEMENTS: Final = 300
MAX_FUNCTION_STATEMENTS: Final = 40
MAX_COLUMNS: Final = 100
MAX_WIDE_SHARE: Final = 0.005
"""Of the package's lines: tables, addresses and texts that are clearer whole."""
EXEMPT: Final = {
    "share_registry/registry/registry.py": "the facade: one method a verb, and no logic",
}


def _statements(node: ast.AST) -> int:
    return sum(isinstance(inner, ast.stmt) for inner in ast.walk(node))


def _long_functions(text: str) -> list[str]:
    functions = (
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    sized = ((node.name, _statements(node) - 1) for node in functions)
    return [
        f"{function} ({count} statements)"
        for function, count in sized
        if count > MAX_FUNCTION_STATEMENTS
    ]


def _wide_lines(text: str) -> int:
    return sum(len(line) > MAX_COLUMNS for line in text.splitlines())


def test_no_module_has_too_many_statements() -> None:
    sized = {
        name(path): _statements(ast.parse(path.read_text(encoding="utf-8"))) for path in sources()
    }
    long = {path: count for path, count in sized.items() if count > MAX_MODULE_STATEMENTS}
    assert {path: count for path, count in long.items() if path not in EXEMPT} == {}


def test_no_function_has_too_many_statements() -> None:
    # a migration is exempt: it is a list of statements, frozen once released
    long = {
        name(path): _long_functions(path.read_text(encoding="utf-8"))
        for path in sources()
        if "migrations" not in path.parts
    }
    assert {path: functions for path, functions in long.items() if functions} == {}


def test_the_package_has_next_to_no_line_over_100_columns() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sources("share_registry")]
    wide = sum(map(_wide_lines, texts))
    lines = sum(len(text.splitlines()) for text in texts)
    assert wide <= MAX_WIDE_SHARE * lines, f"{wide} of {lines} lines"


@pytest.mark.parametrize(("statements", "long"), [(40, []), (41, ["f (41 statements)"])])
def test_a_function_of_41_statements_is_found(statements: int, long: list[str]) -> None:
    assert _long_functions("def f():\n" + "    pass\n" * statements) == long


def test_statements_on_one_line_are_counted_one_by_one() -> None:
    assert _long_functions("def f():\n    " + "; ".join(["pass"] * 41)) == ["f (41 statements)"]
