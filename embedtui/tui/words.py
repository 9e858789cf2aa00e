"""The screen's words that are nobody's everyday ones, each in a sentence; docs/glossary.md has them all."""

from __future__ import annotations

WORDS: tuple[tuple[str, str], ...] = (
    ("bridge", "a linear map from the new model's vectors to the old one's: new queries search the old vectors."),
    (
        "canary",
        "a share of the keys, not of the searches: each key keeps its side, and one may search more than another.",
    ),
    ("cutover", "moving the pointer, so that searches use the new side. One row; no lock on the table."),
    ("differ much", "queries whose first ten results are largely others than before: worth a look, not bad."),
    ("drift", "changes since a comparison, as a share of the rows; too much of it makes the comparison void."),
    ("epoch", "the pointer's version: every move adds one, and a Router says which one it has seen."),
    ("evidence", "the newest recorded comparison, and whether it is still about the present state."),
    ("faulty", "a row whose text the provider refuses, again and again, while others pass."),
    ("gain", "nDCG of the new side less that of the old one, for one query: +0.38 is better, -0.38 worse."),
    ("gate", "the checks that a comparison has to pass before a cutover."),
    ("held", "the work waits for a named reason (the provider, replica lag, an operator …) and goes on after it."),
    ("HOT", "a write that stays on its page and costs no index entry. A small share means slow writes."),
    ("mismatched", "a sampled vector that its model does not make of its text when it is asked again."),
    ("MRR", "how early the first relevant result comes, averaged: 1 is always first."),
    ("nDCG", "how well the judged rows are ranked, 0 to 1: relevant ones early is better. It needs judgments."),
    ("orphaned", "a vector in the side table whose row is gone."),
    ("overlap", "how many of the first ten results old and new side share. It says different, never worse."),
    ("partial", "a comparison while rows have one side's vector only: their absence counts as a difference."),
    ("RBO", "rank-biased overlap: agreement of two rankings in which early ranks count more; 1 is the same."),
    ("recall", "how many of the judged rows are among the first ten; of an index: of what an exact search finds."),
    ("Router", "what a service imports to know which model and column to use; it follows the pointer."),
    ("shard", "a block range of the table: what a worker takes at a time, and where a rerun goes on."),
    ("side", "old ◇ or new ◆: the vectors of a model, with their column and index."),
    ("soak", "the time after the cutover in which both sides are kept current, so that F9 finds them so."),
    (
        "spent",
        "in all, and by part: new model (a cap counts this alone), old side, questions and checks, proof. Replies that"
        " were lost (a killed worker) are paid for, and only the cap has them.",
    ),
    ("stale", "a vector of earlier text. missing: no vector at all. unknown: nobody can tell."),
    ("sync", "embedding again what the application changes."),
    ("tied", "at the same distance as others: in which order these come is chance, and no move up or down."),
    ("unverified", "a new vector that the application wrote: kept, and not known to be the model's."),
    ("verdict", "yours on a query: n, o, s, b on Compare, · before it is given; the gate's: PASS, FAIL, INCONCLUSIVE."),
    ("void", "a comparison of a state that is no longer there: compare again."),
)
"""In the order of the alphabet."""
