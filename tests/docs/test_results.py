"""The tables between the marks of docs/ are those of the results beside them."""

from __future__ import annotations

import copy
import json
import re

import pytest

from loadtest.pages import DOCS, MARKS, fill, read_results

RESULTS = read_results()
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if MARKS.search(text)])
def test_page_shows_the_results_as_they_are(page: str) -> None:
    """`python -m loadtest.report` writes it."""
    assert fill(PAGES[page], RESULTS) == PAGES[page]


@pytest.mark.parametrize("name", RESULTS)
def test_result_is_shown_and_a_changed_one_would_be_noticed(name: str) -> None:
    shown = [text for text in PAGES.values() if f"<!-- result {name} -->" in text]
    assert len(shown) == 1
    changed = copy.deepcopy(RESULTS)
    changed[name]["machine"]["python"] = "2.7"
    assert fill(shown[0], changed) != shown[0]


PATH = re.compile(r"/(?:home|root|tmp|work|Users)/|(?<![\w.:/])(?:/(?!v2/)|~/|[A-Z]:\\+)\w")
"""An absolute path, or one of somebody's home; what begins with /v2/ is a server's."""


@pytest.mark.parametrize("path", ["/srv/a", "=/opt/x/python", "~/mosec/bin", "file:///Users/a", "C:\\a"])
def test_path_of_a_machine_is_seen_for_one(path: str) -> None:
    assert PATH.search(json.dumps(path))


@pytest.mark.parametrize("name", RESULTS)
def test_result_says_what_it_was_made_with_and_nothing_of_whose_machine_it_was(name: str) -> None:
    result = RESULTS[name]
    assert result["command"].startswith("python")
    assert {"processor", "usable_cores", "python", "packages", "commit"} <= result["machine"].keys()
    assert not PATH.search(json.dumps(result))


def test_marks_are_whole_and_each_stands_once() -> None:
    for name, text in PAGES.items():
        assert len(re.findall(r"<!-- result \S+ -->", text)) == len(MARKS.findall(text)), name
    marked = [name for text in PAGES.values() for name in MARKS.findall(text)]
    assert len(marked) == len(set(marked))
