"""CRC32C of what travels: a message that was damaged on its way is not acted on.

TLS keeps others from changing bytes; this finds the memory or the proxy that does it by
accident, before something is encrypted that nobody will ever decrypt to what was meant.
"""

from typing import Any

import google_crc32c

from hsmvault.model.errors import ChecksumMismatch


def crc32c(data: bytes) -> int:
    """Return the Castagnoli CRC of the bytes (RFC 3720, appendix B.4)."""
    value: int = google_crc32c.value(data)
    return value


def require_intact(request: Any, field: str, data: bytes) -> bool:
    """Check `{field}_crc32c` if it was sent. Returns whether it was.

    Raises ChecksumMismatch.
    """
    name = f"{field}_crc32c"
    if not request.HasField(name):
        return False
    if getattr(request, name) != crc32c(data):
        raise ChecksumMismatch(
            "{field} is not what its CRC32C says: it changed on the way, or was "
            "summed wrongly; send it again",
            field=field,
        )
    return True
