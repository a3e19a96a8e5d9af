"""A drafter inside the verifier, with the services on real sockets: the same text, in fewer steps, without a pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.client.aio import Client
from paceline.config.settings import CoordinatorSettings
from paceline.core.requests import DraftMode, GenerateRequest
from paceline.core.types import SamplingParams
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.sockets import serve_coordinator, serve_drafter, serve_verifier
from paceline.testing.stores import UnreliableStore
from paceline.testing.system import VERIFIER
from paceline.testing.waiting import until

PROMPT = (1, 2, 3)
LAWS = (SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=7))
FAST = replace(SYNTHETIC, step_base_s=0.002)
ALWAYS_ASKED = GenerateRequest(PROMPT, max_tokens=60, min_draft=4, max_draft=4)
"""Whether asking pays depends on the machine; with a fixed draft length that does not count."""


@pytest.mark.parametrize("resident", ["synthetic", "suffix", "random", "mix:suffix,ngram"])
async def test_the_text_is_the_targets_with_no_drafter_in_the_pool(
    settings: CoordinatorSettings, resident: str
) -> None:
    async with serve_verifier(replace(VERIFIER, resident=resident, synthetic=FAST)) as verifier:
        pools = replace(settings, verifiers=(verifier.address,))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await coordinator.runtime.wait_ready()
            for law in LAWS:
                request = replace(ALWAYS_ASKED, sampling=law, seed=law.seed)
                done = await client.complete(request)
                assert done.token_ids == reference(PROMPT, 60, sampling=law)
                if resident == "synthetic":
                    assert done.finished.speculative.num_accepted_draft_tokens > 10


async def test_a_colocated_request_leaves_the_pool_alone_and_is_helped_by_the_resident(
    settings: CoordinatorSettings,
) -> None:
    async with (
        serve_verifier(replace(VERIFIER, resident="synthetic", synthetic=FAST)) as verifier,
        serve_drafter() as drafter,
    ):
        pools = replace(settings, verifiers=(verifier.address,), drafters=(drafter.address,))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await until(lambda: all(one.healthy for one in coordinator.runtime.describe().drafters))
            await coordinator.runtime.wait_ready()
            request = replace(ALWAYS_ASKED, seed=1, mode=DraftMode.COLOCATED)
            sessions = set()
            async for _ in client.generate(request):
                sessions.add(drafter.runtime.num_sessions)
            done = await client.complete(request)
    assert sessions == {0}
    assert done.token_ids == reference(PROMPT, 60)
    assert done.finished.speculative.num_accepted_draft_tokens > 10
