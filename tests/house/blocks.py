"""Runs the code blocks of a Markdown page and compares what they print with what the page says.

In front of a block stands a comment that says what is to be done with it:

    <!-- run -->       ```python: executed, all blocks of a page in one namespace and one directory;
    a ```text block marked <!-- prints --> that
                       follows has what it prints. ```console: each line that begins with `$ ` is
                       executed by bash, the lines below it are its output.
    <!-- prints -->    the output of the block before.

A command of share-registry is a process of its own unless `differences` is given a quicker way.

As a script, `python blocks.py PAGE` runs a page in the working directory with what is installed, and
ends with 1 where something else was printed.

In expected output `...` stands for any text within a line, a line of `...` for any lines. Digests,
times and sizes are therefore written with dots, figures as they are.
"""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(
    r"^<!-- (?P<mark>run|prints) -->\n+```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


Shell = Callable[[str, Path, dict[str, str]], str]
"""Runs a command in a directory and environment, and returns what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One marked block of a page.

    Attributes:
        line: Line of the page that the block begins at.
        prints: What it is said to print, None where nothing is said.
    """

    line: int
    language: str
    body: str
    prints: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A block that does not print what the page says."""

    line: int
    expected: str
    printed: str


def blocks(page: str) -> list[Block]:
    """Return the blocks to run, each with its expected output."""
    parsed: list[Block] = []
    for match in _BLOCK.finditer(page):
        if match["mark"] == "run":
            parsed.append(
                Block(
                    line=page.count("\n", 0, match.start()) + 1,
                    language=match["language"],
                    body=match["body"],
                    prints=None,
                )
            )
        elif parsed:
            last = parsed.pop()
            parsed.append(
                Block(line=last.line, language=last.language, body=last.body, prints=match["body"])
            )
    return parsed


def differences(
    page: str, *, directory: Path, environment: dict[str, str], shell: Shell | None = None
) -> list[Difference]:
    """Run a page's blocks in a directory and return where they print something else."""
    run = shell or bash
    namespace: dict[str, object] = {"__name__": "__page__"}
    wrong: list[Difference] = []
    for block in blocks(page):
        if block.language == "python":
            printed = _python(block, namespace, directory)
            pairs = [] if block.prints is None else [(block.prints, printed)]
        else:
            pairs = [
                (expected, run(command, directory, environment))
                for command, expected in _commands(block.body)
            ]
        wrong += [
            Difference(line=block.line, expected=expected, printed=printed)
            for expected, printed in pairs
            if not agrees(expected, printed)
        ]
    return wrong


def agrees(expected: str, printed: str) -> bool:
    """Tell whether output is as expected, `...` standing for anything."""
    lines = [
        re.escape(line.rstrip()).replace(r"\.\.\.", r"[^\n]*")
        for line in expected.strip("\n").splitlines()
    ]
    pattern = "".join(r"(?:[^\n]*\n)*?" if line == r"[^\n]*" else f"{line}\n" for line in lines)
    return (
        re.fullmatch(
            pattern, "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
        )
        is not None
    )


def bash(command: str, directory: Path, environment: dict[str, str]) -> str:
    """Run a command by bash."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def _python(block: Block, namespace: dict[str, object], directory: Path) -> str:
    printed = io.StringIO()
    with chdir(directory), redirect_stdout(printed):
        exec(compile("\n" * block.line + block.body, "page", "exec"), namespace)
    return printed.getvalue()


def _commands(body: str) -> list[tuple[str, str]]:
    """Split a console block into commands and their output."""
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]


if __name__ == "__main__":
    wrong = differences(
        Path(sys.argv[1]).read_text(encoding="utf-8"),
        directory=Path.cwd(),
        environment=dict(os.environ),
    )
    for difference in wrong:
        sys.stdout.write(
            f"line {difference.line}, expected:\n{difference.expected}"
            f"printed:\n{difference.printed}\n"
        )
    sys.exit(bool(wrong))
