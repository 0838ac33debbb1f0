"""Callers with tokens at the prompt, and what the audit trail then shows of them.

One region that runs. What is typed by `uma` goes by a token that a real issuer signed.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import hsmvault as hsmvault_client
from hsmvault.client.profile import Profile
from hsmvault.model.errors import VaultError
from hsmvault.v1.crypto_service_pb2 import BatchItem, SignRequest
from tests.support.issuer import TestIssuer, make_key
from tests.support.prompt import Ended, hsmvault
from tests.support.regions import LiveVault, running_vault

pytestmark = pytest.mark.softhsm

Typed = Callable[..., Ended]


@pytest.fixture(scope="module")
def vault(
    tmp_path_factory: pytest.TempPathFactory, issuer: TestIssuer
) -> Iterator[LiveVault]:
    with running_vault(tmp_path_factory.mktemp("tokens"), settings=issuer.toml) as live:
        files = live.admin
        path = live.directory / "admin.json"
        Profile((live.north.endpoint,), files.certificate, files.key, files.ca).save(
            path
        )
        for role in ("Crypto User", "Crypto Officer"):
            done = hsmvault(
                *("role", "assign", issuer.principal("uma"), role, "--scope", "/"),
                *("--profile", path),
            )
            assert done.code == 0, done.err
        yield live


def typed_by(vault: LiveVault, token: str, name: str) -> Typed:
    """Type as whoever has this token, by a profile that names its file."""
    file, path = vault.directory / f"{name}.jwt", vault.directory / f"{name}.json"
    file.write_text(token + "\n")
    Profile(
        vault.north.card.token_endpoints, None, None, vault.admin.ca, token=file
    ).save(path)

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        done = hsmvault(
            *arguments, stdin=stdin, environment={"HSMVAULT_PROFILE": str(path)}
        )
        assert not token or token not in done.text + done.err
        return done

    return run


@pytest.fixture
def uma(vault: LiveVault, issuer: TestIssuer) -> Typed:
    return typed_by(vault, issuer.token("uma"), "uma")


@pytest.fixture
def key(uma: Typed, request: pytest.FixtureRequest) -> str:
    """A key of the test's own."""
    name = request.node.name.replace("_", "-")[-40:].strip("-")
    assert uma("key", "create", name).code == 0
    return name


# --- calls --------------------------------------------------------------------


def test_a_key_lives_its_whole_life_by_a_token(uma: Typed, tmp_path: Path) -> None:
    made = uma("key", "create", "life", "--tag", "team=pay", "--output", "json")
    assert made.code == 0, made.err
    box = uma("key", "create", "box", "--type", "oct")
    assert box.code == 0, box.err
    (tmp_path / "told").write_bytes(b"told")
    signing = ("crypto", "sign", "life", "-a", "ES256", "--in", tmp_path / "told")
    signed = uma(*signing, "--out", tmp_path / "signature")
    assert signed.code == 0, signed.err
    verified = uma(
        *("crypto", "verify", "life", "-a", "ES256", "--in", tmp_path / "told"),
        *("--signature", tmp_path / "signature"),
    )
    assert verified.code == 0, verified.err
    sealed = uma("crypto", "encrypt", "box", "-a", "A256GCM", stdin=b"told")
    opened = uma("crypto", "decrypt", stdin=sealed.out)
    assert opened.out == b"told", opened.err
    sign = {"name": "keys/life", "algorithm": "ES256", "digest": "A" * 43 + "="}
    several = uma("batch", stdin=json.dumps({"reference": "1", "sign": sign}).encode())
    assert several.code == 0, several.err

    assert uma("key", "rotate", "life").code == 0
    assert "keys/life" in uma("key", "list").text
    told = uma("watch", "--from", made.json["position"], "--count", 1)
    assert told.code == 0, told.err
    assert "p2" in uma("topology").text
    assert uma("key", "delete", "life").code == 0
    assert uma("key", "recover", "life").code == 0
    assert uma("key", "delete", "life").code == 0
    assert uma("key", "purge", "life", "--yes").code == 0


def test_a_token_that_is_nobodys_is_refused_in_one_line(
    vault: LiveVault, issuer: TestIssuer
) -> None:
    now = issuer.claims()["iat"]
    for token, code, said in (
        (issuer.token("eve"), 5, issuer.principal("eve")),
        (issuer.token(exp=now - 600), 4, "get a fresh one"),
        (issuer.token(aud="another"), 4, "another audience"),
        (issuer.token(iss="https://elsewhere.example"), 4, "does not believe"),
        (issuer.token(key=make_key()), 4, "no key of its issuer"),
        ("nonsense", 4, "not a JWT"),
        ("", 78, "is empty"),
        ("ü", 78, "cannot read a token"),
    ):
        refused = typed_by(vault, token, "refused")("key", "get", "no-such")

        assert (refused.code, said in refused.err) == (code, True), refused.err
        assert "Traceback" not in refused.err
        assert refused.out == b""


def test_a_token_goes_to_token_ports_and_alone(
    vault: LiveVault,
    issuer: TestIssuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hsmvault.cli.asking.TIMEOUT", 3.0)
    file = tmp_path / "token"
    file.write_text(issuer.token("uma"))
    files, port = vault.admin, vault.north.card.token_endpoints[0]
    own = ("--ca", files.ca, "--token-file", file)
    certificate = ("--certificate", files.certificate, "--key", files.key)

    both = hsmvault("key", "list", "--endpoint", port, *own, *certificate)
    gone = hsmvault(
        *("key", "list", "--endpoint", port, "--ca", files.ca),
        *("--token-file", tmp_path / "gone"),
    )
    elsewhere = hsmvault("key", "list", "--endpoint", vault.north.endpoint, *own)
    bare = hsmvault("key", "list", "--endpoint", port, "--ca", files.ca, *certificate)
    signed = hsmvault(*("region", "remove", "south", "--yes", "--endpoint", port), *own)

    assert (both.code, "leave one out" in both.err) == (78, True), both.err
    assert (gone.code, "gone" in gone.err) == (78, True), gone.err
    assert (elsewhere.code, "port one for tokens" in elsewhere.err) == (4, True)
    assert (bare.code, "0 authorization headers" in bare.err) == (4, True), bare.err
    assert (signed.code, "client certificate" in signed.err) == (78, True), signed.err


def test_a_token_shows_up_in_no_file_of_the_region(
    vault: LiveVault, issuer: TestIssuer, key: str
) -> None:
    token = issuer.token("uma", jti="planted")

    typed_by(vault, token, "searched")("key", "get", key)

    written = [p for p in vault.north.layout.directory.rglob("*") if p.is_file()]
    parts = [part.encode() for part in token.split(".")[1:]]
    for path in written:
        assert not [part for part in parts if part in path.read_bytes()], path


# --- the partition that served is killed --------------------------------------


def test_a_client_with_a_token_goes_on_when_its_partition_is_killed(
    vault: LiveVault, issuer: TestIssuer, key: str
) -> None:
    """By the token ports of the others; and by its own, when it is back."""
    served: list[str] = []
    failed: list[str] = []
    done = threading.Event()
    with hsmvault_client.connect(
        vault.north.card.token_endpoints[1],
        ca=vault.admin.ca,
        token=lambda: issuer.token("uma"),
        timeout=30,
    ) as client:

        def run() -> None:
            while not done.wait(0.005):
                try:
                    answer = client.sign(key, "ES256", digest=bytes(32))
                except VaultError as error:
                    failed.append(f"{error.reason}: {error}")
                else:
                    served.append(answer.served.partition)

        def until(partition: str) -> None:
            """Wait until it has answered anew. pytest limits the wait."""
            start = len(served)
            while partition not in served[start:] and not done.wait(0.02):
                pass

        caller = threading.Thread(target=run)
        caller.start()
        try:
            until("p0")
            former = vault.north.kill_partition("p0")
            until("p1")
            until("p2")
            vault.north.wait_until(
                lambda: vault.north.partition("p0")["pid"] not in {None, former},
                what="p0 anew",
            )
            vault.north.wait_serving()
            until("p0")
        finally:
            done.set()
            caller.join()

    assert not failed


# --- the trail ----------------------------------------------------------------


def tail(vault: LiveVault, *arguments: object) -> Ended:
    done = hsmvault("audit", "tail", vault.north.layout.directory, *arguments)
    assert done.code == 0, done.err
    return done


def records(vault: LiveVault, *arguments: object) -> list[dict[str, Any]]:
    shown = tail(vault, *arguments, "--output", "json").text
    return [json.loads(line) for line in shown.splitlines()]


@pytest.fixture
def traces(vault: LiveVault, issuer: TestIssuer, uma: Typed, key: str) -> str:
    """A key that was made, used alone and in a batch, and asked for by a stranger."""
    name = f"keys/{key}"
    assert uma("crypto", "sign", key, "-a", "ES256", stdin=b"x").code == 0
    with hsmvault_client.connect(
        vault.north.card.token_endpoints[0], ca=vault.admin.ca, token=issuer.token
    ) as client:
        item = SignRequest(name=name, algorithm="ES256", digest=bytes(32))
        client.batch([BatchItem(sign=item)])
    assert typed_by(vault, issuer.token("eve"), "eve")("key", "get", key).code == 5
    return name


def test_the_trail_is_filtered_by_caller_method_resource_and_code(
    vault: LiveVault, issuer: TestIssuer, traces: str
) -> None:
    about = records(vault, "--resource", traces)

    told = [(r["method"].rpartition("/")[2], r["code"]) for r in about]
    assert told == [
        ("CreateKey", "OK"),
        ("Sign", "OK"),
        ("Batch", "OK"),
        ("GetKey", "PERMISSION_DENIED"),
    ]
    assert {r["authentication"] for r in about} == {"jwt"}
    eve, uma = issuer.principal("eve"), issuer.principal("uma")
    assert [r["principal"] for r in about] == [uma, uma, uma, eve]
    for filters, expected in (
        (("--method", "Sign"), about[1:2]),
        (("--method", about[1]["method"]), about[1:2]),
        (("--method", "ign"), []),
        (("--principal", eve), about[3:]),
        (("--principal", "uma"), []),
        (("--code", "PERMISSION_DENIED"), about[3:]),
        (("--code", "OK", "--principal", uma, "--method", "Batch"), about[2:3]),
        (("-n", 2), about[2:]),
        (("-n", 0), []),
        (("-n", 2, "--code", "OK"), about[1:3]),
    ):
        assert records(vault, "--resource", f"/{traces.upper()}/", *filters) == expected
    assert records(vault, "--resource", traces[:-1]) == []
    started = records(vault, "--method", "audit.started", "-n", 100)
    assert {r["event"] for r in started} == {"audit.started"}
    assert {r["process"] for r in started} >= {"p0", "p1", "p2", "supervisor"}


def test_the_trail_is_shown_from_a_time_on(vault: LiveVault, traces: str) -> None:
    about = records(vault, "--resource", traces)
    since = ("--resource", traces, "--since")

    for time in ("1h", "90s", "7d", about[0]["time"], about[0]["time"][:10]):
        assert records(vault, *since, time, "-n", 1) == about, time
    # The same moment where clocks are two hours ahead.
    hour = f"{int(about[0]['time'][11:13]) + 2:02}"
    if hour < "24":
        ahead = about[0]["time"][:11] + hour + about[0]["time"][13:19] + "+02:00"
        assert records(vault, *since, ahead) == about
    assert records(vault, *since, "9999-01-01") == []
    for odd in ("soon", "-1h", "999999999d", "0001-01-01T00:00+12:00", "2026-13-01"):
        refused = hsmvault(
            "audit", "tail", vault.north.layout.directory, "--since", odd
        )
        assert refused.code == 2
        assert "--since" in refused.err


def test_people_get_one_line_for_each_record(
    vault: LiveVault, issuer: TestIssuer, traces: str
) -> None:
    lines = tail(vault, "--resource", traces).text.splitlines()

    assert len(lines) == 4
    assert "  OK  Sign  " in lines[1]
    assert issuer.principal("uma") in lines[1]
    assert lines[2].endswith("1 items")
    assert "  PERMISSION_DENIED  GetKey  " in lines[3]
    assert "ACCESS_DENIED" in lines[3]


def test_au_03_what_a_caller_puts_into_names_stays_escaped_at_the_prompt(
    vault: LiveVault, issuer: TestIssuer
) -> None:
    text = 'a\n2026-01-01  north/p0  OK  \x1b[2J\u202e"'
    with (
        hsmvault_client.connect(
            vault.north.card.token_endpoints[0], ca=vault.admin.ca, token=issuer.token
        ) as client,
        pytest.raises(VaultError),
    ):
        client.sign(f"keys/k/versions/{text}", text, digest=bytes(32))

    for arguments in ((), ("--output", "json")):
        shown = tail(vault, "-n", 1, "--method", "Sign", *arguments).out
        assert shown.isascii()
        assert b"\x1b" not in shown
        assert shown.count(b"\n") == 1
        assert rb"\n2026-01-01" in shown


def test_a_directory_without_a_trail_is_named(tmp_path: Path) -> None:
    refused = hsmvault("audit", "tail", tmp_path)

    assert refused.code == 78
    assert str(tmp_path) in refused.err


@contextmanager
def following(vault: LiveVault, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `hsmvault audit tail -f`, as a person does."""
    command = [sys.executable, "-m", "hsmvault.cli", "audit", "tail", "-f"]
    given = [str(vault.north.layout.directory), *arguments, "--output", "json"]
    with subprocess.Popen(
        [*command, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_trail_is_followed_by_every_process_and_each_record_shown_once(
    vault: LiveVault, issuer: TestIssuer, uma: Typed, traces: str
) -> None:
    """Also those of a process that is killed meanwhile, and of the one after it."""
    wanted = ("--resource", traces)
    with following(vault, *wanted) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        shown = [json.loads(process.stdout.readline()) for _ in range(4)]
        for _ in range(3):
            assert uma("key", "get", traces).code == 0
            shown.append(json.loads(process.stdout.readline()))
        former = vault.north.kill_partition("p2")
        vault.north.wait_until(
            lambda: vault.north.partition("p2")["pid"] not in {None, former},
            what="p2 anew",
        )
        vault.north.wait_serving()
        with hsmvault_client.connect(
            vault.north.card.token_endpoints[0], ca=vault.admin.ca, token=issuer.token
        ) as client:
            while not any(r["process"] == "p2" for r in shown[7:]):
                client.keys.get(traces)
                shown.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert said.strip() == "interrupted"
    assert rest == ""
    assert shown == records(vault, *wanted)
