"""Draws every picture again: `python -m docs.pictures`."""

from docs.pictures.gallery import FOLDER, PICTURES

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
