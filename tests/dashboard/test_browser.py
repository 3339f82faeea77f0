"""The dashboard in a real browser, over a real stack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

from app.platform.database import Database
from app.reporting.domain.alerts import Alert, AlertState
from app.reporting.store.alerts import save_alerts
from app.settings.domain.alert_rules import Severity
from tests.dashboard.browser import Watch, browsing, chromium, sign_in
from tests.dashboard.world import Service

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="no chromium on PATH (Debian: apt-get install chromium)"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("dashboard"), latency=0.1) as running:
        yield running


@pytest.fixture
def seen(service: Service, tmp_path: Path) -> Iterator[tuple[Page, Watch]]:
    """A browser that is signed in as the administrator; whatever it did wrong fails the test."""
    with browsing(tmp_path / "profile", viewport={"width": 1280, "height": 900}) as (page, watch):
        page.set_default_timeout(120_000)
        sign_in(page, service.stack.url, service.stack.admin_key)
        yield page, watch
        assert watch.complaints == []
        assert watch.hosts == {urlsplit(service.stack.url).netloc}


def test_a_drain_of_500_tasks_is_seen_without_loading_the_page_again(
    service: Service, seen: tuple[Page, Watch]
) -> None:
    page, _ = seen
    page.evaluate("window.loadedOnce = true")
    batch = service.stack.admin.submit_batch(f"Number {n}" for n in range(500))
    row = page.locator(f"tr[data-key={batch['id']}]")
    row.wait_for()
    page.wait_for_function("() => Number(document.getElementById('figure-pace').textContent) > 0")
    row.locator(".pill.completed").wait_for()
    assert "500" in row.inner_text()
    page.wait_for_function("() => document.getElementById('figure-waiting').textContent === '0'")
    assert page.evaluate("window.loadedOnce") is True


def test_a_click_runs_a_failed_task_again(service: Service, seen: tuple[Page, Watch]) -> None:
    page, _ = seen
    task_id = service.stack.admin.submit("It fails", model="failing")
    assert service.stack.admin.task(task_id, wait=60)["status"] == "failed"
    page.goto(f"{service.stack.url}/tasks/{task_id}")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_function(
        f"() => location.pathname.startsWith('/tasks/') && !location.pathname.endsWith('{task_id}')"
    )
    new = urlsplit(page.url).path.removeprefix("/tasks/")
    page.locator(".pill.failed").wait_for()  # the page follows its task to the end
    assert service.stack.admin.task(new)["attempts"] == 1
    page.goto(service.stack.url)
    page.get_by_role("button", name="Retry 1", exact=True).click()
    page.get_by_text("Retrying 1 task.").wait_for()


def test_light_and_dark_are_a_click_apart_and_signing_out_ends_it(seen: tuple[Page, Watch]) -> None:
    page, _ = seen
    colour = "() => getComputedStyle(document.documentElement).backgroundColor"
    before = page.evaluate(colour)
    page.click("#theme")
    assert page.evaluate(colour) != before
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    page.goto(urlsplit(page.url)._replace(path="/").geturl())
    assert urlsplit(page.url).path == "/login"


def test_an_alarm_sounds_once_for_each_alert_where_it_was_asked_for(
    service: Service, seen: tuple[Page, Watch]
) -> None:
    page, _ = seen
    page.evaluate(
        "window.heard = []; window.beep = (names) => { window.heard.push(...(names || ['asked'])); }; null"
    )
    sound = page.locator("#sound")
    assert sound.get_attribute("aria-pressed") == "false"
    sound.click()
    page.wait_for_function("() => document.getElementById('sound').getAttribute('aria-pressed') === 'true'")
    assert page.evaluate("window.heard") == ["asked"]  # to hear how it sounds
    database = Database(service.stack.environment["DATABASE_URL"])
    try:
        alert = Alert("budget", "acme", Severity.WARNING, AlertState.FIRING, 1.0, 0.92, notified=True)
        database.write(lambda conn: save_alerts(conn, {}, {alert.place: alert}))
        page.wait_for_function("() => window.heard.includes('budget acme')")
        database.write(lambda conn: save_alerts(conn, {alert.place: alert}, {}))
        page.wait_for_function("() => document.querySelectorAll('[data-alert]').length === 0")
    finally:
        database.close()
    assert page.evaluate("window.heard") == ["asked", "budget acme"]
