"""A vault of pretend partitions and real links, for one test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import TestVault


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[TestVault]:
    """`north`, founded; the test starts its manager, and makes further regions."""
    vault = TestVault(tmp_path)
    yield vault
    vault.close()
