"""A trail that is not as its process wrote it is found out, and where."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.audit.line import genesis, read, seal
from hsmvault.audit.reading import ends, following, merged
from hsmvault.audit.trail import Trail
from hsmvault.audit.verify import Finding, Held, verify
from hsmvault.model.audit_records import AuditHead

VAULT = "0123456789abcdef0123456789abcdef"
RECORDS = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail of several files."""
    directory = tmp_path_factory.mktemp("whole")
    trail = Trail(
        directory, vault_id=VAULT, region="north", process="p0", segment_bytes=900
    )
    trail.open()
    with closing(trail):
        for number in range(RECORDS):
            trail.note("test.ran", "/keys/a", number=number)
    return directory


@pytest.fixture
def trail(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "audit"))


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("p0-*.jsonl"))


def _lines(directory: Path) -> list[bytes]:
    raw = b"".join(path.read_bytes() for path in _files(directory))
    return raw.splitlines(keepends=True)


def _head(directory: Path, sequence: int = 0) -> Held:
    """The head that was signed when the trail was at `sequence`; 0: at its end."""
    line = read(_lines(directory)[sequence - 1])
    head = AuditHead("north", "p0", 1, line.sequence, line.chain, 1, "p0", b"")
    return Held(head, "region south")


def _findings(
    directory: Path, *heads: Held, archives: Sequence[Path] = (), archived: bool = False
) -> list[Finding]:
    where = {"vault_id": VAULT, "region": "north"}
    found = verify(
        directory, **where, heads=heads, archives=archives, archived=archived
    )
    return [finding for one in found for finding in one.findings]


def _rewrite(path: Path, change: Callable[[list[bytes]], object]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


def test_a_trail_that_nobody_touched_is_whole(trail: Path) -> None:
    (found,) = verify(
        trail, vault_id=VAULT, region="north", heads=[_head(trail, 4), _head(trail)]
    )

    assert found.findings == []
    assert found.records == found.last == found.signed == len(_lines(trail))
    assert len(_files(trail)) > 2


@given(data=st.data())
def test_au_06_any_single_edit_is_found(whole: Path, data: st.DataObject) -> None:
    """One byte, anywhere: changed, taken away or put in. The last head is held."""
    raw = b"".join(_lines(whole))
    at = data.draw(st.integers(0, len(raw) - 1), "at")
    byte = bytes([data.draw(st.integers(0, 255), "byte")])
    rest = data.draw(st.sampled_from([raw[at:], raw[at + 1 :]]), "rest")
    spoilt = raw[:at] + data.draw(st.sampled_from([byte, b""]), "instead") + rest
    directory = whole.with_name("edited")
    directory.mkdir(exist_ok=True)
    (directory / "p0-000001.jsonl").write_bytes(spoilt)

    assert bool(_findings(directory, _head(whole))) == (spoilt != raw)


def test_au_06_a_record_that_was_edited_is_named(trail: Path) -> None:
    path = _files(trail)[1]
    path.write_bytes(path.read_bytes().replace(b"/keys/a", b"/keys/b", 1))

    (finding,) = _findings(trail)

    assert finding.file == path.name
    assert "was edited" in finding.what
    assert b"/keys/b" in _lines(trail)[finding.sequence - 1]


def test_au_06_a_record_that_was_deleted_in_the_middle_is_named(trail: Path) -> None:
    path = _files(trail)[1]
    sequence = read(path.read_bytes().splitlines(keepends=True)[1]).sequence
    _rewrite(path, lambda lines: lines.pop(1))

    (finding,) = _findings(trail)

    assert (finding.file, finding.sequence) == (path.name, sequence + 1)
    assert f"records {sequence} to {sequence} were deleted" in finding.what


def test_au_06_records_that_changed_places_are_named(trail: Path) -> None:
    path = _files(trail)[0]
    _rewrite(path, lambda lines: lines.insert(1, lines.pop(2)))

    findings = _findings(trail)

    assert findings[0].file == path.name
    assert any("it was moved" in finding.what for finding in findings)


def test_au_06_a_file_that_is_gone_is_named(trail: Path) -> None:
    gone = _files(trail)[1]
    gone.unlink()

    findings = _findings(trail)

    assert findings[0] == Finding(gone.name, 0, f"the file {gone.name} is missing")
    assert "were deleted before this one" in findings[1].what


def test_au_06_an_end_that_was_cut_off_is_found_by_the_head(trail: Path) -> None:
    """The chain alone cannot know: what is left is whole."""
    head = _head(trail)
    _rewrite(_files(trail)[-1], lambda lines: lines.pop())

    assert _findings(trail) == []
    (finding,) = _findings(trail, head)
    assert finding.sequence == head.head.sequence - 1
    assert "its end was cut off" in finding.what
    assert "region south holds" in finding.what


def test_au_06_a_trail_that_began_again_from_nothing_is_found(trail: Path) -> None:
    """Whole in itself, from record 1; but a head was signed further on."""
    head = _head(trail)
    for path in _files(trail):
        path.unlink()
    again = Trail(trail, vault_id=VAULT, region="north", process="p0")
    again.open()
    again.close()

    assert _findings(trail) == []
    assert "or it began again" in _findings(trail, head)[0].what


def test_au_06_a_trail_that_was_written_anew_with_its_chain_is_found(
    trail: Path,
) -> None:
    """Whoever writes the files can compute the chain, but has no identity key."""
    head = _head(trail)
    chain, lines = genesis(VAULT, "north", "p0"), []
    for raw in _lines(trail):
        line, chain = seal(chain, read(raw).body.replace(b"/keys/a", b"/keys/b"))
        lines.append(line)
    for path in _files(trail)[1:]:
        path.unlink()
    _files(trail)[0].write_bytes(b"".join(lines))

    assert _findings(trail) == []
    (finding,) = _findings(trail, head)
    assert "it was replaced" in finding.what


def test_au_06_a_trail_of_another_process_does_not_pass_for_this_one(
    trail: Path,
) -> None:
    for path in _files(trail):
        path.rename(path.with_name(path.name.replace("p0", "p1")))

    assert any("another process" in finding.what for finding in _findings(trail))


def test_a_trail_without_any_file_is_missed_by_its_head(trail: Path) -> None:
    head = _head(trail)
    for path in _files(trail):
        path.unlink()

    (finding,) = _findings(trail, head)

    assert "the trail ends at record 0" in finding.what


def test_older_files_may_be_kept_elsewhere_if_one_says_so(trail: Path) -> None:
    _files(trail)[0].unlink()

    assert _findings(trail)
    assert _findings(trail, _head(trail), archived=True) == []


def test_au_06_a_head_vouches_for_a_file_that_was_moved_away(
    trail: Path, tmp_path: Path
) -> None:
    """Rewritten with its chain, as whoever can write the archive may do."""
    away = tmp_path / "away"
    away.mkdir()
    first = _files(trail)[0]
    head = _head(trail, len(first.read_bytes().splitlines()))
    first.rename(away / first.name)
    whole = _findings(trail, head, archives=[away])

    _rewrite(away / first.name, list.pop)

    assert whole == []
    assert _findings(trail, head, archives=[away])


def test_what_is_being_written_is_no_finding(trail: Path) -> None:
    with _files(trail)[-1].open("ab") as file:
        file.write(b'{"sequence":99,')

    assert _findings(trail) == []


def test_trails_are_merged_by_time(trail: Path) -> None:
    other = Trail(trail, vault_id=VAULT, region="north", process="p1")
    other.open()
    other.close()

    records = list(merged(trail))

    assert [r["time"] for r in records] == sorted(r["time"] for r in records)
    assert {r["process"] for r in records} == {"p0", "p1"}


def test_what_is_written_while_the_past_is_read_is_followed_and_shown_once(
    trail: Path,
) -> None:
    """Also a line of which a half was there when one began to look."""
    path = _files(trail)[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    now = ends(trail)
    past, grown = merged(trail, until=now), following(trail, after=now)
    before = len(_lines(trail)) - 1
    path.write_bytes(whole)
    other = Trail(trail, vault_id=VAULT, region="north", process="p1")
    other.open()
    other.close()

    shown = [*past, next(grown), next(grown)]

    assert [(r["process"], r["sequence"]) for r in shown] == [
        *(("p0", number) for number in range(1, before + 2)),
        ("p1", 1),
    ]


def test_files_that_are_moved_away_meanwhile_are_passed_over(trail: Path) -> None:
    past = merged(trail)
    first = next(past)
    for gone in _files(trail)[1:]:
        gone.rename(gone.with_suffix(".moved"))

    rest = list(past)

    assert [r["sequence"] for r in (first, *rest)] == list(range(1, len(rest) + 2))
    assert len(rest) == len(_lines(trail)) - 1
