"""The picture of the README is what `python -m docs.picture` draws."""

from docs.picture import PICTURE, commit_versions, draw


def test_the_picture_is_the_output_of_the_script() -> None:
    assert PICTURE.read_text(encoding="utf-8") == draw(commit_versions())
