"""The tour runs on what ships, and its figures are those of the registry that it leaves."""

from pathlib import Path
from typing import Any

import pytest

from share_registry.cli.demo import DATA, TASKS, Tour, run
from tests.cli.conftest import Runner


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def toured(place: Path) -> tuple[dict[str, Any], str]:
    """What one tour measured and said."""
    said: list[str] = []
    return dict(run(Tour(root=place, say=said.append)).members), "\n".join(said)


def test_the_tour_measures_what_it_leaves(toured: tuple[dict[str, Any], str], place: Path) -> None:
    measured, _ = toured
    objects = sum(
        path.stat().st_size
        for path in (place / "registry" / "objects").rglob("*")
        if path.is_file()
    )
    raw = sum(
        (DATA / task / version / "adapter_model.safetensors").stat().st_size
        for task in TASKS
        for version in ("v1", "s42")
    )
    raw += sum(
        (DATA / "wn-pos-gloss" / version / "adapter_model.safetensors").stat().st_size
        for version in ("v2", "v3")
    )
    assert measured["raw_bytes"] == raw
    assert objects < measured["store_bytes"] < raw
    assert measured["largest_error"] <= measured["budget"]
    assert measured["same_bytes_later"]
    assert measured["verified"]


def test_the_tour_shows_its_steps_and_says_what_to_type_next(
    toured: tuple[dict[str, Any], str],
) -> None:
    for part in (
        "error",
        "$ share-registry log",
        "wn-pos-gloss@prod",
        "the same bytes",
        "nothing is damaged",
        "Now try",
    ):
        assert part in toured[1]


def test_what_it_leaves_can_be_played_with(
    toured: tuple[dict[str, Any], str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played = Runner(place / "registry", capsys)
    assert len(played("-q", "ls").lines) == 8
    assert played("resolve", "wn-pos-gloss@prod", "-q").lines == [
        "all-minilm-l6-v2/wn-pos-gloss@v3"
    ]


def test_the_tour_needs_a_place_of_its_own(run_new: Runner, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert "empty" in run_new("demo", tmp_path / "taken", code=7).err
