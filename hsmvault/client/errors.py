"""What a caller of the client has to expect: statuses come back as our own errors.

The reason in google.rpc.ErrorInfo chooses the class of hsmvault.model.errors; a reason
that this release does not know still gets the right group, by the status code. Every
error carries `.reason`, `.facts` (the metadata) and a message that says what to do.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from hsmvault.model import errors
from hsmvault.model.errors import VaultError, by_reason, complete

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Where gRPC carries a google.rpc.Status."""


class DeadlineExceeded(errors.Unavailable):
    """No answer came in the time that the caller gave. A write may still stand."""


class Incident(errors.IntegrityFailure):
    """The vault failed in a way that it did not expect; report the incident id."""


class CertificateRefused(errors.Unauthenticated):
    """One side did not accept the other's certificate, so no connection came about."""


GROUPS: Final[Mapping[grpc.StatusCode, type[VaultError]]] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
        grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
        grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
        grpc.StatusCode.PERMISSION_DENIED: errors.AccessDenied,
        grpc.StatusCode.NOT_FOUND: errors.NotFound,
        grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
        grpc.StatusCode.FAILED_PRECONDITION: errors.WrongState,
        grpc.StatusCode.ABORTED: errors.Conflict,
        grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
        grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
        grpc.StatusCode.CANCELLED: errors.Unavailable,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.DATA_LOSS: errors.IntegrityFailure,
        grpc.StatusCode.UNIMPLEMENTED: errors.NotSupported,
        grpc.StatusCode.INTERNAL: Incident,
        grpc.StatusCode.UNKNOWN: Incident,
    }
)
"""The group of each status code, for reasons that are unknown or missing."""


def status_of(call: grpc.RpcError) -> status_pb2.Status | None:
    """Return the google.rpc.Status that came with a failed call, if one did."""
    for item in call.trailing_metadata() or ():
        if item.key == DETAILS_KEY and isinstance(item.value, bytes):
            try:
                return status_pb2.Status.FromString(item.value)
            except DecodeError:
                return None
    return None


def info_of(status: status_pb2.Status | None) -> tuple[str, dict[str, str]]:
    """Return the reason and the facts in a status; "" and none if it has none."""
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}


def retry_delay(call: grpc.RpcError) -> float | None:
    """Return after how many seconds the vault wants to be asked again, if it says."""
    status = status_of(call)
    for detail in status.details if status else ():
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToNanoseconds() / 1e9
    return None


def from_rpc(call: grpc.RpcError) -> VaultError:
    """Return our error for a failed call. The call stays the cause, if raised so."""
    code = call.code()
    status = status_of(call)
    reason, facts = info_of(status)
    message = status.message if status else ""
    if not message:
        message = call.details() or code.name
    kind = by_reason(reason) or GROUPS.get(code, Incident)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LONG in message:
        # gRPC's own answer, which comes before the vault's: waiting helps nobody.
        kind, message = errors.TooLarge, _MUCH_TOO_LONG
    return complete(kind, message, facts)


_TOO_LONG: Final = "Received message larger than max"
_MUCH_TOO_LONG: Final = (
    "the request is longer than the vault reads at all; most take 64 KiB: encrypt more "
    "than that with a data key: hsmvault crypto data-key"
)


_NOT_CONNECTED: Final = "last error: "
"""Stands in gRPC's words before why an attempt to connect failed."""
_CUT_BEFORE: Final = ("to remote host", "Handshake read", "Handshake write")
"""The other side vanished before the handshake's end: it judged no certificate."""


def refused_certificate(details: str) -> bool:
    """Tell whether TLS refused a certificate, by gRPC's words.

    Either we the server's (CERTIFICATE_VERIFY_FAILED, its host name) or, by an alert of
    RFC 8446, section 6.2, the server ours.
    """
    _, _, cause = details.partition(_NOT_CONNECTED)
    alert = "SSL_ERROR_SSL" in cause and any(
        word in cause for word in ("CERTIFICATE", "UNKNOWN_CA")
    )
    return alert or "Hostname Verification Check failed" in cause


def closed_on_us(details: str) -> bool:
    """Tell whether a server closed what TLS had connected, by gRPC's words."""
    _, _, cause = details.partition(_NOT_CONNECTED)
    closed = any(word in cause for word in ("Socket closed", "reset by peer", "EOF"))
    return closed and not any(word in cause for word in _CUT_BEFORE)
