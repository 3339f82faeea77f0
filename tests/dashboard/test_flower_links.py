"""The ways back from Flower to the dashboard."""

import os
import subprocess
import sys
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


def test_flower_counts_events_beside_processes_that_share_a_folder_for_metrics(tmp_path: Path) -> None:
    program = (
        "from app.cli.root import group; import click\n"
        "group.get_command(click.Context(group), 'flower')\n"
        "import app.cli.flower\n"
        "from prometheus_client import Gauge\n"
        "Gauge('online', '', ['worker']).labels('w').set(1)\n"
    )
    environ = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True)
    assert not list(tmp_path.iterdir())
