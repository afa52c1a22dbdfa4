"""Whatever is typed, a command ends with a code of the table, and says what is wrong in a line."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Final

import click
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from share_registry.cli.main import commands, main
from share_registry.errors import EXIT_CODES

EXAMPLES: Final = 30
SOAK: Final = 3000
# It commits the adapters that ship with the package, and takes nothing but a place
LONG: Final = {"demo"}
ODD: Final = (
    *("", " ", "-", "--", "-1", "0", "1", "99999999999999999999", "1e400", "nan", "2.5%", "%"),
    *("a=b", "=", "a=", "acc=1", "acc=nan", "acc>0.5", "acc>", "[!", "x" * 5000, "é", "\udce9"),
    *("a\nb", "\x1b[31m", "/", "..", "/dev/null", "/dev/full", "memory://", "sqlite://", "hf://"),
    *("postgresql://[::1/x", "v1", "c1", "2026-02-30", "0001-01-01", "cuda:7", "meta", "@", "~"),
)
RIGHT: Final = (
    *("cola", "cola@v1", "sst2", "cola@prod", "@c2", "tiny-model", "tiny-model/cola", "prod"),
    *("release-1", "new", "2099-01-01", "cola-2", "adapters/sst2", "out", "0.1", "5", "acc"),
    *("linear", "ties", "deep", "portable", "unit", "cola=0.5", "team=search", "r", "json"),
)
TEXTS: Final = st.one_of(
    st.sampled_from(RIGHT),
    st.sampled_from(ODD),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """Draw a command line: a verb with most of its arguments and some of its options."""
    verbs = commands()
    name = draw(st.sampled_from(sorted(set(verbs) - LONG)))
    line = [name]
    command = verbs[name]
    if isinstance(command, click.Group):
        name = draw(st.sampled_from(sorted(command.commands)))
        line.append(name)
        command = command.commands[name]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            line += draw(_option(parameter))
        elif draw(st.integers(0, 9)):
            line.append(draw(TEXTS))
    return [*line, *draw(st.lists(TEXTS, max_size=1))]


@st.composite
def _option(draw: st.DrawFn, option: click.Option) -> list[str]:
    # where the registry is, the test says
    if draw(st.integers(0, 4)) or {"--registry", "--store"} & {*option.opts}:
        return []
    name = draw(st.sampled_from([*option.opts, *option.secondary_opts]))
    return [name] if option.is_flag else [name, draw(TEXTS)]


@contextmanager
def copied(template: Path, adapters: Path) -> Iterator[Path]:
    """Work in a new directory with a copy of the registry and of the adapters."""
    root = Path(tempfile.mkdtemp(prefix="any-arguments"))
    shutil.copytree(template, root / "registry")
    shutil.copytree(adapters, root / "adapters")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield root
    shutil.rmtree(root)


def check(line: list[str], template: Path, adapters: Path) -> None:
    with copied(template, adapters) as root:
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["-R", str(root / "registry"), *line])
        assert code in {0, *EXIT_CODES}
        assert "Traceback" not in out.getvalue() + err.getvalue()
        if code:
            assert "error" in err.getvalue()
        assert main(["-q", "-R", str(root / "registry"), "verify", "--level", "quick"]) == 0


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(line=lines())
def test_any_line_ends_with_a_code_of_the_table(
    line: list[str], template: Path, adapters: Path
) -> None:
    check(line, template, adapters)


@pytest.mark.soak
@settings(
    max_examples=SOAK,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(line=lines())
def test_very_many_lines_end_with_a_code_of_the_table(
    line: list[str], template: Path, adapters: Path
) -> None:
    check(line, template, adapters)
