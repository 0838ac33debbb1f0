"""An encryption context has one form, whoever names its pairs and in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model.errors import InvalidRequest, TooLarge
from hsmvault.vault.plan import CONTEXT_MAX, CONTEXT_TAG, context_aad

names = st.text(min_size=1, max_size=8)
contexts = st.dictionaries(names, st.text(max_size=8), min_size=1, max_size=6)


@given(contexts)
def test_the_order_of_the_pairs_does_not_matter(context: dict[str, str]) -> None:
    turned = dict(reversed(context.items()))

    assert context_aad(turned) == context_aad(context)


@given(contexts, contexts)
def test_no_two_contexts_are_bound_alike(
    one: dict[str, str], other: dict[str, str]
) -> None:
    assert (context_aad(one) == context_aad(other)) == (one == other)


def test_its_form_is_the_published_one() -> None:
    def part(text: str) -> bytes:
        raw = text.encode()
        return len(raw).to_bytes(4, "big") + raw

    assert context_aad({"z": "1", "ä": "", "a": "zwei"}) == b"".join(
        part(text) for text in (CONTEXT_TAG, "a", "zwei", "z", "1", "ä", "")
    )


def test_a_name_is_not_empty_and_pairs_are_not_too_many() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        context_aad({"": "x"})
    with pytest.raises(TooLarge, match="64"):
        context_aad({str(n): "" for n in range(CONTEXT_MAX + 1)})
    assert context_aad({str(n): "" for n in range(CONTEXT_MAX)})
