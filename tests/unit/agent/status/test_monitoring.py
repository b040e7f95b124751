"""The examples for Prometheus and Grafana name what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.status_port import Served

from ckptsync.agent.board import Board, Committed
from ckptsync.agent.notice import Notice, Source

EXAMPLES = Path(__file__).parents[4] / "docs" / "examples" / "monitoring"
METRIC = re.compile(r"\bckptsync_\w+")
SELECTOR = re.compile(r"\b(ckptsync_\w+)\{([^}]*)\}")
OF_THE_SCRAPE = {"instance", "job"}
CONFIGS = ["prometheus.yml", "prometheus-kubernetes.yml"]


def parsed(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text())


def expressions(value: Any) -> Iterator[str]:
    """Every query of a dashboard or a file of rules."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"expr", "definition"}:
                yield inner
            else:
                yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


@pytest.fixture
def served_metrics(board: Board, served: Served) -> dict[str, set[str]]:
    """Labels of every metric, of an agent of which everything is known."""
    board.committed(Committed(snapshot="id", step=7, bytes=10, at_s=990.0), epoch=3, whole_since_s=980.0)
    board.noticed(Notice(source=Source.EC2, kind="terminate", final=True, deadline_s=None, message="the end"))
    found: dict[str, set[str]] = {}
    with served() as port:
        for family in text_string_to_metric_families(port.ask("/metrics").body):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("name", ["grafana-dashboard.json", "prometheus-rules.yml"])
def test_every_metric_and_label_that_is_asked_for_is_served(served_metrics: dict[str, set[str]], name: str) -> None:
    asked = list(expressions(json.loads((EXAMPLES / name).read_text()) if name.endswith("json") else parsed(name)))
    assert len(asked) > 5
    named = {metric for one in asked for metric in METRIC.findall(one)}
    assert named <= served_metrics.keys()
    for one in asked:
        for metric, matchers in SELECTOR.findall(one):
            labels = {matcher.strip() for matcher in re.findall(r"(\w+)\s*[=!]", matchers)}
            assert labels <= served_metrics[metric] | OF_THE_SCRAPE, one


def test_the_how_to_names_every_metric_and_no_other(served_metrics: dict[str, set[str]]) -> None:
    page = (EXAMPLES.parents[1] / "how-to" / "watch-the-sidecar.md").read_text()
    assert set(METRIC.findall(page)) - {"ckptsync_"} == served_metrics.keys()


def test_every_rule_tells_how_bad_it_is_and_what_to_do() -> None:
    groups = parsed("prometheus-rules.yml")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
    alerts = {rule["alert"] for rule in rules}
    assert {"CkptsyncNoCommit", "CkptsyncUploadsFail", "CkptsyncFenced", "CkptsyncPendingTooLong"} <= alerts


@pytest.mark.parametrize("name", CONFIGS)
def test_a_scrape_reads_the_rules(name: str) -> None:
    config = parsed(name)
    assert config.keys() == {"global", "rule_files", "scrape_configs"}
    assert all((EXAMPLES / file).exists() for file in config["rule_files"])


def test_panels_neither_overlap_nor_share_an_id() -> None:
    panels = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize(
    "check", ["check rules prometheus-rules.yml", "test rules rules-test.yml", "check config prometheus.yml"]
)
def test_prometheus_takes_them(check: str) -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed; `make test-page` fetches it")
    done = subprocess.run([promtool, *check.split()], cwd=EXAMPLES, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
