"""The command line and the public methods say the same.

Verbs, options, defaults of what is required.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import click
import pytest

import share_registry as sr
from share_registry.cli.main import commands

VERBS = commands()
COMMON = {"registry", "store", "in_space", "json", "quiet"}
"""Options of every verb; `--space` is the parameter that most methods have."""
OPENING = {"checks"}
"""Options that `Registry.open` takes, on the verbs that commit adapters."""
NOT_VERBS = {"open", "close", "space", "prepare", "publish"}
"""Methods that a command line has no use for.

Each run opens, closes, and names its space with -s. What `prepare` returns is for a program.
"""
FUNCTIONS = {"clone", "verify_export"}
"""Functions of the package that are verbs: they need no registry."""
VERBS_ALONE = {"init", "doctor", "db", "demo", "completion", "ls", "serve", "ui"}
"""Verbs that are no method: they are about a place, not about what is in it.

`serve` and `ui` are processes. `ls` is another name of `tasks`.
"""
NOT_OPTIONS = {"self", "space", "progress"}
"""The bar on a terminal is the progress of `verify`."""
OUTPUT = {
    "diff": {"exit_code"},
    "checkout": {"output", "overwrite"},
    "checkpoint": {"output"},
    "routing_index": {"file"},
    "report": {"output", "overwrite"},
    "retention": {"plot"},
    "log": {"plot"},
    "show": {"modules", "plot"},
    "analyze": {"plot"},
}
"""A program gets the adapter in memory and a figure, a command line a directory and a file.

And what a program reads of a difference, a command line says by its exit code.
"""
POLICY = {field.name for field in fields(sr.Policy)}


def _methods() -> dict[str, inspect.Signature]:
    members = inspect.getmembers(
        sr.Registry, lambda member: inspect.isfunction(member) or inspect.ismethod(member)
    )
    methods = {
        name: inspect.signature(method)
        for name, method in members
        if not name.startswith("_") and name not in NOT_VERBS
    }
    return methods | {name: inspect.signature(getattr(sr, name)) for name in FUNCTIONS}


def _expected(name: str) -> set[str]:
    parameters = set(_methods()[name].parameters) - NOT_OPTIONS
    if "policy" in parameters:
        parameters = (parameters - {"policy"}) | POLICY
    return parameters | OUTPUT.get(name, set())


NAMED = {"import_many": "import"}
"""Methods whose verb has another name: `import` is a word of Python."""


def _verb(method: str) -> str:
    return NAMED.get(method, method.replace("_", "-"))


def _offered(verb: str) -> set[str]:
    return {str(parameter.name) for parameter in VERBS[verb].params} - COMMON - OPENING - {"space"}


def _spelled(option: click.Option) -> str:
    """Return the parameter that an option's long name spells.

    Repeatable options are in the singular.
    """
    long = next(name for name in option.opts if name.startswith("--"))
    return long.removeprefix("--").replace("-", "_") + (
        "s" if option.multiple and str(option.name).endswith("s") else ""
    )


def _all(verbs: Mapping[str, click.Command]) -> Iterator[click.Command]:
    for command in verbs.values():
        yield command
        if isinstance(command, click.Group):
            yield from _all(command.commands)


def test_every_public_method_has_a_verb_and_every_verb_a_method() -> None:
    assert set(VERBS) - VERBS_ALONE == {_verb(name) for name in _methods()}


@pytest.mark.parametrize("name", sorted(_methods()))
def test_a_verb_offers_what_its_method_takes(name: str) -> None:
    assert _offered(_verb(name)) == _expected(name)


@pytest.mark.parametrize("name", sorted(_methods()))
def test_what_a_method_requires_the_verb_requires(name: str) -> None:
    needed = {
        str(parameter.name) for parameter in VERBS[_verb(name)].params if parameter.required
    } - {"space"}
    required = {
        parameter.name
        for parameter in _methods()[name].parameters.values()
        if parameter.default is inspect.Parameter.empty
    }
    assert needed - OUTPUT.get(name, set()) == required - {"self", "policy", "space"}


@pytest.mark.parametrize("command", list(_all(VERBS)), ids=lambda command: str(command.name))
def test_options_are_spelled_as_parameters_and_explained(command: click.Command) -> None:
    options = [
        parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name != "in_space"
    ]
    assert {option.name: _spelled(option) for option in options} == {
        # a word of Python stands with an underscore behind it
        option.name: str(option.name).rstrip("_")
        for option in options
    }
    assert [option.name for option in options if not option.help] == []
    assert command.help


@pytest.mark.parametrize("command", list(_all(VERBS)), ids=lambda command: str(command.name))
def test_every_verb_takes_the_common_options(command: click.Command) -> None:
    assert {parameter.name for parameter in command.params} >= COMMON


def test_a_space_is_a_registry_with_a_scope(tmp_path: Path) -> None:
    registry = sr.Registry.open(tmp_path / "registry")
    registry.create_space("one")
    space = registry.space("one")
    assert isinstance(space, sr.Registry)
    assert (space.name, space.scope, registry.scope) == ("one", "one", None)


def test_only_verbs_that_may_create_or_span_spaces_take_one() -> None:
    taking = {name for name, signature in _methods().items() if "space" in signature.parameters}
    assert taking == {
        "audit",
        "checkpoint",
        "commit",
        "commit_many",
        "import_many",
        "log",
        "set_policy",
        "tasks",
    }
