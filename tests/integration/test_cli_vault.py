"""The command line against a real region: what a person types, and what comes back."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hsmvault as hsmvault_client
from hsmvault.client.profile import Profile
from hsmvault.local.manager_client import ManagerClient
from hsmvault.model.errors import ClockUntrusted
from hsmvault.v1.crypto_service_pb2 import BatchItem, EncryptRequest, SignRequest
from tests.support.prompt import Ended, hsmvault
from tests.support.regions import LiveVault, running_vault

pytestmark = pytest.mark.softhsm

Typed = Callable[..., Ended]


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveVault]:
    with running_vault(tmp_path_factory.mktemp("vault")) as live:
        for name, role in (
            ("alice", "Managed HSM Crypto User"),
            ("otto", "Managed HSM Crypto Officer"),
        ):
            live.grant(name, role)
        yield live


def typed_as(vault: LiveVault, name: str) -> Typed:
    files = vault.caller(name)
    path = vault.directory / f"{name}.json"
    known = Profile((vault.north.endpoint,), files.certificate, files.key, files.ca)
    known.save(path)

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        return hsmvault(
            *arguments, stdin=stdin, environment={"HSMVAULT_PROFILE": str(path)}
        )

    return run


@pytest.fixture
def alice(vault: LiveVault) -> Typed:
    return typed_as(vault, "alice")


@pytest.fixture
def otto(vault: LiveVault) -> Typed:
    return typed_as(vault, "otto")


@pytest.fixture
def admin(vault: LiveVault) -> Typed:
    return typed_as(vault, "admin")


def test_a_key_lives_its_whole_life_at_the_prompt(alice: Typed, otto: Typed) -> None:
    made = alice("key", "create", "life", "--tag", "team=pay", "--output", "json")
    assert made.code == 0, made.err
    assert made.json["name"] == "keys/life"
    assert made.json["tags"] == {"team": "pay"}

    rotated = alice("key", "rotate", "life", "--output", "json")
    versions = alice("key", "versions", "life", "--output", "json")
    assert [v["current"] for v in versions.json] == [False, True]
    assert versions.json[1]["name"] == rotated.json["name"]

    off = alice("version", "update", rotated.json["name"], "--disable")
    assert off.code == 0, off.err
    refused = alice("crypto", "sign", "life", "-a", "ES256", stdin=b"x")
    assert refused.code == 8
    assert "error:" in refused.err

    assert alice("key", "delete", "life").code == 0
    assert alice("key", "get", "life").code == 6
    assert "keys/life" in otto("key", "list", "--deleted").text
    assert otto("key", "recover", "life").code == 0
    assert alice("key", "get", "life", "--output", "json").json["enabled"] is True
    assert alice("key", "delete", "life").code == 0
    purged = otto("key", "purge", "life", "--yes")
    assert purged.code == 0, purged.err
    assert "position" in purged.text


def test_a_rotation_policy_is_set_shown_and_removed_at_the_prompt(
    alice: Typed,
) -> None:
    alice("key", "create", "turning")

    made = alice("key", "rotation", "set", "turning", "--after", "P5W")
    shown = alice("key", "rotation", "show", "turning", "--output", "json")
    months = alice("key", "rotation", "set", "turning", "--after", "P1M")
    short = alice("key", "rotation", "set", "turning", "--after", "P27D")
    nothing = alice("key", "rotation", "set", "turning")
    gone = alice("key", "rotation", "remove", "turning")

    assert made.code == 0, made.err
    assert "P35D" in made.text
    assert shown.json["rotate_after_create"] == f"{35 * 86400}s"
    assert "P90D" in months.err
    assert "28 days" in short.err
    assert "--after" in nothing.err
    assert "by hand only" in gone.text


def test_a_version_is_activated_and_expected_at_the_prompt(alice: Typed) -> None:
    first = alice("key", "create", "turned", "--output", "json").json["current_version"]
    alice("key", "rotate", "turned")
    signing = ("crypto", "sign", "turned", "-a", "ES256", "--digest", "00" * 32)

    moved = alice(*signing, "--expected-version", first)
    active = alice("key", "activate", "turned", first.rpartition("/")[2])

    assert (moved.code, active.code) == (8, 8)
    assert "is not current" in moved.err
    assert "not PENDING" in active.err


def test_deleted_keys_are_shown_with_what_may_become_of_them(
    alice: Typed, otto: Typed
) -> None:
    alice("key", "create", "ended")
    alice("key", "delete", "ended")

    one = otto("key", "get", "ended", "--deleted", "--output", "json")
    all_ = otto("key", "list", "--deleted")

    assert one.json["recovery_level"] == "Recoverable+Purgeable"
    assert "keys/ended" in all_.text
    assert "Recoverable+Purgeable" in all_.text


def test_an_operator_vouches_for_the_clock_of_a_running_region(
    vault: LiveVault,
) -> None:
    layout = vault.north.layout
    vault.north.wait_serving(manager=True)
    manager = ManagerClient(layout)

    said = hsmvault("sweeper", "resume", layout.directory, "--yes", "--output", "json")
    with pytest.raises(ClockUntrusted, match="no linked region's clock"):
        # It has just been started, and there is no other region.
        manager.require_past(1)
    manager.close()

    assert said.code == 0, said.err
    assert said.json == {"problem": ""}


def test_what_is_only_validated_is_said_and_not_done(
    alice: Typed, admin: Typed
) -> None:
    would = alice("key", "create", "maybe", "--validate-only")
    refused = admin("key", "create", "maybe", "--validate-only")
    unable = admin("region", "remove", "south", "--yes", "--validate-only")

    assert would.code == 0, would.err
    assert "keys/maybe" in would.text
    assert "nothing was changed" in would.err
    assert alice("key", "get", "maybe").code == 6
    assert "error:" in refused.err
    assert unable.code != 0
    assert "regions/south" in unable.err


def test_a_purge_is_asked_for_twice(alice: Typed, otto: Typed) -> None:
    alice("key", "create", "asked")
    alice("key", "delete", "asked")

    stopped = otto("key", "purge", "asked", stdin=b"n\n")

    assert stopped.code == 130
    assert otto("key", "get", "asked", "--deleted").code == 0


def test_where_nobody_can_be_asked_the_way_to_answer_is_said(
    alice: Typed, otto: Typed
) -> None:
    alice("key", "create", "unasked")
    alice("key", "delete", "unasked")

    stopped = otto("key", "purge", "unasked", stdin=b"")

    assert stopped.code == 2
    assert "--yes" in stopped.err
    assert otto("key", "get", "unasked", "--deleted").code == 0


def test_what_was_signed_verifies_here_and_with_openssl(
    alice: Typed, tmp_path: Path
) -> None:
    alice("key", "create", "seal", "--type", "RSA", "--bits", "2048")
    letter = tmp_path / "letter"
    letter.write_bytes(b"Dear all\n")
    signed = alice("crypto", "sign", "seal", "-a", "RS256", "--in", letter)
    signature = tmp_path / "letter.sig"
    signature.write_bytes(signed.out)

    verify = ("crypto", "verify", "seal", "-a", "RS256", "-s", signature)
    right = alice(*verify, "--in", letter)
    wrong = alice(*verify, stdin=b"Dear you\n")

    assert (right.code, right.text) == (0, "valid\n")
    assert (wrong.code, wrong.text) == (1, "NOT valid\n")
    (tmp_path / "raw").write_bytes(base64.b64decode(signed.out))
    (tmp_path / "public.pem").write_bytes(alice("key", "public-key", "seal").out)
    openssl = ("openssl", "dgst", "-sha256", "-verify", str(tmp_path / "public.pem"))
    done = subprocess.run(
        [*openssl, "-signature", str(tmp_path / "raw"), str(letter)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_files_are_encrypted_and_come_back(alice: Typed, tmp_path: Path) -> None:
    alice("key", "create", "box", "--type", "oct")
    note, sealed, back = (tmp_path / n for n in ("note", "note.json", "back"))
    note.write_bytes(bytes(range(256)))

    assert (
        alice(
            "crypto", "encrypt", "box", "-a", "A256GCM", "--in", note, "--out", sealed
        ).code
        == 0
    )
    opened = alice("crypto", "decrypt", sealed, "--out", back)

    assert opened.code == 0, opened.err
    assert back.read_bytes() == note.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o600
    assert note.read_bytes() not in sealed.read_bytes()


def test_a_file_moves_to_another_key_and_stays_bound(
    alice: Typed, tmp_path: Path
) -> None:
    alice("key", "create", "old-box", "--type", "oct")
    alice("key", "create", "new-box", "--type", "oct")
    bound = ("--context", "year=2026", "--context", "tenant=7")
    sealed, moved = tmp_path / "note.json", tmp_path / "moved.json"
    alice(
        *("crypto", "encrypt", "old-box", "-a", "A256GCM", "--out", sealed, *bound),
        stdin=b"secret",
    )

    move = ("crypto", "re-encrypt", sealed, "--to", "new-box", "-a", "A256GCM")
    answer = alice(*move, "--out", moved, *bound)
    opened = alice(
        *("crypto", "decrypt", moved, "--context", "tenant=7"),
        *("--context", "year=2026"),
    )

    assert answer.code == 0, answer.err
    assert "new-box" in moved.read_text()
    assert opened.out == b"secret"
    assert alice("crypto", "decrypt", moved).code == 3
    assert alice(*move).code == 3
    assert alice("crypto", "decrypt", moved, "--context", "tenant").code == 2


def test_a_file_is_authenticated_by_an_hmac_key(alice: Typed, tmp_path: Path) -> None:
    made = alice(
        *("key", "create", "macs", "--type", "oct", "--operations", "sign,verify")
    )
    note, tag = tmp_path / "note", tmp_path / "tag"
    note.write_bytes(b"pay 5")

    alice("crypto", "sign", "macs", "-a", "HS256", "--in", note, "--out", tag)
    verify = ("crypto", "verify", "macs", "-a", "HS256", "-s", tag)

    assert made.code == 0, made.err
    assert alice(*verify, "--in", note).code == 0
    assert alice(*verify, stdin=b"pay 6").code == 1


def test_a_changed_ciphertext_is_refused_with_one_message(
    alice: Typed, tmp_path: Path
) -> None:
    alice("key", "create", "crate", "--type", "oct")
    sealed = alice("crypto", "encrypt", "crate", "-a", "A256GCM", stdin=b"secret").json
    tag = bytearray(base64.b64decode(sealed["tag"]))
    tag[0] ^= 1
    sealed["tag"] = base64.b64encode(tag).decode()
    refused = alice("crypto", "decrypt", stdin=json.dumps(sealed).encode())

    assert refused.code == 3
    assert refused.out == b""


def test_a_data_key_comes_in_clear_and_wrapped(alice: Typed, tmp_path: Path) -> None:
    alice("key", "create", "wrapper", "--type", "oct")
    clear, wrapped = tmp_path / "clear", tmp_path / "wrapped.json"

    made = alice(
        "crypto", "data-key", "wrapper", "--plaintext", clear, "--out", wrapped
    )
    opened = alice("crypto", "unwrap", wrapped)

    assert made.code == 0, made.err
    assert len(clear.read_bytes()) == 32
    assert clear.stat().st_mode & 0o777 == 0o600
    assert opened.out == clear.read_bytes()
    sealed = alice("crypto", "data-key", "wrapper", "--out", wrapped)
    assert (sealed.code, sealed.out) == (0, b"")
    assert len(alice("crypto", "unwrap", wrapped).out) == 32


def test_a_legacy_algorithm_works_once_an_administrator_allows_it(
    admin: Typed, alice: Typed, tmp_path: Path
) -> None:
    alice("key", "create", "old", "--type", "RSA", "--bits", "2048")
    sealed = tmp_path / "sealed.json"
    encrypt = ("crypto", "encrypt", "old", "-a", "RSA1_5", "--out", sealed)

    refused = alice(*encrypt, stdin=b"pay 5")
    command = refused.err[refused.err.index("hsmvault vault set") :].split()[1:5]
    allowed = admin(*command)

    assert refused.code == 8
    assert command == ["vault", "set", "--legacy-algorithm", "+RSA1_5"]
    assert allowed.code == 0, allowed.err
    assert alice(*encrypt, stdin=b"pay 5").code == 0
    assert alice("crypto", "decrypt", sealed).out == b"pay 5"


def _line(reference: int, name: str, kind: str = "sign", **fields: str) -> str:
    item = {"name": name, "algorithm": "ES256", **fields}
    return json.dumps({"reference": str(reference), kind: item})


def test_a_batch_is_a_line_in_and_a_line_out(alice: Typed, tmp_path: Path) -> None:
    alice("key", "create", "many")
    digest = base64.b64encode(bytes(32)).decode()
    lines = [_line(n, "many", digest=digest) for n in range(25)]
    lines[7] = _line(7, "missing", digest=digest)
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    asked.write_text("\n".join(lines) + "\n\n")

    ended = alice("batch", asked, "--size", 10, "--out", answered, "--output", "json")

    assert ended.code == 1, ended.err
    assert (ended.json["items"], ended.json["failed"]) == (25, 1)
    assert "25 done, 1 of them failed" in ended.err
    assert answered.stat().st_mode & 0o777 == 0o600
    results = [json.loads(line) for line in answered.read_text().splitlines()]
    assert [r["reference"] for r in results] == [str(n) for n in range(25)]
    assert results[7]["error"]["reason"] == "NOT_FOUND"
    verify = [
        _line(n, "many", "verify", digest=digest, signature=r["sign"]["signature"])
        for n, r in enumerate(results)
        if "sign" in r
    ]
    checked = alice("batch", stdin="\n".join(verify).encode())
    assert checked.code == 0, checked.err
    valid = [json.loads(line)["verify"]["valid"] for line in checked.text.splitlines()]
    assert valid == [True] * 24


@pytest.mark.parametrize("line", ["{", "[]", '{"sing": {}}', '{"sign": {"digest": 5}}'])
def test_a_line_that_is_no_item_is_named_and_nothing_is_sent(
    alice: Typed, line: str
) -> None:
    refused = alice("batch", stdin=f"\n{line}\n".encode())

    assert refused.code == 2
    assert "line 2" in refused.err
    assert refused.out == b""


def test_the_python_client_s_batch_is_answered_item_by_item(
    vault: LiveVault, alice: Typed
) -> None:
    alice("key", "create", "mixed", "--type", "oct")
    files = vault.caller("alice")
    with hsmvault_client.connect(
        [vault.north.endpoint],
        certificate=files.certificate,
        key=files.key,
        ca=files.ca,
    ) as client:
        encrypt = EncryptRequest(
            name="keys/mixed", algorithm="A256GCM", plaintext=b"batched"
        )
        unknown = SignRequest(name="keys/none", algorithm="ES256", digest=bytes(32))
        sealed, refused = client.batch(
            [BatchItem(encrypt=encrypt), BatchItem(reference="b", sign=unknown)]
        )
        opened = client.decrypt(
            sealed.encrypt.name,
            "A256GCM",
            sealed.encrypt.ciphertext,
            iv=sealed.encrypt.iv,
            tag=sealed.encrypt.tag,
        )

    assert opened.plaintext == b"batched"
    assert (refused.reference, refused.error.code) == ("b", 5)


def test_random_bytes_are_as_many_as_asked(alice: Typed) -> None:
    answer = alice("crypto", "random", 24, "--format", "hex")

    assert answer.code == 0, answer.err
    assert len(bytes.fromhex(answer.text)) == 24


def test_roles_are_assigned_and_revoked(admin: Typed, vault: LiveVault) -> None:
    bob = typed_as(vault, "bob")
    assert bob("key", "list").code == 5

    given = admin("role", "assign", "CN=bob", "Crypto User", "--output", "json")
    assert given.code == 0, given.err
    assert bob("key", "list").code == 0
    listed = admin("role", "list", "--principal", "CN=bob", "--output", "json").json
    assert [a["name"] for a in listed] == [given.json["name"]]

    assert admin("role", "revoke", given.json["name"]).code == 0
    refused = bob("key", "list")
    assert refused.code == 5
    assert "role assign" in refused.err


def test_the_vaults_settings_are_shown_and_changed(admin: Typed, alice: Typed) -> None:
    changed = admin(
        *("vault", "set", "--rate-limit", 100_000, "--legacy-algorithm", "+RSA1_5"),
        *("--allowed-network", "127.0.0.0/8", "--allowed-network", "::1/128"),
    )
    shown = admin("vault", "show", "--output", "json")
    admin("vault", "set", "--rate-limit", 0, "--legacy-algorithm=-RSA1_5")
    back = admin("vault", "set", "--any-network", "--output", "json")

    assert changed.code == 0, changed.err
    assert b"RSA1_5" in changed.out
    known = json.loads(shown.out)
    assert (known["rate_limit"], known["legacy_algorithms"]) == (100_000, ["RSA1_5"])
    assert known["allowed_networks"] == ["127.0.0.0/8", "::1/128"]
    assert json.loads(back.out)["allowed_networks"] == []
    assert json.loads(back.out)["legacy_algorithms"] == []
    assert admin("vault", "set").code == 2
    assert admin("vault", "set", "--allowed-network", "10.0.0.0/8").code == 8
    assert alice("vault", "show").code == 5


def test_a_role_of_ones_own_is_defined_assigned_changed_and_deleted(
    admin: Typed, vault: LiveVault
) -> None:
    carol = typed_as(vault, "carol")
    made = admin(
        "role", "define", "Reader", "--action", "keys/read/action", "--output", "json"
    )
    assert made.code == 0, made.err
    assert admin("role", "show", "reader").text.count("keys/read/action") == 2
    limited = ("--scope", "/", "--region", "north")
    assert admin("role", "assign", "CN=carol", "Reader", *limited).code == 0
    assert carol("key", "list").code == 0
    assert "yes  keys/read/action" in carol("role", "test").text
    assert "no   keys/sign/action" in carol("role", "test", "keys/sign/action").text

    # Who reads a key's assignments need not be allowed to read what roles there are.
    for who, role in (("CN=carol", "crypto auditor"), ("CN=dan", "Reader")):
        assert admin("role", "assign", who, role, "--scope", "/keys/zz").code == 0
    at_key = carol("role", "list", "--scope", "/keys/zz")
    assert at_key.code == 0, at_key.err
    assert made.json["name"] in at_key.text

    changed = admin("role", "redefine", "Reader", "--action", "rng/action")
    assert changed.code == 0, changed.err
    assert carol("key", "list").code == 5
    assert admin("role", "undefine", "Reader").code == 0
    left = admin("role", "list", "--principal", "CN=carol")
    assert "(deleted)" in left.text
    assert "north" in left.text
    assert admin("role", "undefine", "Crypto User").code != 0


def test_changes_are_watched_from_a_position_on(alice: Typed) -> None:
    begun = json.loads(alice("key", "create", "watched", "--output", "json").out)[
        "position"
    ]
    alice("key", "update", "watched", "--disable")
    alice("key", "update", "watched", "--enable")

    told = alice("watch", "--from", begun, "--scope", "/keys/watched", "--count", 2)
    lines = alice(
        *("watch", "--from", begun, "--kind", "key", "--count", 2, "--output", "json")
    )

    assert told.code == 0, told.err
    assert told.out.count(b"keys/watched") == 2
    assert b"ACTIVE, off" in told.out.splitlines()[0]
    changes = [json.loads(line) for line in lines.out.splitlines()]
    assert [c["key"]["enabled"] for c in changes] == [False, True]
    assert alice("watch", "--from", "1.north.0").code == 9


def test_an_unknown_role_is_answered_with_the_known_ones(admin: Typed) -> None:
    refused = admin("role", "assign", "CN=bob", "Emperor")

    assert refused.code == 6
    assert "Crypto Officer" in refused.err


def test_everything_is_there_at_a_glance(admin: Typed) -> None:
    glance = admin("status")
    regions = admin("region", "list", "--output", "json")

    assert glance.code == 0, glance.err
    assert "3/3 serving" in glance.text
    assert [r["name"] for r in regions.json] == ["regions/north"]
    assert "p2" in admin("topology").text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    (
        (("key", "get", "no-such-key"), 6, "no-such-key"),
        (("key", "create", "bad_name"), 3, "bad_name"),
        (("key", "create", "odd", "--type", "RSA", "--bits", "1000"), 3, "2048"),
        (("crypto", "sign", "life", "-a", "ES999"), 3, "ES999"),
        (("key", "get", "x", "--min-position", "yesterday"), 3, "position"),
        (("key", "create", "x", "--expires", "soon"), 2, "date"),
    ),
)
def test_bad_input_gets_one_clear_message(
    alice: Typed, arguments: tuple[str, ...], code: int, said: str
) -> None:
    refused = alice(*arguments)

    assert refused.code == code, refused.err
    assert said in refused.err
    assert "Traceback" not in refused.err
    assert refused.out == b""


def test_an_error_can_be_read_by_programs(alice: Typed) -> None:
    refused = alice("key", "get", "nothing", "--output", "json")

    error = json.loads(refused.err)["error"]
    assert error["reason"] == "NOT_FOUND"
    assert refused.code == 6
