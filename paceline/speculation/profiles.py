"""What each profile expects of drafts before any was checked. Read by admission and by the verifier's sessions.

Numbers are typical of what suffix and block drafters reach on such text; a session's own outcomes soon outweigh them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from paceline.core.types import Profile


@dataclass(frozen=True, slots=True)
class Prior:
    """Of one profile."""

    max_draft: int
    """Draft tokens per step at most, unless the request says otherwise."""
    rates: tuple[float, ...] = ()
    """Chance of the i-th draft token given those before it, the last one for all that follow; empty expects nothing
    but what the drafter says."""

    def expect(self, index: int, confidence: float | None, default: float) -> float:
        """Chance of the draft token at ``index``: half what the profile says, half what the drafter does."""
        if not self.rates:
            return default if confidence is None else confidence
        rate = self.rates[min(index, len(self.rates) - 1)]
        return rate if confidence is None else (rate + confidence) / 2


PRIORS: Mapping[Profile, Prior] = MappingProxyType(
    {
        Profile.AUTO: Prior(16),
        Profile.CHAT: Prior(8, (0.6, 0.5, 0.45, 0.4)),
        Profile.CODE: Prior(12, (0.75, 0.7, 0.7, 0.65)),
        Profile.COPY: Prior(16, (0.85, 0.9, 0.95)),
    }
)
