"""The use cases behind the OpenAI-compatible endpoints."""

from __future__ import annotations

from dataclasses import dataclass

from app.api.use_cases import Dependencies, UseCases, rules_of
from app.settings.topology import build_topology
from app.submission.answer_chat import AnswerChat, BeginChat
from app.submission.create_file_batch import CreateFileBatch, RunIntakes
from app.submission.estimate_batch import EstimateBatch
from app.submission.file_lines import parse_line
from app.submission.hold_connections import HoldConnections
from app.submission.steer_batch import SteerBatch
from app.submission.store_file import StoreFile
from app.submission.stream_chat import StreamChat
from app.submission.submission_rules import ceiling_of
from app.submission.take_in_file import TakeInFile
from app.tasks.cancel import CancelBatch
from app.tasks.read_batches import ListBatches, ReadBatches, ReadBatchUsage
from app.tasks.read_files import ReadFiles
from app.tasks.read_tasks import ReadTasks
from app.tasks.wait import FollowObject
from app.upstreams.ports import NoStreamReader


@dataclass(frozen=True, slots=True)
class OpenAiHouse:
    """The use cases of one process."""

    answer_chat: AnswerChat
    stream_chat: StreamChat
    store_file: StoreFile
    read_files: ReadFiles
    create_file_batch: CreateFileBatch
    list_batches: ListBatches
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


def build_openai(house: UseCases, parts: Dependencies) -> OpenAiHouse:
    """Make them upon the others. Threads start when they are first needed."""
    settings, database, clock, waiters = parts.settings, parts.database, parts.clock, house.waiters
    connections = HoldConnections(database, clock)
    begin = BeginChat(house.submit_task, waiters, house.watch.start, connections)
    rules, admission = rules_of(settings), house.admission
    longest = settings.api.max_task_body
    take_in = TakeInFile(
        database, parts.reservoir, rules, clock, admission, parse_line, longest, parts.meters
    )
    intakes = RunIntakes(take_in, database, connections, clock)
    streams = parts.streams or NoStreamReader()
    return OpenAiHouse(
        answer_chat=AnswerChat(begin, house.read_tasks, waiters, clock),
        stream_chat=StreamChat(begin, house.read_tasks, waiters, streams, clock),
        store_file=StoreFile(database, clock, settings.api.max_batch_body),
        read_files=ReadFiles(database, clock),
        create_file_batch=CreateFileBatch(database, intakes, rules, clock),
        list_batches=ListBatches(database),
        read_batches=house.read_batches,
        read_batch_usage=ReadBatchUsage(database, clock),
        cancel_batch=house.cancel_batch,
        steer_batch=SteerBatch(database, parts.reservoir, clock, admission, rules.models),
        estimate_batch=EstimateBatch(rules, build_topology(settings), ceiling_of(settings), clock),
        read_tasks=house.read_tasks,
        follow=FollowObject(waiters, house.watch.start, clock),
        connections=connections,
        intakes=intakes,
    )
