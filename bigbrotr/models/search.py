"""Words of events, and searches for them (NIP-50).

Text is folded (NFKC, then without case), and cut into words: runs of letters, digits and marks of
any script. Scripts that are written without blanks are cut into single characters, and found by
pairs of them. What has to stand together, a phrase or a name with a hyphen, is looked for as it
stands.
"""

import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

MOST_TERMS = 50
MOST_CHARACTERS = 2000  # of a search
MOST_HASHES = 4096  # of an event; its later words are not found
BREAK = ""  # stands between two texts of an event: no phrase goes across
PROFILE = ("name", "display_name", "displayName", "about", "nip05")
TITLES = ("title", "summary", "subject")  # tags that are text

# Han, kana, bopomofo, hangul, Thai, Lao, Myanmar, Khmer.
_DENSE = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0edf\u1000-\u103f\u1050-\u109f\u1100-\u11ff\u1780-\u17d3"
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_EXTENSION = re.compile(r"[A-Za-z][A-Za-z0-9_-]*:(?!/)\S+")
_TERM = re.compile(r'(-?)(?:"([^"]*)(?:"|$)|(\S+))')
_profile = msgspec.json.Decoder(dict[str, Any])

Words = Sequence[str]


class Search(Struct, frozen=True):
    """What is looked for: words that stand together; of `excluded`, none may be there."""

    terms: tuple[tuple[str, ...], ...]
    excluded: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Search | None":
        """The search in the words of a person: `word`, `"a phrase"`, `-without`; None: for nothing.
        Extensions, as `language:en`, are left out.

        Raises:
            ValueError: it is too long.
        """
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"search: {MOST_CHARACTERS} characters at most")
        terms: dict[tuple[str, ...], bool] = {}
        for minus, phrase, word in _TERM.findall(text):
            if word and _EXTENSION.fullmatch(word):
                continue
            if term := tuple(words_of(phrase or word)):
                terms[term] = terms.get(term, False) or bool(minus)
        if len(terms) > MOST_TERMS:
            raise ValueError(f"search: {MOST_TERMS} words and phrases at most")
        if not terms:
            return None
        return cls(
            tuple(sorted(term for term, is_out in terms.items() if not is_out)),
            tuple(sorted(term for term, is_out in terms.items() if is_out)),
        )

    @property
    def hashes(self) -> list[int]:
        """The hashes that an event has which has all the terms."""
        found: set[int] = set()
        for term in self.terms:
            found.update(hashes_of(term))
        return sorted(found)

    def matches(self, words: Words) -> bool:
        """Whether an event with these words is meant."""
        there = set(words)
        return all(_has(words, there, term) for term in self.terms) and not any(
            _has(words, there, term) for term in self.excluded
        )


def _has(words: Words, there: set[str], term: tuple[str, ...]) -> bool:
    if not all(word in there for word in term):
        return False
    if len(term) == 1:
        return True
    size = len(term)
    return any(
        words[at] == term[0] and tuple(words[at : at + size]) == term
        for at in range(len(words) - size + 1)
    )


def words_of(text: str) -> list[str]:
    """The words of a text, folded, in their order."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _pattern().findall(folded)


def words_of_event(kind: int, tags: Iterable[Sequence[str]], content: str) -> list[str]:
    """The words of an event: its content, of a profile the texts in it, and its titles."""
    texts = [content]
    if kind == 0:
        try:
            profile = _profile.decode(content)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            profile = {}
        texts = [each for name in PROFILE if isinstance(each := profile.get(name), str)]
    texts += (tag[1] for tag in tags if len(tag) > 1 and tag[0] in TITLES)
    words: list[str] = []
    for text in texts:
        if words:
            words.append(BREAK)
        words += words_of(text)
    return words


def hashes_of(words: Words) -> set[int]:
    """The hashes by which these words are found: of each that stands alone, and of pairs of
    characters in scripts without blanks. What the words of a text give holds what a part of them
    gives."""
    found: set[int] = set()
    before = BREAK
    dense = _dense()
    for word in words:
        if len(found) >= MOST_HASHES:
            break
        if word:
            found.add(_hash(word))
        if before and word and dense.match(before) and dense.match(word):
            found.add(_hash(before + word))
        before = word
    return found


def _hash(word: str) -> int:
    value = zlib.crc32(word.encode("utf-8", "surrogatepass"))
    return value - (1 << 32) if value >= 1 << 31 else value


@cache
def _dense() -> re.Pattern[str]:
    # A mark without its character, alone or after another script, is no character of these.
    return re.compile(f"(?![{_marks()}])[{_DENSE}]")


@cache
def _pattern() -> re.Pattern[str]:
    marks, dense = _marks(), _dense().pattern
    return re.compile(f"{dense}[{marks}]*|(?:(?!{dense})(?:[^\\W_]|[{marks}]))+")


@cache
def _marks() -> str:
    return "".join(
        chr(code)
        for code in (*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0))
        if unicodedata.category(chr(code))[0] == "M"
    )
