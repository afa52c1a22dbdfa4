"""LoRA in GGUF for llama.cpp: the function of the adapter, under names and in an order of its own.

Read back by the package gguf alone, by what llama.cpp does with it, and by our importer. The tensors
were also compared with those of llama.cpp's convert_lora_to_gguf.py: `check_llama_cpp.py`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import share_registry as sr
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_config import ARCHITECTURES, BaseConfig, parse_base_config
from share_registry.exchange.export_files import CardFacts
from share_registry.exchange.gguf_adapter import gguf_adapter
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_directory import adapter_of
from share_registry.outside.files import Outside
from tests.exchange import consumers, zoo
from tests.exchange.foreign import SAME, distance, read, updates
from tests.exchange.test_gguf import permute
from tests.exchange.zoo import CASES

Original = Callable[[str], Path]

WRITTEN = (
    *("all_patterns", "alora", "alpha_pattern", "bf16", "embedding", "exclude", "fp16", "gaussian"),
    *("layers", "monteclora", "orthogonal", "plain", "rank_pattern", "regex", "rslora", "velora"),
)
REFUSED = {
    "bias_all": r"LayerNorm\.bias",
    "classifier": "LlamaForSequenceClassification",
    "gpt2_embedding": r"transformer\.wte",
    "bias_lora_only": "base_layer.bias",
    "dora": "use_dora",
    "lora_bias": "lora_bias",
    "modules_to_save": r"lm_head\.weight",
    "replicated": "layer_replication",
    "tied": "lm_head",
    "trainable_tokens": "trainable_token_indices",
}
HALF = 1e-3
"""Eleven bits of a factor, each of two."""
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 40,
}


def base_file(name: str, folder: Path) -> Path:
    """Write the config.json of a case's base model."""
    model: Any = CASES[name].base()
    path = folder / "config.json"
    classes = {"architectures": [type(model).__name__]}
    path.write_text(json.dumps(model.config.to_dict() | classes, default=str))
    return path


def base(kind: str, **config: object) -> BaseConfig:
    content = json.dumps(SIZES | {"architectures": [kind]} | config).encode()
    return parse_base_config(content, place="config.json")


def write(
    adapter: Adapter, config: BaseConfig, path: Path, dtype: torch.dtype = torch.float32
) -> tuple[str, ...]:
    """Write an adapter for llama.cpp, and return the notes."""
    card = CardFacts(base_model="acme/base", ref="space/task@v3")
    written = gguf_adapter(adapter, config, card=card, dtype=dtype, outside=Outside())
    path.write_bytes(written.content)
    return written.notes


def loaded(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the entries of a file and dW of every tensor, as llama.cpp computes them."""
    reader = gguf.GGUFReader(path)
    entries = {key: field.contents() for key, field in reader.fields.items()}
    raw = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    alpha, deltas = entries["adapter.lora.alpha"], {}
    for key in raw:
        if not key.endswith(".lora_b"):
            continue
        name, b = key.removesuffix(".lora_b"), raw[key].double()
        a = raw[f"{name}.lora_a"].double()
        a = a.T if name == "token_embd.weight" else a
        deltas[name.removesuffix(".weight")] = float(alpha) / b.shape[-1] * (b @ a)
    return entries, deltas


def of(tensors: dict[str, torch.Tensor], **config: object) -> Adapter:
    """Return an adapter of pairs by module: A, B."""
    members = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": "all-linear"}
    return adapter_of(
        {f"base_model.model.{key}.weight": tensor for key, tensor in tensors.items()},
        json.dumps(members | config).encode(),
    )


def pairs(module: str, rows: int, columns: int, rank: int = 4) -> dict[str, torch.Tensor]:
    seed = torch.Generator().manual_seed(len(module))
    return {
        f"{module}.lora_A": torch.randn(rank, columns, generator=seed),
        f"{module}.lora_B": torch.randn(rows, rank, generator=seed),
    }


@pytest.mark.parametrize("name", WRITTEN)
def test_the_file_is_the_function_of_the_adapter(
    name: str, original: Original, tmp_path: Path
) -> None:
    adapter = read_place(original(name), outside=Outside())
    place = base_file(name, tmp_path)
    config = parse_base_config(place.read_bytes(), place=str(place))
    write(adapter, config, tmp_path / "mine.gguf")
    entries, deltas = loaded(tmp_path / "mine.gguf")
    expected = updates(adapter)
    assert len(deltas) == len(expected)
    for module, delta in expected.items():
        side = module.rpartition(".")[2].removesuffix("_proj")
        number = module.split(".")[2] if ".layers." in f".{module}" else ""
        own = "output" if side == "o" else side
        key = {"embed_tokens": "token_embd"}.get(side, f"blk.{number}.attn_{own}")
        key = f"blk.{number}.ffn_{side}" if ".mlp." in module else key
        if side in ("q", "k"):
            assert config.turned is not None
            heads = config.turned.heads if side == "q" else config.turned.kv_heads
            delta = permute(delta, heads)
        delta = delta.T if key == "token_embd" else delta
        assert distance(deltas[key], delta) < SAME
    assert (entries["general.type"], entries["adapter.type"]) == ("adapter", "lora")
    assert (entries["general.architecture"], entries["general.name"]) == ("llama", "space/task@v3")
    if name == "alora":
        assert entries["adapter.alora.invocation_tokens"] == [3, 4]
        return
    again = updates(read(tmp_path / "mine.gguf"))
    assert all(distance(again[module], delta) < SAME for module, delta in expected.items())
    assert read(tmp_path / "mine.gguf").config["base_model_name_or_path"] == "acme/base"


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_llama_cpp_cannot_hold_is_refused_by_name(
    name: str, original: Original, tmp_path: Path
) -> None:
    adapter = read_place(original(name), outside=Outside())
    place = base_file(name, tmp_path)
    with pytest.raises(sr.RefusedError, match=REFUSED[name]):
        write(adapter, parse_base_config(place.read_bytes(), place="x"), tmp_path / "mine.gguf")
    assert not (tmp_path / "mine.gguf").exists()


@pytest.mark.parametrize("name", ["attention", "convolution", "grouped"])
def test_convolutions_are_refused_by_name(name: str, original: Original, tmp_path: Path) -> None:
    adapter = read_place(original(name), outside=Outside())
    module = "line" if name == "convolution" else "plane"
    with pytest.raises(sr.RefusedError, match=rf"it has .*{module}.*, expected pairs of matrices"):
        write(adapter, base("LlamaForCausalLM"), tmp_path / "mine.gguf")


# What b11549 made of the directories of the zoo, as `check_llama_cpp.py` has seen; it refused the
# rest
COMPUTED_RIGHTLY = {
    *("alora", "bert", "bf16", "embedding", "exclude", "fp16", "gaussian", "layers"),
    *("orthogonal", "plain", "rank_pattern", "regex"),
}
SCALED_WRONGLY = {"all_patterns", "alpha_pattern", "rslora"}


@pytest.mark.parametrize("name", sorted(CASES))
def test_llama_cpp_b11549_is_said_to_do_what_it_did(name: str, original: Original) -> None:
    seen = consumers.RIGHT if name in COMPUTED_RIGHTLY else consumers.REFUSED
    seen = consumers.MISREAD if name in SCALED_WRONGLY else seen
    assert consumers.verdict(original(name), "llama.cpp") == seen


def test_factors_of_the_usual_alpha_keep_their_bits(original: Original, tmp_path: Path) -> None:
    for name, folded in (("alpha_pattern", 1), ("rank_pattern", 0), ("rslora", 0), ("plain", 0)):
        adapter = read_place(original(name), outside=Outside())
        place = base_file(name, tmp_path)
        notes = write(
            adapter, parse_base_config(place.read_bytes(), place="x"), tmp_path / "mine.gguf"
        )
        tensors = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "mine.gguf").tensors}
        key = "model.layers.0.self_attn.v_proj.lora_B.weight"
        assert np.array_equal(
            tensors["blk.0.attn_v.weight.lora_b"], adapter.tensors[f"base_model.model.{key}"]
        )
        said = [note for note in notes if "one alpha, 6: what the scale of 4 of 14 modules" in note]
        assert (len(said), len(notes)) == (folded, folded)


def test_an_alpha_that_float32_rounds_changes_no_factor(tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.v_proj"
    adapter = of(pairs(module, 16, 16, rank=3), r=3, use_rslora=True)
    assert write(adapter, base("Qwen2ForCausalLM"), tmp_path / "mine.gguf") == ()
    tensors = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "mine.gguf").tensors}
    assert np.array_equal(
        tensors["blk.0.attn_v.weight.lora_b"],
        adapter.tensors[f"base_model.model.{module}.lora_B.weight"],
    )
    deltas = loaded(tmp_path / "mine.gguf")[1]
    assert distance(deltas["blk.0.attn_v"], updates(adapter)[module]) < SAME


def test_a_scale_of_zero_is_kept(tmp_path: Path) -> None:
    tensors = pairs("model.layers.0.self_attn.v_proj", 16, 16)
    tensors |= pairs("model.layers.1.self_attn.v_proj", 16, 16)
    for config in ({"lora_alpha": 0}, {"alpha_pattern": {"layers.1.self_attn.v_proj": 0}}):
        write(of(tensors, **config), base("Qwen2ForCausalLM"), tmp_path / "mine.gguf")
        entries, deltas = loaded(tmp_path / "mine.gguf")
        # llama.cpp takes an alpha of 0 for a scale of 1
        assert entries["adapter.lora.alpha"] > 0
        assert not deltas["blk.1.attn_v"].any()


def test_half_precision_is_said_with_its_error(original: Original, tmp_path: Path) -> None:
    adapter = read_place(original("plain"), outside=Outside())
    place = base_file("plain", tmp_path)
    config = parse_base_config(place.read_bytes(), place="x")
    (note,) = write(adapter, config, tmp_path / "mine.gguf", torch.float16)
    error = float(note.rpartition(" ")[2].removesuffix("."))
    assert 0 < error < HALF
    raw = gguf.GGUFReader(tmp_path / "mine.gguf").tensors
    assert {tensor.data.dtype for tensor in raw} == {np.dtype(np.float16)}
    again = updates(read(tmp_path / "mine.gguf"))
    assert all(distance(again[key], delta) < HALF for key, delta in updates(adapter).items())
    large = of(pairs("model.layers.0.self_attn.v_proj", 16, 16), lora_alpha=6)
    scaled = {key: tensor * 1e5 for key, tensor in large.tensors.items()}
    wide = adapter_of(scaled, large.config_bytes)
    with pytest.raises(sr.RefusedError, match="holds at most 65504"):
        write(wide, base("Qwen2ForCausalLM"), tmp_path / "other.gguf", torch.float16)
    with pytest.raises(sr.InvalidInputError, match="not float32 or float16"):
        write(adapter, config, tmp_path / "other.gguf", torch.bfloat16)


@pytest.mark.parametrize(
    ("kind", "architecture", "turns"),
    [
        ("ArceeForCausalLM", "arcee", True),
        ("Gemma2ForCausalLM", "gemma2", False),
        ("GraniteForCausalLM", "granite", True),
        ("MistralForCausalLM", "llama", True),
        ("Olmo3ForCausalLM", "olmo2", False),
        ("OlmoForCausalLM", "olmo", True),
        ("Qwen3ForCausalLM", "qwen3", False),
        ("SmolLM3ForCausalLM", "smollm3", True),
    ],
)
def test_rows_of_q_and_k_lie_as_the_architecture_has_them(
    kind: str, architecture: str, turns: bool, tmp_path: Path
) -> None:
    q, k = "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj"
    adapter = of(pairs(q, 32, 16) | pairs(k, 16, 16))
    write(adapter, base(kind), tmp_path / "mine.gguf")
    entries, deltas = loaded(tmp_path / "mine.gguf")
    assert entries["general.architecture"] == architecture
    expected = updates(adapter)
    for name, module, heads in (("attn_q", q, 4), ("attn_k", k, 2)):
        delta = permute(expected[module], heads) if turns else expected[module]
        assert distance(deltas[f"blk.1.{name}"], delta) < SAME
    (tmp_path / "config.json").write_text(json.dumps(SIZES))
    again = updates(read(tmp_path / "mine.gguf"))
    assert all(distance(again[module], delta) < SAME for module, delta in expected.items())
    width, message = (16, "48 rows, .* says 4 heads of 8") if turns else (24, "16 wide")
    with pytest.raises(sr.RefusedError, match=message):
        write(of(pairs(q, 48, width)), base(kind), tmp_path / "other.gguf")


# Those of which the importer knows the names, with a feed-forward block in every layer
READ_BACK = sorted(
    kind
    for kind, name in ARCHITECTURES.items()
    if name not in ("bert", "gpt2", "lfm2", "qwen2moe", "qwen3moe", "starcoder2")
)


@pytest.mark.parametrize("kind", READ_BACK)
def test_modules_are_called_as_before_when_a_file_is_read_back(kind: str, tmp_path: Path) -> None:
    v, down = "model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"
    adapter = of(pairs(v, 16, 16) | pairs(down, 16, 24))
    write(adapter, base(kind), tmp_path / "mine.gguf")
    again = updates(read(tmp_path / "mine.gguf"))
    assert again.keys() == {v, down}
    assert all(distance(again[module], delta) < SAME for module, delta in updates(adapter).items())


@pytest.mark.parametrize("kind", ["Glm4ForCausalLM", "Phi3ForCausalLM"])
def test_fused_modules_keep_their_names(kind: str, tmp_path: Path) -> None:
    qkv, both = "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.gate_up_proj"
    adapter = of((pairs(qkv, 64, 16) if kind[0] == "P" else {}) | pairs(both, 48, 16))
    write(adapter, base(kind), tmp_path / "mine.gguf")
    again = updates(read(tmp_path / "mine.gguf"))
    assert all(distance(again[key], delta) < SAME for key, delta in updates(adapter).items())


def test_the_language_model_of_a_larger_one_has_the_names_of_its_own(tmp_path: Path) -> None:
    config = base("Gemma3ForConditionalGeneration", text_config=SIZES, hidden_size=99)
    for prefix in ("model.language_model.", "language_model.model."):
        adapter = of(pairs(f"{prefix}layers.1.self_attn.v_proj", 16, 16))
        write(adapter, config, tmp_path / "mine.gguf")
        assert loaded(tmp_path / "mine.gguf")[1].keys() == {"blk.1.attn_v"}
    tower = of(pairs("model.vision_tower.layers.1.self_attn.v_proj", 16, 16))
    with pytest.raises(sr.RefusedError, match="no tensor for it in a gemma3 model") as caught:
        write(tower, config, tmp_path / "other.gguf")
    assert caught.value.hint == "Serve it with PEFT, or train it without."
    beyond = of(pairs("model.language_model.layers.2.self_attn.v_proj", 16, 16))
    with pytest.raises(sr.RefusedError, match="no tensor for it") as caught:
        write(beyond, config, tmp_path / "other.gguf")
    assert "See whether config.json is that" in caught.value.hint


def test_sizes_that_gguf_does_not_depend_on_may_be_left_out(tmp_path: Path) -> None:
    # as in the files of Gemma 3, whose config.json has what differs from the defaults of its class
    content = json.dumps(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": {"hidden_size": 16, "num_hidden_layers": 2, "num_experts": 0},
        }
    ).encode()
    config = parse_base_config(content, place="config.json")
    q = "model.language_model.layers.1.self_attn.q_proj"
    adapter = of(pairs(q, 32, 16))
    write(adapter, config, tmp_path / "mine.gguf")
    assert distance(loaded(tmp_path / "mine.gguf")[1]["blk.1.attn_q"], updates(adapter)[q]) < SAME


def test_experts_are_one_tensor_and_those_without_a_pair_are_zero(tmp_path: Path) -> None:
    place = "model.layers.0.mlp.experts"
    tensors = pairs(f"{place}.0.up_proj", 24, 16) | pairs(f"{place}.2.up_proj", 24, 16, rank=2)
    adapter = of(tensors, rank_pattern={"experts.2.up_proj": 2})
    write(adapter, base("Qwen3MoeForCausalLM", num_experts=4), tmp_path / "mine.gguf")
    stack = loaded(tmp_path / "mine.gguf")[1]["blk.0.ffn_up_exps"]
    expected = updates(adapter)
    assert tuple(stack.shape) == (4, 24, 16)
    for expert in (0, 2):
        assert distance(stack[expert], expected[f"{place}.{expert}.up_proj"]) < SAME
    assert not stack[[1, 3]].any()
    again = updates(read(tmp_path / "mine.gguf"))
    assert all(distance(again[key], delta) < SAME for key, delta in expected.items())
    with pytest.raises(sr.RefusedError, match=r"expert 2, .* says that there are 2"):
        write(adapter, base("Qwen3MoeForCausalLM", num_experts=2), tmp_path / "other.gguf")


@pytest.mark.parametrize("name", ["experts", "experts_rslora"])
def test_fused_experts_are_taken_apart_by_the_class_of_the_base_model(
    name: str, original: Original, tmp_path: Path
) -> None:
    adapter = read_place(original(name), outside=Outside())
    place = base_file(name, tmp_path)
    assert write(adapter, parse_base_config(place.read_bytes(), place="x"), tmp_path / "mine") == ()
    deltas = loaded(tmp_path / "mine")[1]
    # PEFT's own layers say what the fused matrices become
    layer = zoo.live(name).base_model.model.get_submodule("model.layers.0.mlp.experts")
    layers = [layer, layer.base_layer] if name == "experts" else [layer]
    fused = [each.get_delta_weight("default").detach().double() for each in layers]
    both = next(delta for delta in fused if delta.shape[2] == 16)
    half = both.shape[1] // 2
    assert distance(deltas["blk.0.ffn_gate_exps"], both[:, :half]) < SAME
    assert distance(deltas["blk.0.ffn_up_exps"], both[:, half:]) < SAME
    for down in fused[:-1]:
        assert distance(deltas["blk.0.ffn_down_exps"], down) < SAME
    other = parse_base_config(
        place.read_bytes().replace(b"MixtralForCausalLM", b"GraniteForCausalLM"), place="x"
    )
    with pytest.raises(sr.RefusedError, match=r"fused experts of Granite.* cannot be taken apart"):
        write(adapter, other, tmp_path / "other")


PLACES = {
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_proj": "ffn_down",
    "attention.self.query": "attn_q",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
}


@pytest.mark.parametrize(("name", "architecture"), [("bert", "bert"), ("gpt2", "gpt2")])
def test_models_with_other_names_keep_the_function(
    name: str, architecture: str, original: Original, tmp_path: Path
) -> None:
    adapter = read_place(original(name), outside=Outside())
    place = base_file(name, tmp_path)
    config = parse_base_config(place.read_bytes(), place="x")
    notes = write(adapter, config, tmp_path / "mine.gguf")
    entries, deltas = loaded(tmp_path / "mine.gguf")
    assert entries["general.architecture"] == architecture
    expected = updates(adapter)
    # what llama.cpp computes of an encoder ends before it
    pooled = expected.pop("pooler.dense", None)
    assert [note for note in notes if "pooler.dense" in note] == list(notes)
    assert len(notes) == (pooled is not None)
    assert len(deltas) == len(expected)
    for module, delta in expected.items():
        prefix, _, rest = module.replace("encoder.layer.", "transformer.h.").partition(".h.")
        number, _, part = rest.partition(".")
        assert prefix == "transformer"
        assert distance(deltas[f"blk.{number}.{PLACES[part]}"], delta) < SAME


def test_only_the_embedding_of_tokens_takes_factors(tmp_path: Path) -> None:
    members = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": "all-linear"}
    sizes: dict[str, object] = {"hidden_size": 16, "num_hidden_layers": 2}
    # true in the config of every BERT, for the head that it was pre-trained with
    sizes |= {"num_attention_heads": 2, "tie_word_embeddings": True, "vocab_size": 40}
    content = json.dumps(sizes | {"architectures": ["BertModel"]}).encode()
    config = parse_base_config(content, place="x")
    for name, rows in (("word_embeddings", 40), ("position_embeddings", 64)):
        factors = {
            f"base_model.model.embeddings.{name}.lora_embedding_A": torch.randn(4, rows),
            f"base_model.model.embeddings.{name}.lora_embedding_B": torch.randn(16, 4),
        }
        adapter = adapter_of(factors, json.dumps(members | {"target_modules": [name]}).encode())
        if name == "word_embeddings":
            write(adapter, config, tmp_path / "mine.gguf")
            assert loaded(tmp_path / "mine.gguf")[1].keys() == {"token_embd"}
            continue
        with pytest.raises(sr.RefusedError, match="no embedding but that of tokens"):
            write(adapter, config, tmp_path / "other.gguf")


def test_an_adapter_of_nothing_that_llama_cpp_computes_is_refused(tmp_path: Path) -> None:
    adapter = of(pairs("pooler.dense", 16, 16))
    with pytest.raises(sr.RefusedError, match="has a part in none"):
        write(adapter, base("BertModel"), tmp_path / "mine.gguf")
    assert not (tmp_path / "mine.gguf").exists()


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens"])
def test_outer_modules_of_tied_or_grown_models_are_refused(module: str, tmp_path: Path) -> None:
    if module == "lm_head":
        adapter = of(pairs(module, 40, 16), target_modules=[module])
    else:
        adapter = adapter_of(
            {
                f"base_model.model.{module}.lora_embedding_A": torch.randn(4, 40),
                f"base_model.model.{module}.lora_embedding_B": torch.randn(16, 4),
            },
            b'{"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["embed_tokens"]}',
        )
    write(adapter, base("LlamaForCausalLM"), tmp_path / "mine.gguf")
    for config in ({"tie_word_embeddings": True}, {"vocab_size": 48}):
        with pytest.raises(sr.RefusedError, match=r"whose output is their embedding|has 40 rows"):
            write(adapter, base("LlamaForCausalLM", **config), tmp_path / "other.gguf")
    with pytest.raises(sr.RefusedError, match=r"whose output|no tensor"):
        write(adapter, base("GemmaForCausalLM"), tmp_path / "other.gguf")


def test_the_same_adapter_is_the_same_bytes(original: Original, tmp_path: Path) -> None:
    adapter = read_place(original("plain"), outside=Outside())
    place = base_file("plain", tmp_path)
    config = parse_base_config(place.read_bytes(), place="x")
    for name in ("one", "two"):
        write(adapter, config, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_without_the_package_gguf_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(sr.RefusedError, match="gguf is not installed") as caught:
        write(
            of(pairs("model.layers.0.self_attn.v_proj", 16, 16)),
            base("Qwen2ForCausalLM"),
            tmp_path / "mine.gguf",
        )
    assert "share-registry[gguf]" in caught.value.hint
