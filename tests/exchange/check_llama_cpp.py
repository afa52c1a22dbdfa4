"""Compare what we write for llama.cpp with its own converter, and have llama.cpp itself compute.

    npm install --ignore-scripts node-llama-cpp@3.22.1
    python -m pip download llama-cpp-python==0.3.36 --no-deps --no-binary llama-cpp-python
    (unpack it)
    python -m tests.exchange.check_llama_cpp NODE_FOLDER SOURCES/vendor/llama.cpp

The first has llama.cpp's libraries (its release v0.5.0) for Node.js, which loads a tiny Llama with
random weights and our files; the second its converter's sources. Run it when a release of llama.cpp
is named in the docs. Neither is needed to use or test the package.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch

from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_config import BaseConfig, parse_base_config
from share_registry.exchange.export_files import CardFacts
from share_registry.exchange.gguf_adapter import gguf_adapter
from share_registry.exchange.importers.formats import read_place
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.test_gguf import permute
from tests.exchange.test_gguf_export import WRITTEN, base_file

# Activated from its invocation tokens on, which the compared tokens do not have; and training noise
COMPUTED: Final = sorted({*WRITTEN} - {"alora", "monteclora"})
# Of which the converter's one alpha, or what it refuses, makes something else
OTHERWISE: Final = {"all_patterns", "alpha_pattern", "monteclora", "rslora", "velora"}
CLOSE: Final = 5e-5
"""Between probabilities that llama.cpp and transformers compute in float32."""
APART: Final = 2e-3
"""At least so far from what the base model says."""
PARTS: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SCRIPT: Final = """
import {writeFileSync} from "node:fs";
import {getLlama} from "node-llama-cpp";
const {model: modelPath, adapters, tokens, answers: target} = JSON.parse(process.argv[2]);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const results = {};
for (const [name, filePath] of Object.entries({"": null, ...adapters})) {
    const model = await llama.loadModel({modelPath, gpuLayers: 0});
    const context = await model.createContext({
        contextSize: 64, lora: filePath ? {adapters: [{filePath}]} : undefined,
    });
    const sequence = context.getSequence();
    const asked = tokens.map((token) =>
        [token, {generateNext: {probabilities: true, options: {temperature: 1, topK: 0, topP: 1, minP: 0}}}]);
    const outputs = await sequence.controlledEvaluate(asked);
    results[name] = outputs.map(({next}) => Object.fromEntries(next.probabilities));
    await context.dispose();
    await model.dispose();
}
writeFileSync(target, JSON.stringify(results));
process.exit(0);
"""


def main() -> None:
    """Compare, then compute."""
    node, sources = (Path(place).absolute() for place in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        compared = [_compare(name, root / name, sources) for name in WRITTEN]
        sys.stdout.write(f"as its converter, byte by byte: {sum(compared)} of {len(compared)}\n")
        _compute(root, node)


def _compare(name: str, root: Path, sources: Path) -> bool:
    """Tell whether the converter writes the same tensors and alpha; write ours beside."""
    root.mkdir()
    adapter = read_place(zoo.save_live(name, root / "adapter"), outside=Outside())
    config = base_file(name, root)
    ours = _write(adapter, parse_base_config(config.read_bytes(), place="x"), root / "ours.gguf")
    theirs = root / "theirs.gguf"
    command = [sys.executable, str(sources / "convert_lora_to_gguf.py"), str(root / "adapter")]
    run = subprocess.run(
        [*command, "--base", str(root), "--outfile", str(theirs), "--outtype", "f32"],
        capture_output=True,
        check=False,
    )
    is_same = run.returncode == 0 and _contents(theirs) == _contents(ours)
    assert is_same is (name not in OTHERWISE), (name, run.stderr.decode()[-500:])
    return is_same


def _write(adapter: Adapter, config: BaseConfig, path: Path) -> Path:
    card = CardFacts(base_model="acme/base")
    written = gguf_adapter(adapter, config, card=card, dtype=torch.float32, outside=Outside())
    path.write_bytes(written.content)
    return path


def _contents(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    tensors: dict[str, Any] = {
        tensor.name: (tuple(tensor.shape), tensor.tensor_type, tensor.data.tobytes())
        for tensor in reader.tensors
    }
    own = ("adapter.", "general.architecture", "general.type")
    fields = {key: field.contents() for key, field in reader.fields.items() if key.startswith(own)}
    return tensors | fields


def _compute(root: Path, node: Path) -> None:
    """Compare the probabilities of the next tokens with those of PEFT."""
    base: Any = zoo.llama()
    _write_base(base, root / "base.gguf")
    asked = {
        "model": str(root / "base.gguf"),
        "adapters": {name: str(root / name / "ours.gguf") for name in COMPUTED},
        "tokens": zoo.TOKENS[0].tolist(),
        "answers": str(root / "answers.json"),
    }
    (node / "check_llama_cpp.mjs").write_text(SCRIPT)
    run = subprocess.run(
        ["node", "check_llama_cpp.mjs", json.dumps(asked)],
        cwd=node,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    answers = json.loads((root / "answers.json").read_text())
    plain = _probabilities(base)
    assert _distance(answers[""], plain) < CLOSE
    for name in COMPUTED:
        expected = _probabilities(zoo.load(name, root / name / "adapter"))
        away, far = _distance(answers[name], expected), _distance(answers[name], plain)
        sys.stdout.write(f"{name}: {away:.1e} from PEFT, {far:.1e} from the base model\n")
        assert away < CLOSE
        assert far > APART


def _probabilities(model: Any) -> torch.Tensor:
    return torch.softmax(zoo.logits(model)[0].double(), -1)


def _distance(answers: list[dict[str, float]], expected: torch.Tensor) -> float:
    """Return the largest difference of a probability that llama.cpp gives."""
    return max(
        abs(chance - float(expected[position, int(token)]))
        for position, answer in enumerate(answers)
        for token, chance in answer.items()
    )


def _write_base(model: Any, path: Path) -> None:
    """Write a tiny Llama as llama.cpp's converter would, with a vocabulary of numbers."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([chr(ord("A") + number) for number in range(config.vocab_size)])
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, weight in model.state_dict().items():
        name, _, part = key.removesuffix(".weight").partition("model.layers.")
        tensor = weight.float()
        if part:
            number, _, module = part.partition(".")
            heads = {"self_attn.q_proj": config.num_attention_heads}
            heads |= {"self_attn.k_proj": config.num_key_value_heads}
            tensor = permute(tensor, heads[module]) if module in heads else tensor
            name = f"blk.{number}.{PARTS[module]}"
        else:
            outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
            name = outer.get(name, "output")
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
