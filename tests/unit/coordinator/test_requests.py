"""What is refused before anything is created anywhere, and what an admitted request looks like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.requests import MAX_DRAFT, MAX_STOP_IDS, MAX_STOPS, Admitted, admit, check_request_id
from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import InvalidRequest, PacelineError, Unsupported
from paceline.core.requests import Chat, ChatMessage, DraftMode, GenerateRequest
from paceline.core.types import Pace, Profile, SamplingParams, TraceContext, VerifierInfo
from paceline.testing.letters import CHAT, LETTERS, letters
from paceline.text.tokenizer import Tokenizer

VERIFIER = VerifierInfo("v", "model", "", "numerics", len(LETTERS), max_context=20, max_sessions=4, stop_token_ids=(7,))
SETTINGS = CoordinatorSettings(max_tokens=16, max_draft=6, request_timeout_s=60.0)
PROMPT = (1, 2, 3)


def admitted(
    request: GenerateRequest, tokenizer: Tokenizer | None = None, settings: CoordinatorSettings = SETTINGS
) -> Admitted:
    return admit(request, settings, tokenizer, VERIFIER, "r1")


def asking(**changes: Any) -> GenerateRequest:
    return replace(GenerateRequest(PROMPT), **changes)


def test_defaults_are_the_services() -> None:
    result = admitted(GenerateRequest(PROMPT))
    assert (result.prompt, result.stops.max_tokens, result.max_draft) == (PROMPT, 16, 6)
    assert result.stops.stop_token_ids == (7,)
    assert result.budget_s == 60.0
    assert result.verifier is VERIFIER


def test_what_the_request_says_counts_more() -> None:
    result = admitted(asking(max_tokens=5, max_draft=2, deadline_s=3.0, seed=9))
    assert (result.stops.max_tokens, result.max_draft, result.budget_s, result.sampling.seed) == (5, 2, 3.0, 9)


def test_plain_means_no_drafts_whatever_else_is_asked_for() -> None:
    plain = admitted(asking(mode=DraftMode.PLAIN, max_draft=4, min_draft=4))
    assert (plain.min_draft, plain.max_draft) == (0, 0)


@pytest.mark.parametrize(
    ("mode", "pace"),
    [
        (None, Pace.LOOKAHEAD),
        (DraftMode.SYNC, Pace.SYNC),
        (DraftMode.PIPELINE, Pace.PIPELINE),
        (DraftMode.LOOKAHEAD, Pace.LOOKAHEAD),
        (DraftMode.COLOCATED, None),
        (DraftMode.PLAIN, None),
    ],
)
def test_a_mode_says_whether_the_pools_drafters_guess_and_when(mode: DraftMode | None, pace: Pace | None) -> None:
    assert admitted(asking(mode=mode)).pace == pace


def test_without_a_mode_it_is_the_services() -> None:
    assert admitted(asking(), settings=CoordinatorSettings(mode="sync")).pace is Pace.SYNC
    assert admitted(asking(), settings=CoordinatorSettings(mode="plain")).max_draft == 0


def test_how_many_alternatives_drafters_send_is_the_services_choice() -> None:
    assert admitted(asking(), settings=CoordinatorSettings(fan_out=2)).fan_out == 2


def test_a_fixed_block_is_a_least_length_that_is_the_largest_too() -> None:
    fixed = admitted(asking(min_draft=4, max_draft=4))
    assert (fixed.min_draft, fixed.max_draft) == (4, 4)
    assert admitted(asking(max_draft=4)).min_draft == 0


@pytest.mark.parametrize(("profile", "most"), [("auto", 16), ("chat", 8), ("code", 12), ("copy", 16)])
def test_a_profile_says_how_many_drafts_there_are_at_most(profile: str, most: int) -> None:
    result = admitted(asking(profile=Profile(profile)), settings=CoordinatorSettings())
    assert (result.profile, result.max_draft) == (Profile(profile), most)


def test_the_service_may_allow_fewer_drafts_than_a_profile_and_a_request_decides_alone() -> None:
    assert admitted(asking(profile=Profile.COPY)).max_draft == 6
    assert admitted(asking(profile=Profile.CHAT, max_draft=20)).max_draft == 20


def test_a_seed_is_drawn_where_none_is_given_and_replaces_the_samplings() -> None:
    results = [admitted(asking(sampling=SamplingParams(temperature=1.0, seed=3))) for _ in range(4)]
    assert len({result.sampling.seed for result in results}) == 4
    assert all(result.sampling.temperature == 1.0 for result in results)
    assert admitted(asking(seed=0)).sampling.seed == 0


def test_sessions_get_ids_that_cannot_be_guessed() -> None:
    ids = {admitted(GenerateRequest(PROMPT)).session for _ in range(10)}
    assert len(ids) == 10
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)


def test_own_stop_ids_come_after_the_models_without_repeats() -> None:
    assert admitted(asking(stop_token_ids=(9, 7, 9))).stops.stop_token_ids == (7, 9)
    assert admitted(asking(stop_token_ids=(9,), ignore_eos=True)).stops.stop_token_ids == (9,)


def test_text_and_conversations_become_tokens() -> None:
    tokenizer = letters(CHAT)
    assert admitted(GenerateRequest("abc"), tokenizer).prompt == (0, 1, 2)
    chat = Chat((ChatMessage("a", "b"),))
    assert tokenizer.decode(admitted(GenerateRequest(chat), tokenizer).prompt) == "a b. assistant "


def test_a_request_joins_the_callers_trace_and_else_begins_one() -> None:
    caller = TraceContext("ab" * 16, "cd" * 8)
    joined = admitted(asking(trace=caller))
    assert (joined.parent, joined.trace.trace_id) == (caller, caller.trace_id)
    assert joined.trace.span_id not in ("", caller.span_id)
    fresh = admitted(GenerateRequest(PROMPT))
    assert fresh.parent.span_id == ""
    assert fresh.trace.trace_id == fresh.parent.trace_id != ""


def test_the_fingerprint_tells_requests_apart_by_what_shapes_their_output() -> None:
    base = asking(seed=1)
    others = [
        asking(seed=2),
        replace(base, prompt=(1, 2, 4)),
        replace(base, max_tokens=9),
        replace(base, stop_token_ids=(5,)),
        replace(base, sampling=SamplingParams(top_k=3)),
    ]
    prints = [admitted(one).fingerprint for one in (base, base, *others)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 1 + len(others)
    assert admitted(replace(base, max_draft=1)).fingerprint == prints[0]


BAD = [
    ("text", asking(prompt="")),
    ("input", asking(prompt=())),
    ("input", asking(prompt=(1,) * 20)),
    ("input", asking(prompt=(1, len(LETTERS)))),
    ("input", asking(prompt=(1, -1))),
    ("seed", asking(seed=-1)),
    ("seed", asking(seed=1 << 64)),
    ("temperature", asking(sampling=SamplingParams(temperature=-0.1))),
    ("temperature", asking(sampling=SamplingParams(temperature=float("nan")))),
    ("top_k", asking(sampling=SamplingParams(top_k=-1))),
    ("top_p", asking(sampling=SamplingParams(top_p=0.0))),
    ("top_p", asking(sampling=SamplingParams(top_p=1.5))),
    ("min_p", asking(sampling=SamplingParams(min_p=2.0))),
    ("repetition_penalty", asking(sampling=SamplingParams(repetition_penalty=0.0))),
    ("presence_penalty", asking(sampling=SamplingParams(presence_penalty=3.0))),
    ("frequency_penalty", asking(sampling=SamplingParams(frequency_penalty=-3.0))),
    ("logit_bias", asking(sampling=SamplingParams(logit_bias=((len(LETTERS), 1.0),)))),
    ("logit_bias", asking(sampling=SamplingParams(logit_bias=((1, 101.0),)))),
    ("allowed_token_ids", asking(sampling=SamplingParams(allowed_tokens=(len(LETTERS),)))),
    ("banned_token_ids", asking(sampling=SamplingParams(banned_tokens=tuple(range(len(LETTERS)))))),
    ("max_tokens", asking(max_tokens=0)),
    ("max_tokens", asking(max_tokens=2**32)),
    ("top_k", asking(sampling=SamplingParams(top_k=2**32))),
    ("max_draft", asking(max_draft=-1)),
    ("max_draft", asking(max_draft=MAX_DRAFT + 1)),
    ("min_draft", asking(min_draft=-1)),
    ("min_draft", asking(min_draft=5, max_draft=4)),
    ("min_draft", asking(min_draft=SETTINGS.max_draft + 1)),
    ("stop_token_ids", asking(stop_token_ids=(len(LETTERS),))),
    ("stop_token_ids", asking(stop_token_ids=(1,) * (MAX_STOP_IDS + 1))),
    ("stop", asking(stop=("",))),
    ("stop", asking(stop=("x" * 257,))),
    ("stop", asking(stop=("x",) * (MAX_STOPS + 1))),
    ("chat", asking(prompt=Chat(()))),
]


@pytest.mark.parametrize(("field", "request_"), BAD, ids=[f"{index} {field}" for index, (field, _) in enumerate(BAD)])
def test_what_is_wrong_is_refused_by_the_name_of_its_field(field: str, request_: GenerateRequest) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}[ :]") as refusal:
        admitted(request_, letters(CHAT))
    assert str(refusal.value).endswith(".")


def test_the_largest_values_that_are_allowed_are_allowed() -> None:
    request = asking(
        prompt=(1,) * 19,
        max_draft=MAX_DRAFT,
        max_tokens=2**32 - 1,
        seed=(1 << 64) - 1,
        stop=("x" * 256,) * MAX_STOPS,
        stop_token_ids=(len(LETTERS) - 1,) * MAX_STOP_IDS,
        sampling=SamplingParams(temperature=10.0, top_k=2**32 - 1, top_p=1.0, min_p=1.0, presence_penalty=2.0),
    )
    assert admitted(request, letters()).max_draft == MAX_DRAFT


NEEDS_TOKENIZER: list[tuple[str, GenerateRequest]] = [
    ("input", asking(prompt="text")),
    ("input", asking(prompt=Chat((ChatMessage("user", "hi"),)))),
    ("stop", asking(stop=("x",))),
]


@pytest.mark.parametrize(("field", "request_"), NEEDS_TOKENIZER)
def test_without_a_tokenizer_there_are_only_token_ids(field: str, request_: GenerateRequest) -> None:
    with pytest.raises(Unsupported, match=f"^{field}: this coordinator has no tokenizer; .*start it with one"):
        admitted(request_)


def test_a_conversation_needs_a_template() -> None:
    with pytest.raises(Unsupported, match=r"^chat: this model has no chat template; send text"):
        admitted(asking(prompt=Chat((ChatMessage("user", "hi"),))), letters())


@pytest.mark.parametrize("request_id", ["a", "A-z_0.9", "x" * 64])
def test_request_ids_of_the_client_are_kept(request_id: str) -> None:
    assert check_request_id(request_id) == request_id


def test_tenants_are_kept_and_ones_that_are_no_names_are_refused() -> None:
    assert [admitted(asking(tenant=name)).tenant for name in ("", "acme", "A-z_0.9")] == ["", "acme", "A-z_0.9"]
    for bad in ("x" * 65, "a b", "ä"):
        with pytest.raises(PacelineError, match=r"^tenant: "):
            admitted(asking(tenant=bad))


@pytest.mark.parametrize("request_id", ["x" * 65, "a b", "a/b", "ä", "a\n", "a\x00"])
def test_other_request_ids_are_refused(request_id: str) -> None:
    with pytest.raises(PacelineError, match=r"^request_id: ") as refusal:
        check_request_id(request_id)
    assert refusal.value.code == "INVALID_ARGUMENT"


def test_a_request_without_an_id_gets_one() -> None:
    assert check_request_id("") != check_request_id("")
    assert check_request_id(check_request_id(""))
