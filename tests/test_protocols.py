"""Protocols as a whole: names, facts, and the tables of docs/protocols.md."""

import re
from pathlib import Path

import pytest

from data.format.joint_sets import JOINT_SETS
from engine.errors import UserError
from finetune.evaluation.protocols import PROTOCOLS

DOCS = Path(__file__).resolve().parent.parent / "docs" / "protocols.md"
FACTS = ("joint_set", "root", "alignment", "unit", "counted", "averaging", "script")
FILES = ("submission", "truth")


def write_row(name: str, facts: tuple[str, ...]) -> str:
    protocol = PROTOCOLS.find(name)
    return " | ".join([f"| `{name}`", *(getattr(protocol, fact) for fact in facts)]) + " |"


@pytest.mark.parametrize("name", PROTOCOLS.list_names())
def test_the_docs_state_the_facts_of_each_protocol(name):
    lines = DOCS.read_text().splitlines()
    assert write_row(name, FACTS) in lines
    assert write_row(name, FILES) in lines


@pytest.mark.parametrize("name", PROTOCOLS.list_names())
def test_joint_sets_are_named_as_they_are_registered(name):
    words = re.findall(r"\w+", PROTOCOLS.find(name).joint_set)
    assert set(words) & set(JOINT_SETS), words


def test_a_wrong_name_lists_the_right_ones():
    with pytest.raises(UserError, match=r"protocol=nothing is none of .*freihand"):
        PROTOCOLS.find("nothing")
