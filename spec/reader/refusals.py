"""The ways in which a reader refuses, apart from each other."""


class DamagedError(Exception):
    """Bytes that break a clause, which the message begins with."""


class NewerError(Exception):
    """Bytes of a later format, which break nothing."""


class RemovedError(Exception):
    """A version that a record removed, or what a note said that is not in the store."""


class LargeError(Exception):
    """Bytes that break nothing and ask for more than a reader must spend."""


# Refuse for a clause, where a condition does not hold
def need(condition, clause, found, error=DamagedError):
    if not condition:
        raise error(f"{clause}: {found if type(found) is str else repr(found):.200}")
