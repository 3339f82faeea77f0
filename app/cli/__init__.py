"""The command line: `penstock COMMAND`.

Begin with `root.py`: one table of all commands, each imported when it is used. `remote.py` speaks to a running service
over HTTP; `opened.py` opens the database itself, for what must work without one. `supervisor/` keeps the processes of
`penstock up` alive; `doctor/` looks at everything.

Uses everything else; nothing uses it.
"""

from app.cli.root import main

__all__ = ["main"]
