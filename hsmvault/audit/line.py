r"""One line of a trail: a record as JSON, and the chain that it is sealed with.

    {"sequence":7,"time":"…","region":"north","process":"p0",…,"chain":"<64 hex>"}\n

`chain` is SHA-256 over the previous line's chain value (32 bytes) and the line's own
bytes before `,"chain"`. Before the first line it is that of the trail's name. Lines are
ASCII: whatever callers put into names stays escaped in the file, and on terminals.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.log import packed

_MARK: Final = b',"chain":"'
_SEAL_BYTES: Final = len(_MARK) + 64 + len(b'"}\n')
_SEAL: Final = re.compile(rb',"chain":"([0-9a-f]{64})"\}\n')

encode: Final = json.JSONEncoder(separators=(",", ":")).encode
"""Write any value that has a form in JSON, in ASCII."""


def genesis(vault_id: str, region: str, process: str) -> bytes:
    """The chain before a trail's first line: no file passes for another process's."""
    return hashlib.sha256(
        packed("hsmvault/audit/v1", vault_id, region, process)
    ).digest()


def seal(previous: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return the line of `body`, an object without its closing brace; and its chain."""
    chain = hashlib.sha256(previous + body).digest()
    return b'%b,"chain":"%b"}\n' % (body, chain.hex().encode()), chain


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it was read; whether its chain holds is for `follows` to say."""

    fields: dict[str, Any]
    chain: bytes
    body: bytes

    @property
    def sequence(self) -> int:
        """Its number in the trail, from 1."""
        return int(self.fields["sequence"])

    def follows(self, previous: bytes) -> bool:
        """Tell whether the line is what was written after that chain value."""
        return hashlib.sha256(previous + self.body).digest() == self.chain


def read(raw: bytes) -> Line:
    """Read a line, its end included, or raise IntegrityFailure."""
    body, sealed = raw[:-_SEAL_BYTES], _SEAL.fullmatch(raw[-_SEAL_BYTES:])
    try:
        fields = from_json(body + b"}")
        if sealed is None or type(fields["sequence"]) is not int:
            raise ValueError
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityFailure("a line of the audit trail does not read") from error
    return Line(fields, bytes.fromhex(sealed[1].decode()), body)
