"""Which picture is drawn by what."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs.pictures import concepts, peers, versions

FOLDER: Final = Path(__file__).parent
PICTURES: Final[Mapping[str, Callable[[], str]]] = {
    "versions.svg": lambda: versions.draw(versions.commit_versions()),
    "places.svg": concepts.draw_places,
    "history.svg": concepts.draw_history,
    "rows.svg": concepts.draw_rows,
    "budgets.svg": lambda: concepts.draw_budget(*concepts.measure_budgets()),
    "tools.svg": peers.draw_tools,
    "peers.svg": peers.draw_peers,
    "accuracy.svg": peers.draw_accuracy,
    "lossless.svg": peers.draw_lossless,
    "errors.svg": peers.draw_errors,
    "training.svg": peers.draw_training,
}
