"""Errors on their way between the processes of a region."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn, TypeVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from hsmvault.model.errors import Unavailable, VaultError, rebuilt

Response = TypeVar("Response")

DOMAIN: Final = "hsmvault"
_DETAILS: Final = "grpc-status-details-bin"

_TRANSPORT: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)


class Unanswered(Unavailable):
    """A process of this region did not answer. What was asked may have happened."""


@contextmanager
def told(context: grpc.ServicerContext) -> Iterator[None]:
    """Tell the other side of a VaultError, whole."""
    try:
        yield
    except VaultError as error:
        abort(context, error)


def abort(context: grpc.ServicerContext, error: VaultError) -> NoReturn:
    """End the call with this error."""
    status = packed(error)
    context.set_trailing_metadata(((_DETAILS, status.SerializeToString()),))
    # Who asks reads the details; that code is for eyes.
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, status.message)


def packed(error: VaultError) -> status_pb2.Status:
    """Return the error as a google.rpc.Status."""
    detail = Any()
    detail.Pack(
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=DOMAIN, metadata=error.facts
        )
    )
    return status_pb2.Status(
        code=grpc.StatusCode.FAILED_PRECONDITION.value[0],
        message=str(error),
        details=[detail],
    )


@contextmanager
def raised(who: str) -> Iterator[None]:
    """Raise what the other side raised, or Unanswered when it gave no answer."""
    try:
        yield
    except grpc.RpcError as error:
        raise _error(error, who) from error


def _error(error: grpc.RpcError, who: str) -> VaultError:
    assert isinstance(error, grpc.Call)
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            known = _rebuilt(value)
            if known is not None:
                return known
    if error.code() in _TRANSPORT:
        return Unanswered("{who} of this region does not answer", who=who)
    return Unavailable("{who} of this region failed; its log says how", who=who)


def _rebuilt(raw: bytes) -> VaultError | None:
    info = error_details_pb2.ErrorInfo()
    try:
        status = status_pb2.Status.FromString(raw)
    except DecodeError:
        return None
    for detail in status.details:
        if detail.Unpack(info):
            return rebuilt(info.reason, status.message, info.metadata)
    return None
