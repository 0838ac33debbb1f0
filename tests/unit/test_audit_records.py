"""A record says what happened, whatever those who caused it put into its texts.

The attacker may choose every name in a call, and much of their own; they want a record
that reads as another one, or as two, or that does something to a terminal.
"""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.api.account import Account, Authentication, Item
from hsmvault.api.auditing import PRINCIPAL_MAX, record
from hsmvault.audit.line import genesis, read, seal
from hsmvault.audit.trail import Trail

FORGED = '","principal":"CN=admin","code":"OK'
HOSTILE = st.one_of(
    st.text(max_size=20),
    st.sampled_from([FORGED, "a\nb", "\r", "\\", '"', "\x1b[2J", "\u2028", "\u202e"]),
)
TOLD = ("method", "principal", "peer", "resource")
"""They stand in every record; these only if they say something:"""
SAID = ("version", "reason", "request_id", "via_region")
FACTS = st.dictionaries(HOSTILE, HOSTILE | st.lists(HOSTILE, max_size=2), max_size=2)


def account(texts: dict[str, str], facts: dict[str, Any], *items: Item) -> Account:
    told = Account(
        texts["method"],
        authentication=Authentication.MTLS,
        position="1.north.7",
        code="PERMISSION_DENIED",
        facts=facts,
        items=items,
        duration_ns=2000,
    )
    for name, text in texts.items():
        setattr(told, name, text)
    return told


@given(st.fixed_dictionaries(dict.fromkeys((*TOLD, *SAID), HOSTILE)), FACTS, HOSTILE)
def test_au_03_a_record_reads_as_what_was_told_and_as_nothing_else(
    texts: dict[str, str], facts: dict[str, Any], text: str
) -> None:
    item = Item("sign", text, "NOT_FOUND", "NOT_FOUND", facts)

    body = "{" + record(account(texts, facts, item)) + "}"

    told = {"operation": "sign", "version": text}
    told |= {"code": "NOT_FOUND", "reason": "NOT_FOUND"}
    expected: dict[str, Any] = {
        "event": "call",
        "authentication": "mtls",
        "code": "PERMISSION_DENIED",
        "duration_us": 2,
        "position": "1.north.7",
        **{name: texts[name] for name in TOLD},
        **{name: texts[name] for name in SAID if texts[name]},
        **({"facts": facts} if facts else {}),
        "items": [told | ({"facts": facts} if facts else {})],
    }
    # Each member once: whoever reads the last of two would read the attacker's.
    pairs = json.loads(body, object_pairs_hook=list)
    assert len(pairs) == len(expected)
    assert json.loads(body) == expected
    assert_plain(body.encode())


def assert_plain(line: bytes) -> None:
    """One line, of what a terminal shows and does not obey."""
    assert line.isascii()
    assert all(byte >= 32 for byte in line)


def test_a_principals_name_takes_no_more_room_than_there_is() -> None:
    texts = dict.fromkeys((*TOLD, *SAID), "")
    texts["principal"] = "x" * PRINCIPAL_MAX * 2

    found = json.loads("{" + record(account(texts, {})) + "}")

    assert found["principal"] == "x" * PRINCIPAL_MAX


@pytest.mark.parametrize("text", [FORGED, "a\nb", "\x1b[2J", "\u2028", "\\"])
def test_au_03_what_is_noted_without_a_caller_is_one_record_too(
    tmp_path: Path, text: str
) -> None:
    """Names come to the pool manager from another region, which may be malicious."""
    with closing(
        Trail(tmp_path, vault_id="ab" * 16, region="north", process="manager")
    ) as trail:
        trail.open()
        trail.note(text, text, resources=[text], **{text: text})

    _, raw = (tmp_path / "manager-000001.jsonl").read_bytes().splitlines()
    found = json.loads(raw)
    assert (found["event"], found["resource"]) == (text, text)
    assert found["facts"] == {"resources": [text], text: text}
    assert_plain(raw)


def test_au_03_a_name_that_looks_like_a_seal_seals_nothing() -> None:
    """The attacker names a key so that their record seems to end within it."""
    chain = genesis("ab" * 16, "north", "p0")
    name = '","chain":"' + "0" * 64 + '"}\n'
    texts = dict.fromkeys((*TOLD, *SAID), name)
    body = ('{"sequence":1,"time":"-",' + record(account(texts, {}))).encode()

    line, sealed = seal(chain, body)

    assert line.count(b"\n") == 1
    assert read(line).body == body
    assert read(line).chain == sealed != bytes(32)
