"""The servicer: what only the call itself knows."""

from __future__ import annotations

from typing import Any, cast

import pytest
from looptime import LoopTimeProxy

from coordinator.service import HOP_S, CoordinatorServicer
from paceline.core.errors import DeadlineExceeded
from paceline.testing.reference import reference
from paceline.testing.system import local_system
from paceline.v1 import coordinator_pb2 as pb

pytestmark = pytest.mark.looptime
PROMPT = (1, 2, 3)


class Call:
    """The part of gRPC's context that the servicer reads."""

    def __init__(self, left_s: float | None) -> None:
        self._left_s = left_s

    def time_remaining(self) -> float | None:
        return self._left_s


async def generate(servicer: CoordinatorServicer, max_tokens: int, left_s: float | None) -> list[pb.GenerateResponse]:
    request = pb.GenerateRequest(tokens=pb.TokenIds(token_ids=PROMPT), max_tokens=max_tokens)
    return [response async for response in servicer.Generate(request, cast("Any", Call(left_s)))]


async def test_a_call_without_a_deadline_takes_its_time(looptime: LoopTimeProxy) -> None:
    async with local_system(drafters=()) as system:
        responses = await generate(CoordinatorServicer(system.coordinator), 300, None)
    tokens = [token for response in responses for token in response.chunk.token_ids]
    assert tuple(tokens) == reference(PROMPT, 300)
    assert float(looptime) == pytest.approx(3.0)


async def test_the_last_word_comes_before_the_callers_own_deadline(looptime: LoopTimeProxy) -> None:
    async with local_system(drafters=()) as system:
        with pytest.raises(DeadlineExceeded, match=r"^The request took longer than 2 s; ask for less"):
            await generate(CoordinatorServicer(system.coordinator), 900, 2.0 + HOP_S)
        assert float(looptime) == pytest.approx(2.0, abs=0.0001)


async def test_a_call_whose_time_is_over_ends_at_once(looptime: LoopTimeProxy) -> None:
    async with local_system(drafters=()) as system:
        with pytest.raises(DeadlineExceeded):
            await generate(CoordinatorServicer(system.coordinator), 900, 0.0)
        assert float(looptime) <= 0.02


async def test_cancel_and_describe_are_the_runtimes() -> None:
    async with local_system(drafters=()) as system:
        servicer, context = CoordinatorServicer(system.coordinator), cast("Any", Call(None))
        assert not (await servicer.Cancel(pb.CancelRequest(request_id="nobody"), context)).cancelled
        description = await servicer.Describe(pb.DescribeRequest(), context)
        assert [member.address for member in description.verifiers] == ["verifier-0"]
