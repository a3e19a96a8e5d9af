"""Several drafters as one: what it says of itself, whom it asks, and what it does when a part fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest, ResourceExhausted
from paceline.core.types import (
    DrafterInfo,
    DraftJob,
    FeatureFrame,
    Guess,
    KvFrame,
    KvShape,
    Needs,
    SamplingParams,
    SessionSpec,
    StopRules,
    Tokens,
)
from paceline.drafters import create_drafter
from paceline.drafters.mix import MixDrafter, part_names

CONTEXT = (1, 2, 3)
FRAME = FeatureFrame(0, 1, b"\0\0")


class Part:
    """Says what it is told to say, and remembers what it was asked."""

    def __init__(self, info: DrafterInfo, says: Tokens = ()) -> None:
        self.info = info
        self.says = says
        self.refuses: set[str] = set()
        self.fails: set[str] = set()
        self.sessions: set[str] = set()
        self.asked: list[list[DraftJob]] = []

    def open(self, spec: SessionSpec) -> None:
        if spec.session in self.refuses:
            raise ResourceExhausted("Full; try another.")
        self.sessions.add(spec.session)

    def close(self, session: str) -> None:
        self.sessions.discard(session)

    def state_bytes(self) -> int:
        return 0

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        self.asked.append(list(jobs))
        if any(job.session in self.fails for job in jobs):
            raise RuntimeError("broken")
        return [Guess(job.session, self.says[: job.max_tokens]) for job in jobs]


def part(name: str, says: Tokens = (), *, needs: Needs | None = None) -> Part:
    return Part(DrafterInfo(name, needs=needs or Needs()), says)


def spec(session: str) -> SessionSpec:
    return SessionSpec(session, CONTEXT, 3, SamplingParams(), StopRules(100))


def job(session: str, *, features: tuple[FeatureFrame, ...] = (), kv: tuple[KvFrame, ...] = ()) -> DraftJob:
    return DraftJob(session, CONTEXT, 3, 8, features, kv)


def test_parts_are_named_after_the_colon_or_in_a_setting() -> None:
    assert part_names("mix", ("suffix", "ngram")) == ("suffix", "ngram")
    for text in ("mix:model,suffix", "mix:model+suffix", "mix: model , suffix"):
        assert part_names(text, ()) == ("model", "suffix")


@pytest.mark.parametrize("text", ["mix:", "mix:suffix", "mix:suffix,suffix", "mix:" + ",".join("abcdefghi")])
def test_a_mix_is_of_several_different_parts(text: str) -> None:
    with pytest.raises(InvalidRequest, match="a mix needs 2 to 8 different drafters"):
        part_names(text, ())


@pytest.mark.parametrize("text", ["mix:suffix,mix", "mix:mix:ngram,suffix"])
def test_a_mix_is_no_part_of_a_mix(text: str) -> None:
    with pytest.raises(InvalidRequest, match="can't be part of a mix"):
        create_drafter(DrafterSettings(drafter=text))


def test_parts_are_made_by_name_with_the_settings_of_the_whole() -> None:
    assert create_drafter(DrafterSettings(drafter="mix:random,suffix", max_sessions=7, vocab_size=50)).info == (
        DrafterInfo("mix(random, suffix)", vocab_size=50, max_sessions=7)
    )
    assert create_drafter(DrafterSettings(drafter="mix", parts=("ngram", "random"))).info.name == "mix(ngram, random)"


def test_an_unknown_part_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="'oracle' is unknown; choose one of"):
        create_drafter(DrafterSettings(drafter="mix:oracle,suffix"))


def test_only_a_mix_has_parts() -> None:
    with pytest.raises(InvalidRequest, match="'suffix:ngram' is unknown"):
        create_drafter(DrafterSettings(drafter="suffix:ngram"))


def test_limits_and_needs_are_those_that_suit_all_parts() -> None:
    first = DrafterInfo("a", "", "", 100, Needs((-1,), 4), max_sessions=9, max_window=32)
    second = DrafterInfo("b", "model", "digest", 200, Needs((-1,), 8, same_tokenizer=True), max_sessions=5)
    assert MixDrafter([Part(first), Part(second), part("c")]).info == DrafterInfo(
        "mix(a, b, c)", "model", "digest", 200, Needs((-1,), 8, same_tokenizer=True), max_sessions=5, max_window=64
    )


def test_parts_of_different_targets_are_refused() -> None:
    parts = [Part(DrafterInfo(name, tokenizer_digest=name)) for name in "ab"]
    with pytest.raises(InvalidRequest, match="a and b have different tokenizers"):
        MixDrafter(parts)


def test_parts_that_tap_different_layers_are_refused() -> None:
    parts = [part("a", needs=Needs((-1,))), part("b", needs=Needs((3, -1)))]
    with pytest.raises(InvalidRequest, match="tap different layers"):
        MixDrafter(parts)


def test_a_part_that_was_made_for_one_target_binds_the_whole() -> None:
    made, other = (part(name, needs=Needs(target_digest=digest)) for name, digest in (("a", "one"), ("b", "two")))
    assert MixDrafter([made, part("c")]).info.needs == Needs(target_digest="one")
    with pytest.raises(InvalidRequest, match="made for different targets"):
        MixDrafter([made, other])


def test_sessions_are_opened_and_closed_at_every_part() -> None:
    parts = [part("a"), part("b")]
    mix = MixDrafter(parts)
    mix.open(spec("s"))
    assert [one.sessions for one in parts] == [{"s"}, {"s"}]
    mix.close("s")
    assert [one.sessions for one in parts] == [set(), set()]


def test_each_part_is_asked_once_for_all_sessions() -> None:
    parts = [part("a", (4, 5)), part("b", (4, 6))]
    mix = MixDrafter(parts)
    for session in "st":
        mix.open(spec(session))
    guesses = mix.extend([job("s"), job("t")])
    assert [one.asked for one in parts] == [[[job("s"), job("t")]]] * 2
    assert [guess.session for guess in guesses] == ["s", "t"]
    assert guesses[0].token_ids == (4, 5)
    assert [branch.token_ids for branch in guesses[0].branches] == [(6,)]


def test_features_go_to_the_parts_that_need_them() -> None:
    needy, other = part("a", needs=Needs((-1,), 4)), part("b")
    mix = MixDrafter([needy, other])
    mix.open(spec("s"))
    mix.extend([job("s", features=(FRAME,))])
    assert needy.asked == [[job("s", features=(FRAME,))]]
    assert other.asked == [[job("s")]]


def test_keys_and_values_go_to_the_parts_that_need_them() -> None:
    shape = KvShape("full_attention", 1, 1)
    frame = KvFrame("s", shape.kind, FeatureFrame(0, 1, bytes(4)))
    needy, other = part("a", needs=Needs(kv=(shape,))), part("b", needs=Needs((-1,), is_optional=True))
    mix = MixDrafter([needy, other])
    assert mix.info.needs == Needs((-1,), kv=(shape,))
    mix.open(spec("s"))
    mix.extend([job("s", kv=(frame,))])
    assert needy.asked == [[job("s", kv=(frame,))]]
    assert other.asked == [[job("s")]]
    with pytest.raises(InvalidRequest, match="parts of this mix look at different keys and values"):
        MixDrafter([needy, part("c", needs=Needs(kv=(KvShape("full_attention", 1, 2),)))])


def test_a_part_that_refuses_is_left_out_of_this_session() -> None:
    full, other = part("a", (9,)), part("b", (4,))
    full.refuses = {"s"}
    mix = MixDrafter([full, other])
    for session in "st":
        mix.open(spec(session))
    guesses = mix.extend([job("s"), job("t")])
    assert full.asked == [[job("t")]]
    assert guesses[0].token_ids == (4,)
    mix.close("s")


def test_a_session_that_every_part_refuses_is_refused() -> None:
    parts = [part("a"), part("b")]
    for one in parts:
        one.refuses = {"s"}
    mix = MixDrafter(parts)
    with pytest.raises(ResourceExhausted, match="Full; try another"):
        mix.open(spec("s"))
    mix.close("s")


def test_a_part_that_fails_is_left_out_and_said_so_once(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = part("bad", (9,)), part("good", (4,))
    bad.fails = {"s"}
    mix = MixDrafter([bad, good])
    for session in "st":
        mix.open(spec(session))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            guesses = mix.extend([job("s"), job("t")])
    assert guesses[0] == Guess("s", (4,), guesses[0].confidences)
    assert guesses[1].token_ids in {(9,), (4,)}
    assert bad.sessions == {"t"}
    assert [(record.message, vars(record)["session"]) for record in caplog.records] == [
        ("part failed, left out of this session", "s")
    ]


def test_a_session_without_any_part_left_goes_on_without_guesses() -> None:
    parts = [part("a", (4,)), part("b", (4,))]
    mix = MixDrafter(parts)
    mix.open(spec("s"))
    for one in parts:
        one.fails = {"s"}
    assert mix.extend([job("s")]) == [Guess("s", ())]
    assert mix.extend([job("s")]) == [Guess("s", ())]


@pytest.mark.parametrize(
    "broken",
    [
        [Guess("other", (4,))],
        [Guess("s", tuple(range(9)))],
        [Guess("s", (4, 5), (0.5,))],
        [],
    ],
    ids=["another session's", "too long", "a confidence short", "none"],
)
def test_guesses_that_break_the_contract_count_as_a_failure(
    broken: list[Guess], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = part("bad"), part("good", (4,))
    mix = MixDrafter([bad, good])
    mix.open(spec("s"))
    monkeypatch.setattr(bad, "extend", lambda _: broken)
    assert mix.extend([job("s")])[0].token_ids == (4,)
    assert bad.sessions == set()


def test_it_learns_from_later_jobs_whom_to_follow() -> None:
    """The first part is always wrong, the second always right."""
    parts = [part("wrong", (9,)), part("right", (4,))]
    mix = MixDrafter(parts)
    mix.open(spec("s"))
    context = CONTEXT
    for _ in range(12):
        guess = mix.extend([DraftJob("s", context, len(context), 1)])[0]
        context += (4,)
    assert guess.token_ids == (4,)
    assert guess.confidences[0] > 0.85
    assert all(branch.confidences[0] < 0.1 for branch in guess.branches)
