"""/v1/models: what a client may ask for."""

from __future__ import annotations

from typing import Any

from flask.typing import ResponseReturnValue

from app.api.access_control import Callers
from app.api.openai_shapes import Model, ModelList
from app.api.operations import Operation, ResponseDoc
from app.api.responses import answer
from app.platform.domain.errors import NotFound
from app.settings import Settings


class ModelViews:
    """The configuration's models, in its order."""

    def __init__(self, callers: Callers, settings: Settings) -> None:
        self._callers = callers
        self._models = {model["id"]: model for model in _models(settings)}

    def operations(self) -> list[Operation]:
        """What is offered."""
        return [
            Operation(
                "GET",
                "/v1/models",
                "List the models.",
                self.list,
                {200: ResponseDoc("All of them.", ModelList)},
                group="OpenAI",
            ),
            Operation(
                "GET",
                "/v1/models/{model}",
                "Look at a model.",
                self.show,
                {200: ResponseDoc("The model.", Model)},
                group="OpenAI",
                refusals=(404,),
                whole_paths=("model",),
            ),
        ]

    def list(self) -> ResponseReturnValue:
        """All of them."""
        self._callers.current()
        return answer({"object": "list", "data": list(self._models.values())})

    def show(self, model: str) -> ResponseReturnValue:
        """One of them; its name may hold slashes."""
        self._callers.current()
        found = self._models.get(model)
        if found is None:
            raise NotFound(
                f"no model {model[:80]!r} is configured here", param="model", code="model_not_found"
            )
        return answer(found)


def _models(settings: Settings) -> list[dict[str, Any]]:
    upstreams = {key.name: key.upstream for key in settings.keys}
    return [
        {
            "id": model.name,
            "object": "model",
            "created": 0,  # nobody knows
            "owned_by": upstreams.get(model.routes()[0][0].key, "penstock"),
        }
        for model in settings.models
    ]
