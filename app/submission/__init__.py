"""Taking work in: tasks, batches, files, chats.

Begin with `submit_task.py`: check, admit, look into the cache, store, publish. `check_request.py` turns what a caller
asks for into a row, `admit.py` asks policies, limits and budgets. Batches come in chunk by chunk (`submit_batch.py`,
`take_in_file.py`); a chat call also waits for its answer (`answer_chat.py`, `stream_chat.py`).

Uses `pacing` (estimates), `caching`, `billing`, `access`, `settings`, `tasks` and `platform`.
"""
