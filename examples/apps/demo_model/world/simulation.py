"""What happens, and why: a small planner that gives a hero a goal, finds a way to it, and writes down every event and fact.

The planner works backwards (a friend is cold → a blanket is needed → somebody has one → they want something for it), so each
event has its cause in the story. Nothing here is text: `teller` says the events, `questions` asks for the facts.
"""

import random
from dataclasses import dataclass, field

from . import everydays, words
from .scenes import SCENES
from .things import Person, Place, Stock, Thing

OBSTACLES = ("light", "boat", "climb", "open", "guide", "music", "cut", "dry")
TROUBLES = ("light", "warm", "food", "mend", "cure", "music", "dry", "climb", "cut", "open")
MOODS = ("happy", "quiet", "funny", "exciting", "sad")


@dataclass(slots=True)
class Event:
    """One thing that happened: its kind, who and what took part, and whether a new paragraph starts with it."""

    kind: str
    roles: dict[str, object]
    opens: bool = False


@dataclass(slots=True)
class Fact:
    """Something true of the story that can be asked; an answer is right when it holds every one of `keys`."""

    kind: str
    roles: dict[str, object]
    keys: tuple[str, ...]


@dataclass(slots=True)
class Wish:
    """What a story was asked to be about; None leaves it to the world."""

    kinds: tuple[str, ...] = ()
    nouns: tuple[str, ...] = ()
    name: str | None = None
    friend: str | None = None
    place: Place | None = None
    mood: str | None = None
    hero: Person | None = None


@dataclass(slots=True)
class Story:
    """A finished simulation, before anything is told."""

    hero: Person
    thing: Thing
    mood: str
    events: list[Event] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    cast: list[Person] = field(default_factory=list)


def simulate(rng: random.Random, stock: Stock, wish: Wish) -> Story:
    """One story in which every word of the wish plays a part."""
    return Simulation(rng, stock, wish).run()


class Simulation:
    """The state of one story while it happens: what was said and what became true, and who still owes what."""

    def __init__(self, rng: random.Random, stock: Stock, wish: Wish) -> None:
        self.rng, self.stock, self.wish = rng, stock, wish
        kinds = list(wish.kinds)
        self.again = wish.hero is not None
        self.hero = wish.hero or stock.person(kinds.pop(0) if kinds else None, wish.name)
        self.friend = stock.person(kinds.pop(0) if kinds else None, wish.friend)
        while self.friend.kind == self.hero.kind and len(wish.kinds) < 2:
            self.friend = stock.person()
        nouns = list(wish.nouns)
        self.thing = stock.thing(noun=nouns.pop(0)) if nouns else stock.thing(use=self._use())
        self.second = stock.thing(noun=nouns.pop(0)) if nouns else None
        self.home = stock.place()
        self.goal_place = wish.place or stock.place()
        self.story = Story(self.hero, self.thing, wish.mood or stock.pick(MOODS), cast=[self.hero, self.friend])
        self.owed: tuple[Person, Thing, str] | None = None

    def _use(self) -> str:
        return "treasure" if self.rng.random() < 0.4 else self.stock.pick(tuple(words.USES))

    def say(self, kind: str, opens: bool = False, **roles: object) -> None:
        self.story.events.append(Event(kind, {"a": self.hero, **roles}, opens))

    def know(self, kind: str, *keys: str, **roles: object) -> None:
        self.story.facts.append(Fact(kind, {"a": self.hero, **roles}, keys))

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def run(self) -> Story:
        use = self.thing.use
        everyday = everydays.Everyday(self)
        plots = [self.lost, self.gift, self.mystery, self.treasure, *everyday.plots(use)]
        if use in OBSTACLES:
            plots += [self.visit] * 4
        if use in TROUBLES:
            plots += [self.aid] * 3
        self.say("again" if self.again else "open", True, p=self.home)
        if not self.again:
            self.know("kind", self.hero.kind)
            self.know("home", self.home.name, p=self.home)
            if self.chance(0.5):
                self.say("habit")
        self.know("look", self.thing.look, t=self.thing)
        self.know("about", self.hero.kind, self.thing.noun, t=self.thing)
        self.stock.pick(plots)()
        if self.owed:
            self.keep()
        self.say("end_" + self.story.mood, True, b=self.friend, t=self.thing, p=self.home)
        return self.story

    # The six goals.

    def aid(self) -> None:
        """The friend is in trouble that only the thing ends."""
        place, use = self.goal_place, self.thing.use
        self.say("news_" + use, True, b=self.friend, p=place, m=self.stock.person())
        self.know("trouble", place.name, b=self.friend, p=place)
        self.say("resolve", b=self.friend, t=self.thing, p=place)
        self.acquire(self.thing, keep=False)
        self.travel(place)
        self.say("aid_" + use, b=self.friend, t=self.thing, p=place)
        self.know("gave", self.hero.name, a=self.hero, b=self.friend, t=self.thing)
        self.thanks(self.friend)

    def visit(self) -> None:
        """The way to a place is barred, and the thing opens it."""
        place, use = self.goal_place, self.thing.use
        reason = self.stock.pick(REASONS)
        self.say("want", True, p=place, reason=reason)
        self.know("reason", reason, p=place, reason=reason)
        self.say("bar_" + use, p=place)
        self.acquire(self.thing)
        self.say("pass_" + use, True, t=self.thing, p=place)
        self.know("passed", self.thing.noun, p=place, t=self.thing)
        self.say("reach", p=place, reason=reason, b=self.friend)
        self.say("share", b=self.friend, t=self.thing)

    def lost(self) -> None:
        """The hero's own thing is lost, looked for, and found."""
        giver, there = self.stock.relative(), self.stock.place()
        self.say("own", True, b=giver, t=self.thing)
        self.know("gave", giver.name, a=giver, b=self.hero, t=self.thing)
        cause = self.stock.pick(LOSSES)
        self.say("lose", True, t=self.thing, p=there, cause=cause)
        self.say("search", t=self.thing, p=there)
        self.clue(self.thing, self.friend)
        self.find(self.thing, self.goal_place)
        if self.chance(0.7):
            self.thanks_to(self.friend)

    def gift(self) -> None:
        """The friend has a birthday, and the thing is the present."""
        self.say("birthday", True, b=self.friend, t=self.thing)
        self.acquire(self.thing, keep=False)
        box = self.stock.fresh(words.BOXES)
        self.travel(self.goal_place)
        self.say("present", b=self.friend, t=self.thing, box=box, p=self.goal_place)
        self.know("inside", self.thing.noun, b=self.friend, t=self.thing, box=box)
        self.thanks(self.friend)

    def mystery(self) -> None:
        """The friend's thing is gone; somebody took it, for a reason."""
        thief, den = self.stock.person(), self.goal_place
        why = self.stock.pick(MOTIVES)
        self.say("missing", True, b=self.friend, t=self.thing, p=self.home)
        self.know("owner", self.friend.name, b=self.friend, t=self.thing)
        self.say("tracks", b=self.friend, t=self.thing, p=den, sign=self.stock.pick(SIGNS))
        self.travel(den)
        self.say("caught", b=thief, t=self.thing, p=den, why=why)
        self.know("thief", thief.name, b=thief, t=self.thing)
        self.know("motive", why, b=thief, t=self.thing, why=why)
        self.say("sorry", b=thief, c=self.friend, t=self.thing)
        if self.second:
            self.say("amends", b=thief, c=self.friend, u=self.second)
            self.know("gave", thief.name, a=thief, b=self.friend, t=self.second)

    def treasure(self) -> None:
        """A letter says where something lies."""
        place, spot, box = self.goal_place, self.stock.spot(), self.stock.fresh(words.BOXES)
        self.say("letter", True, b=self.friend, p=place, spot=self.stock.spot())
        if self.chance(0.7):
            self.say("together", b=self.friend, p=place)
            self.know("companion", self.friend.name, b=self.friend, p=place)
        use = self.stock.pick(OBSTACLES)
        if self.second is None and self.chance(0.5):
            tool = self.stock.thing(use=use)
            self.say("bar_" + use, p=place)
            self.acquire(tool)
            self.say("pass_" + use, True, t=tool, p=place)
            self.know("passed", tool.noun, p=place, t=tool)
        else:
            self.travel(place)
        self.say("dig", t=self.thing, p=place, spot=spot, box=box)
        self.know("inside_spot", self.thing.noun, t=self.thing, spot=spot, box=box)
        self.know("found", spot, t=self.thing, p=place, spot=spot)
        if self.second:
            self.say("under", u=self.second)
        self.say("keepsake", b=self.friend, t=self.thing)

    # The ways to come by a thing.

    def acquire(self, thing: Thing, keep: bool = True) -> None:
        """A thing that is not kept is a present, and what is lent cannot be given away."""
        ways = [self.at_home, self.found, self.thanked, self.traded]
        if self.second:
            ways = [self.traded]
        elif keep:
            ways += [self.lent, self.lent]
        self.stock.pick(ways)(thing)

    def at_home(self, thing: Thing) -> None:
        giver = self.stock.relative()
        self.say("remember", t=thing, b=giver)
        self.know("gave", giver.name, a=giver, b=self.hero, t=thing)

    def found(self, thing: Thing) -> None:
        if self.chance(0.5):
            self.clue(thing, self.stock.person())
        self.find(thing, self.stock.place())

    def find(self, thing: Thing, place: Place) -> None:
        self.travel(place)
        spot = self.stock.spot()
        self.say("find", t=thing, p=place, spot=spot)
        self.know("found", spot, t=thing, p=place, spot=spot)
        self.know("found_place", place.name, t=thing, p=place)

    def clue(self, thing: Thing, teller: Person) -> None:
        self.say("clue", True, b=teller, t=thing)
        self.know("clue", teller.name, b=teller, t=thing)

    def meet(self) -> Person:
        other, place = self.stock.person(), self.stock.place()
        self.story.cast.append(other)
        self.say("meet", True, b=other, p=place)
        if self.chance(0.2):
            self.say("scene", scene=self.stock.pick(SCENES[place.kind]))
        self.know("met", other.name, b=other, p=place)
        return other

    def lent(self, thing: Thing) -> None:
        other, promise = self.meet(), self.stock.pick(PROMISES)
        self.say("lend", b=other, t=thing, vow=promise)
        self.know("lent", other.name, b=other, t=thing)
        self.know("promise", promise, b=other, vow=promise)
        self.owed = (other, thing, promise)

    def thanked(self, thing: Thing) -> None:
        other, plight = self.meet(), self.stock.pick(tuple(PLIGHTS))
        self.say("plight", b=other, plight=plight, help=PLIGHTS[plight])
        self.know("plight", plight, b=other, plight=plight)
        self.say("reward", b=other, t=thing)
        self.know("gave", other.name, a=other, b=self.hero, t=thing)

    def traded(self, thing: Thing) -> None:
        price = self.second or self.stock.thing()
        other = self.meet()
        self.say("trade", b=other, t=thing, u=price)
        self.know("traded", price.noun, b=other, t=thing, u=price)

    # What happens on the way and after.

    def travel(self, place: Place) -> None:
        weather = self.stock.pick(words.WEATHER)
        self.say("travel", True, p=place, weather=weather)
        self.know("weather", weather, p=place, weather=weather)
        if self.chance(0.3):
            self.say("onway", p=place)
        elif self.chance(0.5):
            self.say("scene", scene=self.stock.pick(SCENES[place.kind]))

    def thanks(self, friend: Person) -> None:
        vow = self.stock.pick(PROMISES)
        if self.chance(0.65):
            self.say("vow", b=friend, vow=vow)
            self.know("promise", vow, a=friend, b=self.hero, vow=vow)
        else:
            self.say("thanks", b=friend)

    def thanks_to(self, friend: Person) -> None:
        vow = self.stock.pick(PROMISES)
        self.say("repay", b=friend, vow=vow)
        self.know("promise", vow, b=friend, vow=vow)

    def keep(self) -> None:
        other, thing, vow = self.owed
        self.say("keep", True, b=other, t=thing, vow=vow)


REASONS = words._list("""
    watch the stars, pick blue berries, see the sea for the first time, hear the great bell, visit an old teacher, swim at sunset,
    draw a picture of the birds, learn to bake bread, look for smooth pebbles, dance at the harvest feast, see the cherry trees in bloom,
    listen to the frogs, drink from the clear spring, light a signal fire, count the ships, ask a wise old tree a question,
    gather mushrooms, fly a paper bird, sleep under the open sky, taste the first apples, watch the snow geese fly south,
    write a song, find out where the wind came from, see a falling star, plant a row of sunflowers, join the winter fair
""")
LOSSES = words._list("""
    slipped through a hole in a pocket, rolled away down a slope, was blown away by a gust of wind, fell out of a basket,
    was swept away by the stream, was left behind on a bench, dropped off the back of a cart, was carried off by a jackdaw,
    slid off a wet roof, was forgotten beside a campfire
""")
MOTIVES = words._list("""
    wanted something to look at on lonely nights, thought that nobody needed it any more, wished to show it to a sick brother,
    hoped to learn how it was made, needed it to cheer up a crying child, believed it was a lucky charm, had never owned anything so fine,
    wanted to play a trick on everyone, mistook it for something else, had been promised three coins for it,
    was making a nest for the winter, meant to bring it back the next day
""")
SIGNS = words._list("""
    small wet footprints, a line of crumbs, a few grey feathers, a trail of white flour, scratches on the door, muddy boot marks,
    a torn piece of red cloth, drops of candle wax, a row of acorns, a thin silver thread, bent blades of grass, a dropped glove
""")
PROMISES = words._list("""
    bring it back before sunset, share the first honey of spring, come again on the next full moon, teach a song about the sea,
    bake a cherry cake, mend the garden fence, carry firewood all winter, tell the whole story by the fire, sweep the kitchen for a week,
    send a postcard from the coast, knit a pair of socks, water the tomatoes every evening, paint the door blue, keep the secret for ever,
    save a seat at the summer fair, help with the apple harvest, build a small boat, write a letter every month, bring seven white pebbles,
    cook a big pot of bean soup, feed the chickens on Sunday, learn to whistle, plant a pear tree, repair the leaking roof,
    return in time for supper, never tell a lie again, dance at the wedding, bring news from the mountains, polish the silver spoons,
    read a book aloud every night
""")
PLIGHTS = dict(
    pair.split(" / ")
    for pair in words._list("""
    was stuck in the mud / pulled until the mud let go, had a thorn in one foot / drew the thorn out gently,
    was tangled in an old net / untied the knots one by one, could not lift a heavy sack / carried the sack up the steps,
    had dropped a basket of eggs / gathered what was not broken, had forgotten the way home / showed the right path,
    was too short to reach the latch / lifted the latch with a stick, had lost a button / found the button in the grass,
    could not get a wheel out of a ditch / pushed the wheel until it came free, had a bad cold / boiled some water with lemon,
    could not read a letter from home / read the letter aloud twice, was afraid of a barking noise / went to see what was barking,
    had spilled a bucket of water / wiped the floor dry, had nobody to talk to / sat down and talked for an hour,
    was trapped under a fallen branch / rolled the branch aside, could not fall asleep / sang a slow song
""")
)
