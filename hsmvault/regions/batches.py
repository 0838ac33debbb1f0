"""Work for the partitions in batches, several at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

_AT_ONCE: Final = 3
"""As many as a region has partitions."""

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_batches(
    work: Callable[[Sequence[Given]], Sequence[Made]],
    items: Sequence[Given],
    *,
    size: int,
) -> list[Made]:
    """Do the work in batches, in parallel; what was made, in the order of `items`."""
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    if not parts:
        return []
    if len(parts) == 1:
        return list(work(parts[0]))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="batch") as pool:
        return [made for part in pool.map(work, parts) for made in part]
