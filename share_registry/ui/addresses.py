"""Where things are: the path of each page."""

from urllib.parse import quote, urlencode

from share_registry.errors import InvalidInputError
from share_registry.names import Selector, parse_reference


def space_path(space: str) -> str:
    """Return the page of a space."""
    return f"/spaces/{quote(space, safe='')}"


def version_path(ref: str) -> str:
    """Return the page of a version or task, `space/task` or `space/task@v3`."""
    space, _, version = ref.partition("/")
    return f"/tasks/{quote(space, safe='')}/{quote(version, safe='@~')}"


def commit_path(space: str, number: int) -> str:
    """Return the page of a commit."""
    return f"/commits/{quote(space, safe='')}/c{number}"


def diff_path(a: str, b: str) -> str:
    """Return the page that compares two references."""
    return with_query("/diff", a=a, b=b)


def reference_path(text: str) -> str:
    """Return the page of what a text names, "" where it is no full reference."""
    try:
        asked = parse_reference(text)
    except InvalidInputError:
        return ""
    if asked.space is None:
        return ""
    if asked.task is not None:
        return version_path(text)
    return commit_path(asked.space, int(asked.value)) if asked.selector is Selector.COMMIT else ""


def with_query(path: str, **parts: object) -> str:
    """Return a path with a query of those parts that are not empty."""
    query = urlencode({name: part for name, part in parts.items() if part not in (None, "")})
    return f"{path}?{query}" if query else path
