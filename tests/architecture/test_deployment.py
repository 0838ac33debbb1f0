"""Images, compose files and the unit: every path and command in them is true.

No container engine is needed: the files are read, and what they name must exist, or be
made by the file itself.
"""

import configparser
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hsmvault.regions import birth
from tests.architecture.commands import misunderstood
from tests.architecture.house import FILES, HOUSE, shown

DOCKERFILES = [HOUSE / "Dockerfile", HOUSE / "softhsm/Dockerfile"]
COMPOSE_FILES = sorted((HOUSE / "softhsm").glob("compose.*.yml"))
UNIT = HOUSE / "scripts/hsmvault@.service"
SERVE = ["serve", "--region"]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The file's instructions and their arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines]


def is_sent(path: str) -> bool:
    """Tell whether .dockerignore lets a path through to the build."""
    sent = True
    for line in (HOUSE / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if fnmatch.fnmatch(path, pattern) or path.startswith(f"{pattern}/"):
                sent = line.startswith("!")
    return sent


def copied(dockerfile: Path) -> Iterator[str]:
    for instruction, arguments in instructions(dockerfile):
        words = arguments.split()
        if instruction == "COPY" and not words[0].startswith("--from"):
            yield from words[:-1]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=shown)
def test_everything_an_image_copies_exists_and_is_sent(dockerfile: Path) -> None:
    sources = list(copied(dockerfile))

    assert sources
    assert not [s for s in sources if not ((HOUSE / s).exists() and is_sent(s))]


def test_no_secret_or_test_is_sent_to_a_build() -> None:
    for path in (
        "tests/conftest.py",
        ".git/config",
        ".venv/bin/python",
        "north/p0.pin",
    ):
        assert not is_sent(path), path


def test_what_a_later_stage_takes_an_earlier_one_made() -> None:
    made, stage = "", ""
    taken = []
    for instruction, arguments in instructions(HOUSE / "Dockerfile"):
        if instruction == "RUN":
            made += arguments
        if instruction == "COPY" and arguments.startswith("--from="):
            stage, source, _ = arguments.removeprefix("--from=").split()
            taken.append(source)
    assert stage == "build"
    assert taken
    assert all(f" {source}" in made for source in taken)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=shown)
def test_an_image_does_not_run_as_root(dockerfile: Path) -> None:
    *_, user = [
        a for instruction, a in instructions(dockerfile) if instruction == "USER"
    ]
    vault = " ".join(a for _, a in instructions(HOUSE / "Dockerfile"))

    assert user != "root"
    assert re.search(rf"useradd --system --uid \d+ .* {user}\b", vault)


def test_the_image_starts_what_the_project_installs() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    told = dict(instructions(HOUSE / "Dockerfile"))
    (program,) = json.loads(told["ENTRYPOINT"])
    command = json.loads(told["CMD"])

    assert program in project["scripts"]
    assert command[:2] == SERVE
    assert not misunderstood(command)
    assert command[2].startswith(told["WORKDIR"] + "/")


def test_softhsm_builds_on_the_image_that_is_built_first() -> None:
    lines = (HOUSE / "softhsm/Dockerfile").read_text()
    (tag,) = [a for i, a in instructions(HOUSE / "softhsm/Dockerfile") if i == "FROM"]

    assert f"docker build -t {tag} ." in lines
    assert "-f softhsm/Dockerfile ." in lines


def _settings(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {k.strip(): v.strip() for k, _, v in (line.partition("=") for line in lines)}


def test_tokens_made_by_hand_are_kept_like_those_of_a_region() -> None:
    by_hand = _settings((HOUSE / "softhsm/softhsm2.conf").read_text())
    by_us = _settings(birth._SOFTHSM_CONF)
    tokens = by_hand.pop("directories.tokendir")
    by_us.pop("directories.tokendir")

    assert by_hand == by_us
    # SoftHSM2 does not make its directory.
    assert tokens in " ".join(a for _, a in instructions(HOUSE / "softhsm/Dockerfile"))


def test_softhsm_is_told_of_its_configuration_where_it_is_copied() -> None:
    told = dict(instructions(HOUSE / "softhsm/Dockerfile"))

    assert told["ENV"] == f"SOFTHSM2_CONF={told['COPY'].split()[-1]}"


def services(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text())["services"])


def _commands(service: dict[str, Any]) -> list[list[str]]:
    """The vault's commands in a service: its own, or those in its lines of shell."""
    command = service["command"]
    if service.get("entrypoint") != ["sh", "-ec"]:
        return [list(command)]
    (script,) = command
    parts = re.split(r"\n|\|\|?", script.replace("\\\n", " "))
    words = [shlex.split(part) for part in parts]
    return [w[1:] for w in words if w and w[0] == "hsmvault"]


def test_there_is_a_compose_file_for_one_region_and_for_two() -> None:
    assert [p.name for p in COMPOSE_FILES] == [
        "compose.one-region.yml",
        "compose.two-regions.yml",
    ]


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=shown)
def test_a_compose_file_names_only_what_there_is(path: Path) -> None:
    compose = yaml.safe_load(path.read_text())
    volumes = set(compose["volumes"])
    by_hand = (HOUSE / "softhsm/Dockerfile").read_text()

    for name, service in services(path).items():
        # Built by the line that softhsm/Dockerfile begins with.
        assert f"docker build -t {service['image']} -f" in by_hand, name
        sources = {mount.split(":")[0] for mount in service["volumes"]}
        assert sources == volumes, name
        assert set(service.get("depends_on", {})) <= set(services(path)), name


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=shown)
def test_a_compose_file_says_only_what_the_cli_understands(path: Path) -> None:
    for name, service in services(path).items():
        commands = _commands(service)
        assert commands, name
        for words in commands:
            assert not misunderstood(words), name
        if "healthcheck" in service:
            assert service["healthcheck"]["test"][:2] == ["CMD", "hsmvault"]
            assert not misunderstood(service["healthcheck"]["test"][2:]), name


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=shown)
def test_a_compose_file_serves_regions_as_the_unit_does(path: Path) -> None:
    serving = [
        words
        for service in services(path).values()
        for words in _commands(service)
        if words[0] == "serve"
    ]

    assert len(serving) == {"one-region": 1, "two-regions": 2}[path.name.split(".")[1]]
    assert all(words[:2] == SERVE and len(words) == 3 for words in serving)


@pytest.mark.softhsm
def test_what_a_compose_file_founds_is_founded_once(tmp_path: Path) -> None:
    """The lines of shell that come before the first serving, as they stand there."""
    founding = services(HOUSE / "softhsm/compose.two-regions.yml")["founding"]
    program = tmp_path / "bin/hsmvault"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hsmvault.cli "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"

    for _ in range(2):
        subprocess.run(
            [*founding["entrypoint"], *founding["command"]],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(HOUSE)},
            check=True,
            capture_output=True,
        )

    made = {p.parent.name for p in tmp_path.glob("*/region.toml")}
    assert made == {"north", "south"}
    assert (tmp_path / "callers/admin.json").exists()


def test_the_unit_serves_a_region_with_the_installed_program() -> None:
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    directory = words[2]

    assert words[:2] == SERVE
    assert not misunderstood(words)
    # Where the image has it too, so that one description fits both.
    assert Path(program).parent.as_posix() in (HOUSE / "Dockerfile").read_text()
    assert directory == f"/var/lib/{unit['Service']['StateDirectory']}/%i"
    assert unit["Unit"]["ConditionPathExists"] == f"{directory}/region.toml"


def test_the_image_holds_every_file_of_the_package(tmp_path: Path) -> None:
    """What is not in the wheel is missed only in production: migrations, above all."""
    for name in copied(HOUSE / "Dockerfile"):
        source = HOUSE / name
        if source.is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tmp_path / name, ignore=unwanted)
        else:
            shutil.copy(source, tmp_path / name)
    options = "--quiet --no-deps --no-build-isolation --wheel-dir dist"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options.split(), "."],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )

    (wheel,) = (tmp_path / "dist").glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    # Types of generated code are for those who check ours, not for those who run it.
    wanted = {
        shown(p)
        for p in FILES
        if p.is_relative_to(HOUSE / "hsmvault") and p.suffix != ".pyi"
    }
    assert not wanted - held
