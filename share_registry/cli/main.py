"""Entry point of `share-registry`.

The verbs, and the one place where errors become messages and exit codes.
"""

import errno
import gc
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from share_registry import __version__
from share_registry.cli.completion import PROGRAM
from share_registry.cli.hints import at_place, for_terminal
from share_registry.cli.output import complain
from share_registry.cli.session import session_of
from share_registry.cli.verb import DIFFERENT, with_common_options
from share_registry.errors import (
    EXIT_CODES,
    CommitInterrupted,
    InvalidInputError,
    ShareRegistryError,
    StoreError,
)
from share_registry.outside.streams import complete_streams

INTERRUPTED: Final = 130
_CLOSED: Final = "Standard output is closed: send what is not wanted to /dev/null."
_UNWRITTEN: Final = "Check the free space and the permissions of where it goes."
# Modules whose commands are the verbs; those that must start at once come first
_MODULES: Final = (
    *(
        "commands.read",
        "commands.check",
        "commands.deliver",
        "commands.write",
        "commands.sharing",
        "commands.maintain",
    ),
    *("commands.copying", "commands.serve", "commands.ui", "commands.shell"),
    *("doctor", "demo"),
)
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
    names = {
        0: ["success"],
        DIFFERENT: ["what diff --exit-code compares differs"],
        INTERRUPTED: ["interrupted"],
    }
    for code, kinds in EXIT_CODES.items():
        names[code] = [kind.__name__ for kind in kinds if kind is not ShareRegistryError]
    names[ShareRegistryError.exit_code].append("anything else")
    names[InvalidInputError.exit_code].append("wrong usage")
    rows = (f"  {code:<3}  {', '.join(names[code])}" for code in sorted(names))
    return "\n".join(["\b", "Exit codes:", *rows])


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for module in _MODULES:
            if command := _commands_of(module).get(cmd_name):
                return command
        return None


def _commands_of(module: str) -> dict[str, click.Command]:
    return {
        # a word of Python stands with an underscore behind it
        name.rstrip("_").replace("_", "-"): member
        for name, member in vars(import_module(f"share_registry.cli.{module}")).items()
        if isinstance(member, click.Command)
    }


@click.group(
    cls=_Verbs,
    name=PROGRAM,
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
    return {name: command for module in _MODULES for name, command in _commands_of(module).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    # the options of every verb, as far as they were read
    options: dict[str, Any] = {}
    # a sixth of the time of `log` goes into looking for garbage among imports
    gc.disable()
    try:
        code = app.main(args=typed, prog_name=PROGRAM, standalone_mode=False, obj=options)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        usage = f"Run `{context.command_path if context else 'share-registry'} --help`."
        return _explain(InvalidInputError(error.format_message(), hint=usage), typed, options)
    except (click.Abort, KeyboardInterrupt) as interrupt:
        return _explain_interrupt(interrupt, options)
    except ShareRegistryError as error:
        return _explain(error, typed, options)
    except OSError as error:
        # such as to print
        is_closed = error.errno == errno.EBADF
        refused = StoreError(
            f"could not read or write {error.filename or 'the output'}: {error.strerror or error}.",
            hint=_CLOSED if is_closed else _UNWRITTEN,
        )
        return _explain(refused, typed, options)
    finally:
        gc.enable()
    return code if isinstance(code, int) else 0


def entry() -> NoReturn:
    """Run the command line of this process and end it.

    Nothing is searched for garbage on the way out.
    """
    complete_streams()
    interrupts: list[int] = []

    def interrupt(number: int, _: object) -> NoReturn:
        interrupts.append(number)
        raise KeyboardInterrupt

    # what asks a process to end is an interrupt: the verb says what it had committed
    signal.signal(signal.SIGTERM, interrupt)
    # where it is ignored, as behind `nohup`, it stays so
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        code = main()
    except Exception:
        # libraries that are interrupted while they load fail in ways of their own
        if not interrupts:
            raise
        code = _explain_interrupt(KeyboardInterrupt(), {})
    gc.freeze()
    try:
        sys.stdout.flush()
    except OSError:
        # what could not be printed was said by `main`; Python would try again
        sys.stdout = None
    sys.exit(code)


def _explain_interrupt(interrupt: BaseException, options: Mapping[str, Any]) -> int:
    """Say what an interrupted verb had committed, where it commits."""
    # click hides what interrupted it behind its own
    cause = interrupt.__cause__ if isinstance(interrupt, click.Abort) else interrupt
    if isinstance(cause, CommitInterrupted):
        click.echo(f"interrupted: {cause.message}", err=True)
        hint = at_place(for_terminal(cause.hint, app), session_of(options))
        click.echo(f"hint: {hint}", err=True)
    else:
        click.echo("interrupted", err=True)
    return INTERRUPTED


def _explain(
    error: ShareRegistryError, arguments: Sequence[str], options: Mapping[str, Any]
) -> int:
    complain(
        error,
        session_of(options),
        root=app,
        json_wanted="--json" in arguments[: arguments.index("--") if "--" in arguments else None],
    )
    return error.exit_code


if __name__ == "__main__":
    entry()
