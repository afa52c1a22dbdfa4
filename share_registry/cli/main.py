"""Entry point of `share-registry`.

The verbs, and the one place where errors become messages and exit codes.
"""

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import click

from share_registry import __version__
from share_registry.cli.verb import with_common_options
from share_registry.errors import EXIT_CODES, InvalidInputError, ShareRegistryError, StoreError

INTERRUPTED: Final = 130
_MODULES: Final = (
    dict.fromkeys(
        (
            "commit",
            "commit-many",
            "set-alias",
            "remove-alias",
            "tag",
            "annotate",
            "drop",
            "restore",
            "rename",
        ),
        "commands.write",
    )
    | dict.fromkeys(
        ("checkout", "export", "log", "show", "resolve", "tasks", "ls", "lineage", "diff"),
        "commands.read",
    )
    | dict.fromkeys(("aliases", "alias-history", "tags", "spaces", "verify"), "commands.read")
    | dict.fromkeys(("init", "create-space", "set-policy", "rebuild"), "commands.maintain")
    | dict.fromkeys(
        ("refit", "basis", "merge", "retention", "analyze", "similar"), "commands.sharing"
    )
    | {"db": "database", "doctor": "doctor", "demo": "demo"}
)
"""Verb -> module that has it."""
_FUNCTIONS: Final = {"ls": "tasks"}
"""Verbs whose command is not called like them."""
_REFERENCES: Final = """\b
A REF is [space/]task[@selector][~n]; the selector is a version, an alias,
a tag, a commit, a time or the digits of a commit id:
  cola  cola@v3  cola@prod  cola@latest~1  cola@prod~1  cola@c412
  cola@2026-11-16  cola@1a2b3c4d  and, for a whole space, @c412  @before-refit
"""
_EXAMPLES: Final = """\b
Examples:
  share-registry commit adapters/cola -m "first try" --label team=search
  share-registry log --task cola
  share-registry set-alias cola@v1 prod --reason CAB-77
  share-registry export cola@prod serve/
  share-registry tasks --json
"""


def _exit_table() -> str:
    named = {
        code: [
            kind.__name__ if kind is not ShareRegistryError else "anything else" for kind in kinds
        ]
        for code, kinds in EXIT_CODES.items()
    }
    named[2].append("wrong usage")
    lines = [
        f"  {code:<3}  {', '.join(names)}"
        for code, names in sorted({0: ["success"], **named, INTERRUPTED: ["interrupted"]}.items())
    ]
    return "\n".join(["\b", "Exit codes:", *lines])


class _Verbs(click.Group):
    """Loads the module of a verb when the verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        found = getattr(
            import_module(f"share_registry.cli.{_MODULES[cmd_name]}"),
            _FUNCTIONS.get(cmd_name, cmd_name.replace("-", "_")),
        )
        return found if isinstance(found, click.Command) else None


@click.group(
    cls=_Verbs,
    name="share-registry",
    epilog=f"{_REFERENCES}\n{_EXAMPLES}\n{_exit_table()}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(version)s")
def app() -> None:
    """Version control for LoRA adapters.

    Commit, check out, export and trace them under an error budget.

    Options for the registry, the space and the output may stand before or after the verb.
    Data goes to stdout, messages to stderr.
    """


with_common_options(app)


def commands() -> dict[str, click.Command]:
    """Return every verb by name."""
    context = click.Context(app)
    return {
        name: command
        for name in app.list_commands(context)
        if (command := app.get_command(context, name))
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    gc.disable()  # a sixth of the time of `log` goes into looking for garbage among imports
    try:
        code = app.main(args=given, prog_name="share-registry", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _explain(_misused(error), given)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except ShareRegistryError as error:
        return _explain(error, given)
    except OSError as error:
        return _explain(_failed(error), given)
    finally:
        gc.enable()
    return code if isinstance(code, int) else 0


def entry() -> NoReturn:
    """Run the command line of this process and end it.

    Nothing is searched for garbage on the way out.
    """
    code = main()
    gc.freeze()
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = None  # what could not be printed was said by `main`; Python would try again
    sys.exit(code)


def _misused(error: click.ClickException) -> ShareRegistryError:
    """Return wrong usage as an error of ours."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return InvalidInputError(
        error.format_message(),
        hint=f"Run `{context.command_path if context else 'share-registry'} --help`.",
    )


def _failed(error: OSError) -> ShareRegistryError:
    """Return what the operating system refused, such as to print, as an error of ours."""
    where = f" {error.filename}" if error.filename else " the output"
    return StoreError(
        f"could not read or write{where}: {error.strerror or error}.",
        hint="Check the free space and the permissions of where it goes.",
    )


def _explain(error: ShareRegistryError, arguments: Sequence[str]) -> int:
    """Say what went wrong and what to do next, on stderr; return the exit code."""
    from share_registry.cli.output import complain

    complain(
        error,
        json_wanted="--json" in arguments[: arguments.index("--") if "--" in arguments else None],
    )
    return error.exit_code


if __name__ == "__main__":
    entry()
