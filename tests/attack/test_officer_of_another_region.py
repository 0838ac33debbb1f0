"""The officer of one region against another: why regions share no region key.

The attacker is the security officer of `south`, and has the user PIN too: they can
trust a key of their own making, and take out whatever rests in their token. So what
rests there must be worth nothing elsewhere: pair keys, never a copy of a region key.
"""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from hsmvault.hsm import labels
from hsmvault.hsm.templates import REGION_KEY
from tests.attack.peel import is_key
from tests.attack.scene import ThrowAway, must
from tests.attack.test_trojan_public_key import OAEP, SOFTWARE, trojan
from tests.support.softhsm import MODULE, PARTITIONS, SO_PIN, USER_PIN, RegionTokens
from tests.support.stranger import Stranger


@pytest.mark.parametrize("partition", PARTITIONS)
def test_no_token_of_south_holds_a_region_key_of_north(
    born_regions: tuple[RegionTokens, RegionTokens], partition: str
) -> None:
    token = born_regions[1].tokens[partition]

    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok

        for label in (labels.region_key("north"), labels.integrity_key("north")):
            assert stranger.find(("LABEL", label.encode())) == ()
        own = labels.region_key("south").encode()
        assert len(stranger.find(("LABEL", own))) == 1


def test_an_officer_takes_out_whatever_rests_in_their_token(
    throwaway: ThrowAway,
) -> None:
    # Were this a copy of north's region key, all of north would be open to south.
    copy = throwaway.install(REGION_KEY)
    stranger = throwaway.stranger
    digest = stranger.digest_key(copy).data
    label = stranger.get(copy, "LABEL").data
    assert stranger.logout().ok
    assert stranger.login(SO_PIN, officer=True).ok
    mine = must(stranger.create(trojan(("TRUSTED", True))))
    assert stranger.logout().ok
    assert stranger.login(USER_PIN).ok
    (copy,) = stranger.find(("LABEL", label))

    reply = stranger.wrap("RSA_PKCS_OAEP", under=mine, key=copy, iv=OAEP)

    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
    assert is_key(SOFTWARE.decrypt(reply.data, oaep), digest)
