"""The machine that a plan is for: this one's card, or one that is not here."""

from __future__ import annotations

from search.errors import MachineUnfit, SearchError
from search.plan_study import GIB, Machine
from search.sections import MachineSection
from search.studyfile import nearest
from search.survey import card
from train.card import Card
from train.planning import plan

DEFAULT_SPEED = "RTX 4070 Ti"


def machine(section: MachineSection, memory_gib: float | None, card_name: str | None) -> Machine:
    """The machine of a study's [machine]. `memory_gib` and `card_name` stand for a card that is not here.

    The limit is the one given, else the study's memory_gib, else all memory of this machine's card. Raises SearchError
    where none of them is known, or the card's name is not.
    """
    if section.device == "cpu":
        if card_name is not None:
            raise SearchError(f'--card {card_name}: [machine] says device = "cpu"; leave --card out, or change that')
        limit = int(memory_gib * GIB) if memory_gib else section.memory_bytes
        return Machine("cpu", "the CPU", limit, *plan.context_bytes("cpu"), None)
    here = None if memory_gib or card_name else _card_here()
    speed = _speed(card_name or (here.name if here else DEFAULT_SPEED), known=card_name is not None)
    name = here.name if here else f"an {speed.name}" if speed else "a CUDA card"
    if card_name is not None and memory_gib is None and section.memory_gib is not None:
        name += f" with the study's memory_gib = {section.memory_gib:g} (--memory says another)"
    limit = int(memory_gib * GIB) if memory_gib else section.memory_bytes or (here.memory_bytes if here else None)
    if limit is None:
        unknown = f"--card {card_name} says no memory" if card_name else "there is no card here"
        raise SearchError(f"{unknown}, and no memory_gib is set: say what to plan for, like --memory 12")
    return Machine("cuda", name, limit, *plan.context_bytes("cuda", here.name if here else card_name), speed)


def _card_here() -> Card | None:
    try:
        return card()
    except MachineUnfit:
        return None


def _speed(name: str, known: bool) -> plan.Speed | None:
    found = plan.speed_of(name)
    if found is None and known:
        names = [speed.name for speed in plan.SPEEDS]
        raise SearchError(f"--card {name}: the speed of this card is not known; {nearest(name, names)}")
    return found
