"""Requests over gRPC, good and bad: clear codes and messages, and nothing half done anywhere."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc
import pytest

from paceline.client.aio import Client
from paceline.client.sync import Client as SyncClient
from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import PacelineError
from paceline.core.requests import Chat, ChatMessage, Chunk, Finished, GenerateRequest, Started
from paceline.core.types import DrafterInfo, FinishReason, SamplingParams, VerifierInfo
from paceline.testing.letters import LETTERS
from paceline.testing.reference import reference
from paceline.testing.sockets import serve_coordinator, serve_verifier
from paceline.testing.stores import UnreliableStore
from paceline.testing.waiting import until
from paceline.v1 import coordinator_pb2, coordinator_pb2_grpc

PROMPT = (1, 2, 3)
LAW = SamplingParams(temperature=0.8, top_p=0.95, seed=5)
REQUEST = GenerateRequest(PROMPT, request_id="mine", sampling=LAW, seed=5, max_tokens=30)
ENDLESS = replace(REQUEST, max_tokens=1900)
Stack = Any  # tests/integration/services/conftest.py


async def test_the_text_comes_over_the_wire_as_the_model_wrote_it(stack: Stack) -> None:
    completion = await stack.client.complete(REQUEST)
    assert completion.token_ids == reference(PROMPT, 30, sampling=LAW)
    assert completion.text == "".join(LETTERS[token] for token in completion.token_ids)
    assert completion.started.request_id == "mine"
    assert (completion.started.seed, completion.started.prompt_tokens) == (5, 3)
    assert completion.finished.reason is FinishReason.LENGTH
    record = await stack.store.read(completion.started.session)
    assert (record.state, record.tokens) == ("D", completion.token_ids)
    await stack.until_empty()


async def test_text_and_chat_go_through_the_tokenizer(stack: Stack) -> None:
    text = await stack.client.complete(GenerateRequest("abc", max_tokens=5))
    assert text.token_ids == reference((0, 1, 2), 5)
    chat = await stack.client.complete(GenerateRequest(Chat((ChatMessage("user", "hi"),)), max_tokens=5))
    prompt = tuple(LETTERS.index(letter) for letter in "user hi. assistant ")
    assert chat.token_ids == reference(prompt, 5)


async def test_many_requests_at_once_are_kept_apart(stack: Stack) -> None:
    requests = [GenerateRequest((index, 2), max_tokens=20, request_id=f"r{index}") for index in range(12)]
    completions = await asyncio.gather(*(stack.client.complete(request) for request in requests))
    for index, completion in enumerate(completions):
        assert completion.token_ids == reference((index, 2), 20)


BAD = {
    "an empty text": (replace(REQUEST, prompt=""), "INVALID_ARGUMENT", "text: the prompt is empty; send at least"),
    "no tokens": (replace(REQUEST, prompt=()), "INVALID_ARGUMENT", "input: the prompt has no tokens; send at least"),
    "an empty chat": (replace(REQUEST, prompt=Chat(())), "INVALID_ARGUMENT", "chat: the conversation is empty; send"),
    "too long a prompt": (replace(REQUEST, prompt=(1,) * 2048), "INVALID_ARGUMENT", "2048 tokens, the model's context"),
    "an id": (replace(REQUEST, prompt=(1, 64)), "INVALID_ARGUMENT", "input: token id 64 is outside the vocabulary of"),
    "a stop id": (replace(REQUEST, stop_token_ids=(64,)), "INVALID_ARGUMENT", "stop_token_ids: token id 64 is outside"),
    "a temperature": (
        replace(REQUEST, sampling=SamplingParams(temperature=-1.0)), "INVALID_ARGUMENT", "temperature must be in [0, 1",
    ),
    "no number": (
        replace(REQUEST, sampling=SamplingParams(temperature=math.nan)), "INVALID_ARGUMENT", "temperature must be in",
    ),
    "a top-p": (replace(REQUEST, sampling=SamplingParams(top_p=1.5)), "INVALID_ARGUMENT", "top_p must be in (0, 1]"),
    "a min-p": (replace(REQUEST, sampling=SamplingParams(min_p=-0.5)), "INVALID_ARGUMENT", "min_p must be in [0, 1]"),
    "a bias": (
        replace(REQUEST, sampling=SamplingParams(logit_bias=((99, 1.0),))), "INVALID_ARGUMENT", "logit_bias has token",
    ),
    "no output": (replace(REQUEST, max_tokens=0), "INVALID_ARGUMENT", "max_tokens: 0 is too few; ask for at least 1"),
    "long drafts": (replace(REQUEST, max_draft=65), "INVALID_ARGUMENT", "max_draft: 65 is not between 0 and 64"),
    "an empty stop": (replace(REQUEST, stop=("",)), "INVALID_ARGUMENT", "stop: each string needs 1 to 256 characters"),
    "many stops": (replace(REQUEST, stop=("x",) * 17), "INVALID_ARGUMENT", "stop: 17 strings are more than 16"),
    "a request id": (replace(REQUEST, request_id="a b"), "INVALID_ARGUMENT", "request_id: use 1 to 64 of A-Z"),
}  # fmt: skip


async def test_bad_requests_are_refused_with_the_name_of_the_field_and_a_remedy(stack: Stack) -> None:
    for name, (request, code, message) in BAD.items():
        with pytest.raises(PacelineError) as refusal:
            await stack.client.complete(request)
        assert (refusal.value.code, message in str(refusal.value)) == (code, True), f"{name}: {refusal.value}"
    assert stack.store.sessions == ()
    assert stack.num_sessions == (0, 0, 0)


RAW: dict[str, tuple[Callable[[coordinator_pb2.GenerateRequest], object], str]] = {
    "no input": (lambda message: message.ClearField("input"), "input: the request has none; set one of text"),
    "a profile": (lambda message: setattr(message, "profile", 77), "profile: 77 is not a profile"),
    "a mode": (lambda message: setattr(message, "mode", 77), "mode: 77 is not a draft mode"),
    "a sampler": (lambda message: setattr(message.sampling, "sampler", 77), "sampling.sampler: 77 is not a sampler"),
    "a trace": (lambda message: setattr(message.trace, "trace_id", "XYZ"), "trace.trace_id: need 32 lower-case hex"),
}


async def test_malformed_messages_are_refused_with_the_name_of_the_field(stack: Stack) -> None:
    async with grpc.aio.insecure_channel(stack.coordinator.address) as channel:
        stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        for change, message in RAW.values():
            request = coordinator_pb2.GenerateRequest(tokens=coordinator_pb2.TokenIds(token_ids=PROMPT))
            change(request)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.Generate(request).read()
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert message in (refusal.value.details() or "")
    assert stack.store.sessions == ()


async def test_a_prompt_that_leaves_room_for_one_token_gets_one(stack: Stack) -> None:
    prompt = tuple(index % 64 for index in range(2047))
    completion = await stack.client.complete(GenerateRequest(prompt, max_tokens=50))
    assert completion.token_ids == reference(prompt, 1)
    assert completion.finished.reason is FinishReason.LENGTH


async def test_cancelling_ends_the_stream_and_frees_everything(stack: Stack) -> None:
    async with Client(stack.coordinator.address) as other:
        events = stack.client.generate(ENDLESS)
        started = await anext(events)
        assert isinstance(started, Started)
        first = await anext(events)
        assert isinstance(first, Chunk)
        assert await other.cancel("mine")
        rest = [event async for event in events]
        assert not await other.cancel("mine")
    assert isinstance(rest[-1], Finished)
    assert rest[-1].reason is FinishReason.CANCELLED
    tokens = first.token_ids + sum((event.token_ids for event in rest[:-1] if isinstance(event, Chunk)), ())
    assert tokens == reference(PROMPT, len(tokens), sampling=LAW)
    record = await stack.store.read(started.session)
    assert (record.state, record.reason, record.tokens) == ("C", "Cancelled by the client.", tokens)
    await stack.until_empty()


async def test_a_client_that_leaves_frees_everything(stack: Stack) -> None:
    events = stack.client.generate(ENDLESS)
    async with aclosing(events):
        started = await anext(events)
        await anext(events)
    assert isinstance(started, Started)
    await stack.until_empty()
    assert (await stack.store.read(started.session)).state == "C"


async def test_a_deadline_of_the_call_ends_the_request_everywhere(stack: Stack) -> None:
    with pytest.raises(PacelineError) as failure:
        await stack.client.complete(replace(ENDLESS, deadline_s=2.0))
    assert failure.value.code == "DEADLINE_EXCEEDED"
    await stack.until_empty()
    (session,) = stack.store.sessions
    assert (await stack.store.read(session)).state == "C"


async def test_a_store_that_is_away_refuses_the_request_before_anything_is_opened(stack: Stack) -> None:
    stack.store.is_away = True
    with pytest.raises(PacelineError) as failure:
        await stack.client.complete(REQUEST)
    assert failure.value.code == "UNAVAILABLE"
    stack.store.is_away = False
    assert stack.store.sessions == ()
    assert stack.num_sessions[:2] == (0, 0)
    assert (await stack.client.complete(REQUEST)).token_ids == reference(PROMPT, 30, sampling=LAW)


async def test_more_requests_than_allowed_are_refused(make_stack: Any, settings: CoordinatorSettings) -> None:
    async with make_stack(replace(settings, max_requests=1)) as stack:
        events = stack.client.generate(ENDLESS)
        async with aclosing(events):
            await anext(events)
            with pytest.raises(PacelineError) as refusal:
                await stack.client.complete(replace(REQUEST, request_id="other"))
        assert refusal.value.code == "RESOURCE_EXHAUSTED"
        assert "try again in a moment" in str(refusal.value)
        await stack.until_empty()


async def test_a_request_id_that_runs_is_refused(stack: Stack) -> None:
    events = stack.client.generate(ENDLESS)
    async with aclosing(events):
        await anext(events)
        with pytest.raises(PacelineError) as refusal:
            await stack.client.complete(REQUEST)
    assert refusal.value.code == "ALREADY_EXISTS"


async def test_describe_tells_pools_store_and_template(stack: Stack) -> None:
    info = await stack.client.describe()
    (verifier,), (drafter,) = info.verifiers, info.drafters
    assert (verifier.address, verifier.healthy) == (stack.verifier.address, True)
    assert isinstance(verifier.info, VerifierInfo)
    assert (verifier.info.name, verifier.info.max_context) == ("synthetic-64", 2048)
    assert isinstance(drafter.info, DrafterInfo)
    assert (info.store, info.has_chat_template) == ("unreliable:", True)


async def test_readiness_can_be_asked_for(stack: Stack) -> None:
    assert await stack.client.is_serving()
    async with Client("127.0.0.1:1") as nobody:
        assert not await nobody.is_serving()


async def test_a_coordinator_that_is_not_there_is_named_with_a_remedy() -> None:
    async with Client("127.0.0.1:1") as nobody:
        for call in (nobody.complete(REQUEST), nobody.describe(), nobody.cancel("mine")):
            with pytest.raises(PacelineError, match=r"^Can't reach 127\.0\.0\.1:1: .*Is it running\?$") as failure:
                await call
            assert failure.value.code == "UNAVAILABLE"


async def test_without_a_verifier_a_request_is_told_which_ones_were_tried(settings: CoordinatorSettings) -> None:
    pools = replace(settings, verifiers=("127.0.0.1:1",))
    store = UnreliableStore()
    async with serve_coordinator(pools, store) as coordinator, Client(coordinator.address) as client:
        await until(lambda: coordinator.runtime.describe().verifiers[0].detail.startswith("Can't reach"))
        with pytest.raises(PacelineError) as failure:
            async for _ in coordinator.runtime.generate(replace(REQUEST, deadline_s=0.5)):
                pass
        assert failure.value.code == "UNAVAILABLE"
        assert "No verifier is up (Can't reach 127.0.0.1:1: " in str(failure.value)
        assert "Start one, or check the addresses." in str(failure.value)
        info = await client.describe()
        assert not info.verifiers[0].healthy
        assert info.verifiers[0].detail.startswith("Can't reach 127.0.0.1:1: ")
    assert store.sessions == ()


async def test_without_a_tokenizer_there_are_only_token_ids() -> None:
    async with serve_verifier() as verifier:
        settings = CoordinatorSettings(verifiers=(verifier.address,), tokenizer="")
        async with (
            serve_coordinator(settings, UnreliableStore()) as coordinator,
            Client(coordinator.address) as client,
        ):
            with pytest.raises(PacelineError, match="no tokenizer; send token ids, or start it with one") as refusal:
                await client.complete(replace(REQUEST, prompt="text"))
            assert refusal.value.code == "UNIMPLEMENTED"
            completion = await client.complete(REQUEST)
            assert (completion.text, completion.token_ids) == ("", reference(PROMPT, 30, sampling=LAW))


async def test_the_synchronous_client_says_the_same(stack: Stack) -> None:
    def talk() -> None:
        with SyncClient(stack.coordinator.address) as client:
            completion = client.complete(REQUEST)
            assert completion.token_ids == reference(PROMPT, 30, sampling=LAW)
            events = list(client.generate(REQUEST))
            assert isinstance(events[0], Started)
            assert isinstance(events[-1], Finished)
            tokens = sum((event.token_ids for event in events if isinstance(event, Chunk)), ())
            assert tokens == completion.token_ids
            assert not client.cancel("mine")
            assert client.describe().store == "unreliable:"
            with pytest.raises(PacelineError, match="max_tokens"):
                client.complete(replace(REQUEST, max_tokens=0))

    await asyncio.to_thread(talk)


async def test_leaving_the_loop_of_the_synchronous_client_cancels_the_request(stack: Stack) -> None:
    def talk() -> None:
        with SyncClient(stack.coordinator.address) as client:
            for event in client.generate(ENDLESS):
                if isinstance(event, Chunk):
                    break

    await asyncio.to_thread(talk)
    await stack.until_empty()


async def test_a_synchronous_client_may_be_closed_before_its_events_are_forgotten(stack: Stack) -> None:
    def talk() -> None:
        with SyncClient(stack.coordinator.address) as client:
            events = client.generate(ENDLESS)
            next(events)
        events.close()

    await asyncio.to_thread(talk)
    await stack.until_empty()


async def test_closing_a_client_ends_its_requests_with_an_error_of_ours(stack: Stack) -> None:
    client = Client(stack.coordinator.address)
    completing = asyncio.create_task(client.complete(ENDLESS))
    await until(lambda: stack.verifier.runtime.num_sessions == 1)
    await client.close()
    with pytest.raises(PacelineError) as failure:
        await completing
    assert failure.value.code == "CANCELLED"
    await stack.until_empty()
