"""Compare the lint of OpenVINO GenAI with what it generates from the files of the zoo, on a CPU.

    python -m venv openvino
    openvino/bin/pip install openvino-genai==2026.4.1 optimum-intel==2.2.0 peft==0.21.2 .
    openvino/bin/python -m tests.serving.check_openvino_verdicts

Tiny models with random weights are converted with optimum-intel, and generate tokens after each of
two prompts, 20 or as many as they have positions for, as PEFT's do where the adapter is read rightly.
Those that generate nothing are given to the pipelines of embeddings and of ranking. It takes three
minutes.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino
import openvino_genai
import torch
from openvino_tokenizers import convert_tokenizer
from optimum.intel import (
    OVModelForCausalLM,
    OVModelForFeatureExtraction,
    OVModelForSequenceClassification,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.exchange import zoo
from tests.exchange.consumers import MISREAD, REFUSED, RIGHT, SERVED, Form, compare

LARGEST_COUNT: Final = 20
# In which the computation is as PEFT's
FLOATS: Final = {"INFERENCE_PRECISION_HINT": "f32"}
# What converts a base model that generates nothing, and the pipeline for it
SILENT: Final = {
    "bert": (OVModelForFeatureExtraction, openvino_genai.TextEmbeddingPipeline),
    "classifier": (OVModelForSequenceClassification, openvino_genai.TextRerankPipeline),
}


def main() -> None:
    """Convert the base models, and generate."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder)
        converted: dict[str, Path] = {}

        def behave(form: Form) -> tuple[str, str]:
            base: Any = zoo.CASES[form.name].base()
            kind = zoo.CASES[form.name].base.__name__
            sizes = f"{kind} {base.config.to_json_string(use_diff=False)}"
            if sizes not in converted:
                converted[sizes] = _convert(base, kind, root / f"base{len(converted)}")
            adapter = openvino_genai.Adapter(str(form.directory / "adapter_model.safetensors"))
            try:
                return _judge(form, converted[sizes], openvino_genai.AdapterConfig(adapter))
            except RuntimeError as error:
                return REFUSED, str(error).strip().splitlines()[-1][:90]

        compare("openvino", SERVED, root, behave)


def _judge(form: Form, folder: Path, adapters: Any) -> tuple[str, str]:
    """Return whether a converted model says with an adapter what PEFT says.

    The adapter has alpha 1, its default. Raises RuntimeError where it is not taken.
    """
    kind = zoo.CASES[form.name].base.__name__
    if kind in SILENT:
        SILENT[kind][1](str(folder), "CPU")
        SILENT[kind][1](str(folder), "CPU", adapters=adapters)
        raise NotImplementedError(f"{kind} takes adapters: compare what it computes")
    expected = _generate_with_peft(form.name, form.source)
    pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", adapters=adapters, **FLOATS)
    tokens = _generate(pipeline, len(expected) // len(zoo.TOKENS))
    same = sum(a == b for a, b in zip(tokens, expected, strict=True))
    return (RIGHT if same == len(expected) else MISREAD), (
        f"{same} of {len(expected)} tokens as PEFT"
    )


def _convert(base: Any, kind: str, folder: Path) -> Path:
    """Convert a base model, with a vocabulary of letters."""
    if base.can_generate():
        base.generation_config.eos_token_id = None
    base.save_pretrained(folder / "base")
    cls, _ = SILENT.get(kind, (OVModelForCausalLM, None))
    model = cls.from_pretrained(folder / "base", export=True, compile=False, load_in_8bit=False)
    model.save_pretrained(folder)
    letters = [chr(ord("A") + number) for number in range(zoo.VOCABULARY)]
    words = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = dict(zip(("pad_token", "bos_token", "eos_token"), letters, strict=False))
    graphs = convert_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=words, **special), with_detokenizer=True
    )
    for name, graph in zip(("tokenizer", "detokenizer"), graphs, strict=True):
        openvino.save_model(graph, folder / f"openvino_{name}.xml")
    return folder


def _generate(pipeline: Any, count: int) -> list[int]:
    """Return the tokens that OpenVINO GenAI generates after each prompt."""
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
    prompts = (openvino.Tensor(row[None].numpy().astype(np.int64)) for row in zoo.TOKENS)
    return [token for prompt in prompts for token in pipeline.generate(prompt, config).tokens[0]]


def _generate_with_peft(name: str, directory: Path) -> list[int]:
    model = zoo.load(name, directory)
    positions = model.config.max_position_embeddings - zoo.TOKENS.shape[1]
    count = min(LARGEST_COUNT, positions)
    return [token for row in zoo.TOKENS for token in _continue(model, row[None], count)]


def _continue(model: Any, tokens: torch.Tensor, count: int) -> list[int]:
    with torch.no_grad():
        for _ in range(count):
            following = model(tokens).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, following], 1)
    return [int(token) for token in tokens[0, -count:]]


if __name__ == "__main__":
    main()
