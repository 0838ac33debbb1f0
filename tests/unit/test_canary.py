"""The search for secrets finds them: each way to write one, shown red."""

import base64
import json
from pathlib import Path

import pytest

from tests.support.canary import CANARY, leaks

PIN = b"a-pin-that-nobody-has"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "p0.pin").write_bytes(PIN)
    return tmp_path


@pytest.mark.parametrize("secret", [CANARY, PIN])
@pytest.mark.parametrize("before", [b"", b"x", b"xy"])
@pytest.mark.parametrize("how", ["raw", "hex", "HEX", "base64", "urlsafe"])
def test_cr_18_a_planted_leak_is_found(
    place: Path, secret: bytes, before: bytes, how: str
) -> None:
    told = before + secret + b" and more"
    written = {
        "raw": told.decode(),
        "hex": told.hex(),
        "HEX": told.hex().upper(),
        "base64": base64.b64encode(told).decode(),
        "urlsafe": base64.urlsafe_b64encode(told).decode(),
    }[how]
    log = place / "p0.log"
    assert leaks(place) == []
    log.write_text(json.dumps({"event": "test", "fact": written}))

    found = leaks(place)

    # The run's own search comes later, and must not find this one.
    log.unlink()
    assert found == [str(log)]


def test_what_holds_a_secret_by_its_name_is_no_leak(place: Path) -> None:
    tokens = place / "tokens" / "p0"
    tokens.mkdir(parents=True)
    (tokens / "object").write_bytes(PIN)

    assert leaks(place) == []
