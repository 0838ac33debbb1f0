"""A profile: one file that says where the vault is and who we are.

JSON with `endpoints`, `certificate`, `key`, `ca` and perhaps `region` (the preferred
one). Paths are relative to the file. It holds no secret itself, only the key's path.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Profile:
    """Where, and as whom."""

    endpoints: tuple[str, ...]
    certificate: Path
    key: Path
    ca: Path
    region: str = ""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a profile, or raise ConfigurationError that says what is wrong."""
        try:
            fields = from_json(path.read_text())
            endpoints = tuple(map(str, fields["endpoints"]))
            certificate, key, ca = (
                path.parent / str(fields[n]) for n in ("certificate", "key", "ca")
            )
            region = str(fields.get("region", ""))
        except OSError as error:
            raise ConfigurationError(
                f"cannot read the profile {path}: {error.strerror}; `hsmvault caller "
                "add` and `hsmvault dev up` write one"
            ) from error
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ConfigurationError(
                f"the profile {path} is not as expected: JSON with endpoints (a list), "
                "certificate, key and ca"
            ) from error
        return cls(endpoints, certificate, key, ca, region)

    def save(self, path: Path) -> None:
        """Write the profile; paths below its own directory become relative."""
        fields = {
            "endpoints": list(self.endpoints),
            "certificate": _near(self.certificate, path),
            "key": _near(self.key, path),
            "ca": _near(self.ca, path),
            "region": self.region,
        }
        path.write_text(json.dumps(fields, indent=2) + "\n")

    def extended(self, endpoints: Sequence[str]) -> Self:
        """Return this profile with further endpoints, each once."""
        known = dict.fromkeys((*self.endpoints, *endpoints))
        return type(self)(
            tuple(known), self.certificate, self.key, self.ca, self.region
        )


def _near(file: Path, profile: Path) -> str:
    home = profile.parent.resolve()
    found = file.resolve()
    return str(found.relative_to(home) if found.is_relative_to(home) else found)
