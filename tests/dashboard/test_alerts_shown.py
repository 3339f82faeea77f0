"""Alerts on the dashboard: for administrators, as long as they fire."""

from __future__ import annotations

from app.reporting.domain.alerts import Alert, AlertState
from app.reporting.store.alerts import load_alerts, save_alerts
from app.settings.domain.alert_rules import Severity
from tests.api.world import ADMIN_KEY, make_settings
from tests.dashboard.conftest import Browser, Pages, SeenParts

SHOWN = "The client &lt;b&gt;acme has used 92.0 % of a budget"


def put(pages: Pages, state: AlertState) -> None:
    """Let a budget's alert stand like this."""
    alert = Alert("budget", "<b>acme", Severity.WARNING, state, 1.0, 0.92)
    pages.database.write(lambda conn: save_alerts(conn, load_alerts(conn), {alert.place: alert}))
    pages.parts.clock.ahead += 60.0


def part(browser: Browser) -> str:
    shown = browser.get("/parts").json
    assert shown is not None
    return str(shown["alerts"])


def test_an_administrator_sees_what_fires_and_a_client_does_not(pages: Pages) -> None:
    put(pages, AlertState.FIRING)
    administrator, client = pages.browser(key=ADMIN_KEY), pages.browser(pages.client())
    assert SHOWN.lower() in part(administrator).lower()
    assert "acme" not in part(client)
    put(pages, AlertState.RESOLVED)
    assert "No active alerts." in part(administrator)
    assert "acme" not in part(administrator)


def test_an_alert_links_to_its_entry_where_the_runbook_can_be_opened(pages: Pages) -> None:
    settings = make_settings(alerts={"runbook": "https://docs.example/runbook.md"})
    linked = Pages(SeenParts(pages.database, pages.parts.url, settings))
    put(pages, AlertState.FIRING)
    try:
        assert '<a href="https://docs.example/runbook.md#budget"' in part(linked.browser(key=ADMIN_KEY))
        assert "href" not in part(pages.browser(key=ADMIN_KEY))
    finally:
        put(pages, AlertState.RESOLVED)
        linked.app.close()
