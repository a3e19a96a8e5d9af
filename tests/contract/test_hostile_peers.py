"""What the services answer to peers that are newer, broken or hostile, byte for byte over real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from support.parrot import failure
from support.peers import drafting, reference, spec, verifying

from coordinator.service import CoordinatorServicer
from paceline.client.aio import Client
from paceline.config.settings import ServerSettings
from paceline.core.requests import Chunk, Finished, GenerateRequest, Started
from paceline.core.types import Commit, Draft
from paceline.speculation.draft_tree import DraftTree
from paceline.testing.reference import reference as letters
from paceline.testing.system import LocalSystem, local_system
from paceline.v1 import coordinator_pb2, coordinator_pb2_grpc, drafter_pb2, tokens_pb2, verifier_pb2
from paceline.wire import frames
from paceline.wire.channel import connect
from paceline.wire.server import serve

GENERATE = "/paceline.v1.CoordinatorService/Generate"
UNKNOWN = b"\xca\x0c\x01x"
"""Field 201, of a later version, with the text "x"."""
MALFORMED = b"\x0f"
PROMPT = (1, 2, 3)


@asynccontextmanager
async def coordinating() -> AsyncIterator[tuple[LocalSystem, str]]:
    """A coordinator over real gRPC, its pools in memory."""
    async with local_system() as system:

        def register(server: grpc.aio.Server) -> None:
            coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(
                CoordinatorServicer(system.coordinator), server
            )

        service = "paceline.v1.CoordinatorService"
        async with serve(ServerSettings(grace_s=0.0), register, [service]) as running:
            yield system, running.address


async def answers(channel: grpc.aio.Channel, request: bytes) -> list[coordinator_pb2.GenerateResponse]:
    call: Any = channel.unary_stream(GENERATE, response_deserializer=coordinator_pb2.GenerateResponse.FromString)
    return [answer async for answer in call(request, timeout=60)]


def request(*, sampling: bytes = b"", itself: bytes = b"") -> bytes:
    """A request for four tokens, with what a newer client adds."""
    message = coordinator_pb2.GenerateRequest(tokens=coordinator_pb2.TokenIds(token_ids=PROMPT), max_tokens=4)
    message.sampling.seed = 7
    message.sampling.MergeFromString(sampling)
    return message.SerializeToString() + itself


async def test_a_request_of_this_version_is_served() -> None:
    async with coordinating() as (_, address), connect(address) as channel:
        events = await answers(channel, request())
    tokens = [token for event in events for token in event.chunk.token_ids]
    assert tuple(tokens) == letters(PROMPT, 4)


@pytest.mark.parametrize(
    ("part", "added"), [("GenerateRequest", {"itself": UNKNOWN}), ("SamplingParams", {"sampling": UNKNOWN})]
)
async def test_a_parameter_that_only_newer_versions_know_is_refused_and_nothing_is_begun(
    part: str, added: dict[str, bytes]
) -> None:
    async with coordinating() as (system, address), connect(address) as channel:
        error = await failure(answers(channel, request(**added)))
        assert system.coordinator.num_requests == 0
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(error.details()).startswith(f"{part}: field 201 is unknown to this version; update the coordinator")


async def test_what_this_version_does_not_serve_is_refused_by_name() -> None:
    grammar = tokens_pb2.SamplingParams(grammar="root ::= x").SerializeToString()
    async with coordinating() as (_, address), connect(address) as channel:
        error = await failure(answers(channel, request(sampling=grammar)))
    assert (error.code(), error.details()) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "grammar: not served by this version; leave it empty.",
    )


def malformed_call(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    """A call of this method whose first message is none."""
    arity = {False: "unary", True: "stream"}
    kind = f"{arity[method.client_streaming]}_{arity[method.server_streaming]}"
    call = getattr(channel, kind)(f"/{method.containing_service.full_name}/{method.name}")
    made = call(iter([MALFORMED]) if method.client_streaming else MALFORMED, timeout=60)
    return made.read() if method.server_streaming else made


def methods(module: Any, service: str) -> list[MethodDescriptor]:
    return list(module.DESCRIPTOR.services_by_name[service].methods)


async def refusals(address: str, service: list[MethodDescriptor]) -> dict[str, grpc.StatusCode]:
    async with connect(address) as channel:
        return {method.name: (await failure(malformed_call(channel, method))).code() for method in service}


INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def test_every_method_of_the_coordinator_refuses_what_is_no_message_while_a_request_goes_on() -> None:
    async with coordinating() as (_, address), Client(address) as client:
        tokens: list[int] = []
        async with aclosing(client.generate(GenerateRequest(PROMPT, seed=7, max_tokens=20))) as events:
            assert isinstance(await anext(events), Started)
            got = await refusals(address, methods(coordinator_pb2, "CoordinatorService"))
            async for event in events:
                tokens += event.token_ids if isinstance(event, Chunk) else ()
            assert isinstance(event, Finished)
    assert got == dict.fromkeys(["Generate", "Cancel", "Describe"], INVALID)
    assert tuple(tokens) == letters(PROMPT, 20)


async def test_every_method_of_a_verifier_refuses_what_is_no_message_while_a_session_goes_on() -> None:
    one = spec("s", max_tokens=200)
    async with verifying("grpc") as peer:
        peer.link.send(one)
        events = await peer.read(lambda event: True)
        got = await refusals(peer.link.address, methods(verifier_pb2, "VerifierService"))
        events += await peer.read(lambda event: isinstance(event, Commit) and event.finish is not None)
    assert got == dict.fromkeys(["Verify", "DescribeVerifier", "ReloadResident"], INVALID)
    assert tuple(token for event in events for token in event.token_ids) == reference(one, 200)


async def test_every_method_of_a_drafter_refuses_what_is_no_message_while_a_session_goes_on() -> None:
    one = spec("s", max_tokens=200)
    truth, tree = reference(one, 18), DraftTree(one.context)

    def fills_the_window(draft: Draft) -> bool:
        tree.add(draft)
        return len(tree.path(99)) == 16

    async with drafting("grpc") as peer:
        peer.link.send(one)
        await peer.read(fills_the_window)
        got = await refusals(peer.link.address, methods(drafter_pb2, "DrafterService"))
        peer.link.send(Commit("s", 3, truth[:2]))
        tree.advance(truth[:2])
        await peer.read(fills_the_window)
    assert got == dict.fromkeys(["Draft", "DescribeDrafter", "Reload"], INVALID)
    assert tree.path(99).token_ids == truth[2:]


async def test_a_peer_that_sends_noise_in_mid_stream_loses_its_own_sessions_only() -> None:
    ours, theirs = spec("ours", max_tokens=200), spec("theirs", max_tokens=2000)
    async with verifying("grpc") as peer, connect(peer.link.address) as channel:
        peer.link.send(ours)
        events = await peer.read(lambda event: True)
        stream: Any = channel.stream_stream("/paceline.v1.VerifierService/Verify")(timeout=60)
        await stream.write(frames.verify_request_to_pb([theirs]).SerializeToString())
        assert await stream.read() != grpc.aio.EOF
        await stream.write(MALFORMED)
        error = await failure(_read_to_the_end(stream))
        events += await peer.read(lambda event: isinstance(event, Commit) and event.finish is not None)
        await peer.runtime.wait_idle()
    assert error.code() is INVALID
    assert tuple(token for event in events for token in event.token_ids) == reference(ours, 200)


async def _read_to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (
            verifier_pb2.VerifierCommand(draft=tokens_pb2.Draft()),
            INVALID,
            "session_id: need 1 to 64 characters, got 0.",
        ),
        (
            verifier_pb2.VerifierCommand(
                draft=tokens_pb2.Draft(session_id="s", distributions=[tokens_pb2.SparseDistribution()])
            ),
            grpc.StatusCode.UNIMPLEMENTED,
            "distributions: not served by this version; leave it empty.",
        ),
        (
            verifier_pb2.VerifierCommand(),
            INVALID,
            "kind: a message holds no event that this version knows; update this side.",
        ),
    ],
)
async def test_a_command_that_makes_no_sense_ends_its_stream_with_the_field_to_mend(
    command: verifier_pb2.VerifierCommand, code: grpc.StatusCode, text: str
) -> None:
    async with verifying("grpc") as peer, connect(peer.link.address) as channel:
        stream: Any = channel.stream_stream("/paceline.v1.VerifierService/Verify")(timeout=60)
        await stream.write(verifier_pb2.VerifyRequest(commands=[command]).SerializeToString())
        error = await failure(stream.read())
    assert (error.code(), error.details()) == (code, text)


async def test_a_draft_of_impossible_tokens_costs_its_drafter_the_guess_and_the_session_nothing() -> None:
    one = spec("s", max_tokens=20)
    async with verifying("grpc") as peer:
        peer.link.send(one)
        peer.link.send(Draft("s", 3, (2**32 - 1,)))
        commits = await peer.read(lambda event: isinstance(event, Commit) and event.finish is not None)
    assert tuple(token for commit in commits for token in commit.token_ids) == reference(one, 20)
    assert all(commit.drafted == 0 for commit in commits)


async def test_more_sessions_than_one_message_could_carry_can_be_opened_at_once() -> None:
    """As a coordinator does after an outage; the contexts are too long for this model, so each one is refused."""
    sessions = [spec(f"s{index}", (2**31,) * 200_000) for index in range(6)]
    assert len(frames.verify_request_to_pb(sessions).SerializeToString()) > 4 * 1024 * 1024
    async with verifying("grpc") as peer:
        for one in sessions:
            peer.link.send(one)
        events = await peer.read(lambda event: event.session == "s5")
    assert [(event.session, event.code) for event in events] == [(one.session, "INVALID_ARGUMENT") for one in sessions]
