"""The same with a real model: a drafter and then one of two verifiers are killed while text streams."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from support.processes import stack

from paceline.client.aio import Client
from paceline.core.requests import Chat, ChatMessage, Chunk, DraftMode, GenerateRequest
from paceline.core.types import SamplingParams

REQUEST = GenerateRequest(
    Chat((ChatMessage("user", "Repeat three times: the light rider shelters the heavy one from the wind."),)),
    sampling=SamplingParams(temperature=0.8, top_p=0.95),
    seed=11,
    max_tokens=72,
    ignore_eos=True,
)


async def test_text_goes_on_token_for_token_after_the_drafter_and_the_busy_verifier_were_killed() -> None:
    options = ["--drafter", "auto", "--set", "verifier.threads=1", "--set", "verifier.max_sessions=2"]
    with stack("--verifiers", "2", *options) as one:
        async with Client(one.grpc) as client:
            expected = await client.complete(replace(REQUEST, mode=DraftMode.PLAIN))
            tokens: list[int] = []
            text, killed = "", []
            async for event in client.generate(REQUEST):
                if not isinstance(event, Chunk):
                    continue
                assert event.start == len(tokens)
                tokens += event.token_ids
                text += event.text
                if len(tokens) >= 12 and not killed:
                    killed.append(one.pids("drafter")[0])
                    os.kill(killed[0], signal.SIGKILL)
                elif len(tokens) >= 30 and len(killed) == 1:
                    busy = [member for member in (await client.describe()).verifiers if member.sessions]
                    killed.append(one.pid_at(busy[0].address))
                    os.kill(killed[1], signal.SIGKILL)
    assert len(killed) == 2
    assert tuple(tokens) == expected.token_ids
    assert text == expected.text
    assert len(tokens) == 72
