"""The head of a result names every drafter, wherever it lives, and what it takes."""

from __future__ import annotations

from paceline.cli.drafters import DrafterUse, drafters_of, memory_of, name_all
from paceline.core.requests import CoordinatorInfo, PoolMember
from paceline.core.types import DrafterInfo, VerifierInfo

LEARNED = DrafterInfo("learned", weights_bytes=25_000_000, state_bytes=30_000)
LOOKUP = DrafterInfo("lookup", state_bytes=10_000)


def stack(resident: DrafterInfo | None, *pool: DrafterInfo) -> CoordinatorInfo:
    target = VerifierInfo("v", "m", "", "n", 64, 100, 4, resident=resident)
    members = tuple(PoolMember("d", True, info=one) for one in pool)
    return CoordinatorInfo("1", members, (PoolMember("v", True, info=target), PoolMember("w", False)))


def test_one_inside_the_verifier_is_named_as_such() -> None:
    uses = drafters_of(stack(LEARNED))
    assert uses == [DrafterUse("learned", "verifier", 25_000_000, 30_000)]
    assert name_all(uses) == "learned, in the verifier"


def test_members_that_are_alike_are_named_once_and_their_memory_adds_up() -> None:
    uses = drafters_of(stack(LEARNED, LOOKUP, LOOKUP))
    assert name_all(uses) == "learned, in the verifier; lookup"
    assert memory_of(uses) == "25.00 MB of weights, 0.05 MB of sessions at most"


def test_without_any_it_says_none() -> None:
    assert drafters_of(stack(None)) == []
    assert name_all([]) == "none"
