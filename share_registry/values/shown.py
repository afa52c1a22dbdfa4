"""How a result shows itself: as text, as one line, as HTML.

The rendering is imported when it is asked for.
"""


def text(value: object) -> str:
    """Return a result as text."""
    from share_registry.values import render

    return render.text(render.sheet(value))


def line(value: object) -> str:
    """Return a result as one line."""
    from share_registry.values import render

    return f"<{type(value).__name__} {render.line(value)}>"


def html(value: object) -> str:
    """Return a result as HTML."""
    from share_registry.values import render

    return render.html(render.sheet(value))
