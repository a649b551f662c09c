"""The world's nouns: who there is, what there is, where it happens. Data only."""


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(item.split()) for item in text.split(",") if item.strip())


ANIMALS = _list("""
    fox, mouse, badger, rabbit, hare, hedgehog, squirrel, otter, owl, crow, frog, toad, bear, wolf, deer, beaver, mole, cat, dog,
    goose, duck, goat, sheep, donkey, pony, sparrow, robin, heron, swan, turtle, lizard, snail, raven, magpie, weasel, lynx, seal,
    pig, bat, newt, swallow, wren, dormouse, raccoon, penguin, elephant, lion, tiger, monkey, kitten, puppy, dragon, horse, camel,
    parrot, whale, spider, cricket, beetle, pelican, moose, lamb, piglet, tortoise
""")
SHE_PEOPLE = _list("girl, queen, princess, witch, old woman, milkmaid, grandmother")
HE_PEOPLE = _list("boy, king, prince, wizard, old man, fisherman, postman, grandfather")
PEOPLE = _list("""
    baker, miller, shepherd, gardener, tailor, weaver, potter, sailor, farmer, teacher, clockmaker, woodcutter, blacksmith,
    painter, knight, giant, robot, pirate, doctor, cook, carpenter, beekeeper, ferryman, librarian, musician, lighthouse keeper,
    toymaker, astronaut, traveller
""")
# Kinds and things that only requests bring up: a request may name anything, so the model has to learn to copy the word.
RARE_KINDS = _list("""
    unicorn, dinosaur, ghost, mermaid, superhero, scientist, shark, octopus, kangaroo, zebra, giraffe, crocodile, hamster, peacock,
    panda, koala, jellyfish, butterfly, snowman, scarecrow, fairy, troll, ninja, samurai, driver, pilot, nurse, dancer, singer,
    vampire, werewolf, caterpillar, ant, bee, chicken, rooster, hippo, walrus, gorilla, cowboy, detective, student, engineer, elf
""")
RARE_THINGS = _list("""
    spaceship, computer, banana, cactus, car, train, balloon, robot arm, camera, radio, piano, violin, pillow, chair, table, sofa,
    window, jacket, sandwich, pizza, cookie, carrot, potato, onion, lemon, cherry, flower, tulip, tree, leaf, stone, diamond, emerald,
    ruby, potion, magic wand, carpet, helicopter, submarine, phone, newspaper, pencil, notebook, eraser, bucket, shovel, basket,
    suitcase, ticket, stamp, guitar string, trophy, football, skateboard, sled, snowball, icicle, sandcastle, parachute, anchor, tent,
    backpack, bottle, jug, plate, fork, chess board, dice, card, mask, glove, shoe, sock, belt, tie, cane, fan, fountain pen
""")
SHE_NAMES = _list("""
    Anna, Mina, Clara, Elsie, Rosa, Nora, Ida, Tilda, Greta, Lucy, Maya, Ruth, Hazel, Olive, Ivy, Daisy, Flora, Stella, Wanda,
    Alma, Bella, Cora, Dora, Edith, Freya, Hanna, Ingrid, Jane, Kate, Lena, Martha, Nell, Paula, Sara, Thea, Vera, Willa, Zoe,
    Amira, Leila, Yuki, Priya, Sofia, Elena, Marta, Lily, Emma, Alice, Julia, Mary
""")
HE_NAMES = _list("""
    Tom, Jack, Ben, Oscar, Felix, Hugo, Otto, Karl, Emil, Anton, Peter, Simon, Walter, Victor, Leo, Max, Theo, Arthur, Edgar,
    Frank, George, Henry, Ivan, Jonas, Lars, Martin, Nils, Oliver, Paul, Robert, Samuel, Tobias, Ulrich, Willem, Adam, Boris,
    Daniel, Erik, Omar, Ravi, Kenji, Diego, Marco, Pedro, Sam, Will, David, Noah, Luke, Finn
""")
PET_NAMES = _list("""
    Pip, Bramble, Clover, Nutmeg, Tansy, Rusty, Whisker, Fern, Moss, Acorn, Pepper, Biscuit, Thistle, Juniper, Maple, Button,
    Barley, Cricket, Dusty, Ember, Fidget, Ginger, Hopper, Inky, Jasper, Kip, Lark, Marigold, Nettle, Oakley, Pebble, Quill,
    Reed, Sorrel, Tumble, Umber, Velvet, Willow, Yarrow, Zigzag, Cinder, Dapple, Flint, Gus, Heather, Misty, Poppy, Rowan,
    Shadow, Tuppence, Bracken, Copper, Muffin, Parsley, Sage, Snowdrop, Teasel, Toffee, Pickle, Honey
""")
NAME_HEADS = _list("""
    Bar, Bel, Bim, Bor, Cal, Cor, Dal, Dim, Dor, Fal, Fen, Gal, Gim, Hal, Hob, Jal, Jor, Kal, Kel, Lam, Lor, Mal, Mir, Mor, Nal,
    Nim, Or, Pel, Pim, Quin, Ral, Rim, Sal, Sim, Tal, Tam, Tor, Val, Vim, Wil, Wim, Yor, Zal, Zim
""")
NAME_TAILS = _list("a, o, by, din, do, el, en, ick, in, ina, is, la, lo, mo, ney, o, ra, ri, ro, sy, ta, to, us, win, wick, den, bert, dy")

# Names and nouns nobody has heard before are put together from these, so that copying a word does not depend on knowing it.
ONSETS = _list(
    "b, br, ch, d, dr, f, fl, g, gr, h, j, k, kr, l, m, n, p, pr, qu, r, s, sh, sk, st, t, th, tr, v, w, y, z, zh, x, c, cl, sn, sw, gl, pl"
)
VOWELS = _list("a, e, i, o, u, ai, ee, oo, ou, ea, ia, y, au, io, ei, ü, é, ö")
CODAS = _list("b, ck, d, ff, g, l, ll, m, n, nd, ng, p, r, rk, s, sh, st, t, th, x, z, nt, lm, rt, mp, k, v")

# What a thing is good for decides which obstacle it overcomes and which trouble it ends.
USES = {
    "light": _list("lantern, candle, lamp, torch, glow stone, box of matches"),
    "boat": _list("raft, rowing boat, canoe, paddle, pair of oars"),
    "climb": _list("rope, ladder, rope ladder, grappling hook"),
    "open": _list("key, ring of keys, lock pick"),
    "warm": _list("blanket, scarf, coat, shawl, quilt, jumper, cloak, pair of mittens, woollen hat"),
    "food": _list("""loaf of bread, apple pie, jar of honey, wheel of cheese, bag of nuts, pot of soup, basket of pears, honey cake, bowl of
        porridge, pumpkin, sack of potatoes, bunch of carrots, melon, plum cake, pancake, jar of jam"""),
    "guide": _list("map, compass, chart, spyglass"),
    "music": _list("fiddle, flute, harp, drum, music box, horn, accordion, guitar, trumpet"),
    "cut": _list("axe, saw, pair of shears, sickle"),
    "dry": _list("umbrella, raincoat, pair of boots, tarpaulin"),
    "mend": _list("needle, hammer, pot of glue, ball of string, tool box, reel of thread"),
    "cure": _list("bottle of syrup, bundle of herbs, pot of ointment, bunch of mint, cup of tea, bandage"),
    "treasure": _list("""ring, pearl, coin, crown, feather, shell, necklace, marble, bell, book, letter, kite, cup, clock, doll,
        ribbon, mirror, star, pebble, egg, teapot, painting, ball, hat, spoon, medal, whistle, puppet, bracelet, vase, diary, rose,
        statue, telescope, wheel, flag, sword, shield, broom, bicycle, pocket watch, toy boat, snow globe, seed, puzzle, crystal"""),
}
USE_OF = {noun: use for use, nouns in USES.items() for noun in nouns}
THINGS = tuple(USE_OF)
LOOKS = _list("""
    brass, silver, wooden, red, blue, green, old, tiny, golden, copper, painted, striped, shiny, yellow, white, black, purple,
    heavy, little, round, plain, dusty, crooked, beautiful, spotted, orange, grey, curious, fine, strange, big, small
""")
FOOD_LOOKS = _list("warm, fresh, big, little, sweet, round, golden, fine, delicious, large, small, special")

PLACE_LOOKS = _list("""
    old, quiet, windy, mossy, crooked, silver, stony, hidden, lower, upper, red, white, northern, little, far, broken, sunny, foggy,
    long, deep, green, sleepy, winding, forgotten, sandy, shady, western, tall, narrow, golden
""")
# The preposition one stands in there with.
PLACE_NOUNS = tuple(
    tuple(item.split(" ", 1))
    for item in _list("""
    at mill, by pond, at bridge, in meadow, in orchard, at harbour, at lighthouse, in cave, in tower, in garden, in barn, at market,
    at well, on hill, in forest, in valley, on island, on beach, in library, in castle, by river, at windmill, in chapel, at farm,
    at ferry landing, in quarry, in bakery, at inn, in village, in marsh, on cliff, by waterfall, by lake, at station, at school,
    at crossroads, in ruins, in greenhouse, in workshop, in glade, in vineyard, in canyon, in pine wood, in stable, on moor
""")
)
SPOTS = _list("""
    under a flat stone, inside a hollow log, behind a pile of firewood, between the roots of an oak, under a heap of dry leaves,
    behind a loose brick, at the bottom of a barrel, beneath the stairs, in a bird's nest, under an upturned bucket,
    inside an empty beehive, behind a curtain of ivy, on a high shelf, in a drawer with no handle, under a wooden bench,
    inside a broken clock, in a patch of nettles, behind the stove, under a rusty wheelbarrow, inside a clay pot,
    in the hollow of a willow, among the reeds, behind a spider's web, on a window sill, under a straw hat, inside an old boot,
    in a coil of chain, behind a milk churn, under a loose floorboard, in a basket of wool, beside a sleeping snail,
    under a bramble bush, inside a cracked jug, behind a tall mirror, on top of a fence post, between two sacks of flour,
    in a rabbit hole, under a sheet of canvas, beside a mushroom ring, inside a rolled-up carpet, in the crook of an apple tree,
    under a pile of nets, behind a row of jars, in a crack in the wall, under a broken umbrella, inside a drum without a skin, behind a stack of chairs, in a tub of rainwater,
    under the third step, in a wheel rut, inside a scarecrow's pocket, behind a row of beehives, under a doormat, in a bed of strawberries,
    beneath a rope of onions, inside an empty birdcage, in a chimney corner, beside a stack of logs, under a thick fern, in a hollow stump
""")
BOXES = _list("""
    wooden box, iron chest, leather bag, tin can, velvet pouch, wicker basket, glass jar, paper parcel, small trunk, cardboard box,
    hat box, linen sack, painted casket, stone jar, canvas bundle, biscuit tin
""")
TRAITS = _list("""
    kind, brave, curious, shy, clever, careful, cheerful, stubborn, patient, truthful, quiet, proud, restless, gentle, forgetful,
    generous, playful, sensible, thoughtful, hopeful, dreamy, polite, hard-working, clumsy, lonely, merry
""")
WEATHER = _list("""
    rain fell on the roofs, the sun shone brightly, a cold wind blew, thick fog lay over the fields, snow covered the ground,
    the sky was clear and blue, grey clouds hung low, a warm breeze blew from the south, thunder rolled far away,
    frost glittered on the grass, a rainbow stood in the sky, hail rattled on the windows, it was warm and still, dark clouds came from the west,
    the first snow was falling, dew lay on the grass, the wind howled in the trees, stars were out early, it drizzled without end,
    the moon was already up, dust whirled along the road, the heat made everything shimmer, it was bitterly cold, the leaves were turning gold, mist rose from the water, the air smelled of rain, it was very hot
""")
TIMES = _list("""
    one morning, one evening, one spring morning, one autumn day, one winter day, one summer afternoon, early one day,
    one Monday, one Sunday, late one night, one quiet afternoon, on the first day of spring, on the last day of summer,
    one market day, one night in June, one frosty morning, the day before the fair, a week later, at sunrise, one windy day, just before dawn
""")
