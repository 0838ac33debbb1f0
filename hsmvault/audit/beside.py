"""The trail of another process of the region, as it stands on the disk."""

import os
from pathlib import Path

from hsmvault.audit.appending import Head
from hsmvault.audit.files import ending, segments
from hsmvault.audit.line import read
from hsmvault.model.errors import AuditUnavailable


class Beside:
    """Looks at where a trail ends that this process does not write."""

    def __init__(self, directory: Path, process: str) -> None:
        self._directory = directory
        self.process = process

    def head(self) -> Head:
        """Have the disk keep the trail so far, and return where that ends.

        Raises AuditUnavailable, and IntegrityFailure where it ends with no record.
        """
        try:
            for number, path in reversed(segments(self._directory)[self.process]):
                _sync(path)
                if last := ending(path).last:
                    line = read(last)
                    return Head(number, line.sequence, line.chain)
        except KeyError:
            return Head(0, 0, b"")
        except OSError as error:
            raise AuditUnavailable(
                "the audit trail of {process} cannot be read: {problem}",
                process=self.process,
                problem=error.strerror,
            ) from error
        return Head(0, 0, b"")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
