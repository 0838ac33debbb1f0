"""Every RPC by every role on every kind of key, by exact status, both ways complete.

What is expected stands in tests/support/access_matrix.py, by hand: `ROWS` has a row per
RPC and `ACTIONS` who holds what. Neither reads the vault's own tables, so a mistake
there is one here. **An RPC that you add needs a row in `ROWS`**: what it needs, a
request that changes nothing, and its status for a live, a deleted and an unknown key.

Each role has two holders: one at `/`, and one at single keys. To the latter, one key of
each kind is `other`: alive, and not theirs. Beside the built-in roles there are a
custom one, a custom one that was deleted, and none at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from hsmvault.api import watching
from hsmvault.api.services import Limits
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.record import Record
from hsmvault.v1.key_service_pb2 import DeleteKeyRequest
from tests.support.access_matrix import (
    ACTIONS,
    DENIED,
    EVERYBODY,
    ROLES,
    ROWS,
    Code,
    Row,
    begin,
    rpcs,
    streams,
)
from tests.support.served import Served, genesis, make_key, served

KINDS = {"ec": "EC", "oct": "oct"}
OWN, OTHER, DELETED, UNKNOWN = "own", "other", "deleted", "unknown"
STATES = (OWN, OTHER, DELETED, UNKNOWN)
THEIRS = (OWN, DELETED, UNKNOWN)


@dataclass(frozen=True)
class Holder:
    """A caller with one role, at `/` or at single keys."""

    role: str
    at_keys: bool

    @property
    def name(self) -> str:
        return f"{self.role.lower()}-{'keys' if self.at_keys else 'root'}"

    @property
    def scopes(self) -> list[str]:
        if not self.at_keys:
            return ["/"]
        return [f"/keys/{kind}-{state}" for kind in KINDS for state in THEIRS]

    def may(self, row: Row, state: str) -> bool:
        if row.needs == (EVERYBODY,):
            return True
        if self.at_keys and (not row.of_a_key or state == OTHER):
            return False
        if self.role == CUSTOM:
            return CUSTOM_ACTIONS.issuperset(row.needs)
        return all(self.role in ACTIONS[action].split() for action in row.needs)

    def expects(self, row: Row, state: str) -> Code:
        live, deleted, unknown = row.instead.get(self.role, row.codes)
        code = {DELETED: deleted, UNKNOWN: unknown}.get(state, live)
        return code if self.may(row, state) else DENIED


NOBODY, CUSTOM, DEFUNCT = "nobody", "custom", "defunct"
CUSTOM_ACTIONS = {
    "keys/read/action",
    "keys/sign/action",
    "keys/decrypt/action",
    "keys/deletedKeys/delete",
    "roleAssignments/read/action",
}
HOLDERS = [
    Holder(role, at)
    for role in (*ROLES, CUSTOM, DEFUNCT, NOBODY)
    for at in (False, True)
]


def _definition(id_: str, *, removed: bool) -> RoleDefinitionRecord:
    actions = tuple(sorted(CUSTOM_ACTIONS))
    name = f"roleDefinitions/{id_}"
    return RoleDefinitionRecord(
        name, 1, id_, "", actions, (), actions, 1, 1, "CN=ada", removed
    )


def _records() -> Iterator[Record]:
    yield _definition(CUSTOM, removed=False)
    yield _definition(DEFUNCT, removed=True)
    for holder in HOLDERS:
        if holder.role == NOBODY:
            continue
        id_ = ROLES[holder.role][1] if holder.role in ROLES else holder.role
        definition = f"roleDefinitions/{id_}"
        for n, scope in enumerate(holder.scopes):
            name, who = f"roleAssignments/{holder.name}-{n}", f"CN={holder.name}"
            yield AssignmentRecord(name, 1, who, definition, scope, 1, "CN=ada")


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With room for all streams at once: it learns that one was cancelled when it may.

    Of one holder there are as many as one principal may have.
    """
    assert len(STATES) <= watching.PER_PRINCIPAL
    directory = tmp_path_factory.mktemp("north")
    limits = Limits(watching_threads=len(HOLDERS) * len(STATES))
    with served(directory, records=genesis(*_records()), limits=limits) as one:
        for id_, kind in KINDS.items():
            for state in (OWN, OTHER, DELETED):
                make_key(one, f"{id_}-{state}", kind)
            one.uma.keys.DeleteKey(DeleteKeyRequest(name=f"keys/{id_}-{DELETED}"))
        yield one


def _begun(channel: grpc.Channel, rpc: str, raw: bytes) -> Code:
    try:
        begin(channel, rpc, raw)
    except grpc.RpcError as error:
        return error.code()
    return Code.OK


def _answers(north: Served, rpc: str, row: Row) -> dict[tuple[str, str], Code]:
    """Ask as everybody about everything, many at a time."""
    states = STATES if row.of_a_key else ("",)
    answers: dict[tuple[str, str], Code] = {}
    name = rpc.split(maxsplit=1)[0]
    for holder in HOLDERS:
        channel = getattr(north, holder.name).channel
        if name in streams():
            for state in states:
                request = row.request(f"{row.about}-{state}").SerializeToString()
                answers[holder.name, state] = _begun(channel, name, request)
            continue
        call = channel.unary_unary(f"/hsmvault.v1.{name}")
        asked = {
            state: call.future(
                row.request(f"{row.about}-{state}").SerializeToString(), timeout=60
            )
            for state in states
        }
        for state, future in asked.items():
            answers[holder.name, state] = future.code()
    return answers


def test_there_is_a_row_for_every_rpc_and_for_nothing_else() -> None:
    rows = {row.split()[0] for row in ROWS}

    assert not rpcs() - rows, "add a row to ROWS in tests/support/access_matrix.py"
    assert not rows - rpcs(), "ROWS in tests/support/access_matrix.py: no such RPC"


def test_every_row_needs_what_somebody_can_hold() -> None:
    needed = {action for row in ROWS.values() for action in row.needs}

    assert not needed - {EVERYBODY} - ACTIONS.keys()


@pytest.mark.parametrize("rpc", ROWS)
def test_every_role_is_answered_as_the_matrix_says(north: Served, rpc: str) -> None:
    row = ROWS[rpc]

    answers = _answers(north, rpc, row)

    holders = {holder.name: holder for holder in HOLDERS}
    expected = {
        (name, state): holders[name].expects(row, state) for name, state in answers
    }
    wrong = {
        f"{name} {state}".strip(): (answers[name, state].name, code.name)
        for (name, state), code in expected.items()
        if answers[name, state] is not code
    }
    assert not wrong, "answered, expected"
