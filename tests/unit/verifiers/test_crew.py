"""Settings of ranks that can't work are refused before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.config.settings import VerifierSettings
from paceline.core.errors import InvalidRequest, Unsupported
from paceline.models.loading import check_shares
from paceline.telemetry.clock import SystemClock
from paceline.verifiers import create_backend
from paceline.verifiers.crew import Crew, threads_of
from tests.support.tiny_models import write_model


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (VerifierSettings(tensor_parallel=0), "set 1 or more"),
        (VerifierSettings(tensor_parallel=2, rank=2, rendezvous="tcp://a:1"), "count from 0"),
        (VerifierSettings(rank=1), "count from 0"),
        (VerifierSettings(tensor_parallel=2, rank=1), "set rendezvous=tcp://host:port of rank 0"),
        (VerifierSettings(tensor_parallel=2, rendezvous="a:1"), "set tcp://host:port of rank 0"),
    ],
)
def test_ranks_that_cannot_meet_are_refused_with_the_remedy(settings: VerifierSettings, remedy: str) -> None:
    with pytest.raises(InvalidRequest, match=remedy):
        Crew.join(settings)


def test_one_rank_has_nobody_to_meet() -> None:
    assert Crew.join(VerifierSettings()) is None


def test_a_synthetic_model_is_not_shared() -> None:
    with pytest.raises(InvalidRequest, match="backend=torch"):
        create_backend(VerifierSettings(backend="synthetic", tensor_parallel=2), SystemClock())


def test_heads_that_would_have_to_be_cut_are_refused(tmp_path: Path) -> None:
    check_shares(write_model(tmp_path), 2)
    with pytest.raises(Unsupported, match="divides 2"):
        check_shares(tmp_path, 4)


def test_ranks_of_one_machine_share_its_cores() -> None:
    assert threads_of(VerifierSettings(tensor_parallel=10_000)) == 1
    assert threads_of(VerifierSettings(tensor_parallel=2, threads=3)) == 3
    assert threads_of(VerifierSettings(tensor_parallel=2, rendezvous="tcp://a:1")) == 0
    assert threads_of(VerifierSettings()) == 0
