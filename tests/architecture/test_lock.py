"""The lock: everything the project asks for, pinned and hashed."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.house import HOUSE

PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())
ASKED = [
    Requirement(text)
    for text in (
        *PROJECT["project"]["dependencies"],
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["build-system"]["requires"],
    )
]
LOCK = (HOUSE / "requirements.lock").read_text()
LOCKED = {
    canonicalize_name(match["name"]): match
    for match in re.finditer(
        r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<rest>.*(?:\n    .*)*)",
        LOCK,
        re.MULTILINE,
    )
}


def test_everything_asked_for_is_locked_to_a_version_that_fits() -> None:
    for asked in ASKED:
        locked = LOCKED.get(canonicalize_name(asked.name))
        assert locked, f"{asked.name}: renew the lock as pyproject.toml says"
        assert locked["version"] in asked.specifier, asked


def test_everything_locked_has_a_hash() -> None:
    """Whoever serves a package cannot change it."""
    assert not [name for name, m in LOCKED.items() if "--hash=sha256:" not in m["rest"]]


def test_the_lock_holds_nothing_else() -> None:
    """No addresses, no options: they belong to whoever installs."""
    assert re.sub(r" +--hash=sha256:[0-9a-f]{64}", "", LOCK).count("--") == 0
    assert len(LOCKED) == LOCK.count("==", 0) - sum(
        m["rest"].count("==") for m in LOCKED.values()
    )


def test_nothing_outside_the_lock_is_needed_to_build() -> None:
    assert {Requirement(r).name for r in PROJECT["build-system"]["requires"]} <= set(
        LOCKED
    )
