"""Compare what the lint says of llama.cpp, and what we write for it, with what it does itself.

    npm install --ignore-scripts node-llama-cpp@3.22.1
    python -m pip download llama-cpp-python==0.3.36 --no-deps --no-binary llama-cpp-python
    (unpack it)
    python -m tests.exchange.check_llama_cpp NODE_FOLDER SOURCES/vendor/llama.cpp

The first has llama.cpp's libraries (its release v0.5.0) for Node.js; the second its converters'
sources. These convert every base model of the zoo, and tiny models of the architectures that we
write for, and the adapters of both; the libraries load the files, and ours, and compute. Run it
when a release of llama.cpp is named in the docs. Neither is needed to use or test the package.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from share_registry.errors import RefusedError
from share_registry.exchange.base_config import parse_base_config
from share_registry.exchange.export_files import CardFacts
from share_registry.exchange.gguf_adapter import gguf_adapter
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.targets.llama_cpp_classes import CONVERTED
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.consumers import MISREAD, REFUSED, RIGHT, Form, forms_of, verdict
from tests.exchange.llama_cpp_models import MODELS

CLOSE: Final = 3e-4
"""Between probabilities, or parts of unit vectors, that llama.cpp and transformers compute."""
APART: Final = 1e-3
"""At least so far from that is another function."""
# Of which its converter writes another scale, as the lint says
SCALED: Final = ("all_patterns", "alpha_pattern", "rslora")
SPECIAL: Final = {"unk": "C", "bos": "B", "eos": "C", "pad": "A", "cls": "B", "sep": "C"}
"""Tokens 0 to 2 of a vocabulary of letters; encoders have their input between B and C."""
SCRIPT: Final = """
import {readFileSync, writeFileSync} from "node:fs";
import {getLlama, LlamaEmbeddingContext} from "node-llama-cpp";
const {jobs, answers: target} = JSON.parse(readFileSync(process.argv[2]));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const results = [];
for (const {model: modelPath, adapter, encodes, before, tokens} of jobs) {
    const adapters = adapter ? [{filePath: adapter}] : [];
    let result = null, model = null, context = null;
    try {
        model = await llama.loadModel({modelPath, gpuLayers: 0});
        context = await model.createContext({contextSize: 64, _embeddings: encodes || undefined});
        if (encodes) {
            await context._setLoras(adapters);
            const embedding = new LlamaEmbeddingContext({_llamaContext: context});
            result = (await embedding.getEmbeddingFor(tokens)).vector;
        } else {
            const options = {temperature: 1, topK: 0, topP: 1, minP: 0};
            const asked = tokens.map((token) => [token, {generateNext: {probabilities: true, options}}]);
            const sequence = context.getSequence();
            const first = before ? await sequence.controlledEvaluate(asked.slice(0, before)) : [];
            await context._setLoras(adapters);
            const outputs = [...first, ...await sequence.controlledEvaluate(asked.slice(before))];
            result = outputs.map(({next}) => Object.fromEntries(next.probabilities));
        }
    } catch (error) { result = String(error); }
    results.push(result);
    await context?.dispose();
    await model?.dispose();
}
writeFileSync(target, JSON.stringify(results));
process.exit(0);
"""


Written = dict[str, Path | str]
"""By form, a file in GGUF, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The base model of a case: its folder, its file in GGUF or why there is none."""

    folder: Path
    file: Path | str
    encodes: bool

    @property
    def tokens(self) -> list[int]:
        """What is computed from."""
        tokens: list[int] = zoo.TOKENS[0].tolist()
        return [1, *tokens, 2] if self.encodes else tokens


def main() -> None:
    """Convert, compute, and compare; end with code 1 where something is not as the lint says."""
    node, sources = (Path(place).absolute() for place in sys.argv[1:3])
    zoo.CASES.update(MODELS)
    for name in {*zoo.CASES} - {*(sys.argv[3:] or zoo.CASES)}:
        del zoo.CASES[name]
    wrong = [] if _known_classes(sources) == CONVERTED else ["the table of classes"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bases = _convert_bases(root, sources)
        forms = [form for name in zoo.CASES for form in forms_of(name, root)]
        theirs = _convert(forms, bases, root, sources)
        ours = {str(form): _write(form, bases[form.name], root) for form in forms}
        wrong += _compare_files(forms, theirs, ours)
        wrong += _compare_functions(forms, bases, (theirs, ours), root, node)
    if wrong:
        raise SystemExit(f"wrong: {'; '.join(wrong)}")


def _known_classes(sources: Path) -> set[str]:
    source = (sources / "conversion" / "__init__.py").read_text()
    table = source.partition("TEXT_MODEL_MAP")[2].partition("\n}")[0]
    return {*re.findall(r'^    "(\w+)":', table, re.MULTILINE)}


def _run(jobs: list[tuple[str, list[str]]], sources: Path) -> list[str]:
    """Run converters: script and arguments -> what each failed with, "" where it did not."""
    script = Path(__file__).with_name("run_llama_cpp_converters.py")
    run = subprocess.run(
        [sys.executable, str(script), str(sources), json.dumps(jobs)],
        capture_output=True,
        check=True,
        text=True,
    )
    words: list[str] = json.loads(run.stdout.splitlines()[-1])
    return words


def _convert_bases(root: Path, sources: Path) -> dict[str, Base]:
    folders = {name: root / f"base-{number}" for number, name in enumerate(zoo.CASES)}
    for name, folder in folders.items():
        _write_base(zoo.CASES[name].base(), folder)
    options = ["--outtype", "f32", "--outfile"]
    jobs = [
        ("convert_hf_to_gguf.py", [str(folder), *options, f"{folder}.gguf"])
        for folder in folders.values()
    ]
    return {
        name: Base(
            folder=folder,
            file=words or Path(f"{folder}.gguf"),
            encodes=zoo.CASES[name].base is zoo.bert or name.endswith("RobertaModel"),
        )
        for (name, folder), words in zip(folders.items(), _run(jobs, sources), strict=True)
    }


def _write_base(model: Any, folder: Path) -> None:
    """Write a model as its converter reads it: with a vocabulary, and how encoders are pooled."""
    folder.mkdir()
    if isinstance(model, zoo.Vision):
        (folder / "config.json").write_text('{"architectures": ["Vision"]}')
        return
    model.save_pretrained(folder)
    letters = {chr(ord("A") + number): number for number in range(zoo.VOCABULARY - 1)}
    pieces = Tokenizer(models.BPE({**letters, "AB": zoo.VOCABULARY - 1}, [("A", "B")]))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {f"{name}_token": piece for name, piece in SPECIAL.items()}
    PreTrainedTokenizerFast(tokenizer_object=pieces, **special).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    # as GPT-2's on the Hub; transformers writes it no more
    config |= {"n_ctx": config.get("n_positions")}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text('[{"type": "models.Pooling", "path": "pooling"}]')
    (folder / "pooling").mkdir()
    (folder / "pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')


def _convert(forms: list[Form], bases: dict[str, Base], root: Path, sources: Path) -> Written:
    files = [root / f"theirs-{number}.gguf" for number in range(len(forms))]
    jobs = [
        (
            "convert_lora_to_gguf.py",
            [str(form.directory), "--base", str(bases[form.name].folder), "--outfile", str(file)],
        )
        for form, file in zip(forms, files, strict=True)
    ]
    failures = _run(jobs, sources)
    return {
        str(form): words or file for form, file, words in zip(forms, files, failures, strict=True)
    }


def _write(form: Form, base: Base, root: Path) -> Path | str:
    """Return our file, or why there is none."""
    adapter = read_place(form.directory, outside=Outside())
    config, card = base.folder / "config.json", CardFacts(base_model="acme/base")
    try:
        written = gguf_adapter(
            adapter,
            parse_base_config(config.read_bytes(), place="config.json"),
            card=card,
            dtype=torch.float32,
            outside=Outside(),
        )
    except RefusedError as error:
        return str(error)
    path = root / f"ours-{form}.gguf"
    path.write_bytes(written.content)
    return path


def _compare_files(forms: list[Form], theirs: Written, ours: Written) -> list[str]:
    """Return the forms whose files are not byte by byte those of the converter."""
    wrong, same, count = [], 0, 0
    for form in forms:
        files = [path for path in (theirs[str(form)], ours[str(form)]) if isinstance(path, Path)]
        if len(files) < 2:
            continue
        is_same = _contents(files[0]) == _contents(files[1])
        is_turned = zoo.CASES[form.name].base is zoo.gpt2
        is_scaled = form.name in SCALED and form.kind == "native"
        wrong += [] if is_same or is_turned or is_scaled else [str(form)]
        same, count = same + is_same, count + 1
    sys.stdout.write(f"as its converter, byte by byte: {same} of {count}\n")
    return [f"bytes of {form}" for form in wrong]


def _contents(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    tensors: dict[str, Any] = {
        tensor.name: (tuple(tensor.shape), tensor.tensor_type, tensor.data.tobytes())
        for tensor in reader.tensors
    }
    own = ("adapter.", "general.architecture", "general.type")
    fields = {key: field.contents() for key, field in reader.fields.items() if key.startswith(own)}
    return tensors | fields


def _compare_functions(
    forms: list[Form],
    bases: dict[str, Base],
    written: tuple[Written, Written],
    root: Path,
    node: Path,
) -> list[str]:
    """Return what does not compute as the lint says, or in our files as PEFT."""
    plain = [name for name, base in bases.items() if isinstance(base.file, Path)]
    asked = [(name, "", None) for name in plain] + [
        (form.name, f"{whose}: {form}", files[str(form)])
        for form in forms
        if form.name in plain
        for whose, files in zip(("theirs", "ours"), written, strict=True)
        if isinstance(files[str(form)], Path)
    ]
    outputs: dict[str, Any] = {}
    for name in plain:
        labels = {label or name: file for case, label, file in asked if case == name}
        jobs = [_job(bases[name], file, name) for file in labels.values()]
        outputs |= zip(labels, _compute(jobs, root, node), strict=True)
    wrong = []
    for name in plain:
        if isinstance(outputs[name], str):
            wrong.append(f"base model of {name}: {outputs[name]}")
            continue
        away = _distance(outputs[name], _expected(zoo.CASES[name].base(), bases[name]))
        wrong += [] if away < CLOSE else [f"base model of {name}, {away:.1e}"]
    for form in forms:
        wrong += _compare_function(form, bases[form.name], written, outputs)
    return wrong


def _compare_function(
    form: Form, base: Base, written: tuple[Written, Written], outputs: dict[str, Any]
) -> list[str]:
    """Return what is wrong of one form, and print what is seen."""
    seen = {}
    for whose, files in zip(("theirs", "ours"), written, strict=True):
        output = outputs.get(f"{whose}: {form}")
        if output is None or isinstance(output, str):
            seen[whose] = (REFUSED, str(output or files[str(form)])[-90:])
            continue
        away = _distance(output, _expected(zoo.load(form.name, form.source), base))
        assert away < CLOSE or away > APART, (form, away)
        seen[whose] = (RIGHT if away < CLOSE else MISREAD), f"{away:.1e} from PEFT"
    said = verdict(form.directory, "llama.cpp")
    words = "; ".join(f"{whose} {outcome} ({why})" for whose, (outcome, why) in seen.items())
    sys.stdout.write(f"{form}: {words}; the lint says {said}\n")
    is_right = seen["theirs"][0] == said and seen["ours"][0] != MISREAD
    # nothing that its converter serves is refused by us
    is_whole = seen["ours"][0] == RIGHT or seen["theirs"][0] != RIGHT
    return [] if is_right and is_whole else [str(form)]


def _job(base: Base, file: Path | str | None, name: str) -> dict[str, Any]:
    # llama-server applies activated LoRA from the first of its invocation tokens on
    tokens, first = base.tokens, zoo.CASES[name].options.get("alora_invocation_tokens")
    return {
        "model": str(base.file),
        "adapter": None if file is None else str(file),
        "encodes": base.encodes,
        "before": tokens.index(first[0]) if first else 0,
        "tokens": tokens,
    }


def _compute(jobs: list[dict[str, Any]], root: Path, node: Path) -> list[Any]:
    """Return what one process of llama.cpp computes for each job, or the text of an error."""
    asked, answers = root / "asked.json", root / "answers.json"
    asked.write_text(json.dumps({"jobs": jobs, "answers": str(answers)}))
    (node / "check_llama_cpp.mjs").write_text(SCRIPT)
    command = ["node", "check_llama_cpp.mjs", str(asked)]
    run = subprocess.run(
        command, cwd=node, capture_output=True, check=False, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    outputs: list[Any] = json.loads(answers.read_text())
    return outputs


def _expected(model: Any, base: Base) -> torch.Tensor:
    """Return probabilities of the next tokens, of encoders the direction of the mean state."""
    with torch.no_grad():
        outputs = model(input_ids=torch.tensor([base.tokens]))
    if base.encodes:
        return torch.nn.functional.normalize(outputs.last_hidden_state[0].double().mean(0), dim=0)
    return torch.softmax(outputs.logits[0].double(), -1)


def _distance(output: Any, expected: torch.Tensor) -> float:
    """Return the largest difference from what llama.cpp gives: a vector, or chances by token."""
    if isinstance(output[0], float):
        actual = torch.nn.functional.normalize(torch.tensor(output, dtype=torch.float64), dim=0)
        return float((actual - expected).abs().max())
    distances: list[float] = [
        abs(chance - float(expected[position, int(token)]))
        for position, chances in enumerate(output)
        for token, chance in chances.items()
    ]
    return max(distances)


if __name__ == "__main__":
    main()
