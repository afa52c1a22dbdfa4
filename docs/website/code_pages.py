"""Pages that are made of the code: a reference of the command line and one of the Python API."""

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import click

import share_registry
from share_registry.cli.main import commands
from share_registry.cli.verb import with_common_options

PROGRAM: Final = "share-registry"
# In the order of the page; a module of verbs that is not named comes last, under its own name
_GROUPS: Final = {
    "write": "Commit and change",
    "read": "Look",
    "maintain": "Keep in order",
    "copying": "Copy",
    "sharing": "Share rows between tasks",
    "serve": "Serve",
    "ui": "In a browser",
    "doctor": "This machine",
    "demo": "Demonstration",
}
_TRAINING: Final = (
    "share_registry.transformers.CommitCallback",
    "share_registry.training.committer.Committer",
    "share_registry.training.committer.RunReport",
    "share_registry.peft.share_config.ShareConfig",
    "share_registry.ray.import_adapters",
)
_STORES: Final = (
    "share_registry.store.protocol",
    "share_registry.store.blobs",
    "share_registry.testing.stores",
)
# Modules of values that callers do not get, and what draws them
_SHOWING: Final = {
    f"share_registry.values.{name}"
    for name in ("conditions", "plots", "shards", "sheet", "task_version")
}
_VERBS: Final = "Each verb of the command line is a method, with the same names."
_PACKAGE: Final = "What `import share_registry as sr` has besides `sr.Registry` and the errors."
_VALUES: Final = """\
What methods return: frozen values. Each shows itself as text and in a notebook, and is a document
with `--json`."""
_EXTRAS: Final = "What needs an extra: transformers, PEFT, Ray."
_OWN_STORES: Final = """\
For a store of your own: what it must do, and the suite that shows that it does."""
_ERRORS: Final = """\
One family. Each error has a message, a hint with the next step, and the exit code of the command
line."""
_MARKUP: Final = re.compile(r"([\\`*_<>|])")


def pages() -> dict[str, str]:
    """Return the pages by their paths."""
    return {f"docs/reference/{name}.md": "\n".join(lines) for name, lines in _references()}


def folder(path: Path) -> str:
    """Return a page that lists the pages and the modules of a folder."""
    lines = [f"# {path.name.capitalize()}", ""]
    for page in sorted(path.glob("*.md")):
        title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}]({page.name})")
    for module in sorted(path.glob("[a-z]*.py")):
        text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
        lines.append(f"- `{module.name}`: {text.partition(chr(10))[0]}")
    return "\n".join([*lines, ""])


def _references() -> Iterator[tuple[str, Iterable[str]]]:
    places = {
        name: f"share_registry.{module}.{name}" for name, module in share_registry._MODULES.items()
    }
    errors = [place for place in places.values() if place.startswith("share_registry.errors.")]
    registry = places["Registry"]
    values = [module for module in _values() if module not in _SHOWING]
    elsewhere = (*errors, registry, *(f"{module}." for module in values))
    package = [place for place in places.values() if not place.startswith(elsewhere)]
    yield "commands", _commands()
    yield "registry", _api("Registry", _VERBS, [registry])
    yield "package", _api("Functions and classes", _PACKAGE, package, with_constructors=True)
    yield "values", _api("Returned values", _VALUES, values, with_constructors=True)
    yield "training", _api("Training and clusters", _EXTRAS, _TRAINING, with_constructors=True)
    yield "stores", _api("Stores", _OWN_STORES, _STORES)
    yield "errors", _api("Errors", _ERRORS, errors)


def _values() -> Iterator[str]:
    folder = Path(inspect.getfile(import_module("share_registry.values"))).parent
    for path in sorted(folder.glob("[a-z]*.py")):
        yield f"share_registry.values.{path.stem}"


def _api(
    title: str, text: str, objects: Sequence[str], *, with_constructors: bool = False
) -> Iterator[str]:
    yield from (f"# {title}", "", text, "")
    for place in objects:
        yield f"::: {place}"
        if with_constructors:
            yield from ("    options:", "      merge_init_into_class: true")
        yield ""


def _commands() -> Iterator[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, command in sorted(commands().items()):
        module = getattr(command.callback, "__module__", "").rpartition(".")[2]
        groups[module].append(name)
    yield from ("# Commands", "")
    yield f"Made of `{PROGRAM} VERB --help`. Every verb takes the options of the first table too."
    yield from ("", *_table(_shared_options(), click.Context(click.Command(PROGRAM))), "")
    for module in sorted(groups, key=lambda group: ([*_GROUPS, group].index(group), group)):
        yield from (f"## {_GROUPS.get(module, module.capitalize())}", "")
        for name in groups[module]:
            yield from _command(name, commands()[name], depth=3)


def _shared_options() -> list[click.Parameter]:
    return with_common_options(click.Command(PROGRAM)).params


def _command(name: str, command: click.Command, *, depth: int) -> Iterator[str]:
    context = click.Context(command, info_name=f"{PROGRAM} {name}")
    yield from ("#" * depth + f" {name}", "")
    yield from (
        "```text",
        f"{PROGRAM} {name} {' '.join(command.collect_usage_pieces(context))}",
        "```",
        "",
    )
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        if paragraph.startswith("\b"):
            yield from ("```bash", inspect.cleandoc(paragraph.removeprefix("\b\n")), "```", "")
        else:
            yield from (_escape(paragraph), "")
    shared = {parameter.name for parameter in _shared_options()}
    yield from _table((each for each in command.params if each.name not in shared), context)
    if isinstance(command, click.Group):
        for part, inner in sorted(command.commands.items()):
            yield from _command(f"{name} {part}", inner, depth=depth + 1)


def _table(parameters: Iterable[click.Parameter], context: click.Context) -> Iterator[str]:
    records = (parameter.get_help_record(context) for parameter in parameters)
    rows = [f"| `{name}` | {_escape(text)} |" for name, text in filter(None, records) if text]
    if rows:
        yield from ("| option | |", "| --- | --- |", *rows, "")


def _escape(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text)
