"""Adding and removing a region may be repeated, or only validated."""

import pytest

from hsmvault.model.errors import AlreadyExists, InvalidRequest, NotFound
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.orders import Terms
from tests.support.nodes import ADMIN, TestVault, added, until

BY = f"CN={ADMIN}"
ADD = Terms("AddRegion", "add-1", b"the same request")
REMOVE = Terms("RemoveRegion", "remove-1", b"the same request")


def test_adding_a_region_again_under_the_same_request_id_answers_the_same(
    vault: TestVault,
) -> None:
    south, west = vault.region("south"), vault.region("west")
    with vault.north.node() as primary:
        first = added(primary, south, ADD)

        again = added(primary, south, ADD)

        assert again == first
        with pytest.raises(AlreadyExists):
            added(primary, south)
        other = Terms("AddRegion", "add-1", b"another request")
        with pytest.raises(InvalidRequest, match="used for another request"):
            added(primary, west, other)


def test_what_is_only_validated_adds_and_removes_nothing(vault: TestVault) -> None:
    south = vault.region("south")
    dry = Terms(validate_only=True)
    with vault.north.node() as primary:
        before = vault.north.store.head()

        would = added(primary, south, dry)

        assert would.state is RegionState.PREPROVISIONING
        assert vault.north.store.head() == before
        with pytest.raises(NotFound):
            primary.remove_region(
                vault.order("south"), force=True, principal=BY, terms=dry
            )
        added(primary, south)
        added_at = vault.north.record("south")
        primary.remove_region(vault.order("south"), force=True, principal=BY, terms=dry)
        assert vault.north.record("south").state is not RegionState.DELETING
        assert added_at.revision <= vault.north.record("south").revision


def test_removing_a_region_again_under_the_same_request_id_answers_the_same(
    vault: TestVault,
) -> None:
    south = vault.region("south")
    with vault.north.node() as primary:
        added(primary, south)
        order = vault.order("south")
        first, _ = primary.remove_region(order, force=True, principal=BY, terms=REMOVE)
        until(lambda: vault.north.state_of("south") is RegionState.PURGED)

        again, _ = primary.remove_region(order, force=True, principal=BY, terms=REMOVE)

        assert again == first
        with pytest.raises(NotFound):
            primary.remove_region(order, force=True, principal=BY)
