"""Whose turn it is where a verifier can't serve all at once: the tenant's that has had the fewest rows. Pure.

A virtual token counter per tenant (Sheng et al., "Fairness in Serving Large Language Models", 2024), in rows of
verifier steps, drafts among them: a tenant with fifty sessions gets no more than one with a single session that has
as much to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from paceline.speculation.session import VerifierSession


class TenantShares:
    """Rows that each tenant has had.

    Nobody saves up: who comes back counts as having had as much as the one served least of those who stayed.
    """

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._present: frozenset[str] = frozenset()

    def enter(self, tenants: frozenset[str]) -> None:
        """These have something to do now; call it before ``order``."""
        stayed = [self._had[one] for one in tenants & self._present]
        least = min(stayed, default=0.0)
        for one in tenants - self._present:
            self._had[one] = max(self._had.get(one, 0.0), least)
        self._present = tenants
        # Whoever is away with no more than that would come back with just that.
        self._had = {one: had for one, had in self._had.items() if one in tenants or had > least}

    def order(self, line: Sequence[VerifierSession], size: Callable[[VerifierSession], int]) -> list[VerifierSession]:
        """Each next one is the first in line of the tenant that has had least, counting ``size`` of those before it."""
        waiting: dict[str, deque[VerifierSession]] = {}
        for session in line:
            waiting.setdefault(session.spec.tenant, deque()).append(session)
        if len(waiting) < 2:
            return list(line)
        had, out = dict(self._had), list[VerifierSession]()
        while waiting:
            tenant = min(waiting, key=lambda one: had[one])  # of equals the one that stands first in line
            session = waiting[tenant].popleft()
            had[tenant] += size(session)
            out.append(session)
            if not waiting[tenant]:
                del waiting[tenant]
        return out

    def charge(self, rows: Mapping[str, int]) -> None:
        """They have got these."""
        for tenant, count in rows.items():
            self._had[tenant] += count
