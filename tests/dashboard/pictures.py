"""Take the pictures of docs/img: `make pictures`. A service with work in it, at desktop and at phone width."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page

from tests.dashboard.browser import browsing, sign_in
from tests.dashboard.world import Service
from tests.stack import ROOT

FOLDER = ROOT / "docs" / "img"
# Low, so that a page is as high as what stands on it.
WIDTHS = {"desktop": {"width": 1360, "height": 400}, "phone": {"width": 390, "height": 400}}

# Beside the overview, which is taken in every width and theme.
MORE = {("desktop", "dark"): ["task"], ("desktop", "light"): ["usage"], ("phone", "light"): ["failed"]}


def main(folder: Path) -> None:
    """Fill a service with work and take every picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Service(folder / "service", flower_url="http://127.0.0.1:5555") as service:
        tasks = fill(service)
        for theme in ("light", "dark"):
            for name, size in WIDTHS.items():
                options = {"viewport": size, "color_scheme": theme, "device_scale_factor": 1.0}
                with browsing(folder / f"{name}-{theme}", **options) as (page, _):
                    sign_in(page, service.stack.url, service.stack.admin_key)
                    page.wait_for_timeout(2500)
                    take(page, f"dashboard-{name}-{theme}")
                    for what in MORE.get((name, theme), ()):
                        page.goto(service.stack.url + tasks[what])
                        take(page, f"{what}-{name}-{theme}")


def fill(service: Service) -> dict[str, str]:
    """Clients with work that ends, waits, fails and is told to nobody; gives back the paths to look at."""
    stack = service.stack
    search, mail = stack.add_client("search"), stack.add_client("mail-summaries")
    stack.admin.submit_batch([f"Report {n}" for n in range(40)])
    failed = mail.submit_batch([f"Mail {n}" for n in range(9)], model="failing")
    image = {
        "type": "image_url",
        "image_url": {"url": "https://example.com/a.png"},
    }  # the simulator takes texts alone
    mail.call("POST", "/v1/tasks", {"messages": [{"role": "user", "content": [image]}]})
    search.submit_batch([f"Page {n}" for n in range(12_000)])
    mail.submit_batch([f"Letter {n}" for n in range(3_000)], batch_size=20)
    search.submit_batch([f"Book {n}" for n in range(240)], model="deepseek-reader")
    done = stack.admin.submit("What is a penstock?")
    stack.admin.task(done, wait=30)
    time.sleep(25)
    return {
        "task": f"/tasks/{done}",
        "failed": f"/tasks/{failed['task_ids'][0]}",
        "usage": "/usage",
    }


def take(page: Page, name: str) -> None:
    """One picture of the whole page."""
    page.wait_for_timeout(300)
    page.screenshot(path=FOLDER / f"{name}.png", full_page=True)
    print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
    sys.exit(0)
