"""Arguments that name a file or a directory."""

import os
from pathlib import Path
from typing import Final

import click
from typing_extensions import override

from share_registry.errors import InvalidInputError, ensure

_STDOUT: Final = "-"


class TypedPath(click.Path):
    """A path as it was typed: `Path` takes an empty one, of a variable that is not set, for `.`.

    A file in the way of a directory is refused by the library, from Python and from here alike.

    Args:
        is_output: Whether a file is written there. It is none of the name `-`, which elsewhere
            means standard output.
    """

    def __init__(self, *, is_output: bool = False) -> None:
        super().__init__(path_type=Path, dir_okay=not is_output)
        self._is_output = is_output

    @override
    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Return the path. Raises InvalidInputError."""
        argument = param.get_error_hint(ctx) if param and ctx else self.name
        ensure(
            str(value) != "",
            InvalidInputError(
                f"{argument} is empty, expected a path.", hint="Name one; '.' is this directory."
            ),
        )
        ensure(
            not self._is_output or str(value) != _STDOUT,
            InvalidInputError(
                f"{argument} is '-', expected a file: it is not written to standard output.",
                hint="Name a file; ./- is one of that name.",
            ),
        )
        return super().convert(value, param, ctx)
