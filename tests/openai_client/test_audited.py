"""What the official client does stands in the audit log: who, what, which model, no prompt."""

import openai
import orjson
import pytest

from tests.openai_client.test_batches import line, read, run
from tests.openai_client.world import FAST, World, ask
from tests.stack import wait_until

SECRET = "the audited goose"


def entries(world: World, client_id: str) -> list[dict[str, object]]:
    admin = world.stack.admin
    url = f"{admin.url}/v1/admin/audit?client_id={client_id}&limit=1000"
    answer = admin.pool.request("GET", url, headers={"authorization": f"Bearer {admin.key}"}, timeout=30)
    assert answer.status == 200, answer.data
    return [orjson.loads(row) for row in answer.data.splitlines()]


@pytest.mark.timeout(300)
def test_chat_calls_files_and_batches_are_in_the_audit_log_without_their_prompts(world: World) -> None:
    caller = world.stack.add_client("audited")
    client = openai.OpenAI(base_url=f"{world.stack.url}/v1", api_key=caller.key, max_retries=0)
    whole = client.chat.completions.with_raw_response.create(
        model=FAST, messages=ask(SECRET), temperature=0.25, stop=[SECRET]
    )
    with client.chat.completions.create(model=FAST, messages=ask(SECRET), stream=True) as stream:
        streamed = stream.response.headers["x-penstock-task"]
        assert list(stream)
    batch = run(client, line("a", SECRET))
    assert read(client, batch.output_file_id)

    def found() -> dict[tuple[object, object], dict[str, object]]:
        return {(entry["action"], entry["task_id"]): entry for entry in entries(world, "audited")}

    chat = ("POST /v1/chat/completions", whole.headers["x-penstock-task"])
    wait_until(lambda: {chat, (chat[0], streamed)} <= set(found()), what="both calls in the log")
    seen = found()
    assert (seen[chat]["model"], seen[chat]["status"]) == (FAST, 200)
    assert orjson.loads(str(seen[chat]["details"])) == {"temperature": 0.25}
    actions = {action for action, _ in seen}
    assert ("POST /v1/files", batch.input_file_id) in seen
    assert ("POST /v1/batches", batch.id) in seen
    assert "GET /v1/batches/<batch_id>" in actions
    assert any(str(action).startswith("GET /v1/files/") for action in actions)
    assert SECRET not in str(seen)
    assert not entries(world, "a-stranger")
