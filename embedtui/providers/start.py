"""The first request to an endpoint: whether what answers there is an embeddings API at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from embedtui.arrays import np
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers.base import BAD_VECTOR, Embedder, EmbedReply, ProviderFault

TEXTS = ("embedtui", "A cat.")
"""Two, for some servers answer the first text of a list alone, or all texts with one vector."""
TRIES = 4
NO_API = frozenset({"no_embeddings", "one_at_a_time", "same_vector"})
"""Codes of what :func:`first_answer` finds by itself: the work could only wait for ever."""
PAUSE = 0.25
"""Seconds before the first new try, doubling: a gateway that is being restarted is given some seconds."""


def first_answer(
    embedder: Embedder,
    model: EmbeddingModel,
    *,
    stop: threading.Event | None = None,
    on_fault: Callable[[ProviderFault], None] = lambda _: None,
) -> EmbedReply:
    """The reply for two different texts; ``on_fault`` is told of each answer that is none.

    Raises:
        ProviderFault: CONFIGURATION with what to set, where every answer is a 200 without embeddings, or where lists of
            texts are not answered, or different texts with the same vector, or where a plain text is refused; any other
            fault as it comes. (That two texts are refused, and one is not, is a limit: the work finds it out.)
    """
    stop = stop or threading.Event()
    texts = TEXTS[: model.max_inputs]
    reply = _asked(embedder, texts, TRIES, stop, on_fault)
    if isinstance(reply, ProviderFault):
        single = _asked(embedder, TEXTS[:1], 1, stop, on_fault)
        if isinstance(single, ProviderFault) and single.fault_class is FaultClass.ROW:
            raise ProviderFault(
                FaultClass.CONFIGURATION,
                single.code,
                f"{model.name} refuses a plain text: {single.reason}",
                hint="Check model, dimensions and provider, and what it wants beside the texts (extra_body).",
            )
        if isinstance(single, EmbedReply):
            if reply.fault_class is FaultClass.ROW:
                return single
            reply = _asked(embedder, texts, 1, stop, on_fault)
            if isinstance(reply, ProviderFault):
                raise ProviderFault(
                    FaultClass.CONFIGURATION,
                    "one_at_a_time",
                    f"{model.name} answers a single text well, and a list of two not: {reply.reason}",
                    hint="Set max_inputs = 1 for this model.",
                )
        elif reply.code == BAD_VECTOR:  # embeddings, if none to use: it may get well
            raise reply
        else:
            raise ProviderFault(
                FaultClass.CONFIGURATION,
                "no_embeddings",
                f"What answers for {model.name} is no embeddings API: {reply.reason}",
                hint="Check base_url (it mostly ends in /v1), and that the server there has this model for embeddings.",
            )
    if len(reply.vectors) > 1 and np.array_equal(reply.vectors[0], reply.vectors[1]):
        raise ProviderFault(
            FaultClass.CONFIGURATION,
            "same_vector",
            f"{model.name} answers two different texts with the same vector.",
            hint="Set max_inputs = 1 for this model; if that does not help, the server does not embed the texts.",
        )
    return reply


def _asked(
    embedder: Embedder,
    texts: Sequence[str],
    tries: int,
    stop: threading.Event,
    on_fault: Callable[[ProviderFault], None],
) -> EmbedReply | ProviderFault:
    """The reply, or the last of ``tries`` answers that were none."""
    number = 0
    while True:
        try:
            return embedder.embed(texts, kind="document", stop=stop)
        except ProviderFault as fault:
            on_fault(fault)
            if fault.fault_class is FaultClass.ROW:
                return fault
            if fault.code not in ("bad_reply", BAD_VECTOR, "connection"):
                raise
            number += 1
            # a server may close a connection that was kept open, however well it answers
            if number >= max(tries, 2) or stop.wait(PAUSE * 2 ** (number - 1)):
                if fault.code == "connection":
                    raise
                return fault
