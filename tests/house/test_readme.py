"""README and docs tell what really happens: their marked blocks are run and print what they say.

Each page runs in a directory with `adapters/cola`, `adapters/cola-2`, `adapters/sst2` (real
adapters that ship with the project) and nothing else.
"""

import io
import os
import re
import shlex
import shutil
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from share_registry.cli.main import main
from tests.house.blocks import agrees, bash, blocks, differences
from tests.house.tree import ROOT

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")
EXECUTED = [name for name, page in PAGES.items() if blocks(page)]
DATA = ROOT / "share_registry" / "demo_data"
AUTHOR = "ada"
FOR_BASH = re.compile(r"[|;&$<>*(`]")
SHOWN = {"cola": "wn-pos-gloss/v1", "cola-2": "wn-pos-gloss/v2", "sst2": "wn-syn-ant/v1"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, source in SHOWN.items():
        shutil.copytree(DATA / source, tmp_path / "adapters" / name)
    return tmp_path


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Ada runs what the pages show."""
    monkeypatch.setenv("SHARE_REGISTRY_AUTHOR", AUTHOR)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("SHARE_REGISTRY_")
    }
    return kept | {
        "SHARE_REGISTRY_AUTHOR": AUTHOR,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def in_this_process(command: str, directory: Path, environment: dict[str, str]) -> str:
    """Run a command without starting Python again, where nothing in it is for bash.

    `.ci/run` runs the tutorial as it is typed.
    """
    program, *words = shlex.split(command) if not FOR_BASH.search(command) else [""]
    if program != "share-registry":
        return bash(command, directory, environment)
    out, err = io.StringIO(), io.StringIO()
    with chdir(directory), redirect_stdout(out), redirect_stderr(err):
        main(words)
    return out.getvalue() + err.getvalue()


# transformers and PEFT warn of their own future, and that a base model is called otherwise
@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:Could not find a config file", "ignore:The PEFT config's"
)
@pytest.mark.parametrize("name", EXECUTED)
def test_every_marked_block_prints_what_the_page_says(
    name: str, directory: Path, environment: dict[str, str]
) -> None:
    assert (
        differences(
            PAGES[name], directory=directory, environment=environment, shell=in_this_process
        )
        == []
    )


def test_the_readme_and_the_guide_are_executed() -> None:
    assert {"README.md", "docs/guide.md", "docs/sharing.md", "docs/tutorial.md"} <= set(EXECUTED)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    targets = [target for target in LINK.findall(PAGES[name]) if "://" not in target]
    assert [target for target in targets if not (folder / target).exists()] == []


def test_a_page_that_says_something_else_is_found(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    page = (
        "<!-- run -->\n```python\nprint(1 + 1)\n```\n<!-- prints -->\n```text\n{}\n```\n\n"
        "<!-- run -->\n```console\n$ echo hello\n{}\n```\n"
    )
    assert differences(page.format("2", "hello"), directory=tmp_path, environment=environment) == []
    wrong = differences(page.format("3", "good bye"), directory=tmp_path, environment=environment)
    assert [(difference.line, difference.printed) for difference in wrong] == [
        (1, "2\n"),
        (10, "hello\n"),
    ]


def test_blocks_of_a_page_share_names_and_a_directory(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    page = (
        "<!-- run -->\n```python\nfrom pathlib import Path\nname = 'x'\n```\n"
        "<!-- run -->\n```python\nPath(name).write_text('y')\n```\n"
        "<!-- run -->\n```console\n$ cat x\ny\n```\n"
    )
    assert differences(page, directory=tmp_path, environment=environment) == []


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\nb\n", "a\nb", True),
        ("c... 1.5 kB\n", "c2 1a2b 1.5 kB\n", True),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nd\n", True),
        ("a\n", "a\nb\n", False),
        ("c... 1.5 kB\n", "c2\n1.5 kB\n", False),
        ("4.9 %\n", "419 %\n", False),
    ],
)
def test_dots_stand_for_anything_and_nothing_else_does(
    expected: str, printed: str, same: bool
) -> None:
    assert agrees(expected, printed) == same
