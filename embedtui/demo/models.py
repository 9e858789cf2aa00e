"""Honest embedding models that run anywhere, in numpy: a plain old one, a better new one, and an earlier one of it."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
import numpy.typing as npt

from embedtui.demo.api import ModelFunction
from embedtui.demo.corpus import documents

Vectors = npt.NDArray[np.float32]
"""float32 (n, d)."""

OLD_MODEL = "bag-of-words-004"
OLD_DIMENSIONS = 384
NEW_MODEL = "lsa-3-large"
NEW_DIMENSIONS = 384
"""As many as the old one has: the column's type cannot tell the two apart, which is the usual case."""

BASE_MODEL = "lsa-2-base"
BASE_DIMENSIONS = 384
"""The demo's old model, the new one's earlier generation. Of 60 questions' top 10 over 5,000 documents they share 54 %,
and 8 questions less than 30 %: what two real models have in common, with a few to look at."""
EARLIER_MODEL = "lsa-1-small"
EARLIER_DIMENSIONS = 256
"""That of the demo's second story: the generation before, of which most can be bridged."""


def _demo_texts() -> list[str]:
    return [document.text for document in documents()]


def load_models(texts: Sequence[str] | None = None) -> dict[str, ModelFunction]:
    """Both models by name. The new one is fitted at its first use, on ``texts`` or else on the demo's documents.

    A model takes n texts and the dimensions wanted (None: its own), and gives unit vectors, float32 (n, d); the same
    text always gets the same vector, and a text with any character but space never gets the zero vector. It raises
    ValueError for dimensions that it does not have.
    """
    return {OLD_MODEL: bag_of_words, NEW_MODEL: LatentSemantics(_demo_texts if texts is None else lambda: texts)}


def bag_of_words(texts: Sequence[str], dimensions: int | None = None) -> Vectors:
    """A poor model: counts of the words as they stand, hashed into so few places that many collide."""
    return _hashed(texts, _width(dimensions, OLD_DIMENSIONS))


def _hashed(texts: Sequence[str], width: int) -> Vectors:
    vectors = np.zeros((len(texts), width), np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()) or [text]:
            vectors[row, zlib.crc32(word.encode("utf-8", "replace")) % width] += 1
    return _unit(vectors)


class LatentSemantics:
    """The new model: TF-IDF of word stems, reduced by a truncated singular value decomposition.

    Latent semantic analysis (Deerwester et al. 1990): words that occur in like documents end up near one another.
    Names are taken apart (``rmtree``, ``DictReader``), and a short thesaurus knows that a folder is a directory.
    The components come in the order of their singular values, so fewer dimensions are the first ones. ``texts`` is
    asked at the first use for what to be fitted on, ``terms`` for what of a text counts.
    """

    def __init__(
        self,
        texts: Callable[[], Sequence[str]],
        *,
        dimensions: int = NEW_DIMENSIONS,
        terms: Callable[[str], Counter[str]] | None = None,
    ) -> None:
        self._texts = texts
        self._dimensions = dimensions
        self._terms = terms or _terms
        self._lock = Lock()
        self._fitted: _Fitted | None = None

    def __call__(self, texts: Sequence[str], dimensions: int | None = None) -> Vectors:
        """Unit vectors (n, d) of ``texts``; the first call fits the model."""
        width = _width(dimensions, self._dimensions)
        with self._lock:
            if self._fitted is None:
                self._fitted = _fit([self._terms(text) for text in self._texts()], self._dimensions)
        vectors = self._fitted.project([self._terms(text) for text in texts])[:, :width]
        for row in np.flatnonzero(~vectors.any(axis=1)):  # no known word
            vectors[row] = _hashed([texts[int(row)]], width)
        return _unit(vectors)


def earlier_generation(texts: Callable[[], Sequence[str]], dimensions: int) -> LatentSemantics:
    """The new model as it was before: no thesaurus, and a document's name counts as any word."""
    return LatentSemantics(texts, dimensions=dimensions, terms=_stems)


@dataclass(frozen=True, slots=True)
class _Fitted:
    """What fitting learns: weights of ``n`` terms and their directions, float32 (n, dimensions)."""

    places: Mapping[str, int]
    weights: Vectors
    directions: Vectors

    def project(self, bags: Sequence[Counter[str]]) -> Vectors:
        sparse = _Sparse.of(bags, self.places, self.weights)
        vectors = np.zeros((len(bags), self.directions.shape[1]), np.float32)
        vectors[sparse.filled] = sparse.times(self.directions)
        return vectors


def _fit(bags: Sequence[Counter[str]], dimensions: int, power_iterations: int = 1) -> _Fitted:
    """Randomised SVD with power iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4)."""
    frequency = Counter(term for bag in bags for term in bag)
    terms = sorted(term for term, count in frequency.items() if count >= 2)
    weights = np.array([math.log((1 + len(bags)) / (1 + frequency[term])) + 1 for term in terms], np.float32)
    places = {term: place for place, term in enumerate(terms)}
    matrix = _Sparse.of(bags, places, weights)
    transposed = matrix.transposed(len(terms))
    size = min(dimensions + 16, len(terms), len(matrix.filled))
    sketch = matrix.times(np.random.default_rng(3).standard_normal((len(terms), size), np.float32))
    for _ in range(power_iterations):
        basis = _basis(transposed.times(_basis(sketch)))
        sketch = matrix.times(basis)
    directions = np.zeros((len(terms), dimensions), np.float32)
    found = (basis @ _axes(sketch)[0])[:, :dimensions]
    directions[:, : found.shape[1]] = found
    return _Fitted(places, weights, directions)


@dataclass(frozen=True, slots=True)
class _Sparse:
    """Rows of a sparse matrix, without the empty ones: ``filled`` names the rows, ``starts`` their first entries."""

    filled: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    values: Vectors

    @classmethod
    def of(cls, bags: Sequence[Counter[str]], places: Mapping[str, int], weights: Vectors) -> _Sparse:
        """Rows of unit length: (1 + ln count) x weight of each known term of a bag."""
        filled: list[int] = []
        starts: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for row, bag in enumerate(bags):
            known = [(places[term], 1 + math.log(count)) for term, count in sorted(bag.items()) if term in places]
            if known:
                filled.append(row)
                starts.append(len(columns))
                entries = np.array([value for _, value in known], np.float32) * weights[[place for place, _ in known]]
                columns.extend(place for place, _ in known)
                values.extend(entries / np.linalg.norm(entries))
        rows, firsts, places_held = (np.array(numbers, np.intp) for numbers in (filled, starts, columns))
        return cls(rows, firsts, places_held, np.array(values, np.float32))

    def transposed(self, width: int) -> _Sparse:
        """The same matrix by columns, counted among the filled rows; every column up to ``width`` has an entry."""
        rows = np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=len(self.columns)))
        order = np.argsort(self.columns, kind="stable")
        starts = np.searchsorted(self.columns[order], np.arange(width))
        return _Sparse(np.arange(width), starts, rows[order], self.values[order])

    def times(self, dense: Vectors, step: int = 256) -> Vectors:
        """Product with ``dense``, some rows at a time so that memory stays small."""
        product = np.empty((len(self.starts), dense.shape[1]), np.float32)
        ends = np.append(self.starts, len(self.columns))
        for low in range(0, len(self.starts), step):
            high = min(low + step, len(self.starts))
            part = slice(ends[low], ends[high])
            terms = dense[self.columns[part]] * self.values[part, None]
            product[low:high] = np.add.reduceat(terms, self.starts[low:high] - ends[low], axis=0)
        return product


def _axes(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """Right singular vectors, largest first, and their singular values, without those that are numerically zero.

    By the small Gram matrix: a QR or SVD of the tall one takes several times as long where cores are busy.
    """
    tall = vectors.astype(np.float64)
    squares, axes = np.linalg.eigh(tall.T @ tall)
    kept = np.flatnonzero(squares > squares[-1] * 1e-12)[::-1]
    return axes[:, kept].astype(np.float32), np.sqrt(squares[kept]).astype(np.float32)


def _basis(vectors: Vectors) -> Vectors:
    """An orthonormal basis of the columns' span."""
    axes, values = _axes(vectors)
    return vectors @ (axes / values)


def _width(wanted: int | None, own: int) -> int:
    if wanted is None:
        return own
    if not 1 <= wanted <= own:
        raise ValueError(f"This model has {own} dimensions; {wanted} were requested.")
    return wanted


def _unit(vectors: Vectors) -> Vectors:
    lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


# ------------------------------------------------------------------------------------------------- words and stems

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+|\d+")
"""Words, also those inside a name: ``DictReader`` has two, ``HTTPServer`` too."""

_ENDING = re.compile(r"(ings?|edly|ed|ies|es|s|ly|ments?|ations?|ions?|ers?|ors?|able|ible)$")

_TOO_COMMON = frozenset(
    (
        *("a", "am", "an", "and", "are", "as", "at", "be", "by", "can", "do", "does", "for", "from", "how", "i", "if"),
        *("in", "into", "is", "it", "its", "like", "me", "my", "no", "not", "of", "on", "or", "so", "such", "than"),
        *("that", "the", "then", "this", "to", "what", "when", "where", "which", "who", "with"),
    )
)

_THESAURUS = """
accents diacritic unicode normal decomposition
address url
archive pack zip tar compress
async coroutine asyncio awaitable
begin start launch run execute spawn call invoke
big large great greatest largest maximum
cache memoize remember
checksum crc hash digest
choose choice pick select
copy clone duplicate
count frequency occurrence tally
cut split chop break divide separate partition
date day calendar datetime
default absent missing
delete remove erase unlink rm destroy
deviation spread variance
dictionary dict mapping map
directory directories dir folder
end stop finish terminate quit exit
error exception failure fault
filename path pathname
function callable callback
indentation indent whitespace margin
join chain concatenate combine together merge
list sequence array
load read parse restore
mail email smtp
make create build produce
mean average
median middle
number int integer numeric
parallel multiprocessing cores processors concurrent
password secret echo hidden
pattern wildcard glob
person user human
program command process executable app application
random chance shuffle
replace substitute change swap
safe escape quote
same equal identical alike similar close
save store write dump persist serialize
search find look locate lookup
show print display
small little smallest least minimum
sort order ordering
text string str
time clock duration seconds
timer timeout interval later
tree recursively recursive recursion whole everything nested deep
unique distinct repeats
wait sleep pause delay suspend
web http internet html
"""
"""Words for much the same among programmers, a line each; short, general, and no substitute for a real model."""


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    """The word in lower case without its common endings, enough to bring ``copies`` and ``copying`` together."""
    word = word.lower()
    if len(word) <= 4:
        return word[:-1] if len(word) == 4 and word.endswith("s") and not word.endswith("ss") else word
    stem = _ENDING.sub("", word)
    if len(stem) < 3:
        return word
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiouslf":
        stem = stem[:-1]  # splitting -> splitt -> split
    if len(stem) > 3 and stem.endswith("e"):
        stem = stem[:-1]
    return stem[:-1] + "i" if len(stem) > 3 and stem.endswith("y") else stem


def _kinships() -> Iterator[tuple[str, str]]:
    for line in _THESAURUS.split("\n"):
        for word in line.split():
            yield _stem(word), f"={line.split()[0]}"


_KIN: dict[str, list[str]] = {}
for _word, _family in _kinships():
    _KIN.setdefault(_word, []).append(_family)


def _terms(text: str) -> Counter[str]:
    """Stems of a text with their counts, and the families they belong to. A document's name counts twice."""
    head, gap, _ = text.partition("\n\n")
    bag: Counter[str] = Counter()
    for part, times in ((text, 1), (head.partition("(")[0] if gap else "", 1)):
        for word in _WORD.findall(part):
            if word.lower() not in _TOO_COMMON:
                stem = _stem(word)
                for term in (stem, *_KIN.get(stem, ())):
                    bag[term] += times
    return bag


def _stems(text: str) -> Counter[str]:
    """Stems of a text with their counts, and nothing else."""
    return Counter(_stem(word) for word in _WORD.findall(text) if word.lower() not in _TOO_COMMON)
