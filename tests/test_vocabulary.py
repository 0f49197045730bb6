"""Retired words stay retired: identifiers in code, and private vocabulary in pages and prose."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IDENTIFIERS = frozenset(
    [
        "Foundry",
        "Flight",
        "Orders",
        "Room",
        "Workshop",
        "Inline",
        "OnRay",
        "LibrarySaves",
        "Bench",
        "Product",
        "Saves",
        "Entry",
        "lay_out",
        "goes_on",
        "run_together",
        "Recipe",
        "brings",
        "_WAYS",
        "Ledger",
        "Proposals",
        "Patient",
        "Screened",
        "Judged",
        "Said",
        "Announcer",
        "Standing",
        "Bulletin",
        "silent_for",
        "Diary",
        "Spool",
        "Handles",
        "hushed",
        "LostPartner",
        "Contender",
        "Repeated",
        "how_to_run",
        "rebuild",
        "Piece",
        "anew_network",
        "set_aside_artifact",
        "in_one_step",
        "Pair",
        "ALONE",
        "Parted",
        "hears_teachers",
        "Chooser",
        "Opening",
        "Folder",
        "Narrow",
        "Widen",
        "Look",
        "Rounding",
        "Material",
        "MadeData",
        "Lexicon",
        "Pixels",
        "MOST",
        "PATIENCE",
        "FEWEST",
        "knob",
        "foundry",
        "ledger",
        "bulletin",
        "diary",
    ]
)
"""Names of classes, functions and values that have a word of the field instead."""
WORDS = re.compile(
    r"\b(foundry|workshop|ledger|bulletin|diary|spool|announcer|lexicon|contenders?|hushed"
    r"|knobs?|chooser)\b",
    re.IGNORECASE,
)
"""Private vocabulary that neither pages nor prose use."""
CODE = sorted(
    file
    for folder in ("search", "methods", "spaces", "stillhouse", "benchmarks", "docs")
    for file in (ROOT / folder).rglob("*.py")
)
PAGES = sorted([ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")])


def relative(file):
    return file.relative_to(ROOT).as_posix()


def identifiers(text):
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def prose(text):
    """Docstrings, messages and comments."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return " ".join(t.string for t in tokens if t.type in (tokenize.STRING, tokenize.COMMENT))


@pytest.mark.parametrize("file", CODE, ids=relative)
def test_code_uses_the_words_of_the_field(file):
    text = file.read_text(encoding="utf-8")
    assert not identifiers(text) & IDENTIFIERS
    assert not WORDS.findall(prose(text))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pages_use_the_words_of_the_field(page):
    assert not WORDS.findall(page.read_text(encoding="utf-8"))


def test_the_rule_would_find():
    assert identifiers("def f(): return Foundry()") & IDENTIFIERS
    assert WORDS.findall(prose('"""Asks the foundry."""'))
