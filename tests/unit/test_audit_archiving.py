"""Older files of a trail are moved to another disk, and everything stays verifiable."""

from contextlib import closing
from pathlib import Path

import pytest

from hsmvault.audit.archiving import archive
from hsmvault.audit.reading import merged
from hsmvault.audit.trail import Trail
from hsmvault.audit.verify import Finding, verify
from hsmvault.model.errors import ConfigurationError
from tests.support.prompt import hsmvault

VAULT = "0123456789abcdef0123456789abcdef"


def _trail(directory: Path) -> Trail:
    trail = Trail(
        directory, vault_id=VAULT, region="north", process="p0", segment_bytes=600
    )
    trail.open()
    return trail


def _write(trail: Trail, records: int = 8) -> None:
    for number in range(records):
        trail.note("test.ran", "/keys/a", number=number)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.suffix == ".jsonl")


def _findings(directory: Path, *archives: Path) -> list[Finding]:
    found = verify(directory, vault_id=VAULT, region="north", archives=archives)
    return [finding for one in found for finding in one.findings]


def _sequences(directory: Path) -> list[int]:
    return [int(record["sequence"]) for record in merged(directory)]


@pytest.fixture
def region(tmp_path: Path) -> Path:
    """A region's directory, in which a process wrote several files."""
    with closing(_trail(tmp_path / "audit")) as trail:
        _write(trail)
    return tmp_path


def test_what_was_moved_is_verified_with_what_is_left(region: Path) -> None:
    live, away = region / "audit", region / "away"
    before = _names(live)

    moved = archive(live, away)

    assert [path.name for path in moved] == before[:-1] == _names(away)
    assert _names(live) == before[-1:]
    assert _findings(live, away) == []
    # Not without it: files that somebody deleted look the same.
    assert [finding.file for finding in _findings(live)][:-1] == before[:-1]
    assert {path.stat().st_mode & 0o777 for path in moved} == {0o600}


def test_files_are_moved_while_their_process_runs_and_more_than_once(
    tmp_path: Path,
) -> None:
    live, away = tmp_path / "audit", tmp_path / "away"
    with closing(_trail(live)) as trail:
        _write(trail)
        archive(live, away)
        _write(trail)
        archive(live, away)
        _write(trail, 1)
    with closing(_trail(live)) as trail:
        _write(trail, 1)

    assert _findings(live, away) == []
    assert sorted(_sequences(live) + _sequences(away)) == list(
        range(1, trail.records + 1)
    )


def test_a_trail_goes_on_after_its_records_where_its_newest_file_is_empty(
    region: Path,
) -> None:
    """As a disk leaves it that was full when the file was begun: its remedy is this."""
    live, away = region / "audit", region / "away"
    kept = _names(live)[-1]
    number = int(kept[3:9]) + 1
    (live / f"p0-{number:06}.jsonl").touch()

    archive(live, away)
    with closing(_trail(live)) as trail:
        _write(trail, 1)

    assert kept in _names(live)
    assert _findings(live, away) == []


def test_an_archived_file_that_was_edited_or_is_gone_is_found(region: Path) -> None:
    live, away = region / "audit", region / "away"
    first, second, *_ = archive(live, away)
    raw = first.read_bytes()

    first.write_bytes(raw.replace(b'"number":1', b'"number":7'))
    edited = _findings(live, away)
    first.write_bytes(raw)
    second.unlink()
    gone = _findings(live, away)

    assert edited
    assert {finding.file for finding in edited} == {first.name}
    assert gone[0].file == second.name


@pytest.mark.parametrize("step", ["copied", "named"])
def test_a_crash_between_two_steps_leaves_everything_and_moving_again_goes_on(
    region: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    live, away = region / "audit", region / "away"
    before = _names(live)

    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    broken = {"copied": "os.fsync", "named": "filecmp.cmp"}
    with monkeypatch.context() as patch:
        patch.setattr(broken[step], crash)
        with pytest.raises(Crash):
            archive(live, away)
    halfway = _findings(live, away)
    archive(live, away)

    assert halfway == []
    assert _names(away) == before[:-1]
    assert _findings(live, away) == []
    assert not list(away.glob(".*"))


def test_nothing_is_deleted_where_the_archive_holds_another_file(region: Path) -> None:
    live, away = region / "audit", region / "away"
    away.mkdir()
    before = _names(live)
    (away / before[0]).write_bytes(b"another region's")

    with pytest.raises(ConfigurationError, match="nothing was deleted"):
        archive(live, away)
    with pytest.raises(ConfigurationError, match="another disk"):
        archive(live, live)

    assert _names(live) == before
    assert (away / before[0]).read_bytes() == b"another region's"


def test_at_the_prompt_files_are_moved_and_named(region: Path) -> None:
    before = _names(region / "audit")

    ended = hsmvault("audit", "archive", region, region / "away")

    assert ended.code == 0, ended.err
    assert [Path(line).name for line in ended.text.splitlines()] == before[:-1]
    assert _findings(region / "audit", region / "away") == []
