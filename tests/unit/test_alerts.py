"""The alert rules that are shipped: YAML that Prometheus takes, about numbers that there are."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tocsin.model import Reason
from tocsin.partitions import PARTITIONS

ROOT = Path(__file__).parents[2]
GROUPS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
FUNCTIONS = {"max", "min", "sum", "count", "increase", "by", "and"}


def metrics() -> set[str]:
    """Names in the code, and what Prometheus makes of them."""
    found: set[str] = set()
    for file in (ROOT / "src" / "tocsin").rglob("*.py"):
        found.update(re.findall(r'"(tocsin_[a-z_]+)"', file.read_text(encoding="utf-8")))
    return found | {f"{name}_total" for name in found}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_is_whole_and_about_numbers_that_there_are(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Tocsin[A-Z][A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"].endswith(".")
    assert "for" not in rule or re.fullmatch(r"\d+[smh]", rule["for"])
    expr: str = rule["expr"]
    assert expr.count("(") == expr.count(")") and expr.count("[") == expr.count("]") and expr.count("{") == expr.count("}")
    bare = re.sub(r'\{[^}]*\}|\[\d+m\]|"[^"]*"', " ", expr)
    words = set(re.findall(r"[a-z_]+", bare)) - FUNCTIONS - {"instance"}
    assert words and words <= metrics() | {"up"}, words
    for reason in re.findall(r'reason=~"([^"]+)"', expr):
        assert set(reason.split("|")) <= {one.value for one in Reason}


def test_rules_have_names_of_their_own_and_know_how_many_partitions_there_are() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    [nobody] = [rule for rule in RULES if rule["alert"] == "TocsinNobodySends"]
    assert f"< {PARTITIONS}" in nobody["expr"] and f"of {PARTITIONS} partitions" in nobody["annotations"]["summary"]


def test_workers_numbers_are_in_the_table_of_what_to_watch() -> None:
    table = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    named = {word for rule in RULES for word in re.findall(r"tocsin_[a-z_]+", rule["expr"])}
    assert {name for name in named if f"`{name}" not in table} == set()
