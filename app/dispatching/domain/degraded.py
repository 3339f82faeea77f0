"""The answer for when nobody can answer: a configured text, marked as such."""

from __future__ import annotations

from typing import Any


def degraded_completion(task_id: str, model: str, text: str, at: float) -> dict[str, Any]:
    """A chat completion of this text; `degraded` says that no model has answered. `at` is Unix seconds."""
    return {
        "id": f"chatcmpl-{task_id.removeprefix('task_')}",
        "object": "chat.completion",
        "created": int(at),
        "model": model,
        "degraded": True,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }
