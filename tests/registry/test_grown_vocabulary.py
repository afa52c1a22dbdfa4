"""Adapters of one base model whose vocabulary was grown: the same modules with more rows."""

import json
import warnings
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.format.records import MODULE_SHAPES
from tests.exchange import zoo
from tests.exchange.zoo import VOCABULARY, peft
from tests.registry.conftest import Open
from tests.spec.readers import reference

GROWN: Final = VOCABULARY + 3
SPACE: Final = "llama"
CLOSE: Final = 1e-5
"""float32 rounding, against logits of order one."""
CONFIG: Final = "adapter_config.json"
TENSORS: Final = "adapter_model.safetensors"
PREFIX: Final = "base_model.model."
HEAD: Final = f"{PREFIX}lm_head.lora_B.weight"
TABLE: Final = f"{PREFIX}model.embed_tokens.lora_embedding_A"

pytestmark = pytest.mark.filterwarnings("ignore")


def base(vocabulary: int = VOCABULARY) -> Any:
    model: Any = zoo.llama()
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return model


def save(
    directory: Path, vocabulary: int = VOCABULARY, *, seed: int = 1, tables: bool = False
) -> Path:
    """Save a random adapter of a model with this vocabulary, with its tables or without."""
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["embed_tokens", "lm_head", "q_proj"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base(vocabulary), config)
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        model.save_pretrained(directory, save_embedding_layers=tables)
    path = directory / CONFIG
    members = {"base_model_name_or_path": "org/llama", "auto_mapping": None}
    path.write_text(json.dumps(json.loads(path.read_bytes()) | members))
    return directory


def rewrite(source: Path, directory: Path, tensors: dict[str, torch.Tensor]) -> Path:
    directory.mkdir()
    (directory / CONFIG).write_bytes((source / CONFIG).read_bytes())
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(tensors, directory / TENSORS, metadata={"format": "pt"})
    return directory


def padded(source: Path, directory: Path) -> Path:
    """Write an adapter as the same one of the grown model: it leaves the added tokens as they are."""
    tensors = load_file(source / TENSORS)
    more = GROWN - VOCABULARY
    tensors[HEAD] = torch.cat([tensors[HEAD], torch.zeros(more, 4)])
    tensors[TABLE] = torch.cat([tensors[TABLE], torch.zeros(4, more)], dim=1)
    return rewrite(source, directory, tensors)


def logits(directory: Path, vocabulary: int) -> torch.Tensor:
    model = peft.PeftModel.from_pretrained(base(vocabulary), str(directory)).eval()
    with torch.no_grad():
        return torch.as_tensor(model(zoo.TOKENS).logits)


def dense(adapter: sr.Adapter) -> dict[str, torch.Tensor]:
    return {pair.module: pair.scale * pair.b.T @ pair.a for pair in adapter.factor_pairs()}


def test_a_grown_vocabulary_is_the_same_base_model(open_registry: Open, tmp_path: Path) -> None:
    small, grown = save(tmp_path / "small"), save(tmp_path / "grown", GROWN, seed=2)
    with open_registry() as registry:
        first = registry.commit(small, task="cola")
        second = registry.commit(grown, task="cola", budget=0)
        third = registry.commit(save(tmp_path / "third", seed=3), task="cola", budget=0.01)
        remark = "lm_head, model.embed_tokens: a vocabulary of 43, where the space first had 40"
        remarked = [
            any(remark in note for note in commit.reports["cola"].notes)
            for commit in (first, second, third)
        ]
        assert remarked == [False, True, False]
        records = [registry.context.store.record(SPACE, number) for number in (2, 3, 4)]  # type: ignore[arg-type]
        requires = [json.loads(bytes(record or b""))["requires"] for record in records]
        assert requires == [[], [MODULE_SHAPES], []]
        assert registry.verify(level="deep").ok
        registry.rebuild()
        preview = registry.commit(grown, task="sst2", dry_run=True)
        assert any(remark in note for note in preview.reports["sst2"].notes)
        path = registry.export("cola@v2", tmp_path, name="out").path
    assert torch.equal(logits(path, GROWN), logits(grown, GROWN))
    state = reference.Store(tmp_path / "store").log(SPACE)
    assert len(state.commits) == 4


def test_sizes_of_a_vocabulary_come_in_one_commit(registry: sr.Registry, tmp_path: Path) -> None:
    sources = {"a": save(tmp_path / "a", GROWN), "b": save(tmp_path / "b", seed=2)}
    commit = registry.commit_many(sources)
    assert "a vocabulary of 40, where the space first had 43" in " ".join(commit.reports["b"].notes)
    with sr.Materializer(registry, dtype="float32") as materializer:
        adapters = materializer.materialize(["a", "b"])
    for task, adapter in adapters.items():
        assert torch.equal(adapter.tensors[HEAD], registry.checkout(task).tensors[HEAD])


@pytest.mark.parametrize(
    ("key", "axis"),
    [
        (HEAD.replace("lora_B", "lora_A"), 1),
        (TABLE[:-1] + "B", 0),
        (f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight", 0),
    ],
)
def test_what_no_vocabulary_explains_is_of_another_base(
    key: str, axis: int, registry: sr.Registry, tmp_path: Path
) -> None:
    source = save(tmp_path / "source")
    registry.commit(source, task="cola")
    tensors = load_file(source / TENSORS)
    tensors[key] = torch.cat([tensors[key], tensors[key]], dim=axis)
    with pytest.raises(sr.RefusedError) as caught:
        registry.commit(rewrite(source, tmp_path / "other", tensors), task="other")
    assert "another base model" in (caught.value.hint or "")


def test_adapters_compare_over_sizes_of_a_vocabulary(registry: sr.Registry, tmp_path: Path) -> None:
    small = save(tmp_path / "small")
    registry.commit(small, task="small", budget=0)
    registry.commit(padded(small, tmp_path / "padded"), task="padded", budget=0)
    nearest = registry.similar("small").neighbours[0]
    assert nearest.cosine == pytest.approx(1, abs=CLOSE)
    assert nearest.distance < CLOSE
    assert registry.diff("small", "padded").tasks[0].change == pytest.approx(0, abs=CLOSE)
    assert len(registry.analyze().continued) == 1


@pytest.mark.parametrize("tables", [False, True])
def test_adapters_merge_over_sizes_of_a_vocabulary(
    *, tables: bool, registry: sr.Registry, tmp_path: Path
) -> None:
    for task, vocabulary, seed in (("small", VOCABULARY, 1), ("grown", GROWN, 2)):
        source = save(tmp_path / task, vocabulary, seed=seed, tables=tables)
        registry.commit(source, task=task, budget=0)
    report = registry.merge({"small": 0.25, "grown": 0.75}, task="both", budget=0).report
    assert report is not None
    assert any("smaller vocabulary" in note for note in report.notes)
    small, grown, both = (dense(registry.checkout(task)) for task in ("small", "grown", "both"))
    for module, dW in both.items():
        expected = 0.75 * grown[module]
        rows, columns = small[module].shape
        expected[:rows, :columns] += 0.25 * small[module]
        assert (dW - expected).norm() < CLOSE * expected.norm()
    path = registry.export("both", tmp_path, name="merged").path
    assert logits(path, GROWN).isfinite().all()


def test_a_refit_fits_the_most_common_size_and_loses_no_other(
    registry: sr.Registry, tmp_path: Path
) -> None:
    for task, vocabulary in (("a", VOCABULARY), ("b", GROWN), ("c", GROWN)):
        registry.commit(save(tmp_path / task, vocabulary, seed=ord(task)), task=task, budget=0)
    head = registry.checkout("a").tensors[HEAD]
    registry.refit(max_rank=2, allow_loss=True)
    basis = registry.basis().modules["lm_head"]
    assert basis.b.shape[1] == GROWN
    assert torch.equal(registry.checkout("a").tensors[HEAD], head)
    registry.commit(save(tmp_path / "d", VOCABULARY, seed=9), task="d")
    registry.refit(max_rank=3, force=True)
    assert registry.verify(level="deep").ok


def test_the_paper_s_protocol_keeps_modules_of_another_size(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space(SPACE, base_model="org/llama", policy=sr.Policy.share(k=4))
    for task, vocabulary in (("a", VOCABULARY), ("b", VOCABULARY), ("c", GROWN)):
        source = save(tmp_path / task, vocabulary, seed=ord(task))
        registry.commit(source, task=task)
    stored = registry.checkout("c").tensors[HEAD]
    assert torch.equal(stored, load_file(tmp_path / "c" / TENSORS)[HEAD])


def test_a_model_of_another_size_is_refused_by_name(registry: sr.Registry, tmp_path: Path) -> None:
    registry.commit(save(tmp_path / "grown", GROWN), task="grown")
    adapter = registry.checkout("grown")
    with pytest.raises(sr.InvalidInputError, match="does not fit") as caught:
        adapter.apply_to(base())
    assert "resize_token_embeddings" in (caught.value.hint or "")
    adapter.apply_to(base(GROWN))
