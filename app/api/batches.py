"""/v1/batch: many prompts in one request; dry runs, results, pause, resume and retry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Annotated, Any, Literal

from flask import Response, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from app.api.access_control import Callers, Repeats
from app.api.auditing import note, plain_parameters
from app.api.batch_json import read_batch
from app.api.body import (
    Query,
    header_options,
    is_compressed,
    pieces,
    read_batch_options,
    read_body,
    read_query,
)
from app.api.openapi import JSONL, Operation, ResponseDoc, View
from app.api.responses import Rendering, answer
from app.api.shapes import AcceptedBatch, ResultLine
from app.composition.api import OpenAiUseCases, UseCases
from app.platform.domain.errors import Invalid
from app.platform.domain.json_text import lines
from app.platform.domain.times import to_rfc3339
from app.settings import ApiSettings
from app.submission.bodies import BatchBody, BatchLine, BatchOptions
from app.submission.domain.request import BatchRequest, TaskRequest
from app.submission.submit_batch import Estimate, EstimateBatch, SubmittedBatch
from app.submission.validation import parse, parse_json
from app.tasks.domain.rows import BatchRow
from app.tasks.views import Batch, Cost, Shape, Time, cost_of


class DryRunQuery(Query):
    """Whether to submit or only to estimate."""

    dry_run: Literal["true", "false"] = Field(
        "false", description="true: check and estimate the batch without storing anything."
    )


class ModelEstimate(Shape):
    """The share of one model."""

    requests: int
    tokens: int


class BatchEstimate(Shape):
    """Estimated size, cost and duration of a batch."""

    object: Literal["batch.estimate"]
    requests: int
    tokens: Annotated[int, Field(description="Estimated tokens of prompts and completions.")]
    cost: Annotated[Cost | None, Field(description="Maximum cost; null if a price is unknown.")]
    seconds: Annotated[
        float | None,
        Field(
            description="At the present pace, behind what waits already (`at_pace`), else at the configured limits if "
            "nothing else runs; null if neither is known."
        ),
    ]
    finished_at: Time | None
    at_pace: Annotated[
        bool, Field(description="Whether `seconds` counts the present pace and what waits already.")
    ]
    likely_tokens: Annotated[
        int | None,
        Field(description="If answers are as long as your latest ones; null if too few are known."),
    ]
    likely_cost: Annotated[
        Cost | None, Field(description="The same for the cost; null if unknown. `cost` is the most.")
    ]
    models: dict[str, ModelEstimate]


def read_dry_run() -> bool:
    """Whether the current request is a dry run. Raises Invalid."""
    given = request.args.get("dry_run")
    return given is not None and parse(DryRunQuery, {"dry_run": given}).dry_run == "true"


def refuse_options_in_query() -> None:
    """With a JSON body, options in the query string would be ignored: refuse them. Raises Invalid."""
    for name in request.args:
        if name in BatchOptions.model_fields:
            raise Invalid(
                f"{name}: goes into the body when that is JSON; query options are only for JSON Lines "
                "(Content-Type: application/x-ndjson)",
                param=name,
                code="invalid_value",
            )
    read_query(DryRunQuery)


def estimate_view(estimate: Estimate) -> BatchEstimate:
    """Render an estimate."""
    likely = estimate.likely
    return BatchEstimate(
        object="batch.estimate",
        requests=estimate.requests,
        tokens=estimate.tokens,
        cost=cost_of(estimate),
        seconds=estimate.seconds,
        finished_at=to_rfc3339(estimate.finished_at),
        at_pace=estimate.at_pace,
        likely_tokens=likely.tokens if likely else None,
        likely_cost=cost_of(likely) if likely else None,
        models={
            name: ModelEstimate(requests=demand.requests, tokens=demand.tokens)
            for name, demand in estimate.models.items()
        },
    )


_LINES = frozenset(
    {"application/x-ndjson", "application/jsonl", "application/ndjson", "application/x-jsonlines"}
)
MOST_JSON = 64 * 1024 * 1024  # bytes of a JSON body, which is held in memory
_LARGE = 4 * 1024 * 1024  # bytes above which only a few bodies are read at once
_LARGE_AT_ONCE = 4
_PATIENCE = 20.0  # seconds that a large body waits for its turn
_SOON = "5"  # seconds until a client should poll again
_AS_LINES = "send it as JSON Lines (Content-Type: application/x-ndjson) or as several batches"
_LINES_TOO = (
    "As JSON (up to 64 MiB), or as JSON Lines with Content-Type application/x-ndjson: one request per line, with "
    "options for all of them in the query string. Lines are stored as they arrive. All or nothing: if a line is "
    "invalid or the connection breaks, nothing is kept."
)


_Take = Callable[[str, BatchRequest, Iterable[TaskRequest], Repeats], Response]


class _Seen:
    """What the audit log says of a batch's requests, also of a refused one: their model, if they have one in common,
    and the parameters in which they agree."""

    def __init__(self, default: str | None) -> None:
        """`default`: the model of requests that name none."""
        self._default = default
        self._models: set[str | None] = set()
        self._parameters: dict[str, Any] | None = None

    def through(self, requests: Iterable[TaskRequest]) -> Iterator[TaskRequest]:
        """The same requests, looked at as they pass."""
        for one in requests:
            if len(self._models) < 2:
                self._models.add(one.model or self._default)
            if self._parameters != {}:
                self._agree(plain_parameters(one.parameters))
            yield one

    def _agree(self, mine: Mapping[str, Any]) -> None:
        known = mine if self._parameters is None else self._parameters
        self._parameters = {name: value for name, value in known.items() if mine.get(name, _MISSING) == value}

    def note(self) -> None:
        """Add it to the entry of the current request."""
        [model] = self._models if len(self._models) == 1 else [None]
        note(model, parameters=self._parameters)


_MISSING = object()


class BatchViews:
    """The /v1/batch operations."""

    def __init__(
        self,
        use_cases: UseCases,
        estimates: EstimateBatch,
        callers: Callers,
        rendering: Rendering,
        limits: ApiSettings,
    ) -> None:
        self._use_cases = use_cases
        self._estimates = estimates
        self._callers = callers
        self._rendering = rendering
        self._limits = limits
        self._large = BoundedSemaphore(_LARGE_AT_ONCE)

    def operations(self) -> list[Operation]:
        """The operations of these views, each also under /api."""
        one = {200: ResponseDoc("The batch.", Batch)}
        return [
            self._operation(
                "POST",
                "/v1/batch",
                "Submit many prompts.",
                self.submit,
                {
                    200: ResponseDoc("Only with `dry_run`: the estimate. Nothing is stored.", BatchEstimate),
                    202: ResponseDoc(
                        "Stored completely; it will run. See Location and Retry-After.", AcceptedBatch
                    ),
                },
                query=DryRunQuery,
                description=_LINES_TOO,
                body=BatchBody,
                lines=BatchLine,
                refusals=(408, 413, 429),
                repeatable=True,
            ),
            self._operation(
                "GET", "/v1/batch/{batch_id}", "Retrieve a batch.", self.show, one, refusals=(404,)
            ),
            self._operation(
                "GET",
                "/v1/batch/{batch_id}/results",
                "Retrieve the results so far, in the order of the requests.",
                self.results,
                {200: ResponseDoc("One line for each ended task.", ResultLine, JSONL)},
                description="While the batch runs, tasks that have not ended are left out; `x-batch-status` holds "
                "the status of the batch at the start of the response.",
                refusals=(404,),
            ),
            self._operation(
                "POST",
                "/v1/batch/{batch_id}/cancel",
                "Cancel a batch.",
                self.cancel,
                one,
                description="Waiting tasks are cancelled at once. Running calls are not interrupted; results are kept.",
                refusals=(404, 409),
            ),
        ]

    @staticmethod
    def _operation(
        method: str, path: str, summary: str, view: View, answers: Mapping[int, ResponseDoc], **more: Any
    ) -> Operation:
        return Operation(
            method, path, summary, view, answers, group="Batches", aliases=(f"/api{path}",), **more
        )

    def submit(self) -> ResponseReturnValue:
        """202 after the whole batch has been committed."""
        caller = self._callers.current()
        take = self._estimate if read_dry_run() else self._submit
        if request.mimetype in _LINES:
            return self._take_lines(caller.client_id, take)
        refuse_options_in_query()
        return self._take_json(caller.client_id, take)

    def show(self, batch_id: str) -> ResponseReturnValue:
        """The batch."""
        caller = self._callers.current()
        read_query(Query)
        row = self._use_cases.read_batches.batch(caller.client_id, batch_id)
        return answer(self._rendering.batch(row), 200, {} if row.status.ended else {"Retry-After": _SOON})

    def results(self, batch_id: str) -> ResponseReturnValue:
        """A stream, read from the database a page at a time."""
        caller = self._callers.current()
        read_query(Query)
        row = self._use_cases.read_batches.batch(caller.client_id, batch_id)
        rows = self._use_cases.read_batches.results(batch_id)
        stream = (self._rendering.result_line(line) for line in rows)
        return Response(stream, content_type=JSONL, headers={"x-batch-status": row.status})

    def cancel(self, batch_id: str) -> ResponseReturnValue:
        """The batch after the change."""
        caller = self._callers.current()
        row = self._use_cases.cancel_batch.cancel(caller.client_id, batch_id)
        return answer(self._rendering.batch(row))

    def _submit(
        self, client_id: str, options: BatchRequest, requests: Iterable[TaskRequest], repeats: Repeats
    ) -> Response:
        seen = _Seen(options.model or self._use_cases.submit_batch.default_model)
        try:
            submitted = self._use_cases.submit_batch.submit(
                client_id, options, seen.through(requests), repeats.repeat
            )
        finally:
            seen.note()
        note(submitted.row.model or None, subject=submitted.row.id)
        return self._accepted(submitted)

    def _estimate(
        self,
        client_id: str,
        options: BatchRequest,
        requests: Iterable[TaskRequest],
        repeats: Repeats,  # noqa: ARG002
    ) -> Response:
        return answer(estimate_view(self._estimates.estimate(client_id, options, requests)))

    def _take_json(self, client_id: str, take: _Take) -> Response:
        repeats = Repeats("POST /v1/batch")
        with self._room_for(None if is_compressed() else request.content_length):
            raw = repeats.add(read_body(min(self._limits.max_batch_body, MOST_JSON), _AS_LINES))
            body = read_batch(raw)
            del raw
            requests = (line.line_request() for line in body.requests)
            note(body.model)
            options = body.with_more(header_options(BatchOptions))
            return take(client_id, options.options(), requests, repeats)

    @contextmanager
    def _room_for(self, length: int | None) -> Iterator[None]:
        """Limit the large bodies in memory at once: parsed, each takes several times its size."""
        if length is not None and length <= _LARGE:
            yield
        elif self._large.acquire(timeout=_PATIENCE):
            try:
                yield
            finally:
                self._large.release()
        else:
            raise Invalid(
                "too many large JSON bodies at once; try again in a few seconds or send JSON Lines",
                code="too_many_large_bodies",
                status=429,
            )

    def _take_lines(self, client_id: str, take: _Take) -> Response:
        options = read_batch_options().options()
        repeats = Repeats(f"POST /v1/batch?{request.query_string.decode('latin-1')}")
        received = (repeats.add(piece) for piece in pieces(self._limits.max_batch_body))
        requests = _requests(received, self._limits.max_task_body)
        return take(client_id, options, requests, repeats)

    def _accepted(self, submitted: SubmittedBatch) -> Response:
        headers = {"Location": f"/v1/batch/{submitted.row.id}", "Retry-After": _SOON}
        if submitted.repeated:
            headers["Idempotent-Replayed"] = "true"
        accepted = AcceptedBatch(**vars(self._rendering.batch(submitted.row)), task_ids=submitted.task_ids)
        return answer(accepted, 202, headers)


def _requests(received: Iterator[bytes], longest: int) -> Iterator[TaskRequest]:
    """Yield each line as a request; an error names the line."""
    for index, (number, line) in enumerate(lines(received, longest)):
        where, within = f"line {number}: ", f"requests[{index}]"
        try:
            value = parse_json(line, where)
        except Invalid as error:
            raise Invalid(error.message, param=within, code=error.code) from None
        yield parse(BatchLine, value, within=within, where=where).line_request()


class SteeringViews:
    """The /v1/batch operations."""

    def __init__(self, use_cases: OpenAiUseCases, callers: Callers, rendering: Rendering) -> None:
        self._use_cases = use_cases
        self._callers = callers
        self._rendering = rendering

    def operations(self) -> list[Operation]:
        """The operations of these views, each also under /api."""
        return [
            _steering(
                "pause",
                "Pause a batch.",
                self.pause,
                "No new tasks of it start; running calls are not interrupted.",
            ),
            _steering(
                "resume", "Resume a paused batch.", self.resume, "Tasks start in the order of the requests."
            ),
            _steering(
                "retry",
                "Run the failed requests of a batch again.",
                self.retry,
                "Only requests that failed or expired. Each becomes a new task; the old one is not changed. "
                "An expired batch gets its original time limit again.",
            ),
        ]

    def pause(self, batch_id: str) -> ResponseReturnValue:
        """The batch after the change."""
        return self._do(self._use_cases.steer_batch.pause, batch_id)

    def resume(self, batch_id: str) -> ResponseReturnValue:
        """The batch after the change."""
        return self._do(self._use_cases.steer_batch.resume, batch_id)

    def retry(self, batch_id: str) -> ResponseReturnValue:
        """The batch after the change."""
        return self._do(self._use_cases.steer_batch.retry, batch_id)

    def _do(self, what: Callable[[str, str], BatchRow], batch_id: str) -> ResponseReturnValue:
        return answer(self._rendering.batch(what(self._callers.current().client_id, batch_id)))


def _steering(word: str, summary: str, view: View, description: str) -> Operation:
    path = f"/v1/batch/{{batch_id}}/{word}"
    return Operation(
        "POST",
        path,
        summary,
        view,
        {200: ResponseDoc("The batch.", Batch)},
        group="Batches",
        description=description,
        refusals=(404, 409),
        aliases=(f"/api{path}",),
    )
