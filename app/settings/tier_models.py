"""[[model.tier]]: a tier with more to say than which keys it has."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from app.settings.conditions import checked_condition
from app.settings.config_errors import config_error
from app.settings.values import FromList, Section

Condition = Annotated[str, Field(min_length=1), AfterValidator(checked_condition)]
Fall = Literal["context_length", "content_filter"]


class TierSettings(Section):
    """One tier of a model."""

    # Keys of equal rank, each "key" or "key:the upstream's name of the model".
    keys: Annotated[tuple[str, ...], FromList, Field(min_length=1)]
    # Only tasks for which this holds, such as "prompt_tokens < 500" or "queue_wait > 60"; left out: all.
    when: Condition | None = None
    # Only tasks whose call at another tier came to one of these: "context_length", "content_filter".
    serves: Annotated[tuple[Fall, ...], FromList] = Field(default=(), alias="for")


class DegradedSettings(Section):
    """model.degraded: what stands behind the last tier."""

    # What is answered, marked as degraded, without any upstream call.
    text: Annotated[str, Field(min_length=1, max_length=4000)]
    # Seconds that a task must have waited for its tiers before.
    after: Annotated[float, Field(ge=1, le=30 * 86400)] = 30.0


class HasTiers(Section):
    """Tiers in the short form, as lists of keys, or in the long one."""

    # The name in a request.
    name: str
    # Tiers in the order of preference, the next for when the one before cannot serve at all. Each lists keys
    # of equal rank as "key" or "key:the upstream's name of the model".
    tiers: (
        Annotated[tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...], FromList, Field(min_length=1)]
        | None
    ) = None
    # The same in the long form, for tiers with conditions: [[model.tier]].
    tier: Annotated[tuple[TierSettings, ...], FromList] = ()
    # Behind the last tier: { text = "the system is busy, please try later", after = 30 } answers tasks that allow it
    # (allow_degraded) once they have waited so many seconds. Left out: they wait on.
    degraded: DegradedSettings | None = None
    # How calls are spread over the keys of a tier: in turn by weight, to the key with fewest calls in flight
    # for its weight, or to the one that answered fastest lately.
    balance: Literal["weighted", "least_in_flight", "fastest"] = "weighted"

    @model_validator(mode="after")
    def _has_tiers_in_one_form(self) -> Self:
        if self.tiers is None and not self.tier:
            raise config_error('lacks "tiers"', 'add a line "tiers = ...", or a [[model.tier]] for each')
        if self.tiers is not None and self.tier:
            raise config_error('has both "tiers" and [[model.tier]]', "keep one of them")
        if self.tier and all(tier.serves for tier in self.tier):
            raise config_error(
                'has no tier for ordinary tasks, only such with "for"', 'add a tier without "for"'
            )
        return self

    @property
    def all_tiers(self) -> tuple[TierSettings, ...]:
        """Every tier in the long form."""
        return self.tier or tuple(TierSettings(keys=keys) for keys in self.tiers or ())
