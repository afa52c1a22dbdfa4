"""Adapters with more beside the tensors than a note can say: kept as far as limits go, and said."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import share_registry as sr
from tests.cli.tiny import write_adapter

LONG = "n" * 240
HEADS = [f"head{number}" for number in range(2000)]
FOLDERS = [{"path": f"folder{number}"} for number in range(2000)]


def with_files(directory: Path, names: list[str], content: bytes = b"x") -> None:
    for name in names:
        (directory / name).write_bytes(content)


def with_config(directory: Path, **fields: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


CROWDED: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "5,000 files": (
        lambda directory: with_files(directory, [f"{number:04}.txt" for number in range(5000)]),
        "not kept: 1024.txt (over the limit of 1024 files), 1025.txt",
    ),
    "long names": (
        lambda directory: with_files(directory, [f"{i:04}{LONG}.pkl" for i in range(1000)]),
        f"not kept: 0000{LONG}.pkl (pickle",
    ),
    "heads without a tensor": (
        lambda directory: with_config(directory, modules_to_save=HEADS),
        "modules_to_save names head0, head1, head2 and 1997 more",
    ),
    "fields that nobody knows": (
        lambda directory: with_config(directory, **{f"{i}" * 15_000: 1 for i in range(9)}),
        "000000",
    ),
    "heads with long names": (
        lambda directory: with_config(directory, modules_to_save=["h" * 9000, "i" * 9000]),
        "hhhh",
    ),
    "folders of a list": (
        lambda directory: with_files(directory, ["modules.json"], json.dumps(FOLDERS).encode()),
        "modules.json (it needs folder0, folder1, folder2 and 1997 more)",
    ),
}


@pytest.mark.parametrize("crowd", CROWDED)
def test_an_adapter_with_much_beside_it_is_committed_with_a_short_remark(
    crowd: str, registry: sr.Registry, tmp_path: Path
) -> None:
    fill, text = CROWDED[crowd]
    fill(write_adapter(tmp_path / "a", seed=1))
    commit = registry.commit(tmp_path / "a", task="a")
    remarks = commit.reports["a"].notes
    assert any(text in remark for remark in remarks), remarks
    assert all(len(remark) <= 4096 for remark in remarks)
    assert registry.verify("deep").ok


def test_files_up_to_the_limit_are_kept(registry: sr.Registry, tmp_path: Path) -> None:
    names = [f"{number:04}{LONG}" for number in range(1024)]
    with_files(write_adapter(tmp_path / "a", seed=1), names)
    registry.commit(tmp_path / "a", task="a")
    assert sorted(registry.checkout("a").attachments) == names


def test_labels_that_no_note_has_room_for_are_refused(
    registry: sr.Registry, tmp_path: Path
) -> None:
    labels = {f"label{number}": "x" * 4000 for number in range(4500)}
    write_adapter(tmp_path / "a", seed=1)
    with pytest.raises(sr.InvalidInputError, match=r"bytes, more than the limit of 16777216"):
        registry.commit(tmp_path / "a", task="a", labels=labels)
    registry.commit(tmp_path / "a", task="a")
    with pytest.raises(sr.InvalidInputError, match=r"more than the limit of 16777216") as caught:
        registry.annotate("a", labels=labels)
    assert "fewer labels" in caught.value.hint
    assert registry.tasks()[0].version == 1
