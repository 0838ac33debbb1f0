"""The command line without a vault: help, usage, and what is missing."""

import re
from pathlib import Path

import click
import pytest

from hsmvault.cli import failing
from hsmvault.cli.groups import Command
from hsmvault.cli.main import cli
from hsmvault.model import errors
from tests.support.prompt import hsmvault


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


@pytest.mark.parametrize("path", tuple(commands(cli)), ids=" ".join)
def test_every_command_explains_itself_with_an_example(path: tuple[str, ...]) -> None:
    shown = hsmvault(*path, "--help")

    assert shown.code == 0
    assert "Examples:" in shown.text
    assert f"hsmvault {' '.join(path)}" in shown.text


def test_every_example_is_one_that_the_command_understands() -> None:
    """An example whose options do not exist is worse than none."""
    for path in commands(cli):
        command: click.Command = cli
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        assert isinstance(command, Command)
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        ours = [example.rpartition("|")[2] for example in command.examples]
        used = {w for line in ours for w in line.split() if w.startswith("--")}
        assert used <= known, (path, used - known)


def test_without_a_vault_it_says_how_to_name_one() -> None:
    refused = hsmvault("key", "list")

    assert refused.code == 78
    assert "HSMVAULT_PROFILE" in refused.err
    assert "hsmvault dev up" in refused.err


def test_a_profile_that_is_missing_is_named(tmp_path: Path) -> None:
    refused = hsmvault("key", "list", "--profile", tmp_path / "nobody.json")

    assert refused.code == 78
    assert "nobody.json" in refused.err


def test_a_misspelt_command_is_answered_with_a_near_one() -> None:
    refused = hsmvault("key", "creat")

    assert refused.code == 2
    assert "create" in refused.err


def test_every_group_of_errors_has_an_exit_code_of_its_own() -> None:
    groups = [
        k for k in errors.VaultError.__subclasses__() if k.__module__ == errors.__name__
    ]

    assert set(groups) == set(failing.CODES)
    assert len(set(failing.CODES.values())) == len(failing.CODES)
    for code in failing.CODES.values():
        assert re.search(rf"\b{code}  \w", failing.__doc__ or "")
