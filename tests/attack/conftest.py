"""One real partition for all attacks, and one token for keys that lack a line.

Attacks leave session objects behind and nothing else, so both are shared by the run.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmvault.hsm import labels
from tests.attack.scene import Scene, ThrowAway, look_around
from tests.support.softhsm import (
    MODULE,
    USER_PIN,
    RegionTokens,
    Token,
    clone,
    make_token,
)
from tests.support.stranger import Stranger


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every attack needs the token."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.softhsm)


@pytest.fixture(scope="session")
def partition(
    born_regions: tuple[RegionTokens, RegionTokens],
    tmp_path_factory: pytest.TempPathFactory,
) -> Token:
    """Partition p0 of `north`, with all that ceremonies bring: for attacks only."""
    copied = clone(born_regions[0], tmp_path_factory.mktemp("attacked"))
    return copied.tokens["p0"]


@pytest.fixture(scope="session")
def scene(partition: Token) -> Iterator[Scene]:
    """The attacker at the partition, with the user PIN and the store."""
    with Stranger(MODULE, partition.environment, partition.label) as stranger:
        assert stranger.login(USER_PIN).ok
        (key,) = stranger.find(("LABEL", labels.region_key("north").encode()))
        yield look_around(stranger, key)


@pytest.fixture(scope="session")
def throwaway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowAway]:
    """A token on which the officer makes keys that lack one line of their table."""
    token = make_token(tmp_path_factory.mktemp("throwaway"), "throwaway")
    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok
        yield ThrowAway(stranger)
