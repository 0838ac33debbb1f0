"""A self-hosted, multi-region key vault on PKCS#11 HSMs.

`hsmvault.connect(...)` is the Python client's way in; see hsmvault.client.connect.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hsmvault.client.connect import Vault, connect

__all__ = ["Vault", "connect"]


def __getattr__(name: str) -> Any:
    # Late, so that the vault's own processes do not load gRPC by importing a room.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hsmvault.client import connect as client

    return getattr(client, name)
