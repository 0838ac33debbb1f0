"""Calls as metrics: an observer that counts, and keeps nothing of who or what."""

from collections import Counter
from typing import Final

from hsmvault.api.account import Account
from hsmvault.api.permissions import RULES
from hsmvault.metrics import BATCH_ITEMS, CALL_SECONDS, CALLS, REFUSALS, count, observe
from hsmvault.model.errors import by_reason

OTHER: Final = "other"
"""What this release has no name for: another region may send any text."""
BUG: Final = "BUG"

METHODS: Final = {path: path.removeprefix("/hsmvault.v1.") for path in RULES}


def measured(account: Account) -> None:
    """Count a call that was answered."""
    method = METHODS.get(account.method, OTHER)
    count(CALLS, method, account.code)
    observe(CALL_SECONDS, account.duration_ns / 1e9, method)
    if account.reason:
        count(REFUSALS, _known(account.reason))
    if account.items:
        ended = Counter((item.operation, item.code) for item in account.items)
        for (operation, code), number in ended.items():
            count(BATCH_ITEMS, METHODS.get(operation, OTHER), code, by=number)


def _known(reason: str) -> str:
    """Return a reason that errors have; what else stands there may be anything."""
    return reason if reason == BUG or by_reason(reason) is not None else OTHER
