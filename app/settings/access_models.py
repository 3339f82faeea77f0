"""Settings of access: who is believed, what is decided by default, how long things are kept."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from app.settings.config_errors import config_error
from app.settings.values import FromList, Network, Section

DAY = 86_400.0
_KEPT = Annotated[float, Field(gt=0, le=3650 * DAY)]


class AccessSettings(Section):
    """[access]: policies, proxies, the audit log."""

    # What holds where no policy applies: "allow", or "deny".
    default: Literal["allow", "deny"] = "allow"
    # Networks (CIDR) of proxies whose X-Forwarded-For is believed, such as ["10.0.0.0/8"].
    trusted_proxies: Annotated[tuple[Network, ...], FromList] = ()
    # Networks by name, for the condition `zone` of policies: { office = ["192.168.0.0/16"] }.
    zones: dict[str, Annotated[tuple[Network, ...], FromList]] = Field(default_factory=dict)
    # Seconds for which entries of the audit log are kept.
    audit_retention: _KEPT = 400 * DAY


class StorageSettings(Section):
    """[storage]: how long prompts and results are kept, and how."""

    # Seconds from a task's end until it is deleted with its prompt and result; clients may have their own.
    retention: _KEPT = 30 * DAY
    # Seconds from its end until a task with `store: false` is erased, unless its callback was delivered before.
    unstored: Annotated[float, Field(ge=0, le=30 * DAY)] = 3600.0
    # Where the key is that encrypts prompts and results in the database: "env:NAME", "file:PATH" or
    # "command:PROGRAM ARGS"; "": they are stored as they are.
    encryption_key: str = Field(default="", repr=False)
    # Where keys are that were used before: they open what they have sealed.
    previous_keys: Annotated[tuple[str, ...], FromList] = Field(default=(), repr=False)

    @field_validator("encryption_key")
    @classmethod
    def _is_a_reference(cls, value: str) -> str:
        if value and value.partition(":")[0] not in ("env", "file", "command"):
            raise config_error(
                "must say where the key is, not be it", 'write "env:NAME", "file:PATH" or "command:..."'
            )
        return value
