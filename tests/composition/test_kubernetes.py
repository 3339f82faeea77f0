"""The manifests, checked without a cluster; and how many workers there should be."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from app.diagnosis.domain.autoscaling import ScalingRules, wanted_replicas
from app.reporting.meters import SERVICE_FIGURES

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"


def documents() -> dict[tuple[str, str], Any]:
    texts = (file.read_text(encoding="utf-8") for file in FOLDER.glob("*.yaml"))
    listed = [one for text in texts for one in YAML(typ="safe").load_all(text)]
    return {(one["kind"], one["metadata"]["name"]): one for one in listed}


def test_every_part_has_a_deployment_whose_pods_its_selector_and_service_find() -> None:
    found = documents()
    parts = {"api", "dispatcher", "worker", "callback-worker", "flower"}
    assert {name for kind, name in found if kind == "Deployment"} == {f"penstock-{part}" for part in parts}
    for part in parts:
        spec = found["Deployment", f"penstock-{part}"]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        [container] = spec["template"]["spec"]["containers"]
        assert container["command"][:2] == ["penstock", part]
        mounts = {one["name"] for one in container["volumeMounts"]}
        assert mounts == {one["name"] for one in spec["template"]["spec"]["volumes"]}
        assert container["readinessProbe"]["httpGet"]["port"] == container["ports"][0]["name"]
    for part in ("api", "flower"):
        assert found["Service", f"penstock-{part}"]["spec"]["selector"] == {"app": "penstock", "part": part}


def test_scalers_name_deployments_without_replicas_of_their_own_and_figures_that_exist() -> None:
    found = documents()
    scaler = found["HorizontalPodAutoscaler", "penstock-api"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 20)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 70
    keda = found["ScaledObject", "penstock-worker"]["spec"]
    for target in (scaler["scaleTargetRef"]["name"], keda["scaleTargetRef"]["name"]):
        assert "replicas" not in found["Deployment", target]["spec"]
    assert "penstock_tasks_waiting" in keda["triggers"][0]["metadata"]["query"]
    assert "penstock_tasks_waiting" in SERVICE_FIGURES


def test_the_mesh_splits_ninety_to_ten_and_tries_twice_for_half_a_second() -> None:
    found = documents()
    [http] = found["VirtualService", "inference"]["spec"]["http"]
    assert [one["weight"] for one in http["route"]] == [90, 10]
    assert (http["retries"]["attempts"] + 1, http["retries"]["perTryTimeout"]) == (2, "500ms")
    subsets = {one["name"] for one in found["DestinationRule", "inference"]["spec"]["subsets"]}
    assert {one["destination"]["subset"] for one in http["route"]} == subsets


RULES = ScalingRules(most=20)


@pytest.mark.parametrize(
    ("now", "cpu", "since", "wanted"),
    [
        (10, 8000 / 10000, 600, 13),
        (10, 0.79, 600, 10),
        (10, 0.9, 299, 10),  # cooling down
        (19, 0.9, 600, 20),
        (20, 0.9, 600, 20),
        (10, 0.2, 600, 9),
        (1, 0.0, 600, 1),
        (10, None, 600, 10),
        (0, None, 0, 1),
        (30, 0.9, 0, 20),
    ],
)
def test_workers_wanted(now: int, cpu: float | None, since: float, wanted: int) -> None:
    assert wanted_replicas(RULES, now, cpu, since) == wanted


@given(st.integers(0, 100), st.none() | st.floats(0, 1), st.floats(0, 1e5))
def test_workers_stay_within_bounds(now: int, cpu: float | None, since: float) -> None:
    assert RULES.least <= wanted_replicas(RULES, now, cpu, since) <= RULES.most
