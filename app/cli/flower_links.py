"""Flower's own templates with ways back to the dashboard: in the bar of every page, and on a task's page."""

from __future__ import annotations

from html import escape
from pathlib import Path

from tornado.template import Loader, Template

_BAR = '<ul class="app-nav navbar-nav">'
_TASK = "{% block container %}"


class LinkedTemplates(Loader):
    """Where a template of a later Flower looks otherwise, it is left as it is."""

    def __init__(self, folder: str, dashboard_url: str) -> None:
        super().__init__(folder)
        self._url = escape(dashboard_url, quote=True)

    def _create_template(self, name: str) -> Template:
        text = (Path(self.root) / name).read_text(encoding="utf-8")
        if name == "navbar.html":
            link = f'<li class="nav-item"><a class="nav-link" href="{self._url}/">Penstock</a></li>'
            text = text.replace(_BAR, _BAR + link, 1)
        elif name == "task.html":
            text = text.replace(_TASK, _TASK + self._task_link(), 1)
        return Template(text, name=name, loader=self)

    def _task_link(self) -> str:
        href = f"{self._url}/tasks/{{{{ url_escape(task.uuid) }}}}"
        return f'<p class="px-3 pt-3 mb-0"><a href="{href}">This task in Penstock</a></p>'
