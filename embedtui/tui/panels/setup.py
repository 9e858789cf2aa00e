"""What set-up shows below its fields: texts as they are sent, the model and its key, where the vectors go."""

from __future__ import annotations

import re
from collections.abc import Mapping

from textual.content import Content

from embedtui.known import KNOWN_MODELS, KnownModel, provider
from embedtui.model import FoundTable, Proposal
from embedtui.tui import draw, figures, safe
from embedtui.tui.panels.gate import check_lines
from embedtui.tui.remedies import worded
from embedtui.tui.view import Trouble

FIELDS: Mapping[str, str] = {
    "--content-sql": "“or SQL”",
    "--content-from": "“of table”",
    "--content-via": "content_via",
    "--content": "“Text columns”",
    "--where": "“Only rows where”",
    "--new-model": "“New model”",
    "--dimensions": "“Its dimensions”",
    "--base-url": "“Endpoint”",
    "old_model.base_url": "“Old model's endpoint”",
    "old_model.key_variable": "“Old model's variable”",
    "--old-model": "“Old model”",
    "--strategy": "“Strategy”",
    "--placement": "“Placement”",
}
"""What the command line's flags are called here."""

STRATEGIES: Mapping[str, str] = {
    "pointer": "Services ask the Router, or SQL, which side to use: moved at once, and back at once.",
    "env_file": "A file that services read is written anew: USE_V2_EMBEDDINGS and its like.",
    "hook": "A command of yours is run; where it fails, reads move back.",
    "rename": "The columns exchange their names, behind a short lock. The query's model is switched elsewhere.",
    "search_path": "New sessions of these roles find the routed view. The query's model is switched elsewhere.",
}
_LINES = 12
"""Of one text of ours: more than any has, so none is cut."""


def table_line(table: FoundTable, width: int) -> Content:
    """A table that could be moved, in a list."""
    rows = f"{figures.number(table.rows)} rows" if table.rows is not None else "rows unknown"
    made_by = f"{safe.line(table.made_by)}, " if table.made_by else ""
    name = draw.line((safe.line(table.name), "bold"), "  ", (safe.line(table.column), "$old"))
    typed = draw.line(name, (f" {safe.line(table.type)}", "$muted"))
    for left, right in ((typed, f"{made_by}{rows}"), (name, f"{made_by}{rows}"), (typed, rows)):
        if left.cell_length + len(right) < width:
            break
    return draw.row(left, draw.line((right, "$muted")), width)


def refused_lines(trouble: Trouble, width: int, *, asked: bool = True) -> list[Content]:
    """Why it cannot be so, and what would help, in the words of the fields; no fault before anything was ``asked``."""
    flag = re.compile("|".join(map(re.escape, FIELDS)))
    hint = flag.sub(lambda found: FIELDS[found[0]], worded(trouble.hint, trouble.remedies))
    first, *more = draw.wrapped(safe.line(trouble.message), width - 2, "bold", _LINES) or [Content("")]
    mark = ("✗ ", "bold $error") if asked else ("· ", "$muted")
    rows = [draw.line(mark, first), *(draw.line("  ", each) for each in more)]
    return rows + [draw.line("  ", each) for each in draw.wrapped(hint, width - 2, "$muted", _LINES)]


def source_lines(proposal: Proposal, width: int) -> list[Content]:
    """The texts, and what is worth knowing of them."""
    rows = []
    if proposal.text_columns:
        columns = safe.line(", ".join(proposal.text_columns))
        rows += draw.wrapped(f"Text columns of this table: {columns}.", width, "$muted", _LINES)
    if proposal.texts:
        broken = any("\n" in each.strip() for each in proposal.texts)
        what = "The first texts, as sent (⏎: new line)" if broken else "The first texts, as they will be sent"
        rows.append(Content.styled(f"{what}; rows without a text are left out:", "$muted"))
        shown = [safe.line(each.strip().replace("\n", " ⏎ "), 2000) for each in proposal.texts]
        rows += [draw.cut(draw.line(("│ ", "$faint"), each), width) for each in shown]
    for check in proposal.checks:
        rows += check_lines(check, width, _LINES)
    return rows


def model_lines(proposal: Proposal, name: str, width: int) -> list[Content]:
    """The new model: what it makes, what is known of it, and whether there is a key for it."""
    rows = []
    if proposal.new:
        rows += _pairs(width, ("old", safe.line(proposal.old), "$old"), ("new", safe.line(proposal.new), "$new"))
    known = KNOWN_MODELS.get(name)
    rows += draw.wrapped(said_of(known) if known else "Nothing is known of it here: no price.", width, "$muted", _LINES)
    if proposal.new:
        variables = dict.fromkeys((proposal.key_variable, *proposal.keys_missing))
        rows += [line for each in variables for line in key_lines(each, width, there=each not in proposal.keys_missing)]
    return rows


def said_of(known: KnownModel) -> str:
    """A known model in a sentence."""
    fewer = ", fewer on request" if known.shortens else ""
    price = f"{_price(known)} per million tokens" if known.price_per_million is not None else "no price"
    return f"{known.provider}: {known.dimensions:,} dimensions{fewer}; {price}."


def _price(known: KnownModel) -> str:
    """To the cent, and finer where it is."""
    price = known.price_per_million or 0.0
    return f"${price:.2f}" if round(price, 2) == price else f"${price:g}"


def model_line(name: str, known: KnownModel, width: int) -> Content:
    """A known model in a list."""
    price = _price(known) if known.price_per_million is not None else "—"
    right = draw.line((f"{known.provider}  {known.dimensions:>5,}  {price:>6}", "$muted"))
    return draw.row(draw.line((name, "bold")), right, width)


def key_lines(variable: str, width: int, *, there: bool) -> list[Content]:
    """Whether the variable with the key is set; the key itself is never asked for."""
    if not variable:
        return [draw.line(("· ", "$muted"), ("No key is sent.", "$muted"))]
    if there:
        return [draw.line(("✓ ", "bold $success"), (safe.line(variable), "bold"), " is set.")]
    text = f"{safe.line(variable)} is not set: put the key into the environment or .env, never here."
    first, *more = draw.wrapped(text, width - 2, "", _LINES)
    return [draw.line(("! ", "bold $warning"), first), *(draw.line("  ", each) for each in more)]


def default_of(name: str, path: str) -> str:
    """What an empty field means, of what hangs on the model or its provider."""
    known = KNOWN_MODELS.get(name)
    if path == "new_model.dimensions":
        return str(known.dimensions) if known else "of its vectors"
    return known.provider if known else "openai"


def provider_default(name: str, given: str, path: str) -> str:
    """What an empty endpoint or key variable means."""
    known = KNOWN_MODELS.get(name)
    manners = provider(given or (known.provider if known else "openai"))
    if path == "new_model.base_url":
        return manners.base_url or "the installation's own address"
    return manners.key_variable or "no key"


def way_lines(proposal: Proposal, strategy: str, width: int) -> list[Content]:
    """Where the vectors go and how services follow."""
    rows = []
    for label, text in (("rows", proposal.values.get("scope", "")), ("placement", proposal.placement)):
        rows += _pairs(width, (label, safe.line(text), "")) if text else []
    rows += _pairs(width, ("strategy", STRATEGIES.get(strategy, ""), ""))
    rows += _pairs(width, ("view", safe.line(proposal.view), "")) if proposal.view else []
    rows += _pairs(width, ("file", safe.line(proposal.file), "")) if proposal.file else []
    rows += left_out_lines(proposal, width)
    for check in proposal.checks:
        if check.result == "fail":
            rows += check_lines(check, width, _LINES)
    return rows


def left_out_lines(proposal: Proposal, width: int) -> list[Content]:
    """What the file will not have."""
    if not proposal.left_out:
        return []
    text = f"{proposal.left_out[:1].upper()}{proposal.left_out[1:]}."
    first, *more = draw.wrapped(safe.line(text), width - 2, "", _LINES)
    return [draw.line(("! ", "bold $warning"), first), *(draw.line("  ", each) for each in more)]


def _pairs(width: int, *pairs: tuple[str, str, str]) -> list[Content]:
    """Labels with values that may take several lines."""
    rows = []
    for label, value, style in pairs:
        first, *more = draw.wrapped(value, width - 11, style, _LINES) or [Content("")]
        rows += [draw.line((draw.fit(label, 11), "$muted"), first), *(draw.line(" " * 11, each) for each in more)]
    return rows
