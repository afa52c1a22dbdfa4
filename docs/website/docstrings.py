"""An extension of griffe, which reads the docstrings: a list of names may be wrapped there."""

import re
from typing import Any, Final

from griffe import Extension, Object

_WRAPPED: Final = re.compile(r"^( +(?:\w+, )*\w+,)\n +(?=\w)", re.MULTILINE)


class JoinedNames(Extension):
    """Joins `first, second,` and `third: text` on the line below, which are one entry."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Join the names in the docstring of an object."""
        if not obj.docstring:
            return
        count = 1
        while count:
            obj.docstring.value, count = _WRAPPED.subn(r"\1 ", obj.docstring.value)
