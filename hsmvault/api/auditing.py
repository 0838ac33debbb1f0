"""The account of a call as a record of the audit trail: recorded, or not answered.

Hot: each call writes one. So a record is put together by hand; texts are escaped all
the same, and are ASCII afterwards.
"""

from functools import lru_cache
from json.encoder import encode_basestring_ascii as _text
from typing import Final

from hsmvault.api.account import Account, Authentication, Item
from hsmvault.audit.line import encode
from hsmvault.audit.trail import Trail

PRINCIPAL_MAX: Final = 512
KNOWN_MAX: Final = 4096
_TEXT: Final = frozenset({str})


class Auditing:
    """Writes the accounts of one process's calls into its trail."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    def require(self) -> None:
        """Raise AuditUnavailable where nothing can be recorded; do nothing then."""
        self._trail.require()

    def require_room(self) -> None:
        """Raise AuditUnavailable where a change might be made and not be recorded."""
        self._trail.require_room()

    def write(self, account: Account) -> None:
        """Record a call before its answer leaves, or raise AuditUnavailable.

        It is abandoned, should the disk keep it waiting here.
        """
        self._trail.write(record(account), abandon=account.abandon)


@lru_cache(KNOWN_MAX)
def _usual(  # noqa: PLR0917  # remembered by their places
    method: str,
    principal: str,
    authentication: Authentication,
    peer: str,
    resource: str,
    version: str,
    facts: tuple[tuple[str, object], ...],
) -> str:
    """What one caller's calls about one key have in common: put together once."""
    told = (
        f'"event":"call","method":{_text(method)},'
        f'"principal":{_text(principal[:PRINCIPAL_MAX])},'
        f'"authentication":"{authentication.value}",'
        f'"peer":{_text(peer)},"resource":{_text(resource)}'
    )
    if version:
        told += f',"version":{_text(version)}'
    if facts:
        told += f',"facts":{encode(dict(facts))}'
    return told


def record(account: Account) -> str:
    """The members of an account's record; those that say nothing are left out."""
    facts = account.facts
    # Lists and maps among them cannot be remembered by, and are rare.
    plain = _TEXT.issuperset(map(type, facts.values()))
    told = _usual(
        account.method,
        account.principal,
        account.authentication,
        account.peer,
        account.resource,
        account.version,
        tuple(facts.items()) if plain else (),
    )
    if not plain:
        told += f',"facts":{encode(facts)}'
    told += f',"code":"{account.code}","duration_us":{account.duration_ns // 1000}'
    if account.position:
        told += f',"position":"{account.position}"'
    if account.reason:
        told += f',"reason":{_text(account.reason)}'
    if account.request_id:
        told += f',"request_id":{_text(account.request_id)}'
    if account.via_region:
        told += f',"via_region":{_text(account.via_region)}'
    if account.items:
        told += f',"items":[{",".join(map(_item, account.items))}]'
    return told


def _item(item: Item) -> str:
    told = (
        f'{{"operation":"{item.operation}","version":{_text(item.version)},'
        f'"code":"{item.code}"'
    )
    if item.facts:
        told += f',"facts":{encode(item.facts)}'
    if item.reason:
        told += f',"reason":"{item.reason}"'
    return told + "}"
