"""The pictures of the documentation are what `python -m docs.pictures` draws."""

import pytest

from docs.pictures.gallery import FOLDER, PICTURES


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_picture_is_the_output_of_its_script(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PICTURES[name]()


def test_every_picture_has_a_script() -> None:
    assert {path.name for path in FOLDER.glob("*.svg")} == set(PICTURES)
