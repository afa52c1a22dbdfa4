"""A figure that a notebook shows as a picture: it would show none of those that pyplot has not."""

from io import BytesIO
from typing import Final

from matplotlib.figure import Figure

# Twice as many as the screen's, for screens with twice as many
_DPI: Final = 144


class ShownFigure(Figure):
    """A figure without pyplot, which is a picture where it is the value of a notebook's cell."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        content = BytesIO()
        self.savefig(content, format="png", dpi=_DPI)
        width, height = (int(inches * _DPI / 2) for inches in self.get_size_inches())
        return content.getvalue(), {"width": width, "height": height}
