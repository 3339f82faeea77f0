"""Whether providers know the keys of a configuration, said in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app.platform.ports import SystemClock
from app.settings import Settings
from app.upstreams.domain.key_health import KeyTestResult, Probe
from app.upstreams.key_tests import UpstreamTests

_SAID = {
    KeyTestResult.WORKS: "works",
    KeyTestResult.REFUSED: "is refused",
    KeyTestResult.NOT_OFFERED: "is not tested",
    KeyTestResult.NO_ANSWER: "is not tested",
}


def try_keys(settings: Settings, environ: Mapping[str, str], say: Callable[[str], object]) -> bool:
    """Ask each key's provider for its models and say what comes of it. False when a key is refused."""
    tests = UpstreamTests(settings, environ, SystemClock())
    findings = []
    for key in settings.keys:
        probed = tests.test(key.name, Probe.MODELS)
        findings.append(probed.finding)
        say(f"Key {key.name} {_SAID[probed.finding]}: {probed.words}")
    return KeyTestResult.REFUSED not in findings
