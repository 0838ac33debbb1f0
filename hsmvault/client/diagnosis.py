"""Why there is no connection: certificates, or simply nobody there."""

from typing import Final

import grpc

from hsmvault.client.balancing import Pool
from hsmvault.client.endpoint import Endpoint
from hsmvault.client.errors import CertificateRefused, closed_on_us, refused_certificate
from hsmvault.client.methods import GET_TOPOLOGY
from hsmvault.model.errors import Unavailable, VaultError, complete
from hsmvault.v1.region_service_pb2 import GetTopologyRequest

PROBE: Final = 0.5
"""Seconds for the call that only asks why there is no connection."""

DIAL: Final = 1.5
"""Seconds for one that has to connect first: a TLS handshake on a busy machine."""

_TO_CERTIFIED: Final = (
    "and this client did not accept each other's certificates: is the CA file the "
    "vault's, and the client certificate from it? `hsmvault caller add` writes both"
)
_TO_BEARERS: Final = (
    "and this client, which comes with a token, do not connect: is the CA file the "
    "vault's, and the port one for tokens? `hsmvault topology` lists them"
)


def diagnosis(
    pool: Pool, endpoint: Endpoint, *, patient: bool = False
) -> VaultError | None:
    """Ask an endpoint that does not connect why; None if it is simply not there.

    A server that refuses our certificate says nothing: TLS 1.3 lets us finish (RFC
    8446, section 2), then it closes the connection. So may one that is just ending.
    `patient` callers can wait until we have dialled again: who refuses does so again,
    and who was ending listens no more.
    """
    try:
        details = _complaint(endpoint)
        refused = refused_certificate(details)
        if patient and closed_on_us(details):
            details = _complaint_anew(pool.channel(endpoint.place))
            refused = refused_certificate(details) or closed_on_us(details)
    except ValueError:
        return Unavailable("the client was closed")
    if not refused:
        return None
    address = endpoint.place.address
    told = _TO_BEARERS if endpoint.bears else _TO_CERTIFIED
    facts = {"address": address, "details": details}
    return complete(CertificateRefused, f"{address} {told}", facts)


def _complaint(endpoint: Endpoint) -> str:
    """Return gRPC's words on why a call fails; "" if it does not."""
    try:
        endpoint.invoke(GET_TOPOLOGY, GetTopologyRequest(), timeout=PROBE, metadata=())
    except grpc.RpcError as error:
        return error.details() or ""
    return ""


def _complaint_anew(channel: grpc.Channel) -> str:
    """Do the same by a channel of its own, showing no token: it need only connect."""
    with channel:
        ask = channel.unary_unary(
            GET_TOPOLOGY.path,
            request_serializer=GET_TOPOLOGY.encode,
            response_deserializer=GET_TOPOLOGY.decode,
        )
        try:
            ask(GetTopologyRequest(), timeout=DIAL)
        except grpc.RpcError as error:
            return error.details() or ""
    return ""
