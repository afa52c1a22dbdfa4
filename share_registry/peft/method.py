"""The name under which PEFT knows the method.

PEFT keeps the names of its methods in an enum, and a method from outside has to add its own there.
"""

from enum import Enum
from typing import Final

NAME: Final = "SHARE"
# What the names of all its parameters begin with
PREFIX: Final = "share_"


def add_name(names: type[Enum]) -> None:
    """Add the method's name to the enum, once."""
    if NAME in names.__members__:
        return
    member = str.__new__(names, NAME)  # type: ignore[type-var]
    member._name_, member._value_ = NAME, NAME
    names._member_map_[NAME] = member
    names._member_names_.append(NAME)
    names._value2member_map_[NAME] = member
    type.__setattr__(names, NAME, member)
