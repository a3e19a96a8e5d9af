"""The numbers of the table: counted over steps, paired by prompt, per task and over all; the page that shows them."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.cli.measuring import Sample
from paceline.cli.tabulating import ALL, TableRow, is_lossless, label, markdown, mean_tau, tabulate, whole_turns
from paceline.core.requests import SpeculativeMetrics


def sample(mode: str, prompt: str, task: str = "qa", *, seconds: float = 1.0, counts: tuple[int, ...] = ()) -> Sample:
    """Ten tokens, the first after 0.1 s; ``counts`` are draft tokens, accepted ones, steps with drafts, all steps."""
    drafted, accepted, spec_steps, steps = counts or (0, 0, 0, 10)
    counted = SpeculativeMetrics(
        num_draft_tokens=drafted, num_accepted_draft_tokens=accepted, num_spec_steps=spec_steps, num_steps=steps
    )
    ids = tuple(range(10))
    return Sample(mode, task, prompt, 0, 10, seconds, 10 / steps, 0.0, ids, 0.1, counted)


SAMPLES = [
    sample("plain", "1", "qa", seconds=1.0),
    sample("4", "1", "qa", seconds=0.5, counts=(16, 6, 4, 4)),
    sample("plain", "2", "rag", seconds=1.9),
    sample("4", "2", "rag", seconds=1.0, counts=(4, 1, 1, 9)),
    sample("plain", "3", "rag", seconds=1.0),
    sample("4", "3", "rag", seconds=1.0, counts=(0, 0, 0, 10)),
]


def row(mode: str, task: str = ALL, samples: list[Sample] = SAMPLES) -> TableRow:
    return next(one for one in tabulate(samples) if (one.mode, one.task) == (mode, task))


def test_there_is_a_row_per_mode_and_task_and_one_over_all() -> None:
    assert [(one.mode, one.task, one.num) for one in tabulate(SAMPLES)] == [
        *(("plain", "qa", 1), ("plain", "rag", 2), ("plain", "all", 3)),
        *(("4", "qa", 1), ("4", "rag", 2), ("4", "all", 3)),
    ]


def test_time_per_token_leaves_out_the_first_and_tokens_per_second_does_not() -> None:
    assert row("plain", "rag").ms_per_token == pytest.approx(statistics.median([200.0, 100.0]))
    assert row("plain").ms_per_token == pytest.approx(100.0)
    assert row("plain").tokens_per_s == pytest.approx(10.0)


def test_speed_ups_are_medians_of_paired_ratios_with_their_quartiles() -> None:
    assert (row("4").speedup, row("4").low, row("4").high) == pytest.approx((1.9, 1.45, 1.95))
    assert (row("4", "rag").speedup, row("plain").speedup) == pytest.approx((1.45, 1.0))


def test_acceptance_is_counted_over_all_steps_of_the_group() -> None:
    assert row("4").acceptance_rate == pytest.approx(7 / 20)
    assert row("4").tau == pytest.approx(1 + 7 / 5)
    assert row("4").tokens_per_step == pytest.approx(30 / 23)
    assert row("4", "qa").tau == pytest.approx(2.5)


def test_bytes_of_hidden_states_are_counted_per_accepted_token() -> None:
    heavy = [replace(one, speculative=replace(one.speculative, num_feature_bytes=700)) for one in SAMPLES]
    found = {(one.mode, one.task): one.feature_bytes for one in tabulate(heavy)}
    assert (found["4", "all"], found["4", "qa"], found["4", "rag"]) == (300.0, 700 / 6, 1400.0)
    assert found["plain", "all"] is None


def test_what_can_not_be_seen_is_none_and_not_zero() -> None:
    assert (row("plain").acceptance_rate, row("plain").tau) == (None, None)
    peer = Sample("transformers", "qa", "1", 0, 10, 2.0, 1.0, 0.0, tuple(range(10)))
    seen = row("transformers", "qa", [SAMPLES[0], peer])
    assert (seen.ms_per_token, seen.tokens_per_step, seen.speedup) == (None, None, 0.5)
    single = replace(SAMPLES[0], tokens=1, token_ids=(0,))
    assert row("plain", "qa", [single]).ms_per_token is None


def test_the_mean_of_tau_counts_every_task_alike() -> None:
    assert mean_tau(tabulate(SAMPLES)) == pytest.approx({"4": (2.5 + 2.0) / 2})


def test_one_different_token_is_lossy_and_is_seen_in_its_task() -> None:
    assert is_lossless(tabulate(SAMPLES))
    doctored = [*SAMPLES[:-1], replace(SAMPLES[-1], token_ids=(*range(9), 99))]
    rows = tabulate(doctored)
    assert not is_lossless(rows)
    shares = {(one.mode, one.task): one.identical for one in rows}
    assert (shares["4", "qa"], shares["4", "rag"]) == (1.0, 0.5)
    assert shares["4", "all"] == pytest.approx(2 / 3)


def test_another_engine_that_rounds_otherwise_is_no_loss_of_ours() -> None:
    peer = Sample("transformers", "qa", "1", 0, 2, 2.0, 1.0, 0.0, (0, 5))
    rows = tabulate([SAMPLES[0], peer])
    assert [one.identical for one in rows if one.mode == "transformers"] == [0.0, 0.0]
    assert is_lossless(rows)


def test_the_log_likelihood_is_a_mean_over_tokens() -> None:
    ids = tuple(range(10))
    rows = tabulate(SAMPLES, {("1", ids): -10.0, ("2", ids): -20.0, ("3", ids): -30.0})
    found = {one.task: one.log_likelihood for one in rows if one.mode == "4"}
    assert found == pytest.approx({"qa": -1.0, "rag": -2.5, "all": -2.0})


def test_prompts_that_did_not_run_in_every_mode_are_left_out() -> None:
    assert whole_turns([*SAMPLES[:4], SAMPLES[4]], 2) == SAMPLES[:4]
    assert whole_turns(SAMPLES[:1], 2) == []
    assert tabulate([]) == []


counts = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9), st.integers(10, 60))
runs = st.lists(
    st.tuples(st.sampled_from(["qa", "rag", "math"]), st.floats(0.2, 9.0), st.floats(0.2, 9.0), counts), min_size=1
)


@given(runs)
@settings(deadline=None)
def test_counts_over_all_are_the_sums_of_the_tasks_and_medians_lie_between_them(
    drawn: list[tuple[str, float, float, tuple[int, ...]]],
) -> None:
    samples = []
    for name, (task, plain_s, fast_s, counted) in enumerate(drawn):
        samples += [sample("plain", str(name), task, seconds=plain_s)]
        samples += [sample("8", str(name), task, seconds=fast_s, counts=counted)]
    rows = [one for one in tabulate(samples) if one.mode == "8"]
    tasks, (whole,) = [one for one in rows if one.task != ALL], [one for one in rows if one.task == ALL]
    assert sum(one.num for one in tasks) == whole.num == len(drawn)
    for field in ("tau", "tokens_per_step", "speedup", "tokens_per_s"):
        values = [getattr(one, field) for one in tasks]
        assert min(values) - 1e-9 <= getattr(whole, field) <= max(values) + 1e-9
    steps = sum(counted[2] for _, _, _, counted in drawn)
    assert whole.tau == pytest.approx(1 + sum(counted[1] for _, _, _, counted in drawn) / steps)
    assert whole.low <= whole.speedup <= whole.high
    assert whole.identical == 1.0


def test_the_page_says_what_was_measured_on_what() -> None:
    assert markdown(tabulate(SAMPLES), {"Machine": "two cores", "Drafter": "suffix"}) == PAGE


def test_no_share_below_one_is_shown_as_all() -> None:
    many = [sample(mode, str(index)) for index in range(3000) for mode in ("plain", "4")]
    many[-1] = replace(many[-1], token_ids=(1,))
    page = markdown(tabulate(many), {})
    assert "| 99.9 % |" in page


def test_modes_have_names_for_people() -> None:
    assert [label(mode) for mode in ("plain", "16", "pipeline")] == ["plain", "16 tokens", "adaptive"]


HEADS = (
    "block | n | ms/token | tokens/s | × plain | quartiles | acceptance | τ | tokens/step | identical | "
    "log-likelihood |"
)
PAGE = f"""\
- Machine: two cores
- Drafter: suffix

| {HEADS}
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| plain | 3 | 100.00 | 10.0 | 1.00 | 1.00–1.00 | – | – | 1.00 | 100 % | – |
| 4 tokens | 3 | 100.00 | 10.0 | 1.90 | 1.45–1.95 | 35.0 % | 2.40 | 1.30 | 100 % | – |

| task | {HEADS}
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| qa | plain | 1 | 100.00 | 10.0 | 1.00 | 1.00–1.00 | – | – | 1.00 | 100 % | – |
| qa | 4 tokens | 1 | 44.44 | 20.0 | 2.00 | 2.00–2.00 | 37.5 % | 2.50 | 2.50 | 100 % | – |
| rag | plain | 2 | 150.00 | 7.6 | 1.00 | 1.00–1.00 | – | – | 1.00 | 100 % | – |
| rag | 4 tokens | 2 | 100.00 | 10.0 | 1.45 | 1.23–1.67 | 25.0 % | 2.00 | 1.05 | 100 % | – |

τ, mean over tasks: 4 tokens 2.25.

Bytes of hidden states between services per accepted draft token: 4 tokens 0.

ms/token: median time between two tokens after the first one. tokens/s: median over requests, the time of the
prompt included. × plain: median of the ratios of tokens/s, paired by prompt. acceptance: accepted over checked
draft tokens. τ: tokens per step with drafts, the target's own included; tokens/step counts steps without drafts,
too. identical: outputs that equal plain decoding's. log-likelihood: mean log-probability of an output token
under the target.
"""
