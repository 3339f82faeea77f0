"""The use cases that the API calls, built from the parts of the process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from app.access.audit_log import RecordAudit
from app.access.authenticate import Authenticate
from app.access.manage_policies import PolicyBook
from app.access.request_rates import RequestRates
from app.caching.domain.caching import AnswerCache
from app.caching.use_cache import UseCache
from app.dispatching.steer_dispatcher import SteerDispatcher
from app.pacing.build_controllers import held_keys
from app.pacing.ports import Explain, NoExplanation
from app.platform.database import Database
from app.platform.ports import Clock
from app.reporting.meters import Meters
from app.reporting.read_dispatcher import ReadDispatcher
from app.reporting.read_service import ServiceReader
from app.settings import Settings
from app.settings.topology import build_topology
from app.submission.admit import Admission
from app.submission.answer_chat import AnswerChat, BeginChat
from app.submission.create_file_batch import CreateFileBatch, RunIntakes
from app.submission.hold_connections import HoldConnections
from app.submission.retry_tasks import RetryTask, RetryTasks
from app.submission.steer_batch import SteerBatch
from app.submission.store_file import StoreFile
from app.submission.stream_chat import StreamChat
from app.submission.submission_rules import admission_of, ceiling_of, fallbacks_of, rules_of
from app.submission.submit_batch import EstimateBatch, SubmitBatch
from app.submission.submit_task import SubmitTask
from app.submission.take_in_file import TakeInFile
from app.tasks.cancel import CancelBatch, CancelTask, DeleteTask
from app.tasks.ports import BacklogPublisher, Changes
from app.tasks.read_batches import ReadBatches, ReadBatchUsage
from app.tasks.read_files import ReadFiles
from app.tasks.read_tasks import ReadTasks
from app.tasks.wait import FollowObject, Waiters, WaitForTask, WatchEndings
from app.upstreams.answer_streams import NoStreamReader, StreamReader
from app.upstreams.key_tests import UpstreamTests


class Dependencies(Protocol):
    """What the API needs of the process. Bootstrap's Penstock fits, and so do small fakes."""

    @property
    def settings(self) -> Settings:
        """The configuration."""

    @property
    def clock(self) -> Clock:
        """Time."""

    @property
    def database(self) -> Database:
        """The truth."""

    @property
    def publisher(self) -> BacklogPublisher:
        """The backlog queues; its calls must end within 250 ms."""

    @property
    def changes(self) -> Changes | None:
        """News of ended tasks; None: the database is asked once a second."""

    @property
    def rates(self) -> RequestRates:
        """Clients' requests per minute; its calls must end within 250 ms."""

    @property
    def streams(self) -> StreamReader | None:
        """Answers as they come; None: they are passed on when they are whole."""

    @property
    def answers(self) -> AnswerCache:
        """Answers that may be given again; its calls must end within 250 ms."""

    @property
    def meters(self) -> Meters:
        """What this process counts."""

    @property
    def explain(self) -> Explain | None:
        """Why tasks wait; None: unknown."""


@dataclass(frozen=True, slots=True)
class UseCases:
    """The use cases of one process."""

    authenticate: Authenticate
    submit_task: SubmitTask
    submit_batch: SubmitBatch
    read_tasks: ReadTasks
    read_batches: ReadBatches
    wait_for_task: WaitForTask
    cancel_task: CancelTask
    delete_task: DeleteTask
    retry_task: RetryTask
    retry_tasks: RetryTasks
    cancel_batch: CancelBatch
    waiters: Waiters
    watch: WatchEndings
    explain: Explain
    database: Database
    clock: Clock
    policies: PolicyBook
    record_audit: RecordAudit
    admission: Admission
    service: ServiceReader
    read_dispatcher: ReadDispatcher
    steer: SteerDispatcher

    def client_changed(self) -> None:
        """Limits that were changed here hold here from the next request on; elsewhere within seconds."""
        self.admission.forget()
        self.authenticate.forget()


def build_use_cases(parts: Dependencies) -> UseCases:
    """Make them. Threads start when they are first needed, so that this may be called before a fork."""
    settings, clock, database, publisher = parts.settings, parts.clock, parts.database, parts.publisher
    rules = rules_of(settings)
    tracer = getattr(parts, "tracer", None)
    waiters = Waiters(settings.api.waiters)
    watch = WatchEndings(waiters, database, parts.changes)
    read_tasks = ReadTasks(database)
    policies = PolicyBook(database, clock, settings.access.default)
    admission = admission_of(settings, database, clock, policies)
    retry_task = RetryTask(database, publisher, clock, admission)
    # `getattr`: small test containers have neither; then Redis counts as unreachable.
    service = ServiceReader(
        database, getattr(parts, "pacing_snapshots", None), getattr(parts, "wait_reasons", None), clock
    )
    admin_key = settings.admin_key.get_secret_value() if settings.admin_key else None
    return UseCases(
        authenticate=Authenticate(database, clock, admin_key),
        submit_task=SubmitTask(
            database,
            publisher,
            rules,
            clock,
            admission,
            UseCache(
                parts.answers,
                coalesce=settings.cache.enabled and settings.cache.coalesce,
                fallbacks=fallbacks_of(settings),
            ),
            parts.explain,
            parts.meters,
            tracer,
        ),
        submit_batch=SubmitBatch(
            database, publisher, rules, clock, admission, parts.explain, parts.meters, tracer
        ),
        read_tasks=read_tasks,
        read_batches=ReadBatches(database),
        wait_for_task=WaitForTask(read_tasks, waiters, watch.start, clock),
        cancel_task=CancelTask(database, publisher, clock),
        delete_task=DeleteTask(database, publisher, clock),
        retry_task=retry_task,
        retry_tasks=RetryTasks(database, retry_task),
        cancel_batch=CancelBatch(database, publisher, clock),
        waiters=waiters,
        watch=watch,
        explain=parts.explain or NoExplanation(),
        database=database,
        clock=clock,
        policies=policies,
        record_audit=RecordAudit(database),
        admission=admission,
        service=service,
        read_dispatcher=ReadDispatcher(service, build_topology(settings), held_keys(settings)),
        steer=SteerDispatcher(
            database,
            held_keys(settings),
            {model.name for model in settings.models},
            UpstreamTests(settings, os.environ, clock),
            clock,
        ),
    )


@dataclass(frozen=True, slots=True)
class OpenAiUseCases:
    """The use cases of one process."""

    answer_chat: AnswerChat
    stream_chat: StreamChat
    store_file: StoreFile
    read_files: ReadFiles
    create_file_batch: CreateFileBatch
    read_batches: ReadBatches
    read_batch_usage: ReadBatchUsage
    cancel_batch: CancelBatch
    steer_batch: SteerBatch
    estimate_batch: EstimateBatch
    read_tasks: ReadTasks
    follow: FollowObject
    connections: HoldConnections
    intakes: RunIntakes

    def close(self) -> None:
        """End the threads that requests have started."""
        self.intakes.close()
        self.connections.close()


def build_openai_use_cases(use_cases: UseCases, parts: Dependencies) -> OpenAiUseCases:
    """Make them upon the others. Threads start when they are first needed."""
    settings, database, clock, waiters = parts.settings, parts.database, parts.clock, use_cases.waiters
    connections = HoldConnections(database, clock)
    explain = use_cases.explain
    begin = BeginChat(
        use_cases.submit_task, waiters, use_cases.watch.start, connections, clock, explain.is_keyless
    )
    rules, admission = rules_of(settings), use_cases.admission
    longest, most = settings.api.max_task_body, settings.api.max_batch_body
    take_in = TakeInFile(database, parts.publisher, rules, clock, admission, longest, parts.meters, most)
    intakes = RunIntakes(take_in, database, connections, clock)
    streams = parts.streams or NoStreamReader()
    return OpenAiUseCases(
        answer_chat=AnswerChat(begin, use_cases.read_tasks, waiters, clock),
        stream_chat=StreamChat(begin, use_cases.read_tasks, waiters, streams, clock),
        store_file=StoreFile(database, clock, settings.api.max_batch_body),
        read_files=ReadFiles(database, clock),
        create_file_batch=CreateFileBatch(database, intakes, rules, clock),
        read_batches=use_cases.read_batches,
        read_batch_usage=ReadBatchUsage(database, clock),
        cancel_batch=use_cases.cancel_batch,
        steer_batch=SteerBatch(database, parts.publisher, clock, admission, rules.models),
        estimate_batch=EstimateBatch(
            rules, build_topology(settings), ceiling_of(settings), clock, database, parts.explain
        ),
        read_tasks=use_cases.read_tasks,
        follow=FollowObject(waiters, use_cases.watch.start, clock),
        connections=connections,
        intakes=intakes,
    )
