"""The clock that ends retentions: RS-10, whatever is done to the wall clock."""

from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model.errors import AuditUnavailable, ClockUntrusted
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.clock import DRIFT_MS_MAX, TrustedClock
from tests.support.nodes import FakeNotes

START_MS: Final = 1_800_000_000_000
SECOND, MINUTE, HOUR, DAY = 1.0, 60.0, 3600.0, 86400.0


@dataclass
class World:
    """Real time goes on; the wall clock shows it with an error that somebody makes."""

    seconds: float = 0.0
    wrong_ms: int = 0
    peers: list[int] = field(default_factory=list)
    alarms: Alarms = field(default_factory=Alarms)
    notes: FakeNotes = field(default_factory=FakeNotes)

    def now_ms(self) -> int:
        return START_MS + int(self.seconds * 1000)

    def wall(self) -> int:
        return self.now_ms() + self.wrong_ms

    def boot(self) -> float:
        # A machine that has run for a while.
        return 5000.0 + self.seconds

    def start(self) -> TrustedClock:
        return TrustedClock(
            self.wall,
            self.boot,
            peers=lambda: self.peers,
            alarms=self.alarms,
            audit=self.notes,
        )

    def agree(self, clock: TrustedClock, seconds: float) -> None:
        """Let time pass, looked at as the pool manager does."""
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds += 30.0
            clock.look()


@pytest.fixture
def world() -> World:
    return World()


def _after(world: World, seconds: float) -> int:
    return world.now_ms() + int(seconds * 1000)


def test_a_date_has_come_once_the_clock_has_run_for_a_day_and_shows_it(
    world: World,
) -> None:
    clock, soon = world.start(), _after(world, 25 * HOUR)

    world.seconds = 25 * HOUR - SECOND
    before = clock.due(soon)
    world.seconds = 25 * HOUR

    assert not before
    assert clock.due(soon)


@pytest.mark.parametrize("jump", (DRIFT_MS_MAX + 1, -DRIFT_MS_MAX - 1, 10**11))
def test_rs_10_a_clock_that_jumped_ends_nothing_and_says_so(
    world: World, jump: int
) -> None:
    clock, past = world.start(), _after(world, HOUR)
    world.seconds = 2 * DAY

    world.wrong_ms = jump

    assert not clock.due(past)
    with pytest.raises(ClockUntrusted, match="hsmvault sweeper resume"):
        clock.require_past(past)
    assert "boot clock" in world.alarms.texts()[0]


def test_a_small_correction_is_no_jump(world: World) -> None:
    clock, past = world.start(), _after(world, HOUR)
    world.seconds = 2 * DAY

    world.wrong_ms = DRIFT_MS_MAX

    assert clock.due(past)
    assert not world.alarms.texts()


def test_small_corrections_do_not_add_up_to_a_jump_unseen(world: World) -> None:
    clock, past = world.start(), _after(world, HOUR)
    world.seconds = 2 * DAY

    for _ in range(4):
        world.wrong_ms += DRIFT_MS_MAX // 3
        world.agree(clock, HOUR)

    assert not clock.due(past)


def test_a_clock_that_came_back_is_trusted_after_an_hour_of_agreeing(
    world: World,
) -> None:
    clock, past = world.start(), _after(world, HOUR)
    world.seconds = 2 * DAY
    world.wrong_ms = 10**9
    clock.look()

    world.wrong_ms = 0
    world.agree(clock, HOUR - MINUTE)
    early = clock.due(past)
    world.agree(clock, 2 * MINUTE)

    assert not early
    assert clock.due(past)
    assert not world.alarms.texts()


def test_an_hour_in_which_nobody_looked_is_no_hour_of_agreeing(world: World) -> None:
    clock, past = world.start(), _after(world, HOUR)
    world.seconds = 2 * DAY
    world.wrong_ms = 10**9
    clock.look()

    world.wrong_ms = 0
    clock.look()
    world.seconds += 2 * HOUR

    assert not clock.due(past)


def test_a_clock_that_stays_where_it_was_set_is_not_trusted_by_waiting(
    world: World,
) -> None:
    clock, past = world.start(), _after(world, HOUR)
    world.wrong_ms = 10**10

    world.agree(clock, 30 * HOUR)

    assert not clock.due(past)


def test_an_operator_may_vouch_and_then_another_region_or_a_day_confirms(
    world: World,
) -> None:
    clock, past = world.start(), _after(world, HOUR)
    world.seconds = 2 * DAY
    world.wrong_ms = 10**9

    problem = clock.vouch("root")
    alone = clock.due(past)
    world.peers = [past]
    confirmed = clock.due(past)
    world.peers = []
    world.seconds += DAY

    assert "ahead of" in problem
    assert not world.alarms.texts()
    assert not alone
    assert confirmed
    assert clock.due(past)


def test_nobody_vouches_where_that_cannot_be_recorded(world: World) -> None:
    clock = world.start()
    world.wrong_ms = 10**9
    clock.look()
    recorded = world.notes.events.copy()
    world.notes.full = True

    with pytest.raises(AuditUnavailable):
        clock.vouch("root")

    assert recorded[0].startswith("clock.distrusted")
    assert clock.look()
    world.notes.full = False
    clock.vouch("root")
    assert "'operator': 'root'" in world.notes.events[-2]


def test_after_a_restart_another_regions_clock_has_to_agree(world: World) -> None:
    # Set forward while nothing ran.
    world.wrong_ms = 10**10
    clock, date = world.start(), world.now_ms() + 10**9

    world.peers = [world.now_ms()]
    disagrees = clock.doubt(date)
    world.peers = [world.now_ms(), date]

    assert "no linked region" in disagrees
    assert clock.due(date)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(1, 3 * DAY)),
        st.tuples(st.just("set"), st.integers(-(10**11), 10**11)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("vouch"), st.just(0)),
        st.tuples(st.just("link"), st.booleans()),
    ),
    max_size=30,
)


@given(steps, st.floats(0, 10 * DAY))
def test_rs_10_nothing_ends_early_by_any_play_with_the_wall_clock(
    steps: list[tuple[str, float]], lasting: float
) -> None:
    """The attacker sets the clock, restarts, vouches, and cuts or mends the link.

    What is ended early was believed for a day without any other region: never at once.
    """
    world = World()
    clock, date = world.start(), _after(world, lasting)
    alone_since, linked = 0.0, False
    for step, value in steps:
        if step == "pass":
            world.seconds += value
        elif step == "set":
            world.wrong_ms = int(value)
        elif step == "restart":
            clock, alone_since = world.start(), world.seconds
        elif step == "vouch":
            # Where nothing spoke against the clock, it has been believed for longer.
            if clock.vouch("mallory"):
                alone_since = world.seconds
        else:
            linked = bool(value)
        world.peers = [world.now_ms()] if linked else []

        early = world.now_ms() + DRIFT_MS_MAX < date
        if clock.due(date) and early:
            assert world.seconds - alone_since >= DAY


@given(st.lists(st.tuples(st.floats(1, 2 * DAY), st.integers(-(10**11), 10**11))))
def test_rs_10_a_clock_that_was_right_at_the_start_ends_nothing_early(
    plays: list[tuple[float, int]],
) -> None:
    world = World()
    clock, date = world.start(), _after(world, 7 * DAY)
    for seconds, wrong_ms in plays:
        world.seconds += seconds
        world.wrong_ms = wrong_ms

        assert not clock.due(date) or world.now_ms() + DRIFT_MS_MAX >= date
