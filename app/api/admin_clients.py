"""/v1/admin/clients: clients and their keys, for service and team administrators."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from flask.typing import ResponseReturnValue

from app.access import manage_clients, manage_keys, manage_policies
from app.access.domain.caller import SECRET_BYTES, Caller, ClientRow, within
from app.access.manage_clients import check_limits, client_json, key_json
from app.api.access_control import Callers
from app.api.access_shapes import (
    ApiKey,
    ApiKeyList,
    Client,
    ClientBody,
    ClientChange,
    ClientList,
    KeyBody,
    NewApiKey,
    NewClient,
    RotateBody,
    Secret,
)
from app.api.auditing import note
from app.api.body import read_model
from app.api.openapi import Operation, ResponseDoc
from app.api.responses import answer
from app.callbacks.callback_settings import OVERLAP_SECONDS, rotate_callback_secret
from app.composition.api import UseCases
from app.platform.domain.errors import Forbidden, NotFound

_PATH = "/v1/admin/clients"
_ONE = f"{_PATH}/{{client_id}}"
_KEYS = f"{_ONE}/keys"


class ClientViews:
    """The /v1/admin/clients operations. A team administrator only sees the clients of the team."""

    def __init__(self, use_cases: UseCases, callers: Callers) -> None:
        self._use_cases = use_cases
        self._callers = callers

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        one, made = (
            {200: ResponseDoc("The client.", Client)},
            {201: ResponseDoc("The key; it is only shown once.", NewApiKey)},
        )
        return [
            _admin("GET", _PATH, "List clients.", self.list, {200: ResponseDoc("The clients.", ClientList)}),
            _admin(
                "POST",
                _PATH,
                "Add a client.",
                self.add,
                {201: ResponseDoc("The client; its secrets are only shown once.", NewClient)},
                body=ClientBody,
                refusals=(409, 413),
            ),
            _admin("GET", _ONE, "Retrieve a client.", self.show, one, refusals=(404,)),
            _admin(
                "PATCH", _ONE, "Change a client.", self.change, one, body=ClientChange, refusals=(404, 413)
            ),
            _admin(
                "GET",
                _KEYS,
                "List a client's keys.",
                self.keys,
                {200: ResponseDoc("The keys.", ApiKeyList)},
                refusals=(404,),
            ),
            _admin("POST", _KEYS, "Create an API key.", self.make, made, body=KeyBody, refusals=(404, 413)),
            _admin(
                "POST",
                f"{_KEYS}/{{key_id}}/rotate",
                "Replace a key; the old one expires after an overlap.",
                self.rotate,
                made,
                body=RotateBody,
                refusals=(404, 409, 413),
            ),
            _admin(
                "POST",
                f"{_KEYS}/{{key_id}}/revoke",
                "Revoke a key; effective within seconds in every process.",
                self.revoke,
                {200: ResponseDoc("The client's keys.", ApiKeyList)},
                refusals=(404,),
            ),
            _admin(
                "POST",
                f"{_ONE}/callback-secret",
                "Rotate the callback secret; both secrets sign during the overlap.",
                self.rotate_secret,
                {201: ResponseDoc("The secret; it is only shown once.", Secret)},
                body=RotateBody,
                refusals=(404, 413),
            ),
        ]

    def list(self) -> ResponseReturnValue:
        """The clients that the caller may manage."""
        caller = self._callers.current()
        rows = manage_clients.list_clients(self._use_cases.database)
        return answer(
            ClientList(
                object="list", data=[Client(**client_json(row)) for row in rows if caller.manages(row.team)]
            )
        )

    def add(self) -> ResponseReturnValue:
        """201 with the client and its secrets."""
        caller = self._callers.current()
        body = read_model(ClientBody, optional=True)
        note(subject=body.id)
        changes = _changes(caller, body)
        changes.setdefault("team", caller.administers or None)
        changes["scopes"] = caller.scopes  # nobody may grant scopes they lack
        if not caller.is_admin:
            manage_policies.check_new_name(self._use_cases.database, body.id)
            changes["added_by"] = caller.client_id
        made = manage_clients.add_client(self._use_cases.database, self._use_cases.clock, body.id, **changes)
        self._use_cases.client_changed()
        row = manage_clients.get_client(self._use_cases.database, body.id)
        new = NewClient(**client_json(row), api_key=made.api_key, callback_secret=made.callback_secret)
        return answer(new, 201)

    def show(self, client_id: str) -> ResponseReturnValue:
        """The client."""
        return answer(Client(**client_json(self._reach(client_id)[1])))

    def change(self, client_id: str) -> ResponseReturnValue:
        """The changed client."""
        caller, _ = self._reach(client_id)
        changes = _changes(caller, read_model(ClientChange, optional=True))
        row = manage_clients.change_client(self._use_cases.database, client_id, changes)
        self._use_cases.client_changed()
        return answer(Client(**client_json(row)))

    def keys(self, client_id: str) -> ResponseReturnValue:
        """Its keys."""
        self._reach(client_id)
        return answer(self._listed(client_id))

    def make(self, client_id: str) -> ResponseReturnValue:
        """201 with the key."""
        caller, row = self._reach(client_id)
        body = read_model(KeyBody, optional=True)
        _refuse_more(caller, body.scopes)
        _refuse_administrators(caller, row)
        params = manage_keys.KeyParams(body.scopes, body.expires_at, body.name, _user(caller, body.user))
        made = manage_keys.create_key(self._use_cases.database, self._use_cases.clock, client_id, params)
        return answer(NewApiKey(**key_json(made.row), api_key=made.shown), 201)

    def rotate(self, client_id: str, key_id: str) -> ResponseReturnValue:
        """201 with the new key."""
        caller, row = self._reach(client_id)
        _refuse_administrators(caller, row)
        old = next(
            (key for key in manage_keys.list_keys(self._use_cases.database, client_id) if key.id == key_id),
            None,
        )
        if old is not None:
            _refuse_more(caller, old.scopes.split())
            _refuse_others_user(caller, old.user_name)
        body = read_model(RotateBody, optional=True)
        overlap = manage_keys.OVERLAP_SECONDS if body.overlap is None else body.overlap
        made = manage_keys.rotate_key(
            self._use_cases.database, self._use_cases.clock, client_id, key_id, overlap
        )
        return answer(NewApiKey(**key_json(made.row), api_key=made.shown), 201)

    def revoke(self, client_id: str, key_id: str) -> ResponseReturnValue:
        """The client's keys."""
        caller, row = self._reach(client_id)
        if row.id != caller.client_id:
            _refuse_administrators(caller, row)
        manage_keys.revoke_key(self._use_cases.database, self._use_cases.clock, client_id, key_id)
        return answer(self._listed(client_id))

    def rotate_secret(self, client_id: str) -> ResponseReturnValue:
        """201 with the secret."""
        caller, row = self._reach(client_id)
        if row.id != caller.client_id:
            _refuse_administrators(caller, row)
        body = read_model(RotateBody, optional=True)
        overlap = OVERLAP_SECONDS if body.overlap is None else body.overlap
        chance = os.urandom(SECRET_BYTES)
        secret = rotate_callback_secret(
            self._use_cases.database, self._use_cases.clock, client_id, chance, overlap
        )
        return answer(Secret(object="callback_secret", callback_secret=secret), 201)

    def _reach(self, client_id: str) -> tuple[Caller, ClientRow]:
        """The caller, and a client it may manage; other clients look nonexistent."""
        caller = self._callers.current()
        row = manage_clients.get_client(self._use_cases.database, client_id)
        if not caller.manages(row.team):
            raise NotFound(
                f"client {client_id[:40]!r} does not exist", param="client_id", code="client_not_found"
            )
        return caller, row

    def _listed(self, client_id: str) -> ApiKeyList:
        rows = manage_keys.list_keys(self._use_cases.database, client_id)
        return ApiKeyList(object="list", data=[ApiKey(**key_json(row)) for row in rows])


def _admin(method: str, path: str, summary: str, view: Any, answers: Any, **more: Any) -> Operation:
    return Operation(method, path, summary, view, answers, group="Administration", **more)


def _changes(caller: Caller, body: ClientChange) -> dict[str, Any]:
    """The fields to change. Team administrators may set neither weight nor limits, nor other teams."""
    changes = {name: getattr(body, name) for name in body.model_fields_set if name != "id"}
    if not caller.is_admin and set(changes) - {"team"}:
        raise Forbidden("only service administrators may do this", code="not_an_administrator")
    if not caller.is_admin and changes.get("team", caller.administers) != caller.administers:
        raise Forbidden("team: must be your own team", param="team", code="not_an_administrator")
    if "limits" in changes:
        changes["limits"] = check_limits(changes["limits"] or {})
    return {
        name: value for name, value in changes.items() if value is not None or name in ("team", "administers")
    }


def _refuse_more(caller: Caller, scopes: Iterable[str]) -> None:
    if not within(scopes, caller.scopes):
        raise Forbidden(
            "scopes: you can only grant scopes that your own key has",
            param="scopes",
            code="insufficient_scope",
        )


def _user(caller: Caller, name: str | None) -> str | None:
    """The key's user as policies see it: users named by a team administrator are prefixed with the team."""
    return name if name is None or caller.is_admin else f"{caller.administers}/{name}"


def _refuse_others_user(caller: Caller, name: str | None) -> None:
    """Whoever rotates a key obtains the new one, and with it what policies grant to its user."""
    if not (caller.is_admin or name is None or name.startswith(f"{caller.administers}/")):
        raise Forbidden(
            "the user of this key was set by a service administrator; ask one to rotate it",
            code="not_an_administrator",
        )


def _refuse_administrators(caller: Caller, row: ClientRow) -> None:
    """A key of an administrator would grant its rights."""
    if not caller.is_admin and (row.is_admin or row.administers):
        raise Forbidden("only service administrators may do this", code="not_an_administrator")
