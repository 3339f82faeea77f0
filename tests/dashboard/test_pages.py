"""The pages: who may see what, what a form may do, and what is shown when things are away."""

from __future__ import annotations

import re
from collections import Counter

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from app.access.authenticate import CACHE_SECONDS
from app.dashboard.session import COOKIE, SignInBrake
from app.pacing.store.leader_state import add_pause, remove_pause
from app.reporting.domain.snapshot import PacingSnapshot, QuotaSnapshot
from app.tasks.domain.attempt import Outcome, TaskFailure
from app.tasks.domain.task import Status
from app.upstreams.domain.key_health import Condition, KeyStatus
from app.upstreams.store.health import forget_health, save_health
from tests.api.world import ADMIN_KEY, Client
from tests.dashboard.conftest import Pages

PLANTED = "planted-prompt-4711"


def paths(alice: Client, world: Pages) -> dict[str, str]:
    """Something of Alice's under every path that names a thing."""
    task_id, batch = alice.submit(PLANTED), alice.submit_batch(2)
    world.fail(task_id)
    return {"task": f"/tasks/{task_id}", "batch": f"/batches/{batch['id']}", "failed": task_id}


def unavailable(world: Pages, task_id: str) -> None:
    """A failure that may be run again."""
    failure = TaskFailure("upstream_error", "upstream_unavailable", "the upstream was away")
    world.end(
        task_id,
        outcome=Outcome.UNAVAILABLE,
        status=Status.FAILED,
        result=None,
        usage=None,
        cost=None,
        status_code=500,
        failure=failure,
    )


@pytest.mark.parametrize("path", ["/", "/usage", "/tasks/task_x", "/batches/batch_x", "/find?id=task_x"])
def test_without_a_session_every_page_leads_to_the_login(pages: Pages, path: str) -> None:
    answer = pages.browser().get(path)
    assert answer.status_code == 303
    assert answer.location.startswith("/login")
    for path in ("/live", "/parts"):
        assert pages.browser().get(path, accept="application/json").status_code == 401


def test_a_client_sees_its_own_things(pages: Pages) -> None:
    alice = pages.client()
    own = paths(alice, pages)
    browser = pages.browser(alice)
    shown = browser.get(own["task"])
    assert shown.status_code == 200
    assert PLANTED in shown.text
    assert "bad temperature" in shown.text
    assert browser.get(own["batch"]).status_code == 200
    overview = browser.get("/").text
    assert own["failed"] in overview
    assert "request refused" in overview


def test_a_stranger_sees_and_does_nothing_of_it(pages: Pages) -> None:
    alice, stranger = pages.client(), pages.client()
    own = paths(alice, pages)
    again = alice.submit()
    unavailable(pages, again)
    browser = pages.browser(stranger)
    for path in (own["task"], own["batch"]):
        answer = browser.get(path)
        assert answer.status_code == 404
        assert PLANTED not in answer.text
    for path in ("/", "/usage", "/parts"):
        shown = browser.get(path).text
        assert own["failed"] not in shown
        assert alice.id not in re.findall(r"client-\d+", shown)
    csrf = browser.token("/")
    assert browser.post(f"/tasks/{again}/retry", csrf).status_code == 404
    group = {"group": "upstream_unavailable deepseek-flash"}
    browser.post("/failures/retry", csrf, **group)
    assert "retry" in pages.browser(alice).get(f"/tasks/{again}").text.lower()
    assert browser.post("/callbacks/evt_1/replay", csrf).status_code == 404


def test_an_administrator_sees_everything(pages: Pages) -> None:
    alice = pages.client()
    own = paths(alice, pages)
    browser = pages.browser(key=ADMIN_KEY)
    assert alice.id in browser.get("/").text
    assert browser.get(own["task"]).status_code == 200
    assert browser.get(own["batch"]).status_code == 200
    assert alice.id in browser.get("/usage").text


def test_only_administrators_see_quotas_and_keys(pages: Pages) -> None:
    quota = QuotaSnapshot(
        "account:k1:deepseek-flash", cap=7, flight=3, braked_for=12.0, why="429 from the upstream"
    )
    pages.parts.pacing_snapshots.sight = PacingSnapshot(
        term="t", beat=-1, workers=1, quotas={quota.id: quota}
    )
    shown = pages.browser(key=ADMIN_KEY).get("/").text
    assert "braked 12 s" in shown
    assert "429 from the upstream" in shown
    assert "learned" in shown
    own = pages.browser(pages.client()).get("/").text
    assert "429 from the upstream" not in own
    assert "Quotas" not in own


def test_an_open_breaker_and_what_was_learned_stand_at_their_quotas(pages: Pages) -> None:
    name = "account:k1:deepseek-flash"
    quota = QuotaSnapshot(name, cap=7, flight=3)
    pages.parts.pacing_snapshots.sight = PacingSnapshot(
        term="t", beat=-1, workers=1, quotas={quota.id: quota}
    )
    pages.parts.wait_reasons.words = {
        "breakers": {name: ["open", "half of the last 20 calls failed", 12.0]},
        "learned": {name: {"rpm": 118.0, "tpm": None, "concurrency": 7}},
    }
    shown = pages.browser(key=ADMIN_KEY).get("/").text
    assert "breaker open" in shown
    assert "half of the last 20 calls failed; retry in 12 s" in shown
    assert "learned: 118 calls a minute, 7 at once" in shown
    assert "half of the last 20" not in pages.browser(pages.client()).get("/").text


def test_what_is_paused_or_refused_is_said_to_whom_it_concerns(pages: Pages) -> None:
    alice, bob = pages.client(), pages.client()
    subjects = ("model:deepseek-flash", f"client:{alice.id}", "key:k1")
    now = pages.parts.clock.now()

    def set_up(conn: Connection) -> None:
        for subject in subjects:
            add_pause(conn, subject, now)
        save_health(
            conn, {"account:acme": KeyStatus(Condition.NO_BALANCE, "402 from the upstream", now)}, now
        )

    pages.database.write(set_up)
    try:
        told, hers, his = (
            browser.get("/").text
            for browser in (pages.browser(key=ADMIN_KEY), pages.browser(alice), pages.browser(bob))
        )
    finally:
        pages.database.write(lambda conn: [remove_pause(conn, subject) for subject in subjects])
        pages.database.write(lambda conn: forget_health(conn, ["account:acme"]))
    for words in ("model deepseek-flash", f"client {alice.id}", "key k1", "penstock resume"):
        assert words in told
    assert "Account acme is without balance" in told
    assert "402 from the upstream" in told
    assert f"client {alice.id}" in hers
    assert "model deepseek-flash" in his
    for words in ("key k1", "without balance", "penstock resume"):
        assert words not in hers + his
    assert f"client {alice.id}" not in his


def test_the_cookie_holds_no_key_and_no_script_can_read_it(pages: Pages) -> None:
    alice, browser = pages.client(), pages.browser()
    answer = browser.sign_in(alice.key)
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie
    assert alice.key not in cookie
    held = browser.http.get_cookie("penstock_session")
    assert held is not None
    assert alice.key.encode() not in _decoded(held.value)


def test_behind_tls_the_cookie_is_secure(pages: Pages) -> None:
    answer = pages.browser().get("/login", **{"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["Set-Cookie"]


def test_a_forged_or_altered_cookie_is_nobody(pages: Pages) -> None:
    browser = pages.browser(pages.client())
    held = browser.http.get_cookie("penstock_session")
    assert held is not None
    browser.http.set_cookie("penstock_session", held.value[:-4] + "AAAA")
    assert browser.get("/").status_code == 303


def test_a_wrong_key_is_refused_and_not_repeated_on_the_page(pages: Pages) -> None:
    answer = pages.browser().sign_in("pk_" + "x" * 43)
    assert answer.status_code == 401
    assert "Unknown API key" in answer.text
    assert "x" * 43 not in answer.text


def test_a_revoked_key_ends_its_sessions(pages: Pages) -> None:
    from app.access.domain.caller import hash_key
    from app.access.store import clients

    alice = pages.client()
    browser = pages.browser(alice)
    key = pages.database.read(lambda conn: clients.find_api_key(conn, hash_key(alice.key)))
    assert key
    now = pages.parts.clock.now()
    pages.database.write(lambda conn: clients.revoke_api_key(conn, alice.id, key.key_id, now))
    pages.parts.clock.ahead += 6
    assert browser.get("/").status_code == 303


def test_signing_out_ends_the_session(pages: Pages) -> None:
    browser = pages.browser(pages.client())
    assert browser.post("/logout", browser.token("/")).status_code == 303
    assert browser.get("/").status_code == 303


def test_signing_out_ends_every_copy_of_the_cookie_and_no_other_session(pages: Pages) -> None:
    for key in (pages.client().key, ADMIN_KEY):
        browser, other, copy = pages.browser(key=key), pages.browser(key=key), pages.browser()
        cookie = browser.http.get_cookie(COOKIE)
        assert cookie is not None
        copy.http.set_cookie(COOKIE, cookie.value)
        assert copy.get("/").status_code == 200
        assert browser.post("/logout", browser.token("/")).status_code == 303
        pages.parts.clock.ahead += CACHE_SECONDS  # other processes have looked again by then
        assert copy.get("/").status_code == 303
        assert other.get("/").status_code == 200


def test_an_address_may_try_a_few_wrong_keys_a_minute(pages: Pages) -> None:
    browser = pages.browser()
    said = [browser.sign_in(f"pk_{number:043}").status_code for number in range(12)]
    assert said == [401] * 10 + [429] * 2


@given(st.lists(st.tuples(st.floats(0, 600), st.sampled_from("abc"), st.booleans()), max_size=80))
def test_a_brake_closes_only_for_whom_it_counted_in_that_minute(tries: list[tuple[float, str, bool]]) -> None:
    brake, wrong = SignInBrake(), Counter[tuple[int, str]]()
    for now, address, is_wrong in sorted(tries):
        assert brake.lets_pass(address, now) == (wrong[int(now // 60), address] < SignInBrake.MOST)
        if is_wrong:
            brake.wrong(address)
            wrong[int(now // 60), address] += 1


@pytest.mark.parametrize(
    "path", ["/logout", "/failures/retry", "/tasks/task_1/retry", "/callbacks/evt_1/replay"]
)
def test_a_form_without_its_token_or_from_elsewhere_does_nothing(pages: Pages, path: str) -> None:
    browser = pages.browser(pages.client())
    token = browser.token("/")
    assert browser.post(path, "").status_code == 403
    assert browser.post(path, "other").status_code == 403
    assert browser.post(path, token, {"Origin": "https://evil.example"}).status_code == 403
    assert browser.post(path, token, {"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.get("/").status_code == 200


def test_one_may_not_be_signed_in_by_another_site(pages: Pages) -> None:
    alice, browser = pages.client(), pages.browser()
    assert browser.post("/login", "", key=alice.key).status_code == 403
    assert browser.get("/").status_code == 303


@pytest.mark.parametrize(
    "target", ["//evil.example/", "https://evil.example", "/\\evil.example", "javascript:1"]
)
def test_the_login_goes_on_to_pages_of_ours_only(pages: Pages, target: str) -> None:
    alice = pages.client()
    assert pages.browser().sign_in(alice.key, target).location == "/"
    assert pages.browser().sign_in(alice.key, "/usage?days=30").location == "/usage?days=30"


def test_a_failed_task_is_retried_once_as_a_new_task(pages: Pages) -> None:
    alice = pages.client()
    task_id = alice.submit(PLANTED, metadata={"a": "b"})
    unavailable(pages, task_id)
    browser = pages.browser(alice)
    csrf = browser.token("/")
    answer = browser.post(f"/tasks/{task_id}/retry", csrf, {"Accept": "application/json"})
    assert answer.status_code == 200
    new = answer.json["target"].removeprefix("/tasks/")
    seen = alice.task(new)
    assert seen["status"] == "queued"
    assert seen["metadata"] == {"a": "b"}
    assert alice.task(task_id)["status"] == "failed"
    assert PLANTED in browser.get(f"/tasks/{new}").text
    assert browser.post(f"/tasks/{task_id}/retry", csrf).status_code == 409
    assert new in browser.get(f"/tasks/{task_id}").text


def test_what_would_fail_again_has_no_retry(pages: Pages) -> None:
    alice = pages.client()
    task_id = alice.submit()
    pages.fail(task_id)
    browser = pages.browser(alice)
    assert "/retry" not in browser.get(f"/tasks/{task_id}").text
    assert browser.post(f"/tasks/{task_id}/retry", browser.token("/")).status_code == 409


def test_failures_of_one_reason_are_retried_together(pages: Pages) -> None:
    alice = pages.client()
    tasks = [alice.submit() for _ in range(3)]
    for task_id in tasks:
        unavailable(pages, task_id)
    browser = pages.browser(alice)
    shown = browser.get("/").text
    assert "Retry 3" in shown
    browser.post("/failures/retry", browser.token("/"), group="upstream_unavailable deepseek-flash")
    assert "Retrying 3 tasks" in browser.get("/").text
    assert pages.publisher.rings >= 3


def test_the_timeline_tells_every_call(pages: Pages) -> None:
    alice = pages.client()
    task_id = alice.submit()
    pages.end(task_id, upstream_request_id="req-upstream-77")
    shown = pages.browser(alice).get(f"/tasks/{task_id}").text
    for words in ("Queued", "Released", "Call 1: succeeded", "HTTP 200", "req-upstream-77", "Succeeded"):
        assert words in shown, words


def test_whatever_a_client_sends_is_text_and_no_markup(pages: Pages) -> None:
    alice = pages.client()
    evil = "<script>alert(1)</script>"
    task_id = alice.submit(evil, metadata={"k": evil})
    for path in (f"/tasks/{task_id}", "/"):
        answer = pages.browser(alice).get(path)
        assert evil not in answer.text
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_pages_ask_nobody_else_for_anything(pages: Pages) -> None:
    browser = pages.browser(pages.client())
    for path in (
        "/",
        "/usage",
        "/login",
        "/assets/dashboard.css",
        "/assets/dashboard.js",
        "/assets/morph.js",
    ):
        text = browser.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text), path
        assert "style=" not in text
        assert "onclick=" not in text


def test_with_redis_away_the_page_says_so_and_shows_what_the_database_knows(pages: Pages) -> None:
    alice = pages.client()
    batch = alice.submit_batch(4)
    pages.parts.pacing_snapshots.sight = None
    shown = pages.browser(alice).get("/").text
    assert "Redis does not answer" in shown
    assert batch["id"] in shown
    assert _figure(shown, "figure-waiting") == "4"


def test_waiting_is_the_same_wherever_it_waits(pages: Pages) -> None:
    alice = pages.client()
    alice.submit_batch(30, batch_size=2)
    for _ in range(5):
        alice.submit()
    queue = f"backlog.deepseek-flash.{alice.id}"
    pages.parts.pacing_snapshots.sight = PacingSnapshot(term="t", beat=-2, workers=1, queues={queue: 5})
    shown = pages.browser(alice).get("/").text
    assert _figure(shown, "figure-waiting") == "35"
    assert "held by batch_size" in shown


def test_without_a_leader_or_a_worker_the_page_says_so(pages: Pages) -> None:
    pages.parts.pacing_snapshots.sight = PacingSnapshot(term="", beat=0, workers=1)
    assert "No dispatcher is leading" in pages.browser(pages.client()).get("/").text
    pages.parts.pacing_snapshots.sight = PacingSnapshot(term="t", beat=-3, workers=0)
    assert "No worker is running" in pages.browser(pages.client()).get("/").text


def test_with_the_database_away_the_page_says_so(pages: Pages) -> None:
    browser, nobody = pages.browser(pages.client()), pages.browser()
    pages.lose_database(True)
    pages.parts.clock.ahead += 6  # who looks would have to be looked up again
    shown = browser.get("/")
    assert shown.status_code == 200
    assert "database does not answer" in shown.text
    answer = browser.get("/usage")
    assert answer.status_code == 503
    assert "try again" in answer.text
    assert nobody.get("/").status_code == 303


def test_a_pasted_id_is_found(pages: Pages) -> None:
    alice = pages.client()
    task_id, batch = alice.submit(), alice.submit_batch(1)
    browser = pages.browser(alice)
    assert browser.get(f"/find?id=%20{task_id}").location == f"/tasks/{task_id}"
    assert browser.get(f"/find?id={batch['id']}").location == f"/batches/{batch['id']}"
    assert browser.get("/find?id=nonsense").status_code == 404


def test_usage_tells_tokens_and_money_by_client_and_model(pages: Pages) -> None:
    alice = pages.client()
    pages.end(alice.submit(), alice.submit())
    shown = pages.browser(alice).get("/usage?days=2").text  # midnight may come in between
    assert alice.id in shown
    assert "deepseek-flash" in shown


def _figure(page: str, name: str) -> str:
    found = re.search(rf'id="{name}">([^<]*)<', page)
    assert found
    return found[1]


def _decoded(cookie: str) -> bytes:
    from itsdangerous.encoding import base64_decode

    payload = cookie.split(".")[1 if cookie.startswith(".") else 0]
    raw = base64_decode(payload)
    return orjson.dumps(orjson.loads(raw)) if raw.startswith(b"{") else raw
