"""Results as JSON values: what the command line prints with `--json`, and what servers answer.

A document has the members of the returned value, by name: times are RFC 3339 in UTC, paths and
digests strings, absent values null; lists stay lists. Members are only ever added (docs/cli.md
lists them).
"""

import dataclasses
import math
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path

from share_registry.times import timestamp
from share_registry.values.commits import Log


def document(value: object) -> object:
    """Return a result as JSON values."""
    match value:
        case Log():
            return [document(commit) for commit in value]
        case datetime():
            return timestamp(value)
        case Path():
            return str(value)
        case Enum():
            return value.value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(name): document(member) for name, member in value.items()}
        case list() | tuple() | set() | frozenset():
            return [document(member) for member in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = (field.name for field in dataclasses.fields(value))
    return {
        name: document(getattr(value, name)) for name in (*fields, *getattr(value, "derived", ()))
    }
