"""What the documents tell people to type exists."""

import re
import shlex
from pathlib import Path

import pytest

from tests.architecture.commands import misunderstood
from tests.architecture.house import HOUSE, shown

DOCUMENTS = [HOUSE / "README.md", HOUSE / "ARCHITECTURE.md"]
BLOCK = re.compile(
    r"^```[a-z]*\n(?P<fenced>.*?)^```|(?P<indented>(?:^ {4}.*\n)+)",
    re.MULTILINE | re.DOTALL,
)


def _lines(document: Path) -> list[str]:
    """What stands in the document's blocks of code, one command per line."""
    found = []
    for block in BLOCK.finditer(document.read_text()):
        text = block["fenced"] or block["indented"] or ""
        found += [
            line.strip().removeprefix("$ ")
            for line in text.replace("\\\n", " ").splitlines()
        ]
    return found


COMMANDS = sorted(
    {
        line
        for document in DOCUMENTS
        for line in _lines(document)
        if re.match(r"(\S*bin/)?hsmvault [a-z-]", line)
    }
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=shown)
def test_every_script_that_a_document_names_can_be_run(document: Path) -> None:
    named = set(re.findall(r"scripts/[a-z][a-z-]*", document.read_text()))

    assert not [
        script
        for script in named
        if not (HOUSE / script).is_dir() and not (HOUSE / script).stat().st_mode & 0o111
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=shown)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())

    assert not [link for link in links if not (HOUSE / link).exists()]


def test_the_readme_names_the_two_commands_that_do_everything() -> None:
    words = {word for line in _lines(HOUSE / "README.md") for word in line.split()}

    assert {"./scripts/demo", "./scripts/test"} <= words


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_that_a_document_shows_is_one_of_the_cli(line: str) -> None:
    assert not misunderstood(shlex.split(line, comments=True)[1:])


def test_every_test_that_a_promise_names_is_there() -> None:
    text = (HOUSE / "docs" / "promises.md").read_text()
    rooms = "attack|chaos|contract|integration|multiregion|unit"
    named = set(re.findall(rf"`((?:{rooms})/[a-z0-9_]+\.py)`", text))

    assert len(named) > 20
    assert not {name for name in named if not (HOUSE / "tests" / name).is_file()}
