"""A profile: one file that says where the vault is and who we are.

JSON with `endpoints`, `certificate`, `key`, `ca` and perhaps `region` (the preferred
one); or with `token`, a file, in place of the certificate and its key. Paths are
relative to the file. It holds no secret itself, only the key's or the token's path.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Profile:
    """Where, and as whom."""

    endpoints: tuple[str, ...]
    certificate: Path | None
    key: Path | None
    ca: Path
    region: str = ""
    token: Path | None = None
    """A file with a token, in place of certificate and key."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a profile, or raise ConfigurationError that says what is wrong."""
        try:
            fields = from_json(path.read_text())
            endpoints = tuple(map(str, fields["endpoints"]))
            token = fields.get("token")
            shown = ("certificate", "key") if token is None else ("token",)
            files = {n: path.parent / str(fields[n]) for n in (*shown, "ca")}
            region = str(fields.get("region", ""))
        except OSError as error:
            raise ConfigurationError(
                f"cannot read the profile {path}: {error.strerror}; `hsmvault caller "
                "add` and `hsmvault dev up` write one"
            ) from error
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ConfigurationError(
                f"the profile {path} is not as expected: JSON with endpoints (a list), "
                "certificate, key and ca; or token instead of certificate and key"
            ) from error
        return cls(
            endpoints,
            files.get("certificate"),
            files.get("key"),
            files["ca"],
            region,
            files.get("token"),
        )

    def save(self, path: Path) -> None:
        """Write the profile; paths below its own directory become relative."""
        files = {
            "certificate": self.certificate,
            "key": self.key,
            "token": self.token,
            "ca": self.ca,
        }
        fields = {
            "endpoints": list(self.endpoints),
            **{name: _near(file, path) for name, file in files.items() if file},
            "region": self.region,
        }
        path.write_text(json.dumps(fields, indent=2) + "\n")

    def extended(self, endpoints: Sequence[str]) -> Self:
        """Return this profile with further endpoints, each once."""
        known = dict.fromkeys((*self.endpoints, *endpoints))
        return replace(self, endpoints=tuple(known))


def _near(file: Path, profile: Path) -> str:
    home = profile.parent.resolve()
    found = file.resolve()
    return str(found.relative_to(home) if found.is_relative_to(home) else found)
