"""What the demo's application writes: varied lines about nothing that any of the demo's questions asks."""

from __future__ import annotations

import random

_PEOPLE = (
    *("Okafor", "Jansen", "Moreau", "Lindqvist", "Tanaka", "Silva", "Novak", "Haddad", "Kowalska", "Rossi"),
    *("Petrov", "Mbeki", "Larsen"),
)
_PLACES = (
    *("Lisbon", "Tromsø", "Kyoto", "Nairobi", "Galway", "Tbilisi", "Oaxaca", "Bergen", "Hobart", "Cusco"),
    *("Tartu", "Leuven"),
)
_SEASONS = ("spring", "summer", "autumn", "winter")
_PLANTS = (
    *("quince", "juniper", "fennel", "walnut", "apricot", "lavender", "mulberry", "rhubarb", "saffron"),
    *("thyme", "hazel", "plum", "barley", "clover"),
)
HABITS = ("usually", "otherwise", "instead", "however", "already", "always", "never", "typically", "generally")
"""Words that the models know: an edit that has another one has another vector, as an edit's text mostly has."""
_DEEDS = ("planted", "grafted", "watered", "harvested", "pruned", "dried", "traded", "sketched")

FOOTER = "\n\nKeeper: "
"""Begins what an edit sets under a document, in the place of what an earlier one set there."""


def edited(content: str, dice: random.Random) -> str:
    """The document under another keeper than it has, with other habits."""
    text, _, present = content.partition(FOOTER)
    habit = dice.choice([each for each in HABITS if each not in present])
    return f"{text}{FOOTER}{dice.choice(_PEOPLE)}, {dice.choice(_PLACES)}, {habit}."


def note(number: int, dice: random.Random) -> tuple[str, str]:
    """Name and text of a new document, of a garden."""
    name = f"note.{number}"
    plants = ", ".join(dice.sample(_PLANTS, 3))
    who, place, season = dice.choice(_PEOPLE), dice.choice(_PLACES), dice.choice(_SEASONS)
    return name, f"{name}\n\n{who} {dice.choice(_DEEDS)} {plants} near {place}, {season}."
