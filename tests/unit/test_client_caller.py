"""A caller who only validates sends nothing that would be done for real."""

from typing import Any, cast

import pytest

from hsmvault.client.caller import Caller, Seen
from hsmvault.client.methods import Method, Repeat
from hsmvault.model.errors import InvalidRequest
from hsmvault.v1.region_service_pb2 import GetTopologyRequest, Topology


def test_a_write_that_cannot_be_validated_only_is_not_sent() -> None:
    """An RPC of a newer release, say, whose request lacks the field."""
    nobody = cast("Any", None)
    caller = Caller(nobody, seen=Seen(), validate_only=True)
    write = Method(
        "/hsmvault.v1.RegionService/Rename",
        GetTopologyRequest.SerializeToString,
        Topology.FromString,
        Repeat.NEVER,
        1.0,
    )

    with pytest.raises(InvalidRequest, match="it was not sent"):
        caller.call(write, GetTopologyRequest())
