"""CryptoService.Batch: many uses of keys in one call, each with an outcome of its own.

What one call costs (transport, who asks, whether the copy is fresh) is paid once. What
fails, fails alone; only a lost partition fails the call, so that the client has all of
it done elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from hsmvault.api.account import OK, Item
from hsmvault.api.crypto import CryptoServicer
from hsmvault.api.dispatch import Call, report
from hsmvault.api.facts import TEXT_MAX, Telling, brief
from hsmvault.api.permissions import RULES, Rule
from hsmvault.api.status import code_and_reason, status_of
from hsmvault.model.errors import (
    InvalidRequest,
    NotServing,
    PartitionLost,
    TooLarge,
    VaultError,
)
from hsmvault.v1 import crypto_service_pb2 as pb
from hsmvault.vault.crypto import Crypto
from hsmvault.vault.view import Caller, View

ITEMS_MAX: Final = 1000
REFERENCE_MAX: Final = 256
"""Characters."""
LOOK_EVERY: Final = 16
"""After so many items we look whether the caller still waits."""

Serve = Callable[[Any, None], Message]


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of item: what the RPC of its name needs, does, and tells."""

    method: str
    rule: Rule
    serve: Serve
    telling: Telling

    @classmethod
    def of(cls, kind: str, method: str, serve: Serve) -> Self:
        path = f"/hsmvault.v1.CryptoService/{method}"
        item, result = pb.BatchItem.DESCRIPTOR, pb.BatchResult.DESCRIPTOR
        asked = item.fields_by_name[kind].message_type
        answered = result.fields_by_name[kind].message_type
        assert asked is not None
        assert answered is not None
        return cls(method, RULES[path], serve, Telling(path, asked, answered))


class BatchingServicer(CryptoServicer):
    """All of CryptoService."""

    def __init__(
        self,
        crypto: Crypto,
        *,
        charge: Callable[[str, int, View], None] = lambda _who, _count, _view: None,
    ) -> None:
        """Have each kind of item do, and need, what the RPC of its own name does.

        `charge` counts a principal's items beyond the first, as calls.
        """
        super().__init__(crypto)
        self._charge = charge
        bodies: dict[str, tuple[str, Serve]] = {
            "sign": ("Sign", self.sign),
            "verify": ("Verify", self.verify),
            "encrypt": ("Encrypt", self.encrypt),
            "decrypt": ("Decrypt", self.decrypt),
            "wrap_key": ("WrapKey", self.wrap_key),
            "unwrap_key": ("UnwrapKey", self.unwrap_key),
        }
        self._kinds: Mapping[str, _Kind] = {
            kind: _Kind.of(kind, method, serve)
            for kind, (method, serve) in bodies.items()
        }

    def batch(self, request: pb.BatchRequest, call: Call) -> pb.BatchResponse:
        count = len(request.items)
        if not count:
            raise InvalidRequest("items is empty; there is nothing to do")
        if count > ITEMS_MAX:
            raise TooLarge(
                "a batch of {given} items is more than {most}",
                given=count,
                most=ITEMS_MAX,
            )
        self._charge(call.principal, count - 1, call.view)
        response = pb.BatchResponse()
        results, run = response.results, _Run(self._kinds, call)
        for number, item in enumerate(request.items):
            if not number % LOOK_EVERY and not call.wanted():
                raise NotServing("nobody waits for the rest of this batch any more")
            results.append(run.done(item))
        return response


class _Run:
    """One batch under way: what its caller was found to be allowed."""

    def __init__(self, kinds: Mapping[str, _Kind], call: Call) -> None:
        self._kinds = kinds
        self._call = call
        self._allowed: set[tuple[str, str]] = set()
        self._reported: set[str] = set()
        self._told: list[Item] = []
        # Told of, too, when the batch as a whole fails later.
        call.told.items = self._told

    def done(self, item: pb.BatchItem) -> pb.BatchResult:
        """Do one item, and tell of it. Its own failure is a result, too."""
        kind = item.WhichOneof("operation")
        reference = item.reference
        try:
            if kind is None:
                raise InvalidRequest("the item names no operation that is known here")
            if len(reference) > REFERENCE_MAX:
                raise TooLarge(
                    "a reference of {given} characters is more than {most}",
                    given=len(reference),
                    most=REFERENCE_MAX,
                )
            known = self._kinds[kind]
            operation: Any = getattr(item, kind)
            if (kind, operation.name) not in self._allowed:
                self._authorise(known, operation)
                self._allowed.add((kind, operation.name))
            response: Any = known.serve(operation, None)
        except PartitionLost:
            # Not the item's failure: all of it can be done by another partition.
            raise
        except VaultError as error:
            self._report(error)
            status = status_of(error)
            self._told.append(self._failed(item, kind, status))
            return pb.BatchResult(reference=reference, error=status)
        facts = known.telling.facts(operation)
        self._told.append(Item(known.method, response.name, OK, "", facts))
        outcome: dict[str, Any] = {kind: response}
        return pb.BatchResult(reference=reference, **outcome)

    def _failed(self, item: pb.BatchItem, kind: str | None, status: Status) -> Item:
        code = code_and_reason(status)
        if kind is None:
            return Item("", "", *code, {})
        known, operation = self._kinds[kind], getattr(item, kind)
        facts = brief(known.telling.facts(operation))
        return Item(known.method, operation.name[:TEXT_MAX], *code, facts)

    def _authorise(self, kind: _Kind, operation: Any) -> None:
        """Decide once for a key and an operation, as the RPC of its own would."""
        call, rule = self._call, kind.rule
        resource = rule.resource(operation, call.view)
        call.view.access.require(
            Caller(call.principal, rule.permission, resource, call.via_region)
        )

    def _report(self, error: VaultError) -> None:
        """Tell the operator once of what a thousand items may repeat."""
        if str(error) not in self._reported:
            self._reported.add(str(error))
            report(error, self._call.method)
