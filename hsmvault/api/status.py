"""Our errors → gRPC statuses, with google.rpc details for callers that are programs."""

import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from hsmvault import telemetry
from hsmvault.model import errors
from hsmvault.telemetry import Event

CODES: Final[Mapping[type[errors.VaultError], grpc.StatusCode]] = MappingProxyType(
    {
        errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
        errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
        errors.AccessDenied: grpc.StatusCode.PERMISSION_DENIED,
        errors.NotFound: grpc.StatusCode.NOT_FOUND,
        errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
        errors.WrongState: grpc.StatusCode.FAILED_PRECONDITION,
        errors.Conflict: grpc.StatusCode.ABORTED,
        errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
        errors.IntegrityFailure: grpc.StatusCode.DATA_LOSS,
        errors.NotSupported: grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""One code per group. Subclasses refine the reason, never the code."""

DOMAIN: Final = "hsmvault"
RETRY_MS: Final[Mapping[type[errors.VaultError], int]] = MappingProxyType(
    {errors.Overloaded: 100, errors.Unavailable: 50}
)
"""When to come back, for groups where coming back helps."""
FACT_CHARACTERS_MAX: Final = 512
"""Details travel in a trailer, of which 8 KiB are taken by default."""

_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}


def group_of(error: errors.VaultError) -> type[errors.VaultError]:
    """Return the group that says what to do next."""
    return next(kind for kind in type(error).__mro__ if kind in CODES)


def status_of(error: errors.VaultError) -> Status:
    """Say to a caller what went wrong. Causes stay inside."""
    group = group_of(error)
    facts = {k: v[:FACT_CHARACTERS_MAX] for k, v in error.facts.items()}
    details: list[Message] = [
        ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts)
    ]
    if group in RETRY_MS:
        wait = Duration()
        wait.FromMilliseconds(int(facts.get("retry_ms", RETRY_MS[group])))
        details.append(RetryInfo(retry_delay=wait))
    if isinstance(error, errors.RateLimited):
        who = facts.get("principal") or facts.get("address", "")
        violation = QuotaFailure.Violation(
            subject=who, description=str(error)[:FACT_CHARACTERS_MAX]
        )
        details.append(QuotaFailure(violations=[violation]))
    if group is errors.WrongState:
        details.append(
            PreconditionFailure(
                violations=[
                    PreconditionFailure.Violation(
                        type=error.reason,
                        subject=facts.get("name", DOMAIN),
                        description=str(error)[:FACT_CHARACTERS_MAX],
                    )
                ]
            )
        )
    status = Status(code=CODES[group].value[0], message=str(error))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def status_of_bug(error: Exception, *, method: str) -> Status:
    """Say to a caller that it is our fault, and to the operator which.

    The message of an error that we did not foresee may hold anything, so callers get
    an incident id and nothing else.
    """
    incident = secrets.token_hex(8)
    telemetry.report(Event.CALL_FAILED, error, incident=incident, method=method)
    status = Status(
        code=grpc.StatusCode.INTERNAL.value[0],
        message=f"the vault failed by a bug of its own; report incident {incident}",
    )
    status.details.add().Pack(
        ErrorInfo(reason="BUG", domain=DOMAIN, metadata={"incident": incident})
    )
    return status


def code_and_reason(status: Status) -> tuple[str, str]:
    """Read back how a call ended: the name of its code, and its reason."""
    info = ErrorInfo()
    if status.details and status.details[0].Unpack(info):
        return _BY_NUMBER[status.code].name, info.reason
    return _BY_NUMBER[status.code].name, ""


def abort(context: grpc.ServicerContext, status: Status) -> NoReturn:
    """End the call with a status."""
    context.set_trailing_metadata(
        (("grpc-status-details-bin", status.SerializeToString()),)
    )
    context.abort(_BY_NUMBER[status.code], status.message)
    raise AssertionError("abort does not return")
