"""The same with what every administrator has at hand: OpenSC's pkcs11-tool.

The attacker has the user PIN, or not even that, and a program that others wrote.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hsmvault.hsm import labels
from tests.support.softhsm import MODULE, USER_PIN, RegionTokens, Token

TOOL = shutil.which("pkcs11-tool")

pytestmark = pytest.mark.skipif(TOOL is None, reason="needs OpenSC's pkcs11-tool")

REGION_ID = labels.object_id(labels.region_key("north")).hex()
IDENTITY_ID = labels.object_id(labels.identity_key("north", "p0")).hex()


def run(token: Token, *arguments: str, pin: str | None = USER_PIN) -> str:
    login = [] if pin is None else ["--login", "--pin", pin]
    done = subprocess.run(
        [
            "pkcs11-tool",
            "--module",
            MODULE,
            "--token-label",
            token.label,
            *login,
            *arguments,
        ],
        env={**os.environ, **token.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_without_a_pin_it_lists_nothing(partition: Token) -> None:
    assert "hsmvault:" not in run(partition, "--list-objects", pin=None)


def test_it_shows_keys_that_are_sensitive_and_not_modifiable(partition: Token) -> None:
    shown = run(partition, "--list-objects", "--type", "secrkey")

    assert labels.region_key("north") in shown
    assert "never extractable" not in shown


def test_it_decrypts_nothing_with_the_region_key(
    partition: Token, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(bytes(48))

    said = run(
        partition,
        "--decrypt",
        "--mechanism",
        "AES-ECB",
        "--id",
        REGION_ID,
        "--input-file",
        str(tmp_path / "in"),
        "--output-file",
        str(tmp_path / "out"),
    )

    assert "CKR_" in said
    assert not (tmp_path / "out").exists() or not (tmp_path / "out").read_bytes()


def test_it_destroys_neither_region_nor_identity_key(partition: Token) -> None:
    for kind, key_id in (("secrkey", REGION_ID), ("privkey", IDENTITY_ID)):
        said = run(partition, "--delete-object", "--type", kind, "--id", key_id)

        # CKR_ACTION_PROHIBITED, which this program does not know by name.
        assert "0x1b" in said


def test_it_reads_no_key(partition: Token, tmp_path: Path) -> None:
    out = tmp_path / "out"

    said = run(
        partition,
        "--read-object",
        "--type",
        "secrkey",
        "--id",
        REGION_ID,
        "--output-file",
        str(out),
    )

    assert "CKR_ATTRIBUTE_SENSITIVE" in said or "error" in said.lower()
    assert not out.exists() or not out.read_bytes()


def test_it_imports_no_trusted_key(north: RegionTokens, tmp_path: Path) -> None:
    token = north.tokens["p0"]
    (tmp_path / "known").write_bytes(bytes(32))

    run(
        token,
        "--write-object",
        str(tmp_path / "known"),
        "--type",
        "secrkey",
        "--key-type",
        "AES:32",
        "--label",
        "planted",
    )

    shown = run(token, "--list-objects", "--type", "secrkey")
    assert "planted" in shown
    assert "trusted" not in shown.lower().split("planted")[1].split("secret key")[0]
