"""A million machines take a release: the registry's load, and who has it when it is withdrawn.

Usage: .venv/bin/python benchmarks/rollout.py [--machines N] [--window HOURS] [--lead HOURS] [--start HOUR]
[--seed N] [--out FOLDER]

Three ways are compared for the same machines, wake times, offline spells and failed tries: the shipped one
(positions by veilor.core.rollout, a question every 20 hours), everybody as soon as awake, and an oracle that
knows all wake times beforehand. The oracle's peak is a lower bound that no schedule can beat: machines that
are awake in one stretch of hours of the window and in no other have to be served in it. So the printed ratio
is never better than the truth. The population is made up (below), not measured: no machine reports home.
Writes rollout.json and two SVG pictures.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from veilor.core.rollout import ASK_AGAIN, ASK_EVERY, AT_ONCE, LATECOMERS, SECOND, window_position

TICK = 20  # minutes between the timer's runs, at a minute of the machine's own
SETTLED = 10  # minutes after a start in which a machine doesn't ask
DAY = 1440  # minutes
TAIL = 7  # days that are simulated from the window's start on
FAILS = 0.05  # share of tries that fail and are repeated after ASK_AGAIN
# Time zones, in hours from UTC, and the share of machines in each.
ZONES = (
    (-8, 0.12),
    (-5, 0.18),
    (-3, 0.06),
    (0, 0.12),
    (1, 0.26),
    (2, 0.06),
    (3, 0.04),
    (5.5, 0.06),
    (8, 0.06),
    (9, 0.04),
)


@dataclass(frozen=True)
class Habit:
    """When a kind of machine is awake: hours of the day in its own time zone, shares from 0 to 1."""

    share: float  # of all machines
    start: float
    start_spread: float  # between people
    hours: float
    hours_spread: float
    days: float  # share of days on which it is switched on at all
    daily_spread: float  # of the start, between a person's days


HABITS = (
    Habit(0.45, 8.5, 1.0, 9.0, 1.5, 0.90, 0.4),
    Habit(0.30, 18.5, 1.5, 4.0, 1.2, 0.85, 0.7),
    Habit(0.10, 15.0, 4.0, 2.0, 1.0, 0.40, 3.0),
)
ALWAYS_ON = 0.15  # share of machines that are never off
AWAY = 0.03  # share of machines that are off for the first two days


@dataclass(frozen=True)
class Simulation:
    """What came of a simulation: its settings, and downloads begun in each hour by way (`load`).

    `reached` is how many machines heard of the release at all, `oracle` the least peak in machines an hour.
    """

    machines: int
    reached: int
    window: int
    lead: int
    start: int
    seed: int
    load: dict[str, list[int]]
    oracle: float


def minutes(span: timedelta) -> float:
    """SPAN in minutes."""
    return span.total_seconds() / 60


def choose_habit(number: float) -> Habit | None:
    """The habit for NUMBER from 0 to 1; None for a machine that is always on."""
    left = number - ALWAYS_ON
    if left < 0:
        return None
    for habit in HABITS:
        if left < habit.share:
            return habit
        left -= habit.share
    return HABITS[-1]


def awake(rng: random.Random, days: int) -> list[tuple[float, float]]:
    """The stretches in minutes from the window's start (negative: before it) in which a machine is awake."""
    habit = choose_habit(rng.random())
    zone = rng.choices([zone for zone, _ in ZONES], [share for _, share in ZONES])[0]
    first = 2 * DAY if rng.random() < AWAY else -2 * DAY
    if habit is None:
        return [(first, days * DAY)]
    start = rng.gauss(habit.start, habit.start_spread)
    hours = max(0.5, rng.gauss(habit.hours, habit.hours_spread))
    found: list[tuple[float, float]] = []
    for day in range(-2, days + 1):
        if rng.random() >= habit.days:
            continue
        begin = day * DAY + (start + rng.gauss(0, habit.daily_spread) - zone) * 60
        end = begin + hours * 60 * rng.uniform(0.8, 1.2)
        if found and begin < found[-1][1]:
            begin = found[-1][1]
        if begin >= first and end > begin:
            found.append((begin, end))
    return found


def tick_after(spells: list[tuple[float, float]], moment: float, minute: float) -> float | None:
    """The first of a machine's ticks at or after MOMENT at which it is awake, or None.

    SPELLS are the stretches in which it is awake, and its ticks are at MINUTE past each TICK.
    """
    for begin, end in spells:
        if end <= moment:
            continue
        earliest = max(moment, begin + SETTLED)
        tick = earliest + (minute - earliest) % TICK
        if tick < end:
            return tick
    return None


def simulate(machines: int, window: int, lead: int, seed: int, start: int = 0) -> Simulation:
    """Downloads begun in each hour from the announcement on, for each way.

    The release is announced LEAD hours before the window of WINDOW hours, which begins at the hour START of
    the day (UTC).
    """
    rng, hours = random.Random(seed), (window + lead) + TAIL * 24
    load = {"veilor-os": [0] * hours, "everybody at once": [0] * hours}
    spans, reached = [[0] * window for _ in range(window)], 0

    def take(way: str, spells: list[tuple[float, float]], moment: float, minute: float) -> None:
        """Count the download that begins at the first tick from MOMENT on whose try does not fail."""
        tick = tick_after(spells, moment, minute)
        while tick is not None and rng.random() < FAILS:
            tick = tick_after(spells, tick + minutes(ASK_AGAIN), minute)
        if tick is not None and 0 <= (hour := int(tick // 60) + lead) < hours:
            load[way][hour] += 1

    for number in range(machines):
        spells = [
            (begin - start * 60, end - start * 60) for begin, end in awake(rng, window // 24 + TAIL + 1)
        ]
        minute = rng.uniform(0, TICK)
        # It asked some time ago, so it hears of the announcement at any time within the next 20 hours.
        heard = tick_after(spells, -lead * 60 + rng.uniform(0, minutes(ASK_EVERY)), minute)
        if heard is None:
            continue
        reached += 1
        machine = f"{seed}-{number}"
        due = window_position(machine, "44.2") * window * 60
        tick = tick_after(spells, max(heard, due), minute)
        if tick is not None:
            late = minutes(AT_ONCE) < tick - due
            if late and tick < window * 60 + minutes(LATECOMERS):
                tick += minutes(SECOND) * window_position(machine, "44.2 again")
            take("veilor-os", spells, tick, minute)
        take("everybody at once", spells, -lead * 60, minute)
        first = tick_after(spells, 0, minute)
        if first is not None and first < window * 60:
            last = last_minute(spells, window * 60)
            spans[int(first // 60)][int(last // 60)] += 1
    return Simulation(machines, reached, window, lead, start, seed, load, lower_bound(spans))


def last_minute(spells: list[tuple[float, float]], end_of_window: float) -> float:
    """The last minute of the window in which a machine with these SPELLS is awake."""
    ends = [min(end, end_of_window) for begin, end in spells if begin < end_of_window and end > 0]
    return max(ends) - 1e-6


def lower_bound(spans: list[list[int]]) -> float:
    """The least peak, in machines an hour, of any schedule within the window.

    SPANS[a][b] is the number of machines that are awake first in hour a and last in hour b.
    """
    hours, best = len(spans), 0.0
    below = [[0] * hours for _ in range(hours + 1)]
    for first in range(hours - 1, -1, -1):
        row = 0
        for last in range(hours):
            row += spans[first][last]
            below[first][last] = below[first + 1][last] + row
            if last >= first:
                best = max(best, below[first][last] / (last - first + 1))
    return best


def taken(counts: list[int], machines: int) -> list[float]:
    """The share of MACHINES that has it at the end of each hour."""
    found, total = [], 0
    for count in counts:
        total += count
        found.append(total / machines)
    return found


def picture(
    lines: dict[str, list[float]], title: str, window: tuple[int, int], level: float | None = None
) -> str:
    """An SVG of LINES, each a name and its percentages over hours, with TITLE.

    The hours of WINDOW (first and last) are shaded. LEVEL, dashed, is the oracle's; what is higher than four
    times that is cut off.
    """
    wide, high, left, low = 900, 360, 70, 40
    hours, top = max(map(len, lines.values())), min(max(map(max, lines.values())), 4 * (level or 100)) or 1
    x = [left + (wide - left - 20) * hour / (hours - 1) for hour in range(hours)]

    def y(value: float) -> float:
        """How far from the top VALUE is drawn."""
        return high - low - (high - low - 50) * value / top

    colours = ("#1f6feb", "#b35900", "#3d7a37")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{wide}" height="{high}" fill="#fff"/><text x="{left}" y="22" '
        f'font-size="16">{title}</text>',
        f'<clipPath id="c"><rect x="{left}" y="49" width="{wide}" height="{high - low - 48}"/></clipPath>',
        f'<rect x="{x[window[0]]:.1f}" y="50" width="{x[window[1]] - x[window[0]]:.1f}" '
        f'height="{high - low - 50}" fill="#eef3fb"/>',
    ]
    for part in range(5):
        value = top * part / 4
        parts.append(
            f'<line x1="{left}" x2="{wide - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>'
            f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g} %</text>'
        )
    for hour in range(0, hours, 24):
        parts.append(f'<text x="{x[hour]:.1f}" y="{high - 18}" text-anchor="middle">{hour} h</text>')
    if level is not None:
        parts.append(
            f'<line x1="{left}" x2="{wide - 20}" y1="{y(level):.1f}" y2="{y(level):.1f}" stroke="#000" '
            'stroke-dasharray="6 4"/>'
            f'<text x="{wide - 20}" y="{y(level) - 6:.1f}" text-anchor="end">oracle</text>'
        )
    for number, (name, values) in enumerate(lines.items()):
        points = " ".join(f"{x[hour]:.1f},{y(value):.1f}" for hour, value in enumerate(values))
        peak = f", peak {max(values):.3g} %" if level else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colours[number]}" stroke-width="2" '
            'clip-path="url(#c)"/>'
            f'<text x="{left + 260 * number}" y="42" fill="{colours[number]}">{name}{peak}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Simulate, print the figures and write the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, default in (("machines", 1_000_000), ("window", 48), ("lead", 20), ("start", 0), ("seed", 44)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("build/rollout"), metavar="FOLDER")
    args = parser.parse_args()
    found = simulate(args.machines, args.window, args.lead, args.seed, args.start)
    shown = args.window + args.lead + 24
    lines = {
        way: [count / args.machines * 100 for count in counts[:shown]] for way, counts in found.load.items()
    }
    ours, all_at_once = (max(counts) for counts in found.load.values())
    have = {way: taken(counts, args.machines) for way, counts in found.load.items()}
    figures = {
        "peak, share of machines in an hour": ours / args.machines,
        "everybody at once": all_at_once / args.machines,
        "oracle, lower bound": found.oracle / args.machines,
        "ratio to the oracle": ours / found.oracle,
        "taken when the window ends": have["veilor-os"][args.window + args.lead - 1],
        **{
            f"have it when it is withdrawn {hours} h after the window begins": {
                **{way: share[args.lead + hours - 1] for way, share in have.items()},
                "oracle": found.oracle * hours / args.machines,
            }
            for hours in (2, 6, 12)
        },
    }
    shaded = (args.lead, args.lead + args.window)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rollout.json").write_text(json.dumps(asdict(found) | {"figures": figures}, indent=1) + "\n")
    (args.out / "load.svg").write_text(
        picture(
            lines,
            "Downloads begun in each hour after the announcement, share of all machines",
            shaded,
            found.oracle / args.machines * 100,
        )
    )
    (args.out / "taken.svg").write_text(
        picture(
            {way: [value * 100 for value in share[:shown]] for way, share in have.items()},
            "Machines that have the release",
            shaded,
        )
    )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
