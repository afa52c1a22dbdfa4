"""Where an adapter lies: in a directory of this machine, or on the Hugging Face Hub."""

import os
from typing import Any, Final

SCHEME: Final = "hf://"


def is_place(source: Any) -> bool:
    """Tell whether a source is a place, and no adapter in memory."""
    return isinstance(source, str | os.PathLike)


def is_on_hub(source: Any) -> bool:
    """Tell whether a source is a location on the Hub."""
    return is_place(source) and os.fspath(source).startswith(SCHEME)


def is_directory(source: Any) -> bool:
    """Tell whether a source is a place on this machine, which can be read again."""
    return is_place(source) and not is_on_hub(source)
