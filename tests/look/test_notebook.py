"""A real notebook shows results as tables in its own theme, and as text beside that."""

from typing import Any, Final

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from share_registry.look.stylesheet import notebook_style
from tests.cli.tiny import write_adapter
from tests.look.document import Document

CELLS: Final = {
    "open": "import share_registry as sr\n"
    "registry = sr.Registry.open('registry')\n"
    "commit = registry.commit('cola', labels={'a': '<script>'})\n"
    "_ = registry.set_alias(commit, 'prod')",
    "adapter": "registry.checkout('cola')",
    "aliases": "registry.aliases()",
    "basis": "_ = registry.refit(max_rank=2, force=True)\nregistry.basis()",
    "commit": "commit",
    "lineage": "registry.lineage('cola')",
    "log": "registry.log()",
    "plot": "registry.log().plot()",
    "report": "registry.report('cola')",
    "slice": "registry.tasks()[:1]",
    "spaces": "registry.spaces()",
    "tags": "registry.tags()",
    "tasks": "registry.tasks()",
    "verify": "registry.verify('quick')",
}
STYLE: Final = f"<style>{notebook_style()}</style>"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each cell gave, by media type."""
    folder = tmp_path_factory.mktemp("notebook")
    write_adapter(folder / "cola", seed=1)
    notebook = new_notebook(cells=[new_code_cell(source) for source in CELLS.values()])
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.validate(notebook)
    return {
        name: cell.outputs[-1].data if cell.outputs else {}
        for name, cell in zip(CELLS, notebook.cells, strict=True)
    }


TABLES: Final = sorted({*CELLS} - {"open", "plot", "report", "tags"})


@pytest.mark.parametrize("name", TABLES)
def test_a_result_is_a_table_and_a_text(name: str, shown: dict[str, Any]) -> None:
    markup = shown[name]["text/html"]
    assert markup.startswith(STYLE)
    document = Document(markup)
    tags = {tag for tag, _ in document.elements}
    # a sound registry is one sentence
    assert ("table" in tags) == (name != "verify")
    assert "script" not in tags
    assert shown[name]["text/plain"]


def test_an_empty_list_says_so(shown: dict[str, Any]) -> None:
    assert Document(shown["tags"]["text/html"]).texts == ["none"]


def test_a_plot_is_a_picture_and_a_report_a_frame(shown: dict[str, Any]) -> None:
    assert shown["plot"]["image/png"]
    assert shown["report"]["text/html"].startswith("<iframe ")
    assert shown["open"] == {}
