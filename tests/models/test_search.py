"""Words of texts in any script, and which searches they meet."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.search import (
    BREAK,
    MOST_HASHES,
    Search,
    hashes_of,
    words_of,
    words_of_event,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World! x_y", ["hello", "world", "x", "y"]),
        ("ÜNÏCÖDÉ Straße ﬁne ①", ["ünïcödé", "strasse", "fine", "1"]),
        ("u\u0308ber", ["über"]),
        ("ΣΊΣΥΦΟΣ σίσυφος", ["σίσυφοσ", "σίσυφοσ"]),
        ("Привет, МИР", ["привет", "мир"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("مَرْحَبًا", ["مَرْحَبًا"]),
        ("東京タワー2024年", ["東", "京", "タ", "ワ", "ー", "2024", "年"]),
        ("ﾄｳｷｮｳ", ["ト", "ウ", "キ", "ョ", "ウ"]),
        ("한국어", ["한", "국", "어"]),
        ("iPhone東京", ["iphone", "東", "京"]),
        ("🦣 … ——", []),
        ("\x00\ud800a", ["a"]),
        ("", []),
    ],
)
def test_text_is_cut_into_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "terms", "excluded"),
    [
        ("best nostr apps", [("apps",), ("best",), ("nostr",)], []),
        ('"Best Apps" -spam', [("best", "apps")], [("spam",)]),
        ('-"a b" c', [("c",)], [("a", "b")]),
        ("language:en include:spam x", [("x",)], []),
        ("https://x.org", [("https", "x", "org")], []),
        ("12:30", [("12", "30")], []),
        ("foo-bar", [("foo", "bar")], []),
        ('"never closed', [("never", "closed")], []),
        ("東京", [("東", "京")], []),
        ("a a A", [("a",)], []),
        ("a -a", [], [("a",)]),
        ("-only", [], [("only",)]),
    ],
)
def test_a_search_is_read(
    text: str, terms: list[tuple[str, ...]], excluded: list[tuple[str, ...]]
) -> None:
    assert Search.parse(text) == Search(tuple(terms), tuple(excluded))


@pytest.mark.parametrize("text", ["", " ", "…", "sentiment:positive", '""', "-", '-""'])
def test_a_search_for_nothing_is_none(text: str) -> None:
    assert Search.parse(text) is None


def test_a_search_has_bounds() -> None:
    with pytest.raises(ValueError, match="50 words"):
        Search.parse(" ".join(f"w{n}" for n in range(51)))
    with pytest.raises(ValueError, match="2000 characters"):
        Search.parse("x" * 2001)


def test_an_event_has_the_words_of_its_texts() -> None:
    profile = '{"name": "Jo", "about": "builds things", "picture": "https://x", "age": 5}'
    assert words_of_event(0, [], profile) == ["jo", BREAK, "builds", "things"]
    assert words_of_event(0, [], "no JSON") == []
    tags = [["title", "On Words"], ["t", "tag"], ["summary"]]
    assert words_of_event(30023, tags, "Text.") == ["text", BREAK, "on", "words"]
    both = Search.parse('"text on"')
    assert both is not None
    assert not both.matches(words_of_event(30023, tags, "Text."))


def test_of_an_endless_text_the_first_words_are_found() -> None:
    words = [f"w{n}" for n in range(2 * MOST_HASHES)]
    assert len(hashes_of(words)) <= MOST_HASHES + 1
    assert hashes_of(["w0"]) <= hashes_of(words)


ALPHABET = 'aBäßΣ1_- "-.:東京ワー한งกั\u0301🦣ﬁ'
texts = st.text(ALPHABET, max_size=25)


def dumb_words(text: str) -> list[str]:
    """One character after the other."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words: list[str] = []
    is_open = False
    is_dense = False
    for character in folded:
        kind = unicodedata.category(character)[0]
        dense = any(
            name in unicodedata.name(character, "")
            for name in ("CJK UNIFIED", "KATAKANA", "HANGUL", "THAI CHARACTER", "HIRAGANA")
        )
        if kind not in "LNM":
            is_open = False
        elif dense and kind != "M":
            words.append(character)
            is_open, is_dense = True, True
        elif is_open and (kind == "M" or not is_dense):
            words[-1] += character
        else:
            words.append(character)
            is_open, is_dense = True, False
    return words


@given(texts)
def test_words_are_those_of_a_dumb_reader(text: str) -> None:
    assert words_of(text) == dumb_words(text)


@given(texts, texts)
def test_what_matches_is_found_by_its_hashes(text: str, wanted: str) -> None:
    search = Search.parse(wanted)
    if search is None:
        return
    words = words_of_event(1, [], text)
    joined = " " + " ".join(words) + " "
    assert search.matches(words) == (
        all(f" {' '.join(term)} " in joined for term in search.terms)
        and not any(f" {' '.join(term)} " in joined for term in search.excluded)
    )
    if search.matches(words):
        assert set(search.hashes) <= hashes_of(words)
