"""The repository speaks of the project alone."""

import re

import pytest

from tests.house.tree import ROOT, files, name

PLACES = ["/wo" + "rk/", "/tm" + "p/plan", "/ro" + "ot/"]
HOSTS = ["py" + "pi.org", "python" + "hosted", "download.py" + "torch.org", "conda." + "anaconda"]
OTHERS = ["sub" + "agent", "sub-" + "agent"]
UNTRACKED_TASK = re.compile("TO" + r"DO(?!\s*\(#\d+\))|FIX" + "ME|XX" + "X")
ABSENT_DOCUMENT = re.compile(
    r"\b(DESI" + r"GN|STY" + r"LE|CONTRA" + r"CT)(\.md)?\b(?= \d|\.md| section)"
)


def _forbidden(text: str) -> list[str]:
    words = [word for word in (*PLACES, *HOSTS, *OTHERS) if word in text]
    return words + [
        match.group()
        for pattern in (UNTRACKED_TASK, ABSENT_DOCUMENT)
        for match in pattern.finditer(text)
    ]


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return ""


def test_no_file_names_a_machine_an_index_or_an_untracked_task() -> None:
    forbidden = {
        name(path): _forbidden(_text(path.read_bytes()))
        for path in files()
        if path.suffix not in {".safetensors", ".zst"}
    }
    assert {path: words for path, words in forbidden.items() if words} == {}


@pytest.mark.parametrize(
    "planted",
    [PLACES[0] + "main", "see https://" + HOSTS[0], "# TO" + "DO later", "as in DESI" + "GN.md"],
)
def test_a_planted_word_is_found(planted: str) -> None:
    assert _forbidden(planted)


def test_a_task_with_an_issue_number_is_fine() -> None:
    assert _forbidden("# TO" + "DO (#12): later") == []


def test_the_tree_is_not_empty() -> None:
    assert ROOT / "pyproject.toml" in files()
