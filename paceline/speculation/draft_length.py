"""How many draft tokens a step should check: goodput = expected tokens / step time (REFERENCES: SmartSpec, TurboSpec).

Two learners feed it: how often tokens of a given confidence were right in this session, and what a step of n rows
costs here. Both are pure: outcomes and durations come in as numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from paceline.core.types import Profile
from paceline.speculation.draft_tree import Path
from paceline.speculation.odds import Shift
from paceline.speculation.profiles import PRIORS, Prior

NUM_BUCKETS = 8
DECAY = 0.97
"""Of the evidence, per token judged: a session's nature may change within some 30 tokens."""
PRIOR_WEIGHT = 1.5
"""What is expected at first counts like this many observations."""
PLACE_WEIGHT = 3.0
"""That a place in the draft is like all others counts like this many."""
NUM_PLACES = 6
"""Places 0, 1, 2-3, 4-7, 8-15 and all behind: drafts often get worse with their length."""
DEFAULT_CONFIDENCE = 0.75
"""For drafters that give none."""
LEAST, MOST = 0.02, 0.98
"""Nothing is held for impossible or certain."""
PRIOR_ROW_COST = 0.02
"""Before anything was measured, a further row is taken to cost this share of a one-row step."""
SHORTEST_S = 1e-6
"""Steps that the clock can't see, as in virtual time, count as this long: tokens per second stay finite."""
NUM_FIRST = 3
"""Of so many first observations the fastest counts: first ones pay for compilers and page faults, too."""
FADE = 0.999
"""Of the evidence for what depth costs, per step."""
DEPTH_DOUBT = 1e6
"""That depth costs nothing counts like steps whose squared differences in positions read sum up to this."""


class AcceptanceLearner:
    """Chance that a draft token is right given that those before it were, for one session.

    A rate per confidence, for all places together, and per place how far it differs from that: tokens at the end of a
    draft are judged too seldom to be learned by themselves.
    """

    def __init__(self, prior: Prior = PRIORS[Profile.AUTO]) -> None:
        self._prior = prior
        self._hits = [0.0] * (NUM_BUCKETS + 1)
        self._trials = [0.0] * (NUM_BUCKETS + 1)
        self._places = [Shift(DECAY, PLACE_WEIGHT) for _ in range(NUM_PLACES)]

    def chances(self, path: Path) -> list[float]:
        """One per token of ``path``, each given that all before it are right."""
        return [
            _bounded(self._places[_place(index)].apply(self._rate(index, confidence)))
            for index, confidence in enumerate(path.confidences)
        ]

    def _rate(self, index: int, confidence: float | None) -> float:
        """Wherever such a confidence was given."""
        bucket = _bucket(confidence)
        prior = _bounded(self._prior.expect(index, confidence, DEFAULT_CONFIDENCE))
        return (self._hits[bucket] + PRIOR_WEIGHT * prior) / (self._trials[bucket] + PRIOR_WEIGHT)

    def observe(self, path: Path, accepted: int) -> None:
        """``accepted`` tokens of the checked path were right, the next one (if any) was wrong."""
        for index in range(min(accepted + 1, len(path))):
            confidence, is_right = path.confidences[index], index < accepted
            bucket = _bucket(confidence)
            self._places[_place(index)].add(is_right, self._rate(index, confidence))
            self._hits[bucket] = DECAY * self._hits[bucket] + is_right
            self._trials[bucket] = DECAY * self._trials[bucket] + 1.0

    def relax(self) -> None:
        """A step without drafts: old evidence fades, so that a poor drafter is tried again some day."""
        self._hits = [0.99 * value for value in self._hits]
        self._trials = [0.99 * value for value in self._trials]
        for place in self._places:
            place.fade(0.99)


def _bounded(chance: float) -> float:
    return min(max(chance, LEAST), MOST)


def _bucket(confidence: float | None) -> int:
    """Tokens without a confidence have one of their own."""
    return NUM_BUCKETS if confidence is None else min(int(confidence * NUM_BUCKETS), NUM_BUCKETS - 1)


def _place(index: int) -> int:
    return min(index.bit_length(), NUM_PLACES - 1)


@dataclass(slots=True)
class _Cell:
    """What steps of about the same number of rows took."""

    rows: float
    seconds: float
    reads: float
    """Positions that all rows together attended to."""
    num: int = 1

    def add(self, rows: int, seconds: float, reads: float) -> None:
        """Slow outliers count little, first ones nothing."""
        self.num += 1
        faster, slower = (1.0, 0.0) if self.num <= NUM_FIRST else (0.2, 0.1)
        weight = faster if seconds < self.seconds else slower
        self.seconds += weight * (min(seconds, 2 * self.seconds) - self.seconds)
        self.reads += weight * (reads - self.reads)
        self.rows += weight * (rows - self.rows)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of the next step by its rows: what sessions of one depth cost, after drafting took some time already."""

    knots: tuple[tuple[float, float], ...]
    """(rows, seconds), both rising."""
    row_cost: float
    spent_s: float = 0.0
    """Of the next tokens' time that is gone: it counts, whatever is checked."""

    def seconds(self, rows: float) -> float:
        """Expected time; in units of a one-row step while nothing was seen. Interpolates, extends by ``row_cost``."""
        if not self.knots:
            return 1.0 + self.row_cost * rows
        above = bisect_right(self.knots, (rows, float("inf")))
        if not 0 < above < len(self.knots):
            size, known = self.knots[max(0, above - 1)]
            scaled = known * (1.0 + self.row_cost * rows) / (1.0 + self.row_cost * size)
            return self.spent_s + (max(known, scaled) if above else scaled)
        (low, low_s), (high, high_s) = self.knots[above - 1], self.knots[above]
        return self.spent_s + low_s + (high_s - low_s) * (rows - low) / (high - low)


class Cost(Protocol):
    """Of a step."""

    def seconds(self, rows: float) -> float:
        """By its rows."""


class StepCost:
    """Seconds of a step by its number of rows and their depth (positions that a row attends to), learned while serving.

    Row counts fall into cells (each of 1-16, then by powers of two), which stand for the mean of what fell into them.
    What a position read costs is learned from differences within cells, for all cells together: a row of a long
    context may cost five times one of a short one.
    """

    def __init__(self, row_cost: float = PRIOR_ROW_COST) -> None:
        self._row_cost = row_cost
        self._cells: dict[int, _Cell] = {}
        self._covariance = 0.0
        self._variance = DEPTH_DOUBT

    def observe(self, rows: int, seconds: float, depth: float = 0.0) -> None:
        """A step of ``rows`` rows took this long; on average they attended to ``depth`` positions."""
        seconds, reads = max(seconds, SHORTEST_S), rows * depth
        cell = self._cells.get(size_class(rows))
        if cell is None:
            self._cells[size_class(rows)] = _Cell(rows, seconds, reads)
            return
        if cell.num >= NUM_FIRST:
            more = reads - cell.reads
            self._covariance = FADE * self._covariance + more * (min(seconds, 2 * cell.seconds) - cell.seconds)
            self._variance = DEPTH_DOUBT + FADE * (self._variance - DEPTH_DOUBT) + more * more
        cell.add(rows, seconds, reads)

    def at(self, depth: float, spent_s: float = 0.0) -> StepTimes:
        """For rows that attend to so many positions, after ``spent_s`` of drafting for them."""
        read_s = max(0.0, self._covariance / self._variance)
        return self._times(
            {size: read_s * (cell.rows * depth - cell.reads) for size, cell in self._cells.items()}, spent_s
        )

    def seconds(self, rows: float) -> float:
        """Expected time of a step of ``rows`` rows at the depths seen; in one-row steps while nothing was seen."""
        return self._times(dict.fromkeys(self._cells, 0.0), 0.0).seconds(rows)

    def _times(self, extra_s: Mapping[int, float], spent_s: float) -> StepTimes:
        """Never decreasing in rows; nothing gets cheaper than a quarter of what it was seen to cost."""
        knots, longest = [], 0.0
        for size in sorted(self._cells):
            seen = self._cells[size].seconds
            longest = max(longest, seen / 4, seen + extra_s[size])
            knots.append((self._cells[size].rows, longest))
        return StepTimes(tuple(knots), self._row_cost, spent_s)


def size_class(rows: int) -> int:
    """The cell of a count: itself up to 16, then the power of two above it."""
    return rows if rows <= 16 else 1 << (rows - 1).bit_length()


def choose_lengths(chances: Sequence[Sequence[float]], base_rows: int, budget: int, cost: Cost) -> list[int]:
    """Draft tokens to check per session so that expected tokens / step time is largest.

    ``chances[i]`` are session i's conditional acceptance chances. Tokens are taken in the order of their chance to be
    committed, which never takes a token before its parent; the best prefix of that order wins.
    """
    candidates = sorted(
        ((reach, session) for session, ps in enumerate(chances) for reach in _cumulative(ps)), reverse=True
    )
    expected = float(len(chances))
    best, best_taken = expected / cost.seconds(base_rows), 0
    for taken, (reach, _) in enumerate(candidates[:budget], start=1):
        expected += reach
        goodput = expected / cost.seconds(base_rows + taken)
        if goodput >= best:
            best, best_taken = goodput, taken
    lengths = [0] * len(chances)
    for _, session in candidates[:best_taken]:
        lengths[session] += 1
    return lengths


def lengthen(lengths: Sequence[int], least: Sequence[int], budget: int) -> list[int]:
    """``lengths`` raised to ``least`` as far as ``budget`` tokens in all allow; the first sessions come first."""
    spare, out = budget - sum(lengths), []
    for length, wanted in zip(lengths, least, strict=True):
        more = max(0, min(wanted - length, spare))
        out.append(length + more)
        spare -= more
    return out


def _cumulative(chances: Sequence[float]) -> list[float]:
    reach, out = 1.0, []
    for chance in chances:
        reach *= chance
        out.append(reach)
    return out
