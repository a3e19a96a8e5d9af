"""Wait for a draft, or go on without? Waiting R pays iff the tokens it brings are worth more than the time it takes.

With p the chance that a draft comes, L the tokens of a step that has one, t_1 and t_v the times of a plain and of a
verifying step, a draft saves s = L - 1 - (t_v - t_1) / t_1 plain steps: wait iff p * s * t_1 > R. All are learned; s
also from drafts that came and were not worth checking. Times are seconds of the caller's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RATE = 0.1
"""Weight of the newest observation."""
FASTER, SLOWER = 0.5, 0.05
"""Weight of a shorter and of a longer arrival time: drafts that come while a step computes are held up by it, and say
little of how soon they would come to a verifier that waits."""
PATIENCE = 2.0
"""Waits last this many typical arrival times,"""
MARGIN = 1.25
"""or this many late ones, where both kinds occur; and never longer than what is to be gained."""


class DraftArrivals:
    """When drafts for a freshly committed position come, for one session."""

    def __init__(self) -> None:
        self._delay_s: float | None = None
        self._late_s = 0.0
        self._chance = 0.5
        self._num_missed = 0
        self._saved = 1.0
        self._num_verified = 0
        self._committed_at: float | None = None
        self._is_given_up = False

    def committed(self, now: float) -> None:
        """Tokens were committed, and the next position has no draft yet."""
        self._committed_at, self._is_given_up = now, False

    def came(self, now: float, useful: bool) -> None:
        """The drafter answered; ``useful`` says if it had a guess. The first answer per position counts."""
        if self._committed_at is None:
            return
        delay, self._committed_at, self._num_missed = now - self._committed_at, None, 0
        known = delay if self._delay_s is None else self._delay_s
        self._delay_s = known + (FASTER if delay < known else SLOWER) * (delay - known)
        self._late_s = max(delay, self._late_s + RATE * (delay - self._late_s))
        self._chance += RATE * (useful - self._chance)

    def missed(self) -> None:
        """A wait ended without an answer; no matter to a session that has its answer already.

        What comes afterwards still tells how long a wait should have been. Who misses often without a word in between
        has more likely died than been held up: one in a row halves the chance, two quarter it.
        """
        if not self.is_pending:
            return
        self._is_given_up = True
        if self._delay_s is not None:
            self._delay_s *= 1.0 + RATE
        self._num_missed += 1
        self._chance *= 0.5**self._num_missed

    def settled(self) -> None:
        """The next position has its draft already."""
        self._committed_at = None

    def verified(self, saved: float) -> None:
        """A step that had drafts, checked or not, saved this many plain steps: tokens more, less the time for rows.

        What is expected before the first one counts like half of one.
        """
        self._num_verified += 1
        self._saved += max(RATE, 1.0 / (0.5 + self._num_verified)) * (saved - self._saved)

    @property
    def is_pending(self) -> bool:
        """An answer for the present position may still come."""
        return self._committed_at is not None and not self._is_given_up

    def expect(self, plain_s: float) -> Prospect | None:
        """What waiting for this session may bring; None when nothing can come or nothing is known yet."""
        if self._committed_at is None or self._is_given_up or self._delay_s is None:
            return None
        gain_s = self._chance * self._saved * plain_s
        patience_s = max(PATIENCE * self._delay_s, min(MARGIN * self._late_s, gain_s))
        return Prospect(gain_s, self._delay_s, self._committed_at + patience_s)


@dataclass(frozen=True, slots=True)
class Prospect:
    """Of a wait for one session."""

    gain_s: float
    """Plain decoding time that the drafts are expected to save."""
    delay_s: float
    """Typical time until they come."""
    until: float
    """When to give up."""


def wait_until(prospects: Sequence[Prospect | None], now: float) -> float | None:
    """Until when a step with these ready sessions should wait; None to go at once. Everybody pays for a wait."""
    open_ones = [one for one in prospects if one is not None and one.until > now]
    if not open_ones:
        return None
    delay = max(one.delay_s for one in open_ones)
    gain = sum(one.gain_s for one in open_ones)
    return max(one.until for one in open_ones) if gain > delay * len(prospects) else None
