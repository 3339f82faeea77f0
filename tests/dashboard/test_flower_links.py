"""The ways back from Flower to the dashboard."""

from pathlib import Path

import flower

from app.cli.flower import LinkedTemplates


def test_flowers_bar_and_task_page_lead_back_to_the_dashboard() -> None:
    templates = LinkedTemplates(
        str(Path(flower.__file__).parent / "templates"), 'http://here.example:8000/"x'
    )
    assert "http://here.example:8000/&quot;x/" in templates.load("navbar.html").code
    assert "http://here.example:8000/&quot;x/tasks/" in templates.load("task.html").code
    assert "here.example" not in templates.load("broker.html").code
