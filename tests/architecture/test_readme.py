"""What the documents tell people to type exists."""

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from hsmvault.cli.main import cli
from tests.architecture.commands import misunderstood
from tests.architecture.house import HOUSE, shown

DOCUMENTS = [
    HOUSE / "README.md",
    HOUSE / "ARCHITECTURE.md",
    HOUSE / "docs" / "clients.md",
    HOUSE / "docs" / "observability.md",
]
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
    named = set(re.findall(r"scripts/[a-z][a-z-]*\b(?!@)", document.read_text()))

    assert not [
        script
        for script in named
        if not (HOUSE / script).is_dir() and not (HOUSE / script).stat().st_mode & 0o111
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=shown)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())

    assert not [link for link in links if not (document.parent / link).exists()]


def test_the_readme_names_the_two_commands_that_do_everything() -> None:
    words = {word for line in _lines(HOUSE / "README.md") for word in line.split()}

    assert {"./scripts/demo", "./scripts/test"} <= words


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_that_a_document_shows_is_one_of_the_cli(line: str) -> None:
    assert not misunderstood(shlex.split(line, comments=True)[1:])


def _said(file: Path) -> Iterator[str]:
    """The texts of a program, each whole, with braces where something is put in."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (v.value for v in node.values if isinstance(v, ast.Constant))
            yield "{}".join(map(str, parts))


def _unknown(words: Sequence[str]) -> bool:
    """Tell whether the words name no command. What follows a command is anything."""
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            return False
        if word not in command.commands:
            return True
        command = command.commands[word]
    return False


def test_every_command_that_a_message_advises_is_one_of_the_cli() -> None:
    """A way out that does not exist is worse than none."""
    advised = re.compile(r"\bhsmvault ([a-z][a-z-]*(?: [a-z][a-z-]*)*)")
    found = [
        (shown(file), match[0])
        for file in sorted((HOUSE / "hsmvault").rglob("*.py"))
        if "_pb2" not in file.name
        for text in _said(file)
        for match in advised.finditer(text)
        if _unknown(match[1].split())
    ]

    assert not found


def test_every_test_that_a_promise_names_is_there() -> None:
    text = (HOUSE / "docs" / "promises.md").read_text()
    rooms = "attack|chaos|contract|integration|multiregion|unit"
    named = set(re.findall(rf"`((?:{rooms})/[a-z0-9_]+\.py)`", text))

    assert len(named) > 20
    assert not {name for name in named if not (HOUSE / "tests" / name).is_file()}
