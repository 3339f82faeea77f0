"""The tables of tasks, clients, callbacks, files and processes.

Instants are Unix seconds (double precision), money is in integer pico-units, bodies are JSON text. Each partial index
serves one statement, which is named next to it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TextClause,
    text,
)

from app.platform.encryption import UNREADABLE, Sealed, SealedBytes

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# SQLite numbers rows only in a column of type INTEGER.
Serial = BigInteger().with_variant(Integer, "sqlite")


# The conditions of the partial indexes. Statements repeat them literally (`text(UNFED)`): with bound values, neither
# database could know that the index fits.
UNFED = "status = 'queued' AND fed_at IS NULL AND hold = 0"
TIMED = "status = 'queued' AND hold = 1"
FED = "status = 'queued' AND fed_at IS NOT NULL"
QUEUED = "status = 'queued'"
RUNNING = "status = 'running'"
HELD_BY_BATCH = "status = 'queued' AND hold = 2"
JOINING = "status = 'queued' AND hold = 4"
LEADING = "leads"
FOLLOWING = "status = 'queued' AND hold = 5"
ABANDONED = "leads AND (hold = 3 OR status IN ('succeeded', 'failed', 'cancelled', 'expired'))"
OVER_BUDGET = "status = 'queued' AND hold = 6"
SETTLING = "reserved_at IS NOT NULL AND status IN ('succeeded', 'failed', 'cancelled', 'expired')"
UNSTORED = "NOT stored AND erased_at IS NULL AND status IN ('succeeded', 'failed', 'cancelled', 'expired')"
DELETED = "deleted_at IS NOT NULL"
IN_BATCH = "batch_id IS NOT NULL"
INTAKE = "status = 'validating'"
SWEEPING = "sweeping"
IN_LINE = "status = 'queued' AND hold = 0"
LINE_OF = (
    "substr(queue, 1)"  # the queue, as an expression that keeps other statements from using the wider index
)
OFF_PEAK = "status = 'queued' AND hold = 7"
IN_WINDOW = "status = 'queued' AND off_peak AND hold IN (0, 4)"
DEGRADABLE = "status = 'queued' AND hold IN (0, 1) AND degrade_at IS NOT NULL"
PENDING = "status = 'pending'"
DELIVERING = "status = 'delivering'"
DEAD_LETTER = "status = 'failed'"


def partial(name: str, *columns: str | TextClause, where: str) -> Index:
    """An index of the rows that meet a condition."""
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(where))


client = Table(
    "client",
    metadata,
    Column("id", Text, primary_key=True),  # the slug
    Column("weight", Double, nullable=False, server_default=text("1")),
    Column("granted_priority", Text, nullable=False, server_default=text("'normal'")),
    Column("callback_secret", Sealed(), nullable=False),  # whsec_..., what its callbacks are signed with
    Column("callback_secret_previous", Sealed()),  # also signs while a secret is rotated
    Column("callback_secret_until", Double),  # when the previous one stops signing
    Column("callback_headers", Sealed()),  # JSON object: extra headers of its callbacks
    Column("is_admin", Boolean, nullable=False, server_default=text("false")),
    Column("team", Text),  # the team it belongs to
    Column("administers", Text),  # the team whose clients it may manage, with a key that has admin scopes
    Column("settings", Text),  # JSON object: limits
    Column("created_at", Double, nullable=False),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),  # ak_...
    Column("client_id", Text, ForeignKey("client.id"), nullable=False),
    Column("hash", Text, nullable=False, unique=True),  # SHA-256, hexadecimal
    Column("hint", Text, nullable=False),  # the last four characters
    Column("scopes", Text, nullable=False, server_default=text("'*'")),  # separated by spaces
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("name", Text),  # for people
    Column("user_name", Text),  # its owner, for policies and the audit log
    Index(None, "client_id"),
)

batch = Table(
    "batch",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("client_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("total", Integer, nullable=False, server_default=text("0")),
    Column("completed", Integer, nullable=False, server_default=text("0")),  # succeeded
    Column("failed", Integer, nullable=False, server_default=text("0")),  # failed, expired
    Column("cancelled", Integer, nullable=False, server_default=text("0")),
    Column("finishes", Text),  # JSON: counts of its answers that are not complete, by `finish`; null: none
    Column("batch_size", Integer),  # how many of its tasks may be in flight at once
    Column("callback_url", Text),
    Column("metadata", Sealed),
    Column("endpoint", Text),
    Column("input_file_id", Text),
    Column("completion_window", Text),
    Column("errors", Text),  # JSON array, when validation failed
    Column("model", Text),  # of all its tasks; null: several, or not given
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("output_expires_seconds", Double),  # how long these two are kept after its end; null: forever
    Column("usage", Text),  # JSON: usage of all its tasks, once it has ended
    Column("taker", Text),  # the process that reads its file
    Column("asker", Text),  # JSON: who created it and from where, for policies; null once its file is read
    Column("created_at", Double, nullable=False),
    Column("in_progress_at", Double),
    Column("expires_at", Double),
    Column("finalizing_at", Double),
    Column("completed_at", Double),
    Column("failed_at", Double),
    Column("expired_at", Double),
    Column("cancelling_at", Double),
    Column("cancelled_at", Double),
    Column("paused_at", Double),
    Column(
        "sweeping", Boolean, nullable=False, server_default=text("false")
    ),  # rows of it have yet to follow its state
    Index(None, "client_id", "seq"),
    partial("ix_batch_intake", "created_at", where=INTAKE),  # submissions that never finished
    partial("ix_batch_sweeping", "id", where=SWEEPING),  # feed_backlog: batches too large for one transaction
)

task = Table(
    "task",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("client_id", Text, nullable=False),
    Column("batch_id", Text),
    Column("batch_index", Integer),  # its line, from 0
    Column("custom_id", Text),
    Column("replaced_by", Text),  # the task that runs this one again
    Column("stream", Boolean, nullable=False, server_default=text("false")),  # the answer is streamed
    Column("model", Text, nullable=False),
    Column("queue", Text, nullable=False),  # backlog.<model>.<client>
    Column("step", Integer, nullable=False),  # 0, 3, 6: the priority's step
    Column("status", Text, nullable=False),
    Column("hold", Integer, nullable=False, server_default=text("0")),
    Column("estimate", Integer, nullable=False),  # tokens: prompt and answer together
    Column("created_at", Double, nullable=False),
    Column("available_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("fed_at", Double),
    Column("started_at", Double),  # of the first attempt
    Column("finished_at", Double),
    Column("attempts", Integer, nullable=False, server_default=text("0")),  # upstream calls made
    Column("counted", Integer, nullable=False, server_default=text("0")),  # those that count
    Column("lost", Integer, nullable=False, server_default=text("0")),
    Column("front", Boolean, nullable=False, server_default=text("false")),  # a retry: goes first
    Column("avoid", Text),  # JSON array of keys to avoid while others can serve
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("facts", Text),  # which conditions of its model's tiers it meets, and after what wait
    Column("prefix", Text),  # digest of its system prompt
    Column("retry", Text),  # name of the requested retry policy
    Column("cache_key", Text),  # <scope>:<hash>, when it uses the cache
    Column(
        "cache_look", Boolean, nullable=False, server_default=text("false")
    ),  # may be answered from the cache
    Column("cache_seconds", Double),  # how long its own answer is cached; null: it is not
    Column("leads", Boolean, nullable=False, server_default=text("false")),  # identical tasks may wait for it
    # the worker that runs it, from claim to end
    Column("worker", Text),
    Column("release", BigInteger),
    Column("claimed_at", Double),  # start of this attempt
    Column("key", Text),
    Column("account", Text),
    Column("upstream_model", Text),
    Column("error_code", Text),
    Column("error_type", Text),
    Column("error_message", Sealed(UNREADABLE)),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column("cost_picos", BigInteger),  # of all its calls
    Column("currency", Text),  # money.NO_SUM: the costs of its calls cannot be added up
    Column("cached", Boolean, nullable=False, server_default=text("false")),  # answered from the cache
    Column(
        "coalesced", Boolean, nullable=False, server_default=text("false")
    ),  # by the call of an identical task
    Column("simulated", Boolean, nullable=False, server_default=text("false")),
    Column("finish", Text),  # how its answer finished; null: no answer, or one of an older release
    Column("callback_url", Text),
    Column("metadata", Sealed),
    Column("reserved_tokens", BigInteger),  # what it may use of its client's budget; null: no budget
    Column("reserved_picos", BigInteger),
    Column("reserved_at", Double),  # since when that is reserved, until it is settled; null: it is not
    Column("stored", Boolean, nullable=False, server_default=text("true")),  # else erased once delivered
    Column("erased_at", Double),  # prompt and result are gone
    Column("deleted_at", Double),  # hidden; its rows are deleted soon
    Column(
        "due", Double, nullable=False, server_default=text("1000000000000")
    ),  # its deadline, if that orders its queue
    Column("off_peak", Boolean, nullable=False, server_default=text("false")),  # runs only off-peak
    Column("degrade_at", Double),  # from when on a degraded answer may end it; null: never
    Column("degraded", Boolean, nullable=False, server_default=text("false")),  # ended by a degraded answer
    Column("estimated_start_at", Double),  # estimated at submission; null: unknown
    Column("asked", Integer, nullable=False, server_default=text("0")),  # max_tokens; 0: not set
    Column("trace", Text),  # traceparent of the submission, if traced
    partial("ix_task_unfed", "queue", "front", "step", "due", "seq", where=UNFED),  # feed_backlog
    partial("ix_task_line", text(LINE_OF), "step", "due", "seq", "expires_at", where=IN_LINE),  # read_line
    partial(
        "ix_task_off_peak", "queue", "expires_at", where=OFF_PEAK
    ),  # off-peak windows: the latest safe start
    partial("ix_task_window", "available_at", where=OFF_PEAK),  # off-peak windows: rows that became due
    partial("ix_task_in_window", "model", "seq", where=IN_WINDOW),  # off-peak windows: when peak hours begin
    partial("ix_task_degradable", "degrade_at", where=DEGRADABLE),  # degrade
    partial("ix_task_timed", "available_at", where=TIMED),  # feed_backlog: rows that became due
    partial("ix_task_fed", "fed_at", "seq", where=FED),  # reconcile
    partial("ix_task_expiry", "expires_at", where=QUEUED),  # expire
    partial("ix_task_running", "worker", where=RUNNING),  # heartbeats and lost workers
    partial("ix_task_held", "batch_id", "seq", where=HELD_BY_BATCH),  # the next of a batch
    partial("ix_task_joining", "seq", where=JOINING),  # to be answered, or joined with others
    partial("ix_task_leading", "cache_key", where=LEADING),  # identical tasks find their leader
    partial("ix_task_following", "cache_key", where=FOLLOWING),  # leaders find their followers
    partial("ix_task_abandoned", "seq", where=ABANDONED),  # leaders that bring no answer
    partial("ix_task_batch", "batch_id", "batch_index", where=IN_BATCH),  # results in input order
    partial("ix_task_over_budget", "client_id", "seq", where=OVER_BUDGET),  # budgets: release
    partial("ix_task_settling", "seq", where=SETTLING),  # budgets: settlement
    partial("ix_task_unstored", "finished_at", where=UNSTORED),  # housekeeping
    partial("ix_task_deleted", "seq", where=DELETED),  # housekeeping
    Index(None, "client_id", "status", "seq"),  # listing, by status
    # Rows are short-lived: only frequent vacuuming keeps the heads of the indexes short.
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.02, "autovacuum_analyze_scale_factor": 0.05},
)

task_content = Table(
    "task_content",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=False),  # the task's
    Column("request", Sealed, nullable=False),  # JSON: the body for the upstream, without `model`
    Column("result", Sealed),  # JSON: the upstream's answer
)

attempt = Table(
    "attempt",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("task_id", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("release", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("upstream_model", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("counted", Boolean, nullable=False),
    Column("status_code", Integer),
    Column("error_message", Sealed(UNREADABLE)),
    Column("upstream_request_id", Text),
    Column("ready_at", Double),  # from when on it could have run
    Column("released_at", Double),
    Column("started_at", Double, nullable=False),
    Column("sent_at", Double),  # the connection stood, the request began
    Column("first_byte_at", Double),
    Column("finished_at", Double, nullable=False),
    Column("recorded_at", Double),  # written, its commit aside
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column("cost_picos", BigInteger),
    Column("currency", Text),
    Index(None, "task_id", "seq"),
)

callback = Table(
    "callback",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),  # evt_..., also the `webhook-id`
    Column("client_id", Text, nullable=False),
    Column("task_id", Text),
    Column("batch_id", Text),
    Column("type", Text, nullable=False),  # task.succeeded, batch.completed ...
    Column("url", Text, nullable=False),
    Column("host", Text, nullable=False, server_default=text("''")),  # host:port, once claimed
    Column("status", Text, nullable=False),  # pending, delivering, delivered, failed
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("tries_before", Integer, nullable=False, server_default=text("0")),  # before its last replay
    Column("next_at", Double, nullable=False),  # earliest time of the next try
    Column("ring_at", Double, nullable=False, server_default=text("0")),  # when the feeder publishes it next
    Column("claimed_by", Text),
    Column("claimed_at", Double),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("last_error", Text),
    partial("ix_callback_due", "host", "ring_at", where=PENDING),  # feed_callbacks, host by host
    partial("ix_callback_delivering", "claimed_at", where=DELIVERING),
    partial("ix_callback_failed", "client_id", "seq", where=DEAD_LETTER),
    Index(None, "task_id"),
    Index(None, "batch_id"),
)

delivery = Table(
    "delivery",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("callback_id", Text, nullable=False),
    Column("number", Integer, nullable=False),  # from 1
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double, nullable=False),
    Column("status_code", Integer),
    Column("error", Text),
    Index(None, "callback_id", "number"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),  # SHA-256 of method, path and payload
    Column("object_id", Text, nullable=False),  # task_... or batch_...
    Column("expires_at", Double, nullable=False),
    Index(None, "expires_at"),
)

worker = Table(
    "worker",
    metadata,
    Column("id", Text, primary_key=True),  # the incarnation
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("beat", BigInteger, nullable=False, server_default=text("0")),  # counts up
    Column("started_at", Double, nullable=False),
    Column("beat_at", Double, nullable=False),  # for people to read
    Column("calls", BigInteger, nullable=False, server_default=text("0")),  # made upstream
    Column("connections", BigInteger, nullable=False, server_default=text("0")),  # opened for them
    Column("ended_at", Double),
)

learned = Table(
    "learned",
    metadata,
    Column("quota", Text, primary_key=True),
    Column("figures", Text, nullable=False),  # JSON
    Column("updated_at", Double, nullable=False),
)

pause = Table(
    "pause",
    metadata,
    Column("subject", Text, primary_key=True),  # everything, model:..., client:..., key:...
    Column("since", Double, nullable=False),
)

health = Table(
    "health",
    metadata,
    Column("subject", Text, primary_key=True),  # key:..., account:...
    Column("facts", Text, nullable=False),  # JSON
    Column("updated_at", Double, nullable=False),
)

configuration = Table(
    "configuration",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row
    Column("generation", BigInteger, nullable=False),  # counts reloads
    Column("asked_at", Double, nullable=False),
)

UNSETTLED = "status IN ('uploading', 'deleted')"
PERISHABLE = "expires_at IS NOT NULL"
ABANDONED_CALLS = "abandon_at IS NOT NULL"

file = Table(
    "file",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),  # file_...
    Column("client_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("status", Text, nullable=False),  # uploading, processed, deleted (its chunks follow)
    Column("bytes", BigInteger),  # null: rendered from a batch's rows, and never measured yet
    Column("batch_id", Text),  # whose output this is
    Column("kind", Text),  # output, errors; null: uploaded
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Index(None, "client_id", "seq"),
    Index(None, "batch_id"),
    partial("ix_file_unsettled", "seq", where=UNSETTLED),  # clean_up
    partial("ix_file_perishable", "expires_at", where=PERISHABLE),  # clean_up
)

file_chunk = Table(
    "file_chunk",
    metadata,
    Column("file_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("data", SealedBytes, nullable=False),  # 1 MiB; the last one less
)

waiting_call = Table(
    "waiting_call",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),  # SHA-256 of API key and body
    Column("connection", Text),  # the request that waits for it; null: it is gone, and a repeat may attach
    Column("holder", Text),  # the process that has the connection
    Column("abandon_at", Double),  # when the task is given up, its connection being gone
    Column("created_at", Double, nullable=False),
    Index(None, "client_id", "fingerprint"),
    Index(None, "holder"),
    partial("ix_waiting_call_abandoned", "abandon_at", where=ABANDONED_CALLS),  # abandon_calls
)

holder = Table(
    "holder",
    metadata,
    Column(
        "id", Text, primary_key=True
    ),  # an incarnation of a process that has connections or takes files in
    Column("beat", BigInteger, nullable=False, server_default=text("0")),  # counts up
    Column("beat_at", Double, nullable=False),  # for people to read
)
