"""One account of every answered call, whatever the answer was; and nothing secret."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.api.account import Account, Authentication
from hsmvault.api.facts import FACTS, PARTS_MAX, TEXT_MAX, Telling
from hsmvault.api.services import Limits
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1 import region_service_pb2 as regions
from hsmvault.v1.access_service_pb2 import CreateRoleAssignmentRequest
from hsmvault.v1.resources_pb2 import Key, KeySpec, RoleAssignment
from tests.support.access_matrix import ROWS, streams
from tests.support.served import (
    ROLES,
    FakeManager,
    Served,
    follow,
    make_key,
    refusal,
    served,
    signed,
)

CANARY = b"planted canary: account of nothing"


@dataclass
class Region:
    """A region, and the accounts that it gave since somebody last looked."""

    served: Served
    accounts: list[Account] = field(default_factory=list)
    read: int = 0

    def forget(self) -> None:
        """Look at what was told and recorded so far."""
        self.told()
        self.recorded()

    def told(self) -> list[Account]:
        accounts = list(self.accounts)
        self.accounts.clear()
        return accounts

    def once(self) -> Account:
        """The one account, of which there is one record in the audit trail."""
        (account,) = self.told()
        (record,) = self.recorded()
        expected = {
            "method": account.method,
            "principal": account.principal,
            "authentication": account.authentication,
            "peer": account.peer,
            "resource": account.resource,
            "version": account.version,
            "request_id": account.request_id,
            "code": account.code,
            "reason": account.reason,
            "facts": account.facts,
            "position": account.position,
        }
        assert {name: record.get(name, "") or {} for name in expected} == {
            name: value or {} for name, value in expected.items()
        }
        assert (record["event"], record["region"], record["process"]) == (
            "call",
            "north",
            "p0",
        )
        assert len(record.get("items", [])) == len(account.items)
        return account

    def recorded(self) -> list[dict[str, Any]]:
        """The records that were written since somebody last looked."""
        path = next(self.served.trail.directory.glob("p0-*.jsonl"))
        lines = path.read_text(encoding="ascii").splitlines()
        self.read, fresh = len(lines), lines[self.read :]
        return [json.loads(line) for line in fresh]


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    accounts: list[Account] = []
    directory = tmp_path_factory.mktemp("north")
    with served(directory, observers=[accounts.append]) as one:
        make_key(one, "ec")
        make_key(one, "oct", "oct")
        yield Region(one, accounts)


@pytest.mark.parametrize("who", [*ROLES, "eve"])
@pytest.mark.parametrize("way", [w for w in ROWS if w.split()[0] not in streams()])
def test_au_04_every_rpc_has_one_account_of_each_answer(
    north: Region, way: str, who: str
) -> None:
    row, rpc = ROWS[way], way.split(maxsplit=1)[0]
    call: Any = getattr(north.served, who).channel.unary_unary(f"/hsmvault.v1.{rpc}")
    north.forget()

    code = grpc.StatusCode.OK
    try:
        call(row.request(row.about).SerializeToString(), timeout=20)
    except grpc.RpcError as error:
        code = error.code()

    account = north.once()
    assert account.method == f"/hsmvault.v1.{rpc}"
    assert account.code == code.name
    assert bool(account.reason) == (account.code != "OK")
    assert account.principal == f"CN={who}"
    assert account.authentication is Authentication.MTLS
    assert account.peer.startswith(("ipv4:127.0.0.1:", "ipv6:"))
    assert account.resource.startswith("/")
    assert account.duration_ns > 0


def test_an_account_of_what_was_only_validated_says_so(north: Region) -> None:
    north.forget()
    request = keys.DeleteKeyRequest(name="keys/ec", validate_only=True)

    north.served.uma.keys.DeleteKey(request)

    assert north.once().facts == {"validate_only": True}


def test_an_account_names_the_version_that_was_used(north: Region) -> None:
    version = signed(north.served.uma, "keys/ec").name
    north.forget()

    signed(north.served.uma, "keys/EC")

    account = north.once()
    assert account.version == version
    assert account.resource == "/keys/ec"
    assert account.facts == {"algorithm": "ES256"}


def test_an_account_of_a_write_has_its_request_id_its_version_and_its_position(
    north: Region,
) -> None:
    north.forget()
    made = north.served.uma.keys.CreateKey(
        keys.CreateKeyRequest(
            key_id="told",
            key=Key(spec=KeySpec(type="EC", curve="P-256"), tags={"team": "pay"}),
            request_id="once-and-only",
        )
    )

    account = north.once()

    assert account.request_id == "once-and-only"
    assert account.version == made.current_version
    assert account.position == made.position
    assert account.facts == {"type": "EC", "curve": "P-256", "tags": {"team": "pay"}}


def test_an_account_has_the_encryption_context_and_nothing_of_the_plaintext(
    north: Region,
) -> None:
    north.forget()
    sealed = north.served.uma.crypto.Encrypt(
        crypto.EncryptRequest(
            name="keys/oct",
            algorithm="A256GCM",
            plaintext=CANARY,
            encryption_context={"tenant": "t1"},
        )
    )

    account = north.once()

    assert account.facts["encryption_context"] == {"tenant": "t1"}
    assert CANARY.decode() not in str(account)
    assert str(sealed.ciphertext) not in str(account)


def test_a_batch_has_one_account_that_lists_its_items(north: Region) -> None:
    sign = crypto.SignRequest(name="keys/ec", algorithm="ES256", digest=bytes(32))
    missing = crypto.SignRequest(name="keys/no", algorithm="ES256", digest=bytes(32))
    north.forget()

    north.served.uma.crypto.Batch(
        crypto.BatchRequest(
            items=[
                crypto.BatchItem(sign=sign),
                crypto.BatchItem(sign=missing),
                crypto.BatchItem(),
            ]
        )
    )

    account = north.once()
    good, lost, empty = account.items
    assert account.code == "OK"
    assert good.version.startswith("keys/ec/versions/")
    assert (good.operation, good.code) == ("Sign", "OK")
    assert (lost.version, lost.code, lost.reason) == (
        "keys/no",
        "NOT_FOUND",
        "NOT_FOUND",
    )
    assert (empty.operation, empty.code) == ("", "INVALID_ARGUMENT")


def test_a_call_to_no_rpc_has_an_account_of_who_called(north: Region) -> None:
    """Somebody who tries paths is worth knowing of."""
    path = "/hsmvault.v1.KeyService/" + "Export\x1b[2J" + "x" * 300
    north.forget()

    call: Any = north.served.eve.channel.unary_unary(path)

    with pytest.raises(grpc.RpcError) as refused:
        call(b"")

    account = north.once()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (account.code, account.principal) == ("UNIMPLEMENTED", "CN=eve")
    assert len(account.method) == TEXT_MAX


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\u202eexe", "\x00", "\u2028"])
def test_au_03_nothing_that_a_caller_names_leaves_its_line_or_reaches_a_terminal(
    north: Region, text: str
) -> None:
    """Escaped in the file, which is ASCII without control characters; told whole."""
    north.forget()
    request = crypto.EncryptRequest(
        name=f"keys/a/versions/{text}",
        algorithm=text,
        encryption_context={text: text},
    )

    code = refusal(lambda: north.served.eve.crypto.Encrypt(request))[0]

    account = north.once()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert account.version == f"keys/a/versions/{text}"
    assert account.facts == {"algorithm": text, "encryption_context": {text: text}}
    raw = b"".join(p.read_bytes() for p in north.served.trail.directory.glob("*.jsonl"))
    assert raw.isascii()
    assert not any(byte < 32 or byte == 127 for byte in raw.replace(b"\n", b""))


def test_a_refused_call_takes_little_room_whatever_it_named(north: Region) -> None:
    """The attacker has a certificate and no role, and wants to fill the disk."""
    long = "\U0001f600" * TEXT_MAX
    assignment = RoleAssignment(
        principal="CN=eve", scope="/", role_definition=long, regions=[long] * PARTS_MAX
    )
    north.forget()

    code = refusal(
        lambda: north.served.eve.access.CreateRoleAssignment(
            CreateRoleAssignmentRequest(role_assignment=assignment)
        )
    )[0]

    account = north.once()
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert account.facts == {
        "principal": "CN=eve",
        "scope": "/",
        "left_out": ["role_definition", "regions"],
    }


def test_an_item_that_was_refused_takes_little_room(north: Region) -> None:
    context = {f"{number}": "\U0001f600" * TEXT_MAX for number in range(PARTS_MAX)}
    encrypt = crypto.EncryptRequest(name="keys/no", encryption_context=context)
    north.forget()

    north.served.eve.crypto.Batch(
        crypto.BatchRequest(items=[crypto.BatchItem(encrypt=encrypt)])
    )

    (item,) = north.once().items
    assert item.reason == "ACCESS_DENIED"
    assert item.facts == {"left_out": ["encryption_context"]}


def test_a_request_that_does_not_read_has_an_account(north: Region) -> None:
    north.forget()

    call: Any = north.served.uma.channel.unary_unary("/hsmvault.v1.KeyService/GetKey")

    with pytest.raises(grpc.RpcError):
        call(b"\xff")

    account = north.once()
    assert (account.code, account.resource) == ("INVALID_ARGUMENT", "")
    assert account.principal == "CN=uma"


def test_a_call_that_found_the_pool_full_has_an_account(tmp_path: Path) -> None:
    accounts: list[Account] = []
    limits = Limits(waiting_max=0)
    with served(tmp_path, observers=[accounts.append], limits=limits) as one:
        code = refusal(
            lambda: one.uma.regions.GetTopology(regions.GetTopologyRequest())
        )[0]

    (account,) = accounts
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (account.code, account.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    assert account.principal == "CN=uma"


def test_a_forwarded_write_has_an_account_in_both_regions(tmp_path: Path) -> None:
    """Both identities travel: the caller's, and the region's on whose word it is."""
    near: list[Account] = []
    far: list[Account] = []
    with served(tmp_path, observers=[far.append]) as primary:
        manager = FakeManager(primary)
        with served(
            tmp_path,
            own="south",
            keys=primary.hsm.keys,
            ca=primary.ca,
            manager=manager,
            observers=[near.append],
        ) as extended:
            follow(primary, extended)
            manager.on_forward = lambda: follow(primary, extended)
            make_key(extended, "far")

    (there,), (here,) = far, near
    assert (here.principal, here.authentication, here.via_region) == (
        "CN=uma",
        Authentication.MTLS,
        "",
    )
    assert (there.principal, there.authentication, there.via_region) == (
        "CN=uma",
        Authentication.REGION,
        "south",
    )
    assert here.position == there.position
    assert here.version == there.version != ""


@pytest.mark.parametrize("path", ["digest", "served", "key", "nowhere"])
def test_au_05_a_field_that_may_hold_bytes_cannot_be_told(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is served then: the mistake is found when a process starts."""
    told = {**FACTS, "CryptoService/Sign": (path,), "KeyService/CreateKey": (path,)}
    monkeypatch.setattr("hsmvault.api.facts.FACTS", told)
    service = crypto.DESCRIPTOR.services_by_name["CryptoService"]
    sign = service.methods_by_name["Sign"]
    create = keys.DESCRIPTOR.services_by_name["KeyService"].methods_by_name["CreateKey"]
    method = create if path == "key" else sign

    with pytest.raises((TypeError, KeyError)):
        Telling(
            f"/{method.containing_service.full_name}/{method.name}",
            method.input_type,
            method.output_type,
        )
