"""Taking work in: tasks, batches, files, chats.

Begin with `submit_task.py`: check, admit, look up the cache, store, publish. `check_request.py` turns a request into a
row, `admit.py` applies policies, limits and budgets. Batches are stored chunk by chunk (`batch_intake.py`), from bodies
(`submit_batch.py`) and files (`take_in_file.py`). A chat call also waits for its answer (`answer_chat.py`,
`stream_chat.py`).

Uses `pacing` (estimates), `caching`, `billing`, `access`, `settings`, `tasks` and `platform`.
"""
