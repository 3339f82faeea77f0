"""What /openapi.json promises is held against generated requests: no 5xx, no status, type or body it does not name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.db.database import Database
from app.db.migrate import upgrade
from tests.api.world import ADMIN_KEY, Parts, World

EXAMPLES = 3  # of each operation and mode
HOLDS_BACK = {"/v1/chat/completions"}  # answers when a worker has; there is none here
CHECKS: list[CheckFunction] = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[World]:
    """A database of its own: what is made here is no other test's business."""
    url = f"sqlite:///{tmp_path}/penstock.db"
    upgrade(url)
    parts = Parts(Database(url), url)
    world = World(parts)
    yield world
    world.app.close()
    parts.database.close()


def test_generated_requests_are_answered_as_the_document_says(own_world: World) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", own_world.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 50
    for operation in operations:
        if operation.path not in HOLDS_BACK:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _try(operation, mode)


def _try(operation: Any, mode: GenerationMode) -> None:
    """`mode`: what the document allows, or what it does not."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answered_as_said(case: Any) -> None:
        case.headers.update({"Authorization": f"Bearer {ADMIN_KEY}", "Accept-Encoding": "identity"})
        case.call_and_validate(checks=CHECKS)

    try:
        answered_as_said()
    except Unsatisfiable:  # nothing about this operation can be got wrong
        assert mode is GenerationMode.NEGATIVE
