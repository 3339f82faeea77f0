"""Messages to people by the apprise library, and heartbeats. No word of an address, which is a secret, is passed on."""

from __future__ import annotations

import logging

import urllib3

from app.settings.domain.alert_rules import Severity

SECONDS = 10.0
_UNKNOWN = "apprise does not know this kind of address"


class AppriseNotifier:
    """Fits the port Notifier."""

    def __init__(self) -> None:
        self._pool = urllib3.PoolManager(retries=False, timeout=SECONDS)

    def notify(self, url: str, title: str, text: str, severity: Severity, *, resolved: bool) -> str | None:
        """Send to one apprise URL; gives back why it did not arrive."""
        import apprise  # a hundred services: only when there is something to tell

        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its lines hold addresses
        kind = apprise.NotifyType.SUCCESS if resolved else _KINDS[severity](apprise)
        channel = apprise.Apprise()
        try:
            if not channel.add(url):
                return _UNKNOWN
            return None if channel.notify(body=text, title=title, notify_type=kind) else "it did not arrive"
        except Exception as error:  # noqa: BLE001  # a hundred services raise a hundred errors
            return type(error).__name__

    def problem(self, url: str) -> str | None:
        """What is wrong with an address, as far as it can be seen without sending."""
        import apprise

        logging.getLogger("apprise").setLevel(logging.CRITICAL)
        return None if apprise.Apprise().add(url) else _UNKNOWN

    def visit(self, url: str) -> str | None:
        """Call a heartbeat URL; gives back why it did not answer well."""
        try:
            answer = self._pool.request("GET", url, redirect=True)
        except urllib3.exceptions.HTTPError as error:
            return type(error).__name__
        return None if answer.status < 400 else f"answered {answer.status}"


_KINDS = {
    Severity.WARNING: lambda apprise: apprise.NotifyType.WARNING,
    Severity.CRITICAL: lambda apprise: apprise.NotifyType.FAILURE,
    Severity.DISASTER: lambda apprise: apprise.NotifyType.FAILURE,
}
