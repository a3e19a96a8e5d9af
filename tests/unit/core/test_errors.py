"""The tree of errors: what its drawing promises, what a code from the wire becomes, what an invariant raises."""

from __future__ import annotations

import re

import grpc
import pytest

from paceline.core import errors
from paceline.core.errors import (
    Diverged,
    Fenced,
    Gap,
    Internal,
    PacelineError,
    StoreRefusal,
    StoreUnavailable,
    Unavailable,
    from_code,
    invariant,
)

DRAWN = re.compile(
    r"^(?P<lines>[│ ]*[├└]── )(?P<name>\w+) +(?P<code>[A-Z_]+) +(?P<reason>.*?)(?P<retryable> +\(retryable\))?$"
)
UNKNOWN = ["OK", "UNKNOWN", "OUT_OF_RANGE", "PERMISSION_DENIED", "", "invalid_argument", "no code at all"]


def drawing() -> list[re.Match[str]]:
    return [found for line in (errors.__doc__ or "").splitlines() if (found := DRAWN.match(line))]


def tree(root: type[PacelineError] = PacelineError) -> list[type[PacelineError]]:
    """Every error below the root, as in the drawing."""
    return [one for child in root.__subclasses__() for one in (child, *tree(child))]


ERRORS = tree()


def test_the_drawing_shows_every_error_in_its_place_with_its_code_and_whether_to_retry() -> None:
    drawn = [(found["name"], found["code"], bool(found["retryable"])) for found in drawing()]
    assert drawn == [(error.__name__, error.code, error.retryable) for error in ERRORS]
    depths = [len(found["lines"]) // 4 for found in drawing()]
    assert depths == [len(error.__mro__) - len(PacelineError.__mro__) for error in ERRORS]


@pytest.mark.parametrize("error", ERRORS)
def test_every_code_is_a_grpc_status_and_every_error_says_what_it_is(error: type[PacelineError]) -> None:
    assert error.code in grpc.StatusCode.__members__
    assert error.code != "OK"
    assert error.__doc__


def test_only_what_time_can_heal_is_retryable() -> None:
    retryable = {error.__name__ for error in ERRORS if error.retryable}
    assert retryable == {"ResourceExhausted", "Unavailable", "StoreUnavailable"}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_that_crossed_the_wire_keeps_its_code_its_message_and_whether_to_retry(
    error: type[PacelineError],
) -> None:
    back = from_code(error.code, "the remedy")
    assert (back.code, back.retryable, str(back)) == (error.code, error.retryable, "the remedy")
    assert issubclass(error, type(back))


def test_codes_that_one_error_owns_come_back_as_that_error_and_others_as_their_parent() -> None:
    shared = {Fenced: StoreRefusal, Gap: StoreRefusal, StoreUnavailable: Unavailable}
    for error in ERRORS:
        assert type(from_code(error.code, "")) is shared.get(error, error)
    assert type(from_code("DATA_LOSS", "")) is Diverged


@pytest.mark.parametrize("code", UNKNOWN)
def test_an_unknown_code_becomes_a_defect_of_ours(code: str) -> None:
    error = from_code(code, "what they said")
    assert type(error) is Internal
    assert str(error) == "what they said"
    assert not error.retryable


def test_an_invariant_that_holds_is_silent() -> None:
    invariant(True, "one is one")


def test_a_broken_invariant_says_which_and_whose_fault_it_is() -> None:
    with pytest.raises(Internal, match=r"^Broken invariant: rows start within the cache\. Please report"):
        invariant(False, "rows start within the cache")


def test_a_broken_invariant_is_no_assertion_that_optimised_code_would_drop() -> None:
    assert not issubclass(Internal, AssertionError)
