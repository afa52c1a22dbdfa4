"""Hints as the command line says them: parameters as options, calls of methods as commands.

The library's hints name its own parameters. What an option is called is asked of the verbs; calls
of other libraries, and words that are no parameter of a verb, stay as they are.
"""

import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from share_registry.cli.session import Session

# The next step after an error that names none
FALLBACK: Final = "Run `share-registry doctor`."
_QUOTES: Final = "'\""
# Phrases that have no counterpart of their own, and what is said instead
_PHRASES: Final = (
    (r"space=(?:\.\.\.)?(?:,| or) -s", "-s"),
    (
        r"([Oo]pen) (?:it )?with mode 'w'",
        "Use a verb that writes, such as `share-registry init`",
    ),
    (
        r"Open it once with mode 'w', which takes",
        "Use a verb that writes once, such as `share-registry init`: that takes",
    ),
    (r"(?:Create it|create it) with mode 'c' or", "Create it with"),
    (r"Create the registry with mode 'c'", "Create the registry with `share-registry init`"),
    (r"Open it with mode 'r'", "Use verbs that only read"),
    (r"open it with mode 'r'", "use verbs that only read"),
    (r"a registry opened with mode 'r' reads", "verbs that only read take"),
    (r"Give None for all", "Give 0 for all"),
    (r"Give None for as many", "Leave it out for as many"),
)
_VALUE: Final = r"'[^']*'|\"[^\"]*\"|\[\.\.\.\]|\([\d., ]+\)|True|False|\.\.\.|\d[\w.]*\w|\d"
# What stands between the parentheses of a call
_INSIDE: Final = rf"(?:[a-z_]+=)?(?:{_VALUE})|[a-z_]+=(?=[,)])"
# A call of a method whose arguments can be typed: create_space('minilm', base_model='acme/minilm')
_CALL: Final = re.compile(
    rf"(?<![\w.])(?:registry\.)?(?P<verb>[a-z_]+)"
    rf"\((?P<arguments>(?:{_INSIDE})(?:, (?:{_INSIDE}))*)\)"
)
# Any other call, and what is quoted as code: neither is changed
_KEPT: Final = r"`[^`]*`|\w\([^()]*(?:\([^()]*\)[^()]*)*\)"
_ARGUMENT: Final = rf"(?<![\w\"'=-])(?P<name>[a-z][a-z_]+)=(?P<value>{_VALUE})?(?![\w=])"
# A name of more than one word needs no value to be known as one
_NAME: Final = r"(?<![\w\"'=./-])(?P<bare>[a-z]+_[a-z_]*[a-z])(?![\w\"'=(]|\.\w)"
_PARAMETER: Final = re.compile(f"{_KEPT}|{_ARGUMENT}|{_NAME}")
_TWICE: Final = re.compile(r"(?P<option>--[a-z-]+) \((?P=option)\)")
# A command line that says not itself where the registry is
_COMMAND: Final = re.compile(r"`share-registry (?!-R )(?P<verb>[a-z-]+)(?P<rest>[^`]*)`")
# A password in a catalog's URL, and what stays
_PASSWORD: Final = re.compile(r"(?P<user>://[^/:@]*):.*@")
_USER: Final = r"\g<user>@"
# Verbs that are not about one space
_OF_REGISTRY: Final = frozenset(
    {
        *("clone", "create-space", "db", "demo", "doctor", "init", "pull", "push"),
        *("quarantine", "rebuild", "repair"),
    }
)


def for_terminal(hint: str, root: click.Command) -> str:
    """Return a hint with parameters as options: `word=value` is `--word value`, a flag is `--word`.

    Args:
        hint: Of the library.
        root: The group of the verbs, which know what their options are called.

    Returns:
        FALLBACK for none.
    """
    for phrase, said in _PHRASES:
        hint = re.sub(phrase, said, hint)
    hint = _CALL.sub(lambda call: _command(call, root), hint)
    hint = _PARAMETER.sub(lambda match: _option(match, root), hint)
    return _TWICE.sub(r"\g<option>", hint) or FALLBACK


def at_place(hint: str, session: "Session") -> str:
    """Return a hint whose command lines say where the registry is, as the user did."""
    options = (("-R", session.registry), ("--store", session.store), ("-s", session.space))

    def placed(command: re.Match[str]) -> str:
        # `clone` says both of its places itself
        if command["rest"].endswith(" --help") or command["verb"] == "clone":
            return command[0]
        names_space = command["verb"] in _OF_REGISTRY or " --space " in command["rest"]
        words = [
            f"{option} {shlex.quote(_PASSWORD.sub(_USER, value))}"
            for option, value in options
            if value is not None and (option != "-s" or not names_space)
        ]
        return f"`{' '.join(['share-registry', *words, command['verb']])}{command['rest']}`"

    return _COMMAND.sub(placed, hint)


def _command(call: re.Match[str], root: click.Command) -> str:
    """Return a call of a method as the command that does the same; of no verb, as it is."""
    verb = call["verb"].replace("_", "-")
    command = _verbs(root).get(verb)
    if command is None:
        return call[0]
    words = ["share-registry", verb]
    for name, value in re.findall(rf"(?:([a-z_]+)=)?({_VALUE})?(?:, |$)", call["arguments"]):
        if name:
            words.append(_spelled(_parameters(command).get(name), name, value))
        elif value:
            words.append(_typed(value))
    return f"`{' '.join(words)}`"


def _option(match: re.Match[str], root: click.Command) -> str:
    name = match["name"] or match["bare"]
    parameter = _every_parameter(root).get(name) if name else None
    if parameter is None:
        return match[0]
    # a name alone is no order to give it
    return _spelled(parameter, name, match["value"] or "")


def _spelled(parameter: click.Parameter | None, name: str, value: str) -> str:
    """Return an argument as it is typed; of an option with several values, once for each."""
    if isinstance(parameter, click.Argument):
        return name.removesuffix("s").upper() if parameter.nargs < 0 else name.upper()
    if parameter is None:
        spelled, secondary = f"--{name.replace('_', '-')}", ""
    else:
        spelled = max(parameter.opts, key=len)
        secondary = max(parameter.secondary_opts, key=len, default="")
    if value in ("", "...", "[...]", "True"):
        return spelled
    if value == "False":
        return secondary or f"--no-{spelled.removeprefix('--')}"
    if value.startswith("("):
        return " ".join(f"{spelled} {number}" for number in value.strip("()").split(", "))
    return f"{spelled} {_typed(value)}"


def _typed(value: str) -> str:
    """Return a value as a shell takes it."""
    return shlex.quote(value.strip(_QUOTES).replace("\\\\", "\\")) if value != "..." else value


def _verbs(root: click.Command) -> dict[str, click.Command]:
    if not isinstance(root, click.Group):
        return {}
    context = click.Context(root)
    verbs = {name: root.get_command(context, name) for name in root.list_commands(context)}
    return {name: verb for name, verb in verbs.items() if verb is not None}


def _parameters(command: click.Command) -> dict[str, click.Parameter]:
    """Return the parameters of a verb, by their names and by those of their options."""
    return {
        name: parameter
        for parameter in command.params
        for name in (parameter.name or "", *map(_python_name, parameter.opts))
    }


def _python_name(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


@cache
def _every_parameter(root: click.Command) -> Mapping[str, click.Parameter]:
    """Return the parameters of all verbs by name; an option before an argument."""
    parameters: dict[str, click.Parameter] = {}
    for command in _verbs(root).values():
        for name, parameter in _parameters(command).items():
            if not isinstance(parameters.get(name), click.Option):
                parameters[name] = parameter
    return parameters
