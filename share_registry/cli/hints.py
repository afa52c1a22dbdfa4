"""What an error says of Python, said for the command line: `task='cola'` is `--task cola` there."""

import re
from typing import Final

# The next step after an error that names none
FALLBACK: Final = "Run `share-registry doctor`."
# Parameters whose option is not called like them
_SPELLED: Final = {"labels": "label", "metrics": "metric", "base_labels": "base-label"}
_QUOTES: Final = "'\""
# Phrases that have no counterpart of their own, and what is said instead
_PHRASES: Final = (
    (r"space=(?:\.\.\.)?(?:,| or) -s", "-s"),
    (r"store= \(--store\)", "--store"),
    (
        r"(?:Open|open) (?:it )?with mode 'w'",
        "Use a verb that writes, such as `share-registry init`",
    ),
    (r"(?:Create it|create it) with mode 'c' or", "Create it with"),
    (r"open it with mode 'r'", "use verbs that only read"),
    (r"mode '([crw])'", r"a verb that opens it with mode \1"),
    (r"Give None for all", "Give 0 for all"),
)
_ARGUMENT: Final = re.compile(
    r"(?<![\w\"'=-])(?P<name>[a-z][a-z_]+)="
    r"(?P<value>'[^']*'|\"[^\"]*\"|True|False|\.\.\.|\d[\w.]*\w|\d)?(?![\w=])"
)


def for_terminal(hint: str) -> str:
    """Return a hint with parameters as options: `word=value` is `--word value`, a flag is `--word`.

    FALLBACK for none.
    """
    for phrase, said in _PHRASES:
        hint = re.sub(phrase, said, hint)
    return re.sub(r"\bbase_labels\b", "--base-label", _ARGUMENT.sub(_option, hint)) or FALLBACK


def _option(argument: re.Match[str]) -> str:
    name = _SPELLED.get(argument["name"], argument["name"].replace("_", "-"))
    value = argument["value"] or "..."
    if value in ("...", "True"):
        return f"--{name}"
    return f"--no-{name}" if value == "False" else f"--{name} {value.strip(_QUOTES)}"
