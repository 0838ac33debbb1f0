"""Keys that come in, go out and come back, at the prompt and on real tokens."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from hsmvault.client.profile import Profile
from tests.architecture.house import HOUSE
from tests.support.prompt import Ended, hsmvault
from tests.support.regions import LiveVault, running_vault

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveVault]:
    with running_vault(tmp_path_factory.mktemp("carrying")) as live:
        live.grant("alice", "Managed HSM Crypto User")
        live.grant("otto", "Managed HSM Crypto Officer")
        yield live


@pytest.fixture(scope="module")
def profiles(vault: LiveVault) -> dict[str, str]:
    made = {}
    for name in ("alice", "otto"):
        of = vault.caller(name)
        path = vault.directory / f"{name}.json"
        Profile((vault.north.endpoint,), of.certificate, of.key, of.ca).save(path)
        made[name] = str(path)
    return made


def typed(profiles: dict[str, str], *arguments: object, by: str = "alice") -> Ended:
    done = hsmvault(*arguments, environment={"HSMVAULT_PROFILE": profiles[by]})
    assert done.code == 0, done.err
    return done


def purge(profiles: dict[str, str], name: str) -> None:
    typed(profiles, "key", "delete", name)
    typed(profiles, "key", "purge", name, "--yes", by="otto")


def test_what_the_readme_says_of_bringing_keys_in_works_as_it_stands(
    profiles: dict[str, str], tmp_path: Path
) -> None:
    readme = (HOUSE / "README.md").read_text()
    section = readme.partition("### Keys from outside, and backups")[2]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HSMVAULT_PROFILE": profiles["alice"],
        "HOME": str(tmp_path),
    }

    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block[1]],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=120,
    )

    shown = typed(profiles, "key", "public-key", "mail")
    assert shown.text.strip() == (tmp_path / "mail.pub").read_text().strip()
    assert (tmp_path / "mail.backup").stat().st_mode & 0o777 == 0o600
    purge(profiles, "mail")
    back = typed(
        profiles, "key", "restore", tmp_path / "mail.backup", "--output", "json"
    )
    assert back.json["name"] == "keys/mail"
    assert typed(profiles, "key", "public-key", "mail").text == shown.text


def test_a_key_in_the_clear_is_imported_backed_up_and_restored(
    profiles: dict[str, str], tmp_path: Path
) -> None:
    for name, key in (
        ("rsa", rsa.generate_private_key(65537, 2048)),
        ("curve", ec.generate_private_key(ec.SECP384R1())),
    ):
        pem = tmp_path / f"{name}.pem"
        pem.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        typed(profiles, "key", "import", name, "--pem", pem)
        typed(profiles, "key", "rotate", name)
        file = tmp_path / f"{name}.backup"
        typed(profiles, "key", "backup", name, "--out", file)
        before = typed(profiles, "key", "versions", name, "--output", "json").json
        purge(profiles, name)

        typed(profiles, "key", "restore", file)

        after = typed(profiles, "key", "versions", name, "--output", "json").json
        assert [v["name"] for v in after] == [v["name"] for v in before]
        assert [v["imported"] for v in after] == [True, False]


def test_what_is_not_understood_is_refused_before_anything_is_sent(
    profiles: dict[str, str],
) -> None:
    done = hsmvault(
        "key", "import", "x", environment={"HSMVAULT_PROFILE": profiles["alice"]}
    )

    assert done.code == 2
    assert "give one of --pem, --jwk and --blob" in done.err
