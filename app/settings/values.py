"""The kinds of value that settings are made of, and the table they stand in."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app.settings.config_errors import checked_network, checked_ports, config_error


def _as_tuple(value: Any) -> Any:
    """TOML has lists; here they are tuples, all the way down."""
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _plain(value: str) -> str:
    if value != value.strip() or not value.isprintable():
        raise config_error("must not begin or end with a space, nor hold control characters", "take them out")
    if "|" in value:
        raise config_error('must not hold "|", which separates names in what is stored', "use - or . instead")
    return value


def _no_separator(value: str) -> str:
    if ":" in value:
        raise config_error('must not hold a colon: in a tier one separates "key:model"', "use - or . instead")
    if "," in value:
        raise config_error(
            "must not hold a comma: one separates the queues of a worker", "use - or . instead"
        )
    return value


FromList = BeforeValidator(_as_tuple)
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
KeyName = Annotated[Name, AfterValidator(_no_separator)]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Count = Annotated[int, Field(ge=1)]
Network = Annotated[str, AfterValidator(checked_network)]
Ports = Annotated[str, AfterValidator(checked_ports)]


class Section(BaseModel):
    """A table: nothing unknown in it, no value of another type, unchangeable, and silent about its input."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        populate_by_name=True,
    )
