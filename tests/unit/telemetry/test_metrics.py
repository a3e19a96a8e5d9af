"""Instruments count what they say, and the page shows them to whoever asks over HTTP."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from paceline.core.errors import InvalidRequest
from paceline.core.types import Commit, FeatureFrame, KvFrame
from paceline.telemetry.metrics import DrafterMetrics, VerifierMetrics, serve_metrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def page(registry: CollectorRegistry) -> Iterator[str]:
    address, stop = serve_metrics("127.0.0.1:0", registry)
    yield address
    stop()


def read(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


def test_commits_are_counted_with_drafts_and_by_the_place_of_accepted_tokens(
    registry: CollectorRegistry, page: str
) -> None:
    metrics = VerifierMetrics(registry)
    metrics.commit(Commit("s", 0, (1, 2, 3), drafted=4, accepted=2))
    metrics.commit(Commit("s", 3, (4,), drafted=4, accepted=0))
    metrics.commit(Commit("s", 4, (5,)))
    lines = read(page).splitlines()
    assert "paceline_generation_tokens_total 5.0" in lines
    assert "paceline_spec_decode_num_drafts_total 2.0" in lines
    assert "paceline_spec_decode_num_draft_tokens_total 8.0" in lines
    assert "paceline_spec_decode_num_accepted_tokens_total 2.0" in lines
    places = [line for line in lines if line.startswith("paceline_spec_decode_num_accepted_tokens_per_pos_total")]
    assert places == [
        f'paceline_spec_decode_num_accepted_tokens_per_pos_total{{position="{place}"}} 1.0' for place in (0, 1)
    ]


def test_bytes_of_hidden_states_and_of_keys_and_values_are_counted_at_both_ends(
    registry: CollectorRegistry, page: str
) -> None:
    for metrics in (VerifierMetrics(registry), DrafterMetrics(other := CollectorRegistry())):
        metrics.commit(Commit("s", 3, (4,), features=FeatureFrame(2, 1, bytes(6))))
        for kind in ("full_attention", "sliding_attention"):
            metrics.kv(KvFrame("s", kind, FeatureFrame(0, 3, bytes(24))))
    for where in (registry, other):
        assert where.get_sample_value("paceline_feature_bytes_total") == 6.0
        assert where.get_sample_value("paceline_kv_bytes_total") == 48.0


def test_a_session_count_is_what_was_set_last(registry: CollectorRegistry, page: str) -> None:
    metrics = VerifierMetrics(registry)
    metrics.sessions.set(3)
    metrics.sessions.set(2)
    assert "paceline_num_requests_running 2.0" in read(page).splitlines()


def test_a_page_that_was_stopped_frees_its_port(registry: CollectorRegistry) -> None:
    address, stop = serve_metrics("127.0.0.1:0", registry)
    stop()
    again, stop_again = serve_metrics(address, registry)
    assert again == address
    stop_again()


def test_a_port_in_use_is_refused_with_a_remedy(registry: CollectorRegistry) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InvalidRequest, match=rf"^metrics: can't serve on {address}: .* Choose a free host:port"):
            serve_metrics(address, registry)


@pytest.mark.parametrize(
    "address", ["", "localhost", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1:-1"]
)
def test_what_is_no_address_is_refused(registry: CollectorRegistry, address: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^metrics: can't serve on"):
        serve_metrics(address, registry)
