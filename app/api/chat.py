"""/v1/chat/completions, waiting and streaming, and /v1/models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

import orjson
from flask import Response, request
from flask.typing import ResponseReturnValue

from app.access.domain.caller import Caller
from app.api.access_control import Callers, Repeats
from app.api.auditing import TASK_HEADER, note
from app.api.body import ONE_TASK, read_body, watch_peer
from app.api.openai_shapes import ChatCompletion, Model, ModelList
from app.api.openapi import Operation, ResponseDoc
from app.api.responses import SHOULD_RETRY, Rendering, answer, envelope, error_response
from app.api.stored_chats import completion_id
from app.composition.api import OpenAiUseCases
from app.platform.domain.errors import Forbidden, Invalid, NotFound
from app.platform.domain.event_stream import COMMENT, DONE, event
from app.platform.domain.names import nearest
from app.settings import ApiSettings, Settings
from app.submission.answer_chat import Chat, ChatCall, ChatOutcome, Waited
from app.submission.bodies import option_headers, with_options
from app.submission.domain.request import PREFER, parse_prefer, read_patience
from app.submission.hold_connections import GRACE_SECONDS
from app.submission.openai_bodies import STORED, ChatBody
from app.submission.stream_chat import NO_KEY, Alive, Broken, Chunk, Event, Streaming, failure_of
from app.submission.validation import parse, parse_json
from app.tasks.views import Task
from app.upstreams.domain.chat_stream import for_client


class ModelViews:
    """The configured models, in their order."""

    def __init__(self, callers: Callers, settings: Settings) -> None:
        self._callers = callers
        self._models = {model.id: model for model in _models(settings)}

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "GET",
                "/v1/models",
                "List the models.",
                self.list,
                {200: ResponseDoc("All of them.", ModelList)},
                group="OpenAI",
            ),
            Operation(
                "GET",
                "/v1/models/{model}",
                "Retrieve a model.",
                self.show,
                {200: ResponseDoc("The model.", Model)},
                group="OpenAI",
                refusals=(404,),
                whole_paths=("model",),
            ),
            Operation(
                "DELETE",
                "/v1/models/{model}",
                "Refused: models are configured by the operator.",
                self.delete,
                {},
                group="OpenAI",
                refusals=(403, 404),
                whole_paths=("model",),
            ),
        ]

    def list(self) -> ResponseReturnValue:
        """All of them."""
        self._callers.current()
        return answer(ModelList(object="list", data=list(self._models.values())))

    def delete(self, model: str) -> ResponseReturnValue:
        """403: models are not clients' to delete."""
        self._callers.current()
        if model not in self._models:
            raise self._unknown(model)
        raise Forbidden(
            f"model {model[:80]!r} is configured by the operator, in penstock.toml; clients cannot delete it",
            param="model",
            code="model_not_deletable",
        )

    def show(self, model: str) -> ResponseReturnValue:
        """One model; its name may contain slashes."""
        self._callers.current()
        found = self._models.get(model)
        if found is None:
            raise self._unknown(model)
        return answer(found)

    def _unknown(self, name: str) -> NotFound:
        found = nearest(name, frozenset(self._models))
        near = f"did you mean {found!r}?" if found else "see /v1/models"
        return NotFound(
            f"model {name[:80]!r} is not configured; {near}", param="model", code="model_not_found"
        )


def _models(settings: Settings) -> list[Model]:
    upstreams = {key.name: key.upstream for key in settings.keys}
    return [
        Model(
            id=name,
            object="model",
            created=0,  # unknown
            owned_by=upstreams.get(model.routes()[0][0].key, "penstock"),
        )
        for model in settings.models
        for name in (model.name, *model.aliases)
    ]


PATH = "/v1/chat/completions"
_KEYLESS_AGAIN = "60"  # seconds
DEPLOYMENT = "penstock.deployment"  # in the WSGI environment: the model that an Azure path names
CACHE_HEADER = "x-penstock-cache"  # where an answer came from
_ABOUT = (
    "The call waits in its queue and returns the upstream's response; `x-penstock-task` names its task, "
    "`x-penstock-cache` says whether it came from the cache: `hit`, `stale`, `coalesced` or `miss`. With `stream` "
    "it returns server-sent events: comments while queued, then the upstream's chunks. `Prefer: respond-async, "
    "wait=N` returns 202 and a task after N seconds. Five seconds before the client's timeout (if not sent: 300 s, "
    "or 60 s through a proxy) the response is 408: the same request, sent again, continues with the same task. If the "
    "client hangs up and does not return, a waiting task is cancelled; a running call is not interrupted, and its "
    "result is kept. With `x-penstock-join: true`, equal requests of one key that wait or run share one task."
)


class ChatViews:
    """The /v1/chat/completions operation."""

    def __init__(
        self, use_cases: OpenAiUseCases, callers: Callers, rendering: Rendering, limits: ApiSettings
    ) -> None:
        self._use_cases = use_cases
        self._callers = callers
        self._rendering = rendering
        self._limits = limits

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "POST",
                PATH,
                "Create a chat completion and wait for it.",
                self.create,
                {
                    200: ResponseDoc("The upstream's answer.", ChatCompletion),
                    202: ResponseDoc("Only with `Prefer: respond-async`: the current task.", Task),
                },
                group="OpenAI",
                description=_ABOUT,
                body=ChatBody,
                refusals=(404, 408, 409, 413, 429, 500, 502, 504),
                repeatable=True,
            )
        ]

    def create(self) -> ResponseReturnValue:
        """200 with the completion, the status of the failure, or 202 or 408 if it is still waiting."""
        caller = self._callers.current()
        repeats = Repeats(f"POST {PATH}")
        raw = repeats.add(read_body(self._limits.max_task_body, ONE_TASK))
        value = parse_json(raw)
        if (deployment := request.environ.get(DEPLOYMENT)) and isinstance(value, dict):
            value["model"] = deployment
        body = parse(ChatBody, with_options(value, option_headers(request.headers.items())))
        note(body.model, parameters={**body.parameters, **(body.model_extra or {})})
        call = ChatCall(
            caller.client_id,
            body.request(STORED if body.options().store else None),
            _fingerprint(caller, raw),
            read_patience(request.headers.get, self._limits.proxy_timeout),
            parse_prefer(request.headers.get(PREFER)),
            repeats.repeat(),
            watch_peer(request.environ),
            body.joins(default=self._limits.join_equal),
        )
        try:
            return self._streamed(call, with_usage=body.with_usage) if body.stream else self._whole(call)
        except Invalid as error:
            raise _as_openai(error) from None

    def _whole(self, call: ChatCall) -> Response:
        outcome = self._use_cases.answer_chat.answer(call)
        if outcome.why is Waited.ENDED:
            return _ended(outcome)
        outcome.chat.finish(answered=False, repeats=outcome.why is not Waited.KEYLESS)
        if call.preference.respond_async:
            return self._later(outcome)
        return _not_yet(outcome, call)

    def _later(self, outcome: ChatOutcome) -> Response:
        task_id = outcome.chat.task_id
        headers = {
            "Location": f"/v1/tasks/{task_id}",
            "Retry-After": "2",
            "Preference-Applied": outcome.chat.call.preference.applied(),
            TASK_HEADER: task_id,
        }
        return answer(self._rendering.task(outcome.row), 202, headers)

    def _streamed(self, call: ChatCall, *, with_usage: bool) -> Response:
        if call.preference.respond_async:
            raise Invalid(
                "stream: cannot be combined with Prefer: respond-async", param="stream", code="invalid_value"
            )
        streaming = self._use_cases.stream_chat.stream(call)
        try:
            first = next(streaming.events, None)
        except BaseException:
            streaming.finish(answered=False, repeats=True)
            raise
        if isinstance(first, Broken):
            return _failed_at_once(streaming, first)
        headers = {
            TASK_HEADER: streaming.chat.task_id,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",  # otherwise nginx buffers chunks
            **_origin(streaming.chat, streaming.row()),
        }
        sent = _events(streaming, chain([first] if first else [], streaming.events), with_usage=with_usage)
        return Response(sent, content_type="text/event-stream; charset=utf-8", headers=headers)


def _fingerprint(caller: Caller, body: bytes) -> str:
    """A hash of API key, path and body, which a client's retry shares with its earlier attempt."""
    deployment = request.environ.get(DEPLOYMENT) or ""
    return hashlib.sha256(f"{caller.key_id}\n{deployment}\n".encode() + body).hexdigest()


def _as_openai(error: Invalid) -> Invalid | NotFound:
    if error.code == "model_not_found":
        return NotFound(error.message, param=error.param, code=error.code)
    return error


def _ended(outcome: ChatOutcome) -> Response:
    row = outcome.row
    if row.result is not None:
        status, body = 200, row.result.encode()
        if row.custom_id == STORED:
            body = orjson.dumps({**orjson.loads(body), "id": completion_id(row.id)})
    else:
        failure = failure_of(row)
        status = failure.status
        body = envelope(failure.message, type_=failure.type, param=failure.param, code=failure.code)
    headers = {TASK_HEADER: row.id, **_origin(outcome.chat, row), "Content-Length": str(len(body))}
    if status != 200:
        headers[SHOULD_RETRY] = "false"  # the retry policy is exhausted
    return Response(_sent(body, outcome), status, headers, content_type="application/json")


def _origin(chat: Chat, row: Any) -> dict[str, str]:
    """Where an answer came from: an earlier call with its Idempotency-Key, or a repeat of it; and the cache."""
    replayed = {} if chat.made else {"Idempotent-Replayed": "true"}
    known = row is not None and row.status.ended
    return {**replayed, **({CACHE_HEADER: _cache_state(row)} if known else {})}


def _cache_state(row: Any) -> str:
    """As the cache header says it."""
    if row.cached:
        return "stale" if row.degraded else "hit"
    return "coalesced" if row.coalesced else "miss"


def _sent(body: bytes, outcome: ChatOutcome) -> Iterator[bytes]:
    """Yield the body; the chat counts as answered once the server has written it."""
    answered = False
    try:
        yield body
        answered = True
    finally:
        outcome.chat.finish(answered=answered)


def _not_yet(outcome: ChatOutcome, call: ChatCall) -> Response:
    headers = {TASK_HEADER: outcome.chat.task_id, SHOULD_RETRY: "true", "retry-after-ms": "50"}
    if outcome.why is Waited.KEYLESS:
        return _without_key(outcome)
    if outcome.why is Waited.CLOSING:
        headers["retry-after-ms"] = "2000"
        message, code = "the service is restarting; send the request again to keep waiting", "restarting"
        return error_response(503, message, type_="server_error", code=code, headers=headers)
    message = (
        "the task is still waiting, and your client or a proxy could time out; send the same request again to keep "
        "waiting for the same task"
    )
    if not call.patience.repeats and call.repeat is None:
        message += f": within {GRACE_SECONDS:.0f} seconds, or at any time with an Idempotency-Key"
    return error_response(408, message, type_="timeout_error", code="still_waiting", headers=headers)


def _without_key(outcome: ChatOutcome) -> Response:
    headers = {TASK_HEADER: outcome.chat.task_id, SHOULD_RETRY: "false", "Retry-After": _KEYLESS_AGAIN}
    return error_response(NO_KEY.status, NO_KEY.message, type_=NO_KEY.type, code=NO_KEY.code, headers=headers)


def _failed_at_once(streaming: Streaming, failure: Broken) -> Response:
    restarting = failure.code == "restarting"
    streaming.finish(answered=not restarting, repeats=True)
    headers = {TASK_HEADER: streaming.chat.task_id, SHOULD_RETRY: "true" if restarting else "false"}
    return error_response(
        failure.status,
        failure.message,
        type_=failure.type,
        param=failure.param,
        code=failure.code,
        headers=headers,
    )


def _events(streaming: Streaming, events: Iterator[Event], *, with_usage: bool) -> Iterator[bytes]:
    """Yield server-sent events; the generator is closed when the client has gone."""
    answered = False
    try:
        for said in events:
            if isinstance(said, Alive):
                yield COMMENT
            elif isinstance(said, Chunk):
                yield from _chunk(_renamed(said, streaming.chat), with_usage=with_usage)
            elif isinstance(said, Broken):
                yield event(orjson.dumps({"error": _error(said)}))
                return
            else:
                yield event(DONE)
                answered = True
    finally:
        streaming.finish(answered=answered, repeats=False)


def _renamed(chunk: Chunk, chat: Chat) -> Chunk:
    """With the id by which a stored answer can be retrieved."""
    if chat.call.request.custom_id != STORED:
        return chunk
    return Chunk({**chunk.data, "id": completion_id(chat.task_id)})


def _chunk(chunk: Chunk, *, with_usage: bool) -> Iterator[bytes]:
    shown = for_client(chunk.data, with_usage=with_usage)
    if shown is not None:
        yield event(orjson.dumps(shown))


def _error(failure: Broken) -> dict[str, Any]:
    return {"message": failure.message, "type": failure.type, "param": failure.param, "code": failure.code}
