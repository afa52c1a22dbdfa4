"""One limit for configs: readers accept what a commit accepts, and nothing larger comes in."""

import json
import re
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.exchange.config import MAX_CONFIG_BYTES
from tests.cli.tiny import write_adapter

PACKAGE = Path(sr.__file__).parent


def write_with_config(directory: Path, *, seed: int, config_bytes: int) -> Path:
    """Write an adapter whose config has exactly so many bytes."""
    path = write_adapter(directory, seed=seed) / "adapter_config.json"
    config = json.loads(path.read_text())
    config["padding"] = []
    missing = config_bytes - len(json.dumps(config))
    config["padding"] = ["x" * 60_000] * ((missing - 8) // 60_004)
    config["padding"].append("x" * (config_bytes - len(json.dumps(config)) - 4))
    path.write_text(json.dumps(config))
    assert path.stat().st_size == config_bytes
    return directory


def test_the_largest_config_that_a_commit_accepts_is_read_everywhere(
    registry: sr.Registry, tmp_path: Path
) -> None:
    for seed, task in enumerate(("a", "b", "c"), start=1):
        directory = write_with_config(tmp_path / task, seed=seed, config_bytes=MAX_CONFIG_BYTES)
        registry.commit(directory, task=task, keep_original=task == "a")
    written = (tmp_path / "b" / "adapter_config.json").read_bytes()
    assert (
        registry.checkout("a", exact=True).config_bytes
        == (tmp_path / "a" / "adapter_config.json").read_bytes()
    )
    assert registry.checkout("b").config_bytes == written
    exported = registry.export("b", tmp_path / "exported")
    assert (exported.path / "adapter_config.json").read_bytes() == written
    registry.refit(max_rank=2, force=True)
    registry.similar("a")
    with sr.Materializer(registry) as materializer:
        assert set(materializer.materialize(["a", "b"])) == {"a", "b"}
    assert registry.verify("deep").ok


def test_a_larger_config_is_refused_where_it_comes_in(
    registry: sr.Registry, tmp_path: Path
) -> None:
    directory = write_with_config(tmp_path / "a", seed=1, config_bytes=MAX_CONFIG_BYTES + 1)
    with pytest.raises(sr.InvalidInputError, match=f"limit of {MAX_CONFIG_BYTES}"):
        registry.commit(directory, task="a")
    assert registry.spaces() == []


def test_a_merge_whose_config_would_be_larger_is_refused(
    registry: sr.Registry, tmp_path: Path
) -> None:
    for seed, task in enumerate(("a", "b"), start=1):
        directory = write_with_config(tmp_path / task, seed=seed, config_bytes=MAX_CONFIG_BYTES)
        registry.commit(directory, task=task)
    with pytest.raises(sr.InvalidInputError, match=f"limit of {MAX_CONFIG_BYTES}"):
        registry.merge({"a": 0.5, "b": 0.5}, task="merged")
    assert [task.name for task in registry.tasks()] == ["a", "b"]


def test_the_limit_stands_in_one_place() -> None:
    holders = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\w*CONFIG_BYTES\b.*=", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert holders == ["exchange/config.py"]
