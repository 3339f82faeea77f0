"""`make audit`: known vulnerabilities of the packages in requirements.lock. Fails loudly if it could check nothing.

pip-audit ends well when its advisory service knows no package at all. So a package with known vulnerabilities is asked
for, too: a service that does not report those reports nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KNOWN = "requests==2.19.1"  # CVE-2018-18074 and later ones
PIP_AUDIT = ("tool", "run", "pip-audit", "--disable-pip", "--progress-spinner", "off", "--format", "json")


def verdict(found: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Exit code and lines, from pip-audit's JSON for the lock and for the vulnerable package.

    0: all were checked, and nothing is known; 1: vulnerabilities; 2: not all, or none, could be checked.
    """
    packages = found.get("dependencies") or []
    skipped = [one for one in packages if "skip_reason" in one]
    bad = [one for one in packages if one.get("vulns")]
    answers = any(one.get("vulns") for one in known.get("dependencies") or [])
    checked = len(packages) - len(skipped) if answers else 0
    lines = [
        f"{one['name']} {one.get('version')}: {', '.join(each['id'] for each in one['vulns'])}" for one in bad
    ]
    lines.append(f"{len(packages):,} packages: {checked:,} checked, {len(bad):,} with known vulnerabilities")
    if not checked:
        lines.append(
            "NOTHING WAS CHECKED: the advisory service did not answer. Run it where pypi.org can be reached."
        )
    elif skipped:
        names = ", ".join(one["name"] for one in skipped[:10])
        lines.append(f"NOT CHECKED: {len(skipped):,} packages ({names})")
    return 1 if bad else 2 if not packages or checked < len(packages) else 0, lines


def ask(uv: str, lock: Path, options: Sequence[str]) -> dict[str, Any]:
    """What pip-audit says of one file; nothing where it breaks off."""
    command = [uv, *PIP_AUDIT, *options, "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        sys.stderr.write(done.stderr[-2000:])
        return {}


def main() -> int:
    """Run both, and say what came of it."""
    uv = str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "known.txt"
        one.write_text(f"{KNOWN}\n")
        known = ask(uv, one, ["--no-deps"])
    code, lines = verdict(ask(uv, ROOT / "requirements.lock", ["--require-hashes"]), known)
    sys.stdout.write("\n".join(lines) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
