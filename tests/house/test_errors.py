"""One table of errors and exit codes: in the library, in `--help` and in the documentation."""

import inspect
import pickle
import re

import pytest

from share_registry import errors
from share_registry.cli.commands import read
from share_registry.cli.main import INTERRUPTED, app, main
from share_registry.errors import EXIT_CODES, CommitStateUnknownError, ShareRegistryError
from tests.house.tree import ROOT

ROW = re.compile(r"^\| (\d+) \| ([^|]*)\|", re.MULTILINE)
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ShareRegistryError)
]


def _example(kind: type[ShareRegistryError]) -> ShareRegistryError:
    return (
        CommitStateUnknownError("it broke.", key="k-1")
        if issubclass(kind, CommitStateUnknownError)
        else kind("it broke.", hint="Mend it.")
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_in_the_table_under_its_own_code(kind: type[ShareRegistryError]) -> None:
    assert kind in EXIT_CODES[kind.exit_code]


def test_the_documentation_has_the_same_table() -> None:
    rows = ROW.findall((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"))
    documented = {int(code): set(re.findall(r"`(\w+)`", names)) for code, names in rows}
    assert {code: names for code, names in documented.items() if names} == {
        code: {kind.__name__ for kind in kinds} for code, kinds in EXIT_CODES.items()
    }
    assert {0, INTERRUPTED} <= set(documented)


def test_help_has_the_same_table() -> None:
    shown = app.epilog or ""
    for code, kinds in EXIT_CODES.items():
        row = next(line for line in shown.splitlines() if line.startswith(f"  {code:<3}  "))
        assert [kind.__name__ in row for kind in kinds if kind is not ShareRegistryError] == [
            True
        ] * len([k for k in kinds if k is not ShareRegistryError])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_becomes_a_message_a_hint_and_its_exit_code(
    kind: type[ShareRegistryError],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise _example(kind)

    monkeypatch.setattr(read.spaces, "callback", fail)
    assert main(["spaces"]) == kind.exit_code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: it broke.\n")
    assert "hint: " in shown.err
    assert ("key: k-1" in shown.err) == issubclass(kind, CommitStateUnknownError)


def test_an_interrupt_gives_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(read.spaces, "callback", interrupt)
    assert main(["spaces"]) == INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_errors_survive_pickling(kind: type[ShareRegistryError]) -> None:
    error = _example(kind)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.hint) == (kind, str(error), error.hint)


def test_wrong_usage_gives_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "--no-such-option"]) == 2
    assert "no-such-option" in capsys.readouterr().err
