"""The user's day, as the README tells it, on real adapters."""

import shutil
import warnings
from pathlib import Path

import pytest

import share_registry as sr
from tests.registry.anatomy import adapter_size, metadata_bytes
from tests.registry.conftest import DEMO, SPACE, Open
from tests.registry.plain import files, pooled_error, tensors

AGREEMENT = 1e-3
"""The recorded error is the true one to this relative difference."""


def copy(task: str, version: str, directory: Path) -> Path:
    """Lay a demo adapter under a name of its own, as users have them."""
    return Path(shutil.copytree(DEMO / task / version, directory / task))


def test_a_day(open_registry: Open, tmp_path: Path) -> None:
    gloss, antonyms = (
        copy("wn-pos-gloss", "v1", tmp_path / "adapters"),
        copy("wn-syn-ant", "v1", tmp_path / "adapters"),
    )
    with open_registry() as registry:
        commit = registry.commit(gloss)
        assert commit.ref == f"{SPACE}/wn-pos-gloss@v1"
        assert commit.report is not None
        assert commit.report.budget is not None
        assert 0 < commit.report.error <= commit.report.budget
        assert commit.report.bytes_added < commit.report.raw_bytes / 4
        second = registry.commit(
            antonyms, message="run 41", labels={"team": "search"}, metrics={"accuracy": 0.93}
        )
        assert (second.labels["team"], second.metrics["accuracy"], second.message) == (
            "search",
            0.93,
            "run 41",
        )
        adapter = registry.checkout("wn-pos-gloss@v1")
        assert (adapter.ref, adapter.error) == (commit.ref, commit.report.error)
        assert list(adapter.tensors) == list(adapter.state_dict())
        exported = registry.export("wn-pos-gloss@v1", tmp_path / "serve")
        assert exported.path == tmp_path / "serve" / f"wn-pos-gloss-v1-{exported.digest[:8]}"
        assert pooled_error(gloss, exported.path) == pytest.approx(
            commit.report.error, rel=AGREEMENT
        )
        moved = registry.set_alias("wn-pos-gloss@v1", "prod", reason="CAB-77")
        assert (moved.kind, moved.message) == ("alias", "CAB-77")
        assert [entry.number for entry in registry.log(task="wn-pos-gloss")] == [4, 2]
        assert registry.lineage("wn-pos-gloss@prod").nodes[0].ref == commit.ref


def test_the_directory_of_an_export_is_plain_peft(registry: sr.Registry, tmp_path: Path) -> None:
    source = copy("wn-verb-frame", "v1", tmp_path)
    registry.commit(source)
    exported = registry.export("wn-verb-frame", tmp_path / "out").path
    assert (exported / "adapter_config.json").read_bytes() == (
        source / "adapter_config.json"
    ).read_bytes()
    assert {
        name for name in files(source) if name not in ("README.md", "adapter_model.safetensors")
    } <= set(files(exported))
    assert (exported / "head.safetensors").read_bytes() == (
        source / "head.safetensors"
    ).read_bytes()
    assert {key: value.shape for key, value in tensors(exported).items()} == {
        key: value.shape for key, value in tensors(source).items()
    }


def test_peft_loads_an_export_without_a_warning(registry: sr.Registry, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import BertConfig, BertModel

    registry.commit(copy("wn-syn-ant", "v1", tmp_path))
    exported = registry.export("wn-syn-ant", tmp_path / "out").path
    base = BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=64,
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        PeftModel.from_pretrained(base, str(exported))


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in DEMO.glob("*/*/adapter_config.json")),
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
@pytest.mark.parametrize("budget", [0.01, 0.05, 0.2])
def test_the_recorded_error_is_the_true_one_and_within_the_budget(
    folder: Path, budget: float, registry: sr.Registry, tmp_path: Path
) -> None:
    report = registry.commit(folder, task="task", budget=budget).report
    assert report is not None
    true = pooled_error(folder, registry.export("task", tmp_path / "out").path)
    assert true <= budget
    assert true == pytest.approx(report.error, rel=AGREEMENT)
    assert report.error > 0.9 * budget


def test_a_later_version_is_coded_against_the_one_before(registry: sr.Registry) -> None:
    sizes = {}
    for version in ("v1", "v2", "v3"):
        commit = registry.commit(DEMO / "wn-pos-gloss" / version, task="wn-pos-gloss")
        sizes[version] = adapter_size(registry, commit)
    assert max(sizes["v2"], sizes["v3"]) <= 0.6 * sizes["v1"]


def test_what_a_commit_writes_beside_the_symbols_stays_small(registry: sr.Registry) -> None:
    """Record, headers and tables of a MiniLM-size commit stay under 2 kB.

    Its config and layout are stored once.
    """
    registry.commit(DEMO / "wn-syn-ant" / "v1", task="one")
    stored = {digest for digest, _ in registry.context.store.objects()}
    commit = registry.commit(DEMO / "wn-noun-abstract" / "v1", task="two")
    assert metadata_bytes(registry, commit, stored) < 2000
