"""The goals of everyday life: a contest, something made, a quarrel, a fear, a guest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .words import WEATHER, _list

if TYPE_CHECKING:
    from .simulation import Simulation


class Everyday:
    """Plots that need no journey, each a method that writes into the simulation it was made for."""

    def __init__(self, simulation: Simulation) -> None:
        self.sim = simulation

    def plots(self, use: str) -> list[Callable[[], None]]:
        """Those in which a thing of this use makes sense: food is won, but not quarrelled over for weeks."""
        lasting = [self.quarrel, self.fear] if use != "food" else []
        made = [self.make] if use in ("treasure", "warm", "music", "boat", "climb", "light") else []
        return [self.contest, self.guest, *lasting, *made]

    def contest(self) -> None:
        """The thing is the prize, and somebody stronger wants it too."""
        sim, rival, contest = self.sim, self.sim.stock.person(), self.sim.stock.pick(CONTESTS)
        place, thing = sim.goal_place, sim.thing
        sim.say("contest", True, b=sim.friend, t=thing, p=place, contest=contest)
        sim.know("contest", contest, c=rival, p=place, contest=contest)
        sim.know("prize", thing.noun, t=thing, p=place, contest=contest)
        sim.say("practise", b=sim.friend)
        sim.say("rival", c=rival)
        sim.travel(place)
        winner = sim.hero if sim.chance(0.6) else rival
        sim.say("win" if winner is sim.hero else "runner", True, c=rival, t=thing)
        sim.know("winner", winner.name, w=winner, p=place, contest=contest)

    def make(self) -> None:
        """The thing is made, badly at first."""
        sim, flaw = self.sim, self.sim.stock.pick(FLAWS)
        teacher = sim.stock.person()
        sim.say("make", True, t=sim.thing)
        sim.say("fail", flaw=flaw)
        sim.know("flaw", flaw, t=sim.thing, flaw=flaw)
        sim.say("teach", True, b=teacher, p=sim.goal_place)
        sim.know("taught", teacher.name, b=teacher, t=sim.thing)
        sim.say("made", True, t=sim.thing, c=sim.friend)

    def quarrel(self) -> None:
        """Two friends, one thing, and a judge."""
        sim, judge, spot = self.sim, self.sim.stock.person(), self.sim.stock.spot()
        verdict = sim.stock.pick(VERDICTS)
        sim.say("both", True, b=sim.friend, t=sim.thing, p=sim.goal_place, spot=spot)
        sim.know("found", spot, t=sim.thing, p=sim.goal_place, spot=spot)
        sim.know("found_place", sim.goal_place.name, t=sim.thing, p=sim.goal_place)
        sim.know("quarrelled", sim.friend.name, b=sim.friend, t=sim.thing)
        sim.say("quarrel", b=sim.friend)
        sim.say("judge", True, b=sim.friend, c=judge, verdict=verdict)
        sim.know("judge", judge.name, b=sim.friend, c=judge)
        sim.know("verdict", verdict, b=sim.friend, c=judge, verdict=verdict)
        sim.say("peace", b=sim.friend)

    def fear(self) -> None:
        """The thing is a charm against a fear, and turns out not to be needed."""
        sim, fear = self.sim, self.sim.stock.pick(FEARS)
        sim.say("afraid", True, fear=fear)
        sim.know("fear", fear, fear=fear)
        sim.say("charm", b=sim.friend, t=sim.thing)
        sim.know("gave", sim.friend.name, a=sim.friend, b=sim.hero, t=sim.thing)
        sim.say("test", True, t=sim.thing, p=sim.goal_place, fear=fear)
        sim.say("courage", True, b=sim.friend, t=sim.thing, fear=fear)

    def guest(self) -> None:
        """A stranger is taken in, and leaves the thing as thanks."""
        sim, spot = self.sim, self.sim.stock.spot()
        sim.say("guest", True, b=sim.friend, p=sim.goal_place, weather=sim.stock.pick(WEATHER))
        sim.know("guest", sim.friend.name, b=sim.friend)
        sim.know("from", sim.goal_place.name, b=sim.friend, p=sim.goal_place)
        sim.say("welcome", b=sim.friend, p=sim.goal_place)
        sim.say("leaves", True, b=sim.friend, t=sim.thing, spot=spot)
        sim.know("left", sim.thing.noun, b=sim.friend, t=sim.thing)
        sim.know("found", spot, t=sim.thing, spot=spot)


CONTESTS = _list("""
    singing contest, sack race, boat race, cooking contest, chess tournament, dancing contest, swimming race, kite contest, spelling contest,
    snail race, egg race, jumping contest, drawing contest, story contest, running race, whistling contest, riddle contest, climbing race
""")
FLAWS = _list("""
    fell apart, was much too small, came out crooked, broke in two, looked like a potato, made a terrible noise, leaned to one side,
    was as heavy as a stone, smelled of fish, turned out green, was upside down, came to pieces in the rain, had a hole in it
""")
VERDICTS = _list("""
    take turns every week, give it to the poorest child in the village, sell it and share the money, keep it in the middle of the market,
    draw straws for it, let it belong to nobody, use it only together, put it back where it was, ask its true owner,
    share it like brothers, tell its story to everyone, wait for one year and see who still wants it
""")
FEARS = _list("""
    the dark, deep water, thunder, high places, big dogs, strangers, spiders, the old forest, narrow tunnels, loud noises, ghosts, ice, the wind at night,
    being alone, large crowds, bees, fire, bridges
""")
