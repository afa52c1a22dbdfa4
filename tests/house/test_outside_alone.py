"""Only `share_registry/outside` touches files, the clock and randomness.

Every other module is read and searched for ways around it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).parents[2] / "share_registry"
MODULES: Final = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "outside"
)

PURE: Final = frozenset(
    {
        "os.PathLike",
        "os.fspath",
        "os.sep",
        "os.linesep",
        "os.getpid",
        "os.path.normpath",
        "io.BytesIO",
        "io.StringIO",
        "uuid.UUID",
        "shutil.get_terminal_size",
        # of a library that is in memory already: asks it for a function
        "ctypes.CDLL",
    }
)
"""Names of the modules below that touch no file, no clock and no randomness."""
FORBIDDEN_MODULES: Final = frozenset(
    {
        "os",
        "io",
        "shutil",
        "tempfile",
        "time",
        "random",
        "secrets",
        "uuid",
        "glob",
        "mmap",
        "fcntl",
        "subprocess",
        "socket",
        "ctypes",
        "pickle",
        "fileinput",
    }
)
FORBIDDEN_CALLS: Final = frozenset(
    {"open", "input", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
)
FORBIDDEN_ATTRIBUTES: Final = frozenset(
    {
        "np.random",
        "numpy.random",
        "torch.rand",
        "torch.randn",
        "torch.randint",
        "torch.load",
        "torch.save",
        "np.load",
        "np.save",
    }
)
DRAWN: Final = frozenset({"torch.randn", "torch.randint"})
"""Training begins at random numbers of torch's own generators, which the caller seeds."""
ALLOWED: Final = {
    "exchange/importers/peft_bin.py": frozenset({"torch.load"}),
}
"""What a module may do all the same: this one gives torch bytes that were read before."""
PATH_METHODS: Final = frozenset(
    {
        *(
            "read_bytes",
            "read_text",
            "write_bytes",
            "write_text",
            "mkdir",
            "rmdir",
            "unlink",
            "symlink_to",
            "hardlink_to",
            "chmod",
            "iterdir",
            "rglob",
            "glob",
        ),
        *("is_file", "is_dir", "is_symlink", "lstat", "absolute", "expanduser", "samefile", "cwd"),
    }
)
SHARED_METHODS: Final = frozenset(
    {"exists", "open", "touch", "rename", "resolve", "stat", "replace", "home"}
)
"""Methods of a path that other things have as well.

Forbidden where the owner is written like a path.
"""
PATH_LIKE: Final = re.compile(r"Path\b|\bPath\(|path|root|folder|directory|file|place|/")
OUTSIDE: Final = frozenset({"outside", "inside"})


def violations(source: str) -> Iterator[str]:
    """Name every way in which a module reaches the world by itself."""
    tree = ast.parse(source)
    imported = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in FORBIDDEN_MODULES
        ):
            yield from (
                f"{node.lineno}: from {node.module} import {name.name}"
                for name in node.names
                if f"{node.module}.{name.name}" not in PURE
            )
        elif isinstance(node, ast.Import):
            yield from (
                f"{node.lineno}: import {name.name} as {name.asname}"
                for name in node.names
                if name.name in FORBIDDEN_MODULES and name.asname
            )
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            owner = text.partition(".")[0]
            whole = (
                text.count(".") == (2 if text.startswith("os.path.") else 1) and text != "os.path"
            )
            if text in FORBIDDEN_ATTRIBUTES or (
                owner in FORBIDDEN_MODULES & imported and whole and text not in PURE
            ):
                yield f"{node.lineno}: {text}"
        elif isinstance(node, ast.Call):
            yield from _bad_call(node)


def _bad_call(node: ast.Call) -> Iterator[str]:
    text = ast.unparse(node.func)
    if text in FORBIDDEN_CALLS or text.removeprefix("datetime.") in FORBIDDEN_CALLS:
        yield f"{node.lineno}: {text}()"
    if isinstance(node.func, ast.Attribute):
        owner = ast.unparse(node.func.value)
        method = node.func.attr
        text_replaced = method == "replace" and (len(node.args) != 1 or node.keywords)
        of_a_path = method in PATH_METHODS or (
            method in SHARED_METHODS and PATH_LIKE.search(owner) and not text_replaced
        )
        if of_a_path and owner.rpartition(".")[2].lstrip("_") not in OUTSIDE:
            yield f"{node.lineno}: {text}()"


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_a_module_reaches_the_world_through_outside_alone(path: Path) -> None:
    drawn = ALLOWED.get(path.relative_to(PACKAGE).as_posix(), frozenset())
    drawn |= DRAWN if path.parent.name == "peft" else frozenset()
    assert [
        violation
        for violation in violations(path.read_text())
        if violation.partition(": ")[2] not in drawn
    ] == []


@pytest.mark.parametrize(
    "source",
    [
        *(
            "import os\nos.path.exists('f')",
            "open('f')",
            "import os\nos.remove('f')",
            "from os import remove",
            "import os as system",
            "import time\ntime.time()",
            "from time import monotonic",
        ),
        *(
            "import random\nrandom.random()",
            "from secrets import token_hex",
            "import uuid\nuuid.uuid4()",
            "import shutil\nshutil.rmtree('d')",
            "import io\nio.open('f')",
        ),
        *(
            "datetime.now(UTC)",
            "datetime.datetime.now(UTC)",
            "date.today()",
            "path.write_bytes(b'')",
            "Path('f').read_text()",
            "path.open()",
            "path.replace(target)",
        ),
        *(
            "(root / 'f').unlink()",
            "Path.cwd()",
            "self.path.exists()",
            "np.random.default_rng()",
            "torch.load(path)",
            "import tempfile\ntempfile.mkdtemp()",
        ),
    ],
)
def test_every_way_around_is_noticed(source: str) -> None:
    assert list(violations(source))


@pytest.mark.parametrize(
    "source",
    [
        *(
            "outside.exists(path)",
            "self._outside.replace(a, b)",
            "inside.exists(path)",
            "text.replace('a', 'b')",
            "replace(value, name='x')",
            "Registry.open(path)",
        ),
        *(
            "import os\ndef f(path: os.PathLike[str]) -> str: return os.fspath(path)",
            "import io\nio.BytesIO()",
            "import uuid\nuuid.UUID(text)",
            "moment.replace(tzinfo=UTC)",
        ),
    ],
)
def test_what_touches_nothing_is_allowed(source: str) -> None:
    assert list(violations(source)) == []


def test_the_search_covers_the_package() -> None:
    assert {"store/local.py", "errors.py"} <= {str(path.relative_to(PACKAGE)) for path in MODULES}
