"""What is to be imported: directories of adapters, and lists in CSV."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import share_registry as sr
from share_registry.errors import ShareRegistryError
from share_registry.exchange.import_list import expand, read_list
from share_registry.outside.files import Outside
from share_registry.values.imports import ImportOutcome, ImportSource
from tests.exchange.foreign import SAMPLES

OUTSIDE = Outside()


def _adapters(root: Path, *places: str) -> Path:
    for place in places:
        (root / place).mkdir(parents=True)
        (root / place / "adapter_config.json").write_text("{}")
    return root


def _tasks(root: Path) -> dict[str, str | None]:
    return {
        Path(item.adapter).relative_to(root).as_posix(): item.task
        for item in expand(root, outside=OUTSIDE)
        if isinstance(item, ImportSource)
    }


def _list(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_every_adapter_below_a_directory_is_named_after_its_folder(tmp_path: Path) -> None:
    root = _adapters(tmp_path / "runs", "cola", "sst2/final", "deep/er/qnli/checkpoint-500", "b c")
    (root / "notes").mkdir()
    assert _tasks(root) == {
        "b c": "b-c",
        "cola": "cola",
        "deep/er/qnli/checkpoint-500": "qnli",
        "sst2/final": "sst2",
    }
    assert [item.adapter for item in expand(root / "cola", outside=OUTSIDE)] == [root / "cola"]  # type: ignore[union-attr]
    assert expand("hf://a/b", outside=OUTSIDE) == [ImportSource(adapter="hf://a/b")]


def test_checkpoints_of_one_run_are_not_guessed_to_be_versions(tmp_path: Path) -> None:
    root = _adapters(tmp_path / "runs", "cola/checkpoint-1", "cola/checkpoint-2", "sst2")
    items = expand(root, outside=OUTSIDE)
    refused = [item for item in items if isinstance(item, ImportOutcome)]
    assert [Path(item.source).name for item in refused] == ["checkpoint-1", "checkpoint-2"]
    assert "2 adapters would be of task 'cola'" in refused[0].reason
    assert "from_file=" in refused[0].hint
    assert _tasks(root) == {"sst2": "sst2"}


def test_folders_called_after_versions_are_versions_in_their_order(tmp_path: Path) -> None:
    numbers = (1, 2, 9, 10)
    root = _adapters(
        tmp_path / "runs",
        *(f"cola/v{number}" for number in numbers),
        "cola/s42",
        "a/mrpc/v1",
        "b/mrpc/v1",
        "sst2",
        "wnli/V2",
    )
    items = expand(root, outside=OUTSIDE)
    named = [item for item in items if isinstance(item, ImportSource)]
    assert [(item.task, Path(item.adapter).relative_to(root).as_posix()) for item in named] == [
        *(("cola", f"cola/v{number}") for number in numbers),
        ("sst2", "sst2"),
        ("wnli", "wnli/V2"),
    ]
    # which seed comes first, and which of two folders, is not known
    assert sorted(
        Path(item.source).relative_to(root).as_posix()
        for item in items
        if isinstance(item, ImportOutcome)
    ) == ["a/mrpc/v1", "b/mrpc/v1", "cola/s42"]


def test_an_adapter_without_a_name_is_refused_and_told_of_the_list(tmp_path: Path) -> None:
    root = _adapters(tmp_path / "runs", "final", "checkpoint-3")
    outcomes = expand(root, outside=OUTSIDE)
    assert sorted(
        Path(each.source).name for each in outcomes if isinstance(each, ImportOutcome)
    ) == [
        "checkpoint-3",
        "final",
    ]
    for each in outcomes:
        assert isinstance(each, ImportOutcome)
        assert "is generic, expected one that names a task" in each.reason
        assert "from_file=" in each.hint


def test_a_directory_without_adapters_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(sr.NotFoundError, match="no adapter in"):
        expand(tmp_path / "empty", outside=OUTSIDE)


def test_a_list_has_a_row_for_each_adapter(tmp_path: Path) -> None:
    path = _list(
        tmp_path,
        "\ufeffsource,task,space,message,labels,label.team,metrics,metric.f1,source_time,derived_from\r\n"
        'a/b,cola,s,"one, two","x=1; y=2",red,acc=.5,0.25,2026-01-02,cola@v1; sst2\r\n'
        "hf://o/r@main,,,,,,,,,\r\n",
    )
    first, second = read_list(path, outside=OUTSIDE)
    assert first == ImportSource(
        adapter=tmp_path / "a/b",
        task="cola",
        space="s",
        message="one, two",
        labels={"x": "1", "y": "2", "team": "red"},
        metrics={"acc": 0.5, "f1": 0.25},
        derived_from=("cola@v1", "sst2"),
        source_time="2026-01-02",
    )
    assert second == ImportSource(adapter="hf://o/r@main")


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (item,) = read_list(_list(tmp_path, "source\n/some/where\n"), outside=OUTSIDE)
    assert item.adapter == Path("/some/where")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no row"),
        ("source\n", "has no row"),
        ("path,task\na,b\n", "unknown column 'path'"),
        ("task\na\n", "no column 'source'"),
        ("source,metric.\na,1\n", "unknown column 'metric.'"),
        ("source,task\na\n", "row 2 has another number of cells"),
        ("source,task\na,b\nc,d,e\n", "row 3 has another number of cells"),
        ("source\n \n", "row 2 names no source"),
        ("source,labels\na,x\n", "'x' is not NAME=VALUE"),
        ("source,labels\na,=x\n", "'=x' is not NAME=VALUE"),
        ("source,metric.f1\na,high\n", "metric f1='high' is not a number"),
        ('source\n"a\n', "not a CSV file"),
        ("source,source\na,b\n", "column 'source' more than once"),
    ],
)
def test_a_list_that_cannot_be_read_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(sr.InvalidInputError, match=message) as caught:
        read_list(_list(tmp_path, text), outside=OUTSIDE)
    assert caught.value.hint


def test_a_list_in_another_encoding_or_missing_is_said(tmp_path: Path) -> None:
    path = _list(tmp_path, "source\nk\u00fc\n", "latin-1")
    errors: list[type[ShareRegistryError]] = [sr.InvalidInputError, sr.NotFoundError]
    for place, error in zip((path, tmp_path / "none.csv"), errors, strict=True):
        with pytest.raises(error):
            read_list(place, outside=OUTSIDE)


def test_files_of_other_programs_are_found_beside_directories_of_peft(tmp_path: Path) -> None:
    _adapters(tmp_path, "llm/summaries")
    copies = {
        "ink/v1.safetensors": "kohya/kohya.safetensors",
        "oil/v1.safetensors": "kohya/kohya.safetensors",
        "brush/by-a/brush.safetensors": "lycoris/locon.safetensors",
        "brush/by-b/brush.safetensors": "lycoris/locon.safetensors",
        "flux/pytorch_lora_weights.safetensors": "diffusers/sdxl-plain/pytorch_lora_weights.safetensors",
    }
    for place, sample in copies.items():
        (tmp_path / place).parent.mkdir(parents=True)
        shutil.copy(SAMPLES / sample, tmp_path / place)
    save_file({"model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    (tmp_path / "notes.safetensors").write_text("no tensors")
    assert _tasks(tmp_path) == {
        "brush/by-a/brush.safetensors": "by-a",
        "brush/by-b/brush.safetensors": "by-b",
        "flux/pytorch_lora_weights.safetensors": "flux",
        "ink/v1.safetensors": "ink",
        "llm/summaries": "summaries",
        "oil/v1.safetensors": "oil",
    }
