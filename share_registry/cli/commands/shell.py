"""What a shell is told, to complete what is typed."""

from typing import Final

import click
from click.shell_completion import get_completion_class

from share_registry.cli.completion import PROGRAM
from share_registry.cli.verb import with_common_options

_SHELLS: Final = ("bash", "fish", "zsh")
# In which click is asked
_VARIABLE: Final = "_SHARE_REGISTRY_COMPLETE"


@with_common_options
@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete verbs, options, references and names.

    \b
    eval "$(share-registry completion bash)"    # in ~/.bashrc, likewise for zsh
    share-registry completion fish > ~/.config/fish/completions/share-registry.fish
    """
    completer = get_completion_class(shell)
    if completer is not None:
        click.echo(completer(context.find_root().command, {}, PROGRAM, _VARIABLE).source())
