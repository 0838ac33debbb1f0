"""A third region comes, goes, comes again and is lost: run once, and looked at often.

Each step takes seconds of real ceremonies and processes, so the tests of what must hold
share one run; what they look at is noted here as it is seen.
"""

import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from hsmvault.config import RegionConfig
from hsmvault.model.log import Position
from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1.region_service_pb2 import ListRegionsRequest
from tests.support import outside
from tests.support.callers import (
    SECONDS,
    Callers,
    create,
    create_many,
    key,
    position,
    sign,
)
from tests.support.regions import LiveRegion

EXISTING: Final = 300
"""Keys that are there before the region is added."""

Labels = dict[tuple[str, str], set[str]]
"""The labels of secret keys in each (region, partition)."""


@dataclass
class Departure:
    """What is left after a region was removed."""

    exit_code: int
    said: str
    note: bool
    store: list[Path]
    objects: list[str]
    """What its tokens still hold."""
    to_its_pin: set[str]
    """What they say to the user PIN that they had."""
    labels: Labels
    """In the tokens of the others."""
    wrapped_for_it: int
    listed: set[str]


@dataclass
class Story:
    """What was seen, in the order in which it happened."""

    labels_before: Labels = field(default_factory=dict)
    existing: list[str] = field(default_factory=list)
    meanwhile: list[str] = field(default_factory=list)
    """Keys that were written while the region was being added."""
    at: Position | None = None
    """How far the vault had come when the region was there."""
    reached: Position | None = None
    missing: list[str] = field(default_factory=list)
    """Of all these keys, those that do not sign in the region."""
    wrapping_keys: set[str] = field(default_factory=set)
    labels: Labels = field(default_factory=dict)
    departure: Departure | None = None
    again: str = ""
    """The region that signed once it had been made anew and added again."""
    incarnations: tuple[str, ...] = ()
    """The serials of its tokens, then and now."""
    wrapped_again: set[str] = field(default_factory=set)
    forced: Departure | None = None


def lived(call: Callers, name: str = "east") -> Story:
    """Let a region join with all there is, leave, join anew, and be lost for good."""
    story = Story(labels_before=labels(call))
    ids = [f"old-{number}" for number in range(EXISTING)]
    story.existing = [made.name for made in create_many(call(), ids)]
    _join(call, name, story)
    story.labels = labels(call)
    story.incarnations = serials(call.vault.region(name))

    settings = call.vault.region(name).config
    call.vault.remove(name)
    code = call.vault.region(name).ended()
    story.departure = _left(call, name, settings, code)

    # Its directory is of no use any more; a fresh one takes its name.
    for home in (call.vault.directory, call.vault.directory / "officer"):
        shutil.rmtree(home / name)
    fresh = call.vault.extend(name)
    call.vault.add(name)
    story.incarnations += serials(fresh)
    caller = call.afresh(region=name)
    signed = sign(caller, story.existing[0], at=str(position(call())))
    story.again = signed.served.region
    story.wrapped_again = {row.wrapping_key for row in outside.wrapped_rows(fresh)}

    # Lost for good: nobody there can be asked any more.
    fresh.kill()
    settings = fresh.config
    call.vault.remove(name, force=True)
    story.forced = _left(call, name, settings, -1)
    return story


def _join(call: Callers, name: str, story: Story) -> None:
    region = call.vault.extend(name)
    done = threading.Event()

    def write() -> None:
        caller = call.afresh()
        # At a pace that leaves the ceremony something of the processor.
        while not done.wait(0.05):
            made = create(caller, f"meanwhile-{len(story.meanwhile)}")
            story.meanwhile.append(made.name)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        call.vault.add(name)
    finally:
        done.set()
        writer.join()
    story.at = position(call())
    caller = call.afresh(region=name)
    key(caller, story.existing[0], at=str(story.at))
    story.reached = position(caller)
    for one in story.existing + story.meanwhile:
        try:
            assert sign(caller, one).served.region == name
        except grpc.RpcError as error:
            story.missing.append(f"{one}: {error.details()}")
    story.wrapping_keys = {row.wrapping_key for row in outside.wrapped_rows(region)}


def _left(
    call: Callers, name: str, settings: RegionConfig, exit_code: int
) -> Departure:
    region = call.vault.regions.pop(name)
    call.vault.north.wait_until(
        lambda: call.vault.states().get(name) == "PURGED", what=f"{name} to be gone"
    )
    # The others hear of it, and destroy what they shared with it.
    call.vault.north.wait_until(
        lambda: (
            not any(name in label for told in labels(call).values() for label in told)
        ),
        what=f"the pair keys with {name} to be gone",
    )
    rows = outside.wrapped_rows(call.vault.north)
    shown = call("admin").regions.ListRegions(ListRegionsRequest(), timeout=SECONDS)
    return Departure(
        exit_code=exit_code,
        said=region.said,
        note=region.layout.purged.exists(),
        store=list(region.layout.store_directory.iterdir()),
        objects=[o for p in PARTITIONS for o in outside.objects(region, p)],
        to_its_pin={outside.answer_to_pin(settings, p) for p in PARTITIONS},
        labels=labels(call),
        wrapped_for_it=sum(row.region == name for row in rows),
        listed={one.name for one in shown.regions},
    )


def labels(call: Callers) -> Labels:
    """The labels of the secret keys in every token of the vault."""
    return {
        (name, partition): outside.secret_labels(region.config, partition)
        for name, region in call.vault.regions.items()
        for partition in PARTITIONS
    }


def serials(region: LiveRegion) -> tuple[str, ...]:
    """The serial numbers of a region's tokens."""
    return tuple(one.token_serial for one in region.config.partitions.values())
