"""A drafter that was warmed up has answered for every kind of session, and remembers none of them."""

from __future__ import annotations

import pytest

from paceline.config.settings import DrafterSettings
from paceline.core.types import DrafterInfo, DraftJob, Guess, KvShape, Needs, SessionSpec
from paceline.drafters import create_drafter
from paceline.drafters.warming import warm_up


class Diary:
    """Writes down what it is asked."""

    def __init__(self, needs: Needs) -> None:
        self.info = DrafterInfo("diary", vocab_size=4, needs=needs, max_sessions=1, max_window=7)
        self.temperatures: list[float] = []
        self.jobs: list[DraftJob] = []
        self.open_sessions: set[str] = set()

    def open(self, spec: SessionSpec) -> None:
        self.open_sessions.add(spec.session)
        self.temperatures.append(spec.sampling.temperature)
        assert spec.prompt_length == len(spec.context)

    def close(self, session: str) -> None:
        self.open_sessions.remove(session)

    def state_bytes(self) -> int:
        return 0

    def extend(self, jobs: list[DraftJob]) -> list[Guess]:
        self.jobs += jobs
        return [Guess(job.session, ()) for job in jobs]


def test_it_is_asked_greedily_and_warmly_with_hidden_states_and_without() -> None:
    diary = Diary(Needs(hidden_states=(1, -1), hidden_size=8))
    warm_up(diary)
    assert diary.temperatures == [0.0, 0.8]
    assert [[frame.num_rows for frame in job.features] for job in diary.jobs] == [[], [5], [], [5]]
    assert {frame.row_bytes for job in diary.jobs for frame in job.features} == {2 * 8 * 2}
    assert {max(job.context) for job in diary.jobs} == {3}
    assert diary.open_sessions == set()


def test_one_that_reads_keys_and_values_gets_some() -> None:
    shapes = (KvShape("full_attention", 2, 8), KvShape("sliding_attention", 1, 4, history=3))
    diary = Diary(Needs(hidden_states=(-1,), hidden_size=8, kv=shapes))
    warm_up(diary)
    seen = [[(one.kind, one.rows.num_rows, one.rows.row_bytes) for one in job.kv] for job in diary.jobs]
    assert seen == [[], [("full_attention", 5, 64), ("sliding_attention", 5, 16)]] * 2


def test_one_that_fails_is_closed_and_tells() -> None:
    diary = Diary(Needs())
    diary.extend = lambda jobs: 1 / 0  # type: ignore[assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        warm_up(diary)
    assert diary.open_sessions == set()


@pytest.mark.parametrize("name", ["suffix", "ngram", "random", "synthetic", "mix:suffix,ngram"])
def test_every_kind_takes_it(name: str) -> None:
    warm_up(create_drafter(DrafterSettings(drafter=name, max_sessions=1)))
