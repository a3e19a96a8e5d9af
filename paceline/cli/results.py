"""A generation as JSON, the shape that scripts rely on."""

from __future__ import annotations

import dataclasses
from typing import Any

from paceline.client.aio import Completion


def as_json(completion: Completion) -> dict[str, Any]:
    """``text, token_ids, finish_reason, usage, numerics_id, metrics, timing`` and the ids of the request."""
    started, finished = completion.started, completion.finished
    return {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": finished.reason.value,
        "usage": {
            "prompt_tokens": finished.usage.prompt_tokens,
            "completion_tokens": finished.usage.completion_tokens,
            "total_tokens": finished.usage.prompt_tokens + finished.usage.completion_tokens,
        },
        "numerics_id": started.numerics_id,
        "metrics": {"speculative_decoding": dataclasses.asdict(finished.speculative)},
        "timing": {"first_token": finished.first_token_s * 1e3, "total": finished.total_s * 1e3},
        "request_id": started.request_id,
        "session_id": started.session,
        "trace_id": started.trace_id,
        "seed": started.seed,
    }


def tokens_per_second(completion: Completion) -> float:
    """Output tokens over the time of the whole request."""
    return completion.finished.usage.completion_tokens / max(completion.finished.total_s, 1e-9)
