"""`make audit` ends well only if something was checked."""

from typing import Any

import pytest

from deploy.audit import verdict

GOOD: dict[str, Any] = {"name": "flask", "version": "3.0", "vulns": []}
BAD: dict[str, Any] = {"name": "old", "version": "1.0", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
SKIPPED: dict[str, Any] = {"name": "odd", "skip_reason": "Dependency not found on PyPI"}
ANSWERS = {"dependencies": [BAD]}
SILENT = {"dependencies": [{**BAD, "vulns": []}]}  # a mirror that has packages, and no advisories
UNKNOWN = {"dependencies": [SKIPPED]}


@pytest.mark.parametrize(
    ("packages", "known", "code", "words"),
    [
        ([GOOD, GOOD], ANSWERS, 0, "2 packages: 2 checked, 0 with"),
        ([GOOD, BAD], ANSWERS, 1, "old 1.0: CVE-1, CVE-2"),
        ([GOOD, SKIPPED], ANSWERS, 2, "NOT CHECKED: 1 packages (odd)"),
        ([SKIPPED, SKIPPED], UNKNOWN, 2, "NOTHING WAS CHECKED"),
        ([GOOD, GOOD], SILENT, 2, "NOTHING WAS CHECKED"),
        ([GOOD, GOOD], {}, 2, "NOTHING WAS CHECKED"),
        ([], ANSWERS, 2, "NOTHING WAS CHECKED"),
        ([BAD, SKIPPED], ANSWERS, 1, "NOT CHECKED"),
    ],
)
def test_an_audit_that_could_not_check_is_no_success(
    packages: list[dict[str, Any]], known: dict[str, Any], code: int, words: str
) -> None:
    found, lines = verdict({"dependencies": packages}, known)
    assert found == code
    assert words in "\n".join(lines)
