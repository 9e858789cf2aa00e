"""The demo's documents and questions, on whatever Python runs the tests."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from embedtui.demo.corpus import LONGEST, Document, documents
from embedtui.demo.questions import QUESTIONS


@pytest.fixture(scope="module")
def corpus() -> list[Document]:
    return documents()


def test_about_five_thousand_documents_in_order_without_repeats(corpus: list[Document]) -> None:
    names = [document.name for document in corpus]
    assert 4_000 <= len(names) <= 5_000
    assert names == sorted(set(names))


def test_every_question_has_an_answer_on_this_python(corpus: list[Document]) -> None:
    names = {document.name for document in corpus}
    assert len(QUESTIONS) == 60
    assert len({question.text for question in QUESTIONS}) == 60
    unanswered = [question.text for question in QUESTIONS if not names.intersection(question.answers)]
    assert unanswered == []


def test_small_corpus_keeps_the_answers(corpus: list[Document]) -> None:
    answers = {answer for question in QUESTIONS for answer in question.answers}
    whole = {document.name for document in corpus}
    few = documents(limit=200)
    assert len(few) == 200
    assert answers & whole <= {document.name for document in few}


def test_texts_are_name_signature_and_docstring(corpus: list[Document]) -> None:
    texts = {document.name: document.text for document in corpus}
    assert texts["os.path.split"].startswith("os.path.split(p)\n\nSplit a pathname.")
    assert texts["threading.Timer"].startswith("threading.Timer(Thread)\n\n")  # Python
    assert texts["math.gcd"].startswith("math.gcd(*integers)\n\n")  # C
    assert texts["str.casefold"].startswith("str.casefold()\n\n")  # a method of C
    for document in corpus:
        assert document.text.startswith(document.name)
        assert "\0" not in document.text and len(document.text) <= LONGEST
        assert not any(part.startswith("_") for part in document.name.split("."))


def test_documents_are_frozen(corpus: list[Document]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus[0].name = "other"  # type: ignore[misc]


def test_another_process_finds_the_same_and_nothing_is_said() -> None:
    script = """
import hashlib
from embedtui.demo.corpus import documents
print(hashlib.sha256(repr(documents()).encode()).hexdigest())
"""
    runs = [
        subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True) for _ in range(2)
    ]
    assert runs[0].stderr == "" and runs[0].stdout == runs[1].stdout != ""
