"""The issuer of tokens that tests of one module share."""

from collections.abc import Iterator

import pytest

from tests.support.issuer import TestIssuer, running_issuer


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestIssuer]:
    """An issuer in a process of its own."""
    with running_issuer(tmp_path_factory.mktemp("oidc") / "acme") as one:
        yield one
