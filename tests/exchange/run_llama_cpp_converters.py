"""Run llama.cpp's converters on many directories in one process, for `check_llama_cpp.py`.

Called with the folder of its sources and jobs as JSON: script and arguments of each. Writes, as
JSON, what each failed with, "" where it did not. The package gguf is the one of the sources. The
vocabularies of the tiny models are of no known tokenizer: they become those of GPT-2.
"""

import importlib
import json
import logging
import runpy
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run every job."""
    sources, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
    sys.path[:0] = [str(sources), str(sources / "gguf-py")]
    _take_any_vocabulary()
    sys.stdout.write(json.dumps([_run(sources / script, words) for script, words in jobs]))


def _take_any_vocabulary() -> None:
    conversion: Any = importlib.import_module("conversion")
    text = conversion.TextModel
    conversion.load_all_models()

    def set_vocab(model: Any) -> None:
        model._set_vocab_gpt2()
        if "Roberta" in type(model).__mro__[1].__name__ + type(model).__name__:
            model.gguf_writer.add_token_type_count(model.hparams["type_vocab_size"])

    text.get_vocab_base_pre = lambda model, tokenizer: "default"
    classes = [text]
    while classes:
        kind = classes.pop()
        classes += kind.__subclasses__()
        if "set_vocab" in vars(kind) and kind.__name__ != "BertModel":
            kind.set_vocab = set_vocab


def _run(script: Path, words: list[str]) -> str:
    lines: list[str] = []
    listener = logging.Handler(logging.ERROR)
    listener.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(listener)
    sys.argv = [str(script), *words]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return "; ".join(lines) if end.code else ""
    except Exception as error:  # noqa: BLE001 - whatever it fails with is the result
        return f"{type(error).__name__}: {error}"
    finally:
        logging.getLogger().removeHandler(listener)
    return ""


if __name__ == "__main__":
    main()
