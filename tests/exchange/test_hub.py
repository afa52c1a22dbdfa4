"""Adapters from the Hub, over HTTP against a stand-in.

Pinned to a commit, never a pickle downloaded, every failure named.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from share_registry.errors import (
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
)
from share_registry.exchange.hub import read_hub
from share_registry.exchange.importers.formats import read_place
from share_registry.outside.files import Outside
from tests.exchange.foreign import SAMPLES
from tests.exchange.hub_state import Hub
from tests.registry import plain

Original = Callable[[str], Path]


def test_a_repository_reads_as_its_directory_pinned_to_the_commit(
    hub: Hub, original: Original
) -> None:
    source = original("plain")
    commit = hub.push("ann/cola-lora", plain.files(source))
    adapter, expected = (
        read_hub("hf://ann/cola-lora", outside=Outside()),
        read_place(source, outside=Outside()),
    )
    assert adapter.source_digest == expected.source_digest
    assert adapter.original == expected.original
    assert adapter.remarks == expected.remarks
    assert (adapter.source.kind, adapter.source.location, adapter.source.revision) == (
        "hub",
        "hf://ann/cola-lora",
        commit,
    )
    assert all(commit in asked for asked in hub.asked if "/resolve/" in asked)


def test_a_revision_may_be_a_branch_or_a_commit(hub: Hub, original: Original) -> None:
    first = hub.push("ann/cola", plain.files(original("plain")))
    second = hub.push("ann/cola", plain.files(original("rslora")), branch="v2.0")
    for revision, commit in (("v2.0", second), (second, second), (first, first), ("main", first)):
        assert read_hub(f"hf://ann/cola@{revision}", outside=Outside()).source.revision == commit
    assert read_hub("hf://ann/cola@v2.0", outside=Outside()).config["use_rslora"] is True


def test_a_folder_of_a_repository_is_read_alone(hub: Hub, original: Original) -> None:
    inner = {f"runs/a/{name}": content for name, content in plain.files(original("plain")).items()}
    hub.push("ann/many", inner | {"README.md": b"outer", "runs/a/deep/x": b"x"})
    adapter = read_hub("hf://ann/many@main/runs/a", outside=Outside())
    assert adapter.attachments["README.md"] == (original("plain") / "README.md").read_bytes()
    assert adapter.source.location == "hf://ann/many/runs/a"
    assert any("deep (no regular file)" in text for text in adapter.remarks)
    with pytest.raises(NotFoundError, match=r"has no adapter_config\.json"):
        read_hub("hf://ann/many", outside=Outside())


def test_pickles_are_named_and_never_downloaded(hub: Hub, original: Original) -> None:
    hub.push(
        "ann/cola",
        plain.files(original("plain")) | {"training_args.bin": b"x", "optimizer.pt": b"x"},
    )
    adapter = read_hub("hf://ann/cola", outside=Outside())
    assert any("training_args.bin (pickle or training state)" in text for text in adapter.remarks)
    assert not [asked for asked in hub.asked if asked.endswith((".bin", ".pt"))]
    files = plain.files(original("plain"))
    hub.push(
        "ann/old", {"adapter_config.json": files["adapter_config.json"], "adapter_model.bin": b"x"}
    )
    with pytest.raises(InvalidInputError, match="pickles are opened where that is asked for alone"):
        read_hub("hf://ann/old", outside=Outside())


def test_what_is_not_there_is_not_found(hub: Hub, original: Original) -> None:
    hub.push("ann/cola", plain.files(original("plain")))
    for location in ("hf://ann/none", "hf://ann/cola@none", "hf://bob/cola"):
        with pytest.raises(NotFoundError, match="is not on the Hub"):
            read_hub(location, outside=Outside())
    with pytest.raises(NotFoundError, match=r"has no adapter_config\.json"):
        read_hub("hf://ann/cola/folder", outside=Outside())


@pytest.mark.parametrize(
    ("status", "kind"), [(401, RefusedError), (403, RefusedError), (500, StoreError)]
)
def test_a_hub_that_refuses_is_an_error_of_ours(
    status: int, kind: type[ShareRegistryError], hub: Hub, original: Original
) -> None:
    hub.push("ann/cola", plain.files(original("plain")))
    hub.failing = status
    with pytest.raises(kind) as caught:
        read_hub("hf://ann/cola", outside=Outside())
    assert caught.value.hint


def test_a_hub_that_cannot_be_reached_is_a_store_error(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be fetched"):
        read_hub("hf://ann/cola", outside=Outside())


LOCATIONS = [
    "hf://",
    "hf://x",
    "hf://a/b@",
    "hf://a/b@x/../y",
    "hf://../b",
    "hf://a/b@x@y",
    "hf://a/b?x=1",
    "hf://a/b\n",
    "http://a/b",
    "hf://a/b//c d",
    "hf://spaces/a/b",
    "hf://datasets/a",
]


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_strange_location_is_refused_without_a_request(location: str, hub: Hub) -> None:
    with pytest.raises(ShareRegistryError, match=r"is not hf://owner/repo\[@revision\]\[/folder\]"):
        read_hub(location, outside=Outside())
    assert hub.asked == []


def test_an_adapter_is_not_looked_for_in_a_data_set(hub: Hub) -> None:
    with pytest.raises(InvalidInputError, match="is of a data set"):
        read_hub("hf://datasets/ann/cola", outside=Outside())
    assert hub.asked == []


def test_a_file_of_another_program_is_read_from_a_repository(hub: Hub) -> None:
    kohya = (SAMPLES / "kohya" / "kohya-alpha.safetensors").read_bytes()
    mlx = plain.files(SAMPLES / "mlx-lm" / "lora")
    commit = hub.push("ann/ink", {"ink.safetensors": kohya, "pytorch_lora.bin": b"\x80\x04."})
    hub.push("ann/mlx", mlx)
    for location in ("hf://ann/ink", "hf://ann/ink/ink.safetensors"):
        adapter = read_hub(location, outside=Outside())
        assert adapter.remarks[0] == "read as a LoRA of kohya-ss or LyCORIS."
        assert adapter.source.revision == commit
    assert read_hub("hf://ann/mlx", outside=Outside()).remarks[0] == "read as an adapter of mlx-lm."
    assert not any(".bin" in asked for asked in hub.asked)


def test_a_repository_of_a_whole_model_is_not_downloaded(hub: Hub) -> None:
    hub.push("ann/model", {"model-00001-of-00002.safetensors": b"x" * 100, "config.json": b"{}"})
    with pytest.raises(InvalidInputError, match="is a whole model"):
        read_hub("hf://ann/model", outside=Outside())
    assert not any("model-00001" in asked for asked in hub.asked)
