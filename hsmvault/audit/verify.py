"""Whether trails are whole: each line chained to the last, each signed head in place.

The chain finds what was changed between two records; who can write the files can also
compute it anew, up to the end. So the heads count: an HSM signed them, and the log of
every region has them. What was written after the newest head is only chained.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hsmvault.audit.files import path_of, segments
from hsmvault.audit.line import Line, genesis, read
from hsmvault.model.audit_records import AuditHead
from hsmvault.model.errors import IntegrityFailure


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that no process of the region did."""

    file: str
    sequence: int
    """Of the record where it shows; 0: of none."""
    what: str


@dataclass(frozen=True, slots=True)
class Held:
    """A head, whose signature was checked, and where it was found."""

    head: AuditHead
    where: str


@dataclass(slots=True)
class Verified:
    """What was found in one process's trail."""

    process: str
    records: int = 0
    last: int = 0
    """Sequence of the last record."""
    signed: int = 0
    """Sequence up to which a head vouches for it."""
    findings: list[Finding] = field(default_factory=list)


def verify(
    directory: Path,
    *,
    vault_id: str,
    region: str,
    heads: Iterable[Held] = (),
    archives: Iterable[Path] = (),
    archived: bool = False,
) -> list[Verified]:
    """Verify every trail in a region's directory against itself and against heads.

    `archives`: where older files were moved to; they are verified, too. `archived`:
    they are out of reach, so a trail may begin with any.
    """
    known = segments(*(one for one in (directory, *archives) if one.is_dir()))
    wanted: dict[str, list[Held]] = {process: [] for process in known}
    for held in heads:
        wanted.setdefault(held.head.process, []).append(held)
    return [
        _Trail(directory, region, process, genesis(vault_id, region, process)).verify(
            known.get(process, ()), wanted[process], archived=archived
        )
        for process in sorted(wanted)
    ]


class _Trail:
    """One process's trail, while it is read."""

    def __init__(
        self, directory: Path, region: str, process: str, start: bytes
    ) -> None:
        self._directory = directory
        self._who = (region, process)
        self._found = Verified(process)
        self._previous: bytes | None = start
        self._expected = 1
        self._first = 0
        self._file = path_of(directory, process, 1).name

    def verify(
        self,
        known: Sequence[tuple[int, Path]],
        heads: Sequence[Held],
        *,
        archived: bool,
    ) -> Verified:
        points: dict[int, set[bytes]] = {held.head.sequence: set() for held in heads}
        if archived and known and known[0][0] > 1:
            self._previous, self._expected = None, 0
        for line in self._lines(known, archived=archived):
            if line.sequence in points:
                points[line.sequence].add(line.chain)
        for held in sorted(heads, key=lambda held: held.head.sequence):
            self._compare(held, points[held.head.sequence])
        return self._found

    def _lines(
        self, known: Sequence[tuple[int, Path]], *, archived: bool
    ) -> Iterator[Line]:
        number = known[0][0] if archived and known else 1
        for actual, path in known:
            for missing in range(number, actual):
                name = path_of(self._directory, self._found.process, missing).name
                self._finds(f"the file {name} is missing", file=name)
            number, self._file = actual + 1, path.name
            with path.open("rb") as file:
                for raw in file:
                    if (
                        line := self._line(raw, newest=actual == known[-1][0])
                    ) is not None:
                        yield line

    def _line(self, raw: bytes, *, newest: bool) -> Line | None:
        if newest and not raw.endswith(b"\n"):
            # Being written, or left by a crash that nobody was started after.
            return None
        try:
            line = read(raw)
        except IntegrityFailure:
            self._finds("a line does not read: it was edited or torn", self._expected)
            # Whatever it was, the next one is compared with what it says itself.
            self._previous, self._expected = None, 0
            return None
        self._check(line)
        self._found.records += 1
        self._found.last = line.sequence
        self._first = self._first or line.sequence
        self._previous, self._expected = line.chain, line.sequence + 1
        return line

    def _check(self, line: Line) -> None:
        sequence, expected = line.sequence, self._expected
        if (line.fields.get("region"), line.fields.get("process")) != self._who:
            self._finds("a record is of another process", sequence)
        if self._previous is None or line.follows(self._previous):
            if expected and sequence != expected:
                self._finds(f"record {expected} should stand here", sequence)
            return
        if sequence > expected:
            what = f"records {expected} to {sequence - 1} were deleted before this one"
        elif sequence == expected:
            what = "this record was edited, or what it was chained to was replaced"
        elif sequence == 1:
            what = f"the trail begins again from nothing after record {expected - 1}"
        else:
            what = f"this record stands after record {expected - 1}: it was moved"
        self._finds(what, sequence)

    def _compare(self, held: Held, chains: set[bytes]) -> None:
        head = held.head
        signed = f"the head that {held.where} holds, signed by {head.partition}"
        if head.chain in chains:
            self._found.signed = max(self._found.signed, head.sequence)
        elif chains:
            self._finds(f"not the record of {signed}: it was replaced", head.sequence)
        elif head.sequence > self._found.last:
            self._finds(
                f"the trail ends at record {self._found.last}, but {signed}, is at "
                f"record {head.sequence}: its end was cut off, or it began again",
                self._found.last,
            )
        elif head.sequence >= self._first:
            self._finds(f"the record of {signed} is missing", head.sequence)

    def _finds(self, what: str, sequence: int = 0, *, file: str = "") -> None:
        self._found.findings.append(Finding(file or self._file, sequence, what))
