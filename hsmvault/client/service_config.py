"""What a gRPC client that is not ours must know to repeat what is safe to repeat.

A service config (gRFC A2, A6, A17): JSON that gRPC's own clients read, in any language.
It says of every RPC what `methods` says, so our client and theirs repeat the same.
`service_config.json` beside this module is what `service_config()` returns.
"""

import json
from typing import Any, Final

from hsmvault.client import methods
from hsmvault.client.methods import PATIENT, Method, Repeat

ATTEMPTS: Final = 5
"""The most that gRPC makes of a call, whatever a config says (gRFC A6)."""
PAUSE_FIRST: Final = "0.05s"
PAUSE_MAX: Final = "1s"
HEALTH: Final = "hsmvault.v1.CryptoService"
"""Any of our services: they begin and cease to serve together."""


def service_config(*, writes: bool = False, tokens: bool = False) -> dict[str, Any]:
    """Return the config; with `writes`, for clients that send a request_id with each.

    Retries are for UNAVAILABLE alone: a partition that ended, or cannot answer now. A
    write without a request_id is not among them, because the vault could not tell its
    second attempt from another write. With `tokens`, for clients that show one: gRPC
    asks for health without it, and would be refused.
    """
    safe = {Repeat.ALWAYS, Repeat.WITH_ID} if writes else {Repeat.ALWAYS}
    known = sorted(_methods(), key=lambda method: method.path)
    health = {} if tokens else {"healthCheckConfig": {"serviceName": HEALTH}}
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        **health,
        "methodConfig": [
            {
                "name": [_name(m) for m in known if m.repeat in safe],
                **_PATIENCE,
                "retryPolicy": {
                    "maxAttempts": ATTEMPTS,
                    "initialBackoff": PAUSE_FIRST,
                    "maxBackoff": PAUSE_MAX,
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
            {"name": [_name(m) for m in known if m.repeat not in safe], **_PATIENCE},
        ],
    }


def shipped() -> str:
    """Return `service_config.json` as it must be."""
    return json.dumps(service_config(), indent=2) + "\n"


_PATIENCE: Final = {
    # A call that finds no partition connected waits for one, rather than fail at once,
    # but not for ever. What the caller sets is shorter, and counts.
    "waitForReady": True,
    "timeout": f"{PATIENT:g}s",
}


def _methods() -> list[Method[Any, Any]]:
    return [one for one in vars(methods).values() if isinstance(one, Method)]


def _name(method: Method[Any, Any]) -> dict[str, str]:
    _, service, name = method.path.split("/")
    return {"service": service, "method": name}
