"""The layers: checked by import-linter, and no package escapes the check."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.house.tree import ROOT, name, sources

LINT = Path(sys.executable).with_name("lint-imports")
SQL = {"sqlalchemy", "alembic"}


def _layers() -> set[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {module.strip() for row in rows for module in row.split("|")}


def _packages(text: str) -> set[str]:
    """Return the packages that a module imports anywhere in it, for type checkers too."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    return imported


def test_imports_point_down_only() -> None:
    done = subprocess.run(
        [LINT, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_part_of_the_package_is_in_a_layer() -> None:
    below = {path.relative_to(ROOT).parts[1] for path in sources("share_registry")} - {
        "__init__.py"
    }
    assert {f"share_registry.{part.removesuffix('.py')}" for part in below} == _layers()


def test_only_the_catalog_imports_sql() -> None:
    speaking = {
        name(path)
        for path in sources("share_registry")
        if _packages(path.read_text(encoding="utf-8")) & SQL
    }
    assert [path for path in speaking if not path.startswith("share_registry/catalog/")] == []
    assert "share_registry/catalog/catalog.py" in speaking


@pytest.mark.parametrize(
    "planted",
    [
        "import sqlalchemy.orm",
        "if TYPE_CHECKING:\n    from sqlalchemy import Row",
        "def f():\n    from sqlalchemy.orm import Session",
    ],
)
def test_a_planted_import_of_sql_is_seen(planted: str) -> None:
    assert _packages(planted) == {"sqlalchemy"}
