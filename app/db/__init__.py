"""Tables, and the statements that move rows. Each transition is one compare-and-set."""

from app.db import access_tables as _access_tables  # noqa: F401
from app.db import alert_tables as _alert_tables  # noqa: F401
from app.db import cost_tables as _cost_tables  # noqa: F401  # all tables are known wherever one is
from app.db import openai_tables as _openai_tables  # noqa: F401
