"""What a provider says of a key, judged: its models, its balance, its headers, its status page."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from app.diagnosis.domain.finding import Finding, fail, milliseconds, ok, warn
from app.pacing.domain.ratelimit_headers import used_up_in
from app.upstreams.domain.reply import FetchedPage

REQUEST_IDS = ("x-request-id", "request-id", "x-ds-trace-id", "x-trace-id")


_MOST_NAMES = 8


def judge_key(page: FetchedPage, key: str) -> Finding | None:
    """What keeps a key from being used at all; None when nothing does."""
    if page.status in (401, 403):
        return fail(
            "key",
            f"refused with {page.status}",
            f'Put a valid key where [[key]] "{key}" has its secret; the provider lists them in its console.',
        )
    if page.status == 0:
        return fail("key", f"cannot be tried: {page.error}", "Mend the way to the provider first.")
    if page.status >= 500:
        return warn(
            "key", f"the provider answers {page.status}", "Try again later; its status page may know more."
        )
    return None


def judge_models(page: FetchedPage, wanted: Sequence[str]) -> Finding:
    """Whether the upstream offers the models that are configured for a key."""
    name = "/models"
    if page.status != 200:
        return ok(name, f"not offered ({page.status}): model names cannot be checked")
    offered = _model_ids(page.body)
    if not offered:
        return warn(name, "the list of models is empty or unreadable", "Look at base_url: is it the API's?")
    missing = [model for model in wanted if model not in offered]
    if missing:
        return fail(
            name,
            f"unknown there: {', '.join(missing)}",
            f"Correct the name in tiers (key:model). {_hint(missing, offered)}",
        )
    return ok(
        name, f"{len(offered)} models in {milliseconds(page.seconds)}; has {', '.join(wanted) or 'all'}"
    )


def judge_balance(page: FetchedPage) -> Finding:
    """Whether the account can pay, where the provider tells (DeepSeek's GET /user/balance)."""
    name = "/user/balance"
    body = page.body if isinstance(page.body, dict) else {}
    if page.status != 200 or "is_available" not in body:
        return ok(name, f"not offered ({page.status or page.error})")
    amounts = [
        f"{info.get('total_balance')} {info.get('currency')}"
        for info in body.get("balance_infos") or ()
        if isinstance(info, dict)
    ]
    said = ", ".join(amounts) or "no amount told"
    if not body["is_available"]:
        return fail(name, f"used up: {said}", "Top the account up; its tasks wait until then.")
    return ok(name, said)


def judge_own_proxy(proxy: str, page: FetchedPage) -> Finding:
    """The proxy that an upstream is configured with: whether an answer comes through it."""
    name = "proxy"
    if page.status:
        return ok(name, f"through {proxy}, as configured")
    mend = "Look at proxy and proxy_auth of this [[upstream]], and whether the proxy lets its host through."
    return fail(name, f"nothing comes through {proxy}: {page.error}", mend)


def judge_headers(pages: Sequence[FetchedPage]) -> Finding:
    """Limits and request ids that the provider's headers show."""
    name = "headers"
    headers = {key: value for page in pages for key, value in page.headers.items()}
    limits = [
        f"{key}: {headers[key]}" for key in sorted(headers) if key.startswith(("x-ratelimit", "ratelimit"))
    ]
    ids = [f"{key}: {headers[key][:60]}" for key in REQUEST_IDS if headers.get(key)]
    shown = "; ".join([*limits[:_MOST_NAMES], *ids])
    without = [word for word, found in (("limits", limits), ("request id", ids)) if not found]
    tail = f"no {' and no '.join(without)} in headers here" if without else ""
    told = "; ".join(part for part in (shown, tail) if part)
    used_up = used_up_in(headers)
    if used_up:
        hint = "wait for its reset, lower the limits in [[quota]], or add a key of another account"
        return warn(name, f"nothing is left, says {' and '.join(used_up)}: {told}", hint)
    return ok(name, told)


def judge_status_page(page: FetchedPage) -> Finding:
    """A status page as Atlassian's Statuspage serves it at /api/v2/status.json."""
    name = "status page"
    status = page.body.get("status") if isinstance(page.body, dict) else None
    if page.status != 200 or not isinstance(status, dict):
        return warn(
            name,
            f"says nothing readable ({page.status or page.error})",
            "Correct status_page: the address that ends with /api/v2/status.json.",
        )
    indicator = str(status.get("indicator", "none"))
    said = str(status.get("description") or indicator)[:120]
    mend = "Nothing to do here: tasks wait and go on. Move work to another tier if it lasts."
    if indicator in ("major", "critical"):
        return fail(name, said, mend)
    return ok(name, said) if indicator == "none" else warn(name, said, mend)


def _model_ids(body: Any) -> list[str]:
    data = body.get("data") if isinstance(body, dict) else body
    rows = data if isinstance(data, list) else []
    return [str(row["id"]) for row in rows if isinstance(row, dict) and row.get("id")]


def _hint(missing: Sequence[str], offered: Sequence[str]) -> str:
    near = [match for name in missing for match in get_close_matches(name, offered, 2)]
    if near:
        return f"Did you mean {' or '.join(dict.fromkeys(near))}?"
    return f"It has: {', '.join(offered[:_MOST_NAMES])}{' ...' if len(offered) > _MOST_NAMES else ''}"
