"""What people do wrong at the prompt: one message that says what to do, and a code."""

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsmvault.client.profile import Profile
from tests.support.prompt import Ended, hsmvault
from tests.support.regions import LiveVault, running_vault

pytestmark = pytest.mark.softhsm

Typed = Callable[..., Ended]
SIGNING = ("crypto", "sign", "paper", "-a", "ES256", "--digest", "00" * 32)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveVault]:
    with running_vault(tmp_path_factory.mktemp("mistakes")) as live:
        live.grant("alice", "Managed HSM Crypto User")
        yield live


def typed_as(vault: LiveVault, name: str) -> Typed:
    files = vault.caller(name)
    path = vault.directory / f"{name}.json"
    Profile((vault.north.endpoint,), files.certificate, files.key, files.ca).save(path)

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        return hsmvault(
            *arguments, stdin=stdin, environment={"HSMVAULT_PROFILE": str(path)}
        )

    return run


@pytest.fixture(scope="module")
def alice(vault: LiveVault) -> Typed:
    run = typed_as(vault, "alice")
    assert run("key", "create", "paper").code == 0
    assert run("key", "create", "box", "--type", "oct").code == 0
    return run


def test_a_status_that_nobody_tells_is_a_failure(
    vault: LiveVault, alice: Typed
) -> None:
    told = typed_as(vault, "admin")("status")
    refused = alice("status")
    as_json = alice("status", "--output", "json")

    assert told.code == 0, told.err
    assert (refused.code, as_json.code) == (5, 5)
    assert "regions/read/action" in refused.err
    # What is known stands there all the same.
    assert "primary" in refused.text
    assert "regions/read/action" in as_json.json["north"]


def test_who_lacks_a_permission_is_told_the_command_that_grants_it(
    alice: Typed,
) -> None:
    refused = alice("key", "purge", "paper", "--yes")

    assert refused.code == 5
    assert "hsmvault role assign CN=alice ROLE --scope /keys/paper" in refused.err


def test_a_version_is_expected_by_its_bare_id(alice: Typed) -> None:
    alice("key", "create", "turned")
    before = alice("key", "get", "turned", "--output", "json").json["current_version"]
    alice("key", "rotate", "turned")
    after = alice("key", "get", "turned", "--output", "json").json["current_version"]
    signing = ("crypto", "sign", "turned", "-a", "ES256", "--digest", "00" * 32)

    moved = alice(*signing, "--expected-version", before.rpartition("/")[2])
    signed = alice(*signing, "--expected-version", after.rpartition("/")[2])
    odd = alice(*signing, "--expected-version", "newest")

    assert (moved.code, signed.code, odd.code) == (8, 0, 3), signed.err
    assert f"{before} is not current" in moved.err
    assert "32 hex digits" in odd.err


def test_a_backup_onto_a_key_that_lives_is_told_how_to_make_room(
    alice: Typed, tmp_path: Path
) -> None:
    saved = tmp_path / "paper.backup"
    assert alice("key", "backup", "paper", "--out", saved).code == 0

    refused = alice("key", "restore", saved)

    assert refused.code == 7
    assert "another name" not in refused.err
    assert "hsmvault key delete, then hsmvault key purge" in refused.err


@pytest.mark.parametrize(
    "arguments",
    (
        (*SIGNING, "--out"),
        ("crypto", "data-key", "box", "--plaintext"),
        ("key", "backup", "paper", "--out"),
        ("batch", "--out"),
    ),
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_file_that_cannot_be_written_is_named_before_anything_is_done(
    vault: LiveVault, alice: Typed, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    beneath = vault.directory / "alice.json" / "out"

    missing = alice(*arguments, tmp_path / "nowhere" / "out")
    strange = alice(*arguments, beneath)

    assert (missing.code, strange.code) == (2, 2)
    assert str(tmp_path / "nowhere") in missing.err
    assert "alice.json" in strange.err
    assert not (tmp_path / "nowhere").exists()


def test_what_is_written_is_for_its_owner_alone_also_over_an_older_file(
    alice: Typed, tmp_path: Path
) -> None:
    """Somebody made the file beforehand, readable for everybody."""
    target = tmp_path / "data.key"
    target.write_bytes(b"x" * 100)
    target.chmod(0o644)

    made = alice("crypto", "data-key", "box", "--plaintext", target)

    assert made.code == 0, made.err
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert len(target.read_bytes()) == 32


def test_a_file_takes_the_bytes_and_json_goes_to_stdout(
    alice: Typed, tmp_path: Path
) -> None:
    sealed = tmp_path / "note.json"
    alice("crypto", "encrypt", "box", "-a", "A256GCM", "--out", sealed, stdin=b"note")
    json_ = ("--output", "json")

    shown = alice("crypto", "decrypt", sealed, *json_)
    kept = alice("crypto", "decrypt", sealed, "--out", tmp_path / "note", *json_)
    signed = alice(*SIGNING, *json_)
    random = alice("crypto", "random", 8, *json_)
    waited = alice("region", "wait", "1.north.1", *json_)
    topology = alice("topology", *json_)

    assert shown.json["plaintext"] == "bm90ZQ=="
    assert (kept.out, (tmp_path / "note").read_bytes()) == (b"", b"note")
    assert signed.json["algorithm"] == "ES256"
    assert len(random.json["data"]) == 12
    assert [r["name"] for r in topology.json["regions"]] == ["regions/north"]
    assert waited.json["position"].startswith("1.north.")


def test_far_too_much_is_said_to_be_so_and_not_to_be_tried_again(
    alice: Typed,
) -> None:
    refused = alice("crypto", "encrypt", "box", "-a", "A256GCM", stdin=bytes(3_000_000))

    assert refused.code == 3, refused.err
    assert "hsmvault crypto data-key" in refused.err
    assert "wait" not in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    (
        ((*SIGNING, "--in", __file__), 2, "not both"),
        (("crypto", "sign", "paper", "-a", "es256"), 3, "ES256"),
        (("crypto", "sign", "paper", "-a", "SHA1"), 3, "ES256"),
        (("key", "rotate", "nothing"), 6, "hsmvault key list"),
        (("sweeper", "resume", "{here}"), 78, "region.toml"),
        (("key", "create", "x", "--durability", "ALL"), 3, "ALL_REGIONS"),
        (("key", "update", "paper"), 2, "at least one change"),
        (("key", "update", "paper", "--tag", "a=b", "--no-tags"), 2, "not both"),
        (("key", "update", "paper", "--expires", "2099-01-01", "--no-dates"), 2, "not"),
        (("key", "import", "x", "--blob", __file__), 2, "--import and --type"),
        (("key", "import", "x", "--pem", __file__, "--import", "i"), 2, "--blob"),
        (
            ("key", "import", "x", "--blob", __file__, "--import", "i", "--type", "EC"),
            2,
            "--public",
        ),
        (("key", "rotation", "set", "paper", "--before-expiry", "P30D"), 2, "needs"),
        (
            (
                *("key", "rotation", "set", "paper", "--after", "P90D"),
                *("--before-expiry", "P30D"),
            ),
            2,
            "not both",
        ),
        (("key", "list", "--at", "nowhere"), 6, "there are north"),
        (("region", "wait", "--added", "nowhere"), 5, "regions/read/action"),
        (("vault", "set", "--client-crl", "{odd}"), 5, "vault/write/action"),
        (("caller", "show", "nobody.pem"), 78, "hsmvault caller add"),
        (("caller", "show", "{odd}"), 78, "no certificate in PEM"),
        (("audit", "tail", "{here}"), 78, "hsmvault audit tail"),
        (("audit", "tail", "{here}", "-n", "-4"), 2, "-n"),
        (("dev", "status", "--dir", "{here}"), 0, "hsmvault dev up"),
        (("dev", "down", "--dir", "{here}"), 0, "hsmvault dev up"),
    ),
    ids=lambda value: " ".join(value[:4])[:60] if isinstance(value, tuple) else "",
)
def test_a_mistake_gets_one_message_that_says_what_to_do(
    alice: Typed, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes("é".encode())
    places = {"{odd}": odd, "{here}": tmp_path}

    ended = alice(*(places.get(a, a) for a in arguments))

    assert ended.code == code, ended.err
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == b""


def test_a_region_that_nobody_knows_is_not_waited_for(vault: LiveVault) -> None:
    refused = typed_as(vault, "admin")("region", "wait", "--added", "nowhere")

    assert refused.code == 6
    assert "hsmvault region list" in refused.err


def test_what_is_no_revocation_list_is_refused_whatever_its_bytes(
    vault: LiveVault, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(bytes(range(256)))

    refused = typed_as(vault, "admin")("vault", "set", "--client-crl", odd)

    assert refused.code == 3, refused.err


def test_an_issued_caller_is_whole_or_not_there(
    vault: LiveVault, tmp_path: Path
) -> None:
    """A profile that cannot be read must not leave a certificate without one."""
    odd = tmp_path / "odd.json"
    odd.write_text("{}")
    out = tmp_path / "callers"
    issuing = ("caller", "add", "carol", "--ca", vault.directory / "ca", "--out", out)

    refused = hsmvault(*issuing, "--like", odd)
    short = hsmvault(*issuing, "--days", "0")

    assert (refused.code, short.code) == (78, 2)
    assert not out.exists()


def test_pins_are_asked_for_only_when_all_else_is_right(tmp_path: Path) -> None:
    odd = hsmvault("region", "init", tmp_path / "west", "--name", "West")
    nobody = hsmvault("region", "init", tmp_path / "west", "--name", "west")

    assert odd.code == 3
    assert "SO PIN" not in odd.err
    assert nobody.code == 2
    assert "--officer" in nobody.err
    assert not (tmp_path / "west").exists()


def test_an_error_names_its_reason_to_programs(alice: Typed) -> None:
    refused = alice("key", "list", "--at", "nowhere", "--output", "json")

    assert json.loads(refused.err)["error"]["reason"] == "NOT_FOUND"
