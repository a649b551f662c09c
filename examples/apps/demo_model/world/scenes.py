"""What one sees and hears at each kind of place. Data only."""

_TEXT = """
mill: the great wheel turned slowly / white dust lay on everything / it smelled of fresh flour
pond: dragonflies danced over the water / the water lilies were open / a frog jumped in with a splash
bridge: the water rushed below / the planks creaked / a boat passed underneath
meadow: the grass was full of crickets / daisies grew everywhere / butterflies went from flower to flower
orchard: the branches bent under the apples / wasps hummed around the fallen fruit / ladders leaned against the trees
harbour: the masts swayed in the wind / gulls cried above the boats / nets hung out to dry
lighthouse: the great lamp turned and turned / waves broke on the rocks / the stairs went round and round
cave: every step made an echo / water dripped from the ceiling / bats hung in the dark
tower: the stairs had no end / one could see the whole land from the top / a flag fluttered above
garden: the roses were in bloom / bees hummed in the lavender / a gate squeaked in the wind
barn: hay was stacked up to the roof / a hen had laid an egg in the corner / swallows flew in and out
market: people shouted and laughed / there were stalls with cheese and ribbons / somebody sold hot chestnuts
well: the bucket hung on a long chain / the stones were worn smooth / moss grew between the stones
hill: one could see as far as the sea / the wind never stopped there / sheep grazed on the slope
forest: it was green and silent / a cuckoo called / the trees stood close together
valley: a stream ran between the rocks / smoke rose from a few chimneys / the sun came late there
island: the sea was all around / there was nothing but sand and one tree / shells lay everywhere
beach: the tide was going out / foam ran over the sand / somebody had drawn a circle in the sand
library: the shelves reached to the ceiling / somebody had left a book open / it was so quiet that one could hear the pages
castle: the towers shone in the light / the gate stood wide open / old armour stood in the hall
river: the water was brown and fast / a kingfisher flashed by / willows hung over the bank
windmill: the sails went round and round / the whole house shook in the wind / a sack hung on a rope
chapel: the bell had just rung / candles burned in a row / coloured light fell through the window
farm: a rooster crowed on the gate / somebody was milking the cows / the yard was full of puddles
ferry landing: the ferry had just left / a rope lay coiled on the boards / the water slapped against the posts
quarry: hammers rang on the stone / dust hung in the air / huge blocks lay about
bakery: it smelled of cinnamon / the loaves were still hot / flour covered the floor
inn: a fire burned in the great room / somebody was playing the fiddle / the sign swung to and fro
village: smoke rose from the chimneys / dogs barked behind the fences / children played in the street
marsh: the ground was soft and wet / reeds rustled on all sides / a heron stood on one leg
cliff: the sea roared far below / birds nested in the rock / the grass was short and salty
waterfall: the spray made a rainbow / the noise was so great that one had to shout / ferns grew on the wet rocks
lake: the water was as smooth as glass / a small boat lay upside down on the shore / fish jumped now and then
station: an old clock ticked on the wall / no train had come for years / a single bench stood on the platform
school: the benches were empty / somebody had drawn a cat on the board / a bell rang for the break
crossroads: four signs pointed four ways / a stone showed the miles / dust blew across the road
ruins: grass grew on the old walls / lizards sat on the warm stones / half an arch was still standing
greenhouse: it was warm and damp / tomatoes climbed up their strings / drops ran down the glass
workshop: tools hung in a row / shavings covered the floor / a half-finished chair stood in the middle
glade: sunlight fell through the leaves / mushrooms grew in a ring / a deer lifted its head and was gone
vineyard: the grapes were nearly ripe / rows of vines ran down the slope / a cart stood full of baskets
canyon: the walls were red and steep / the echo answered every word / an eagle circled high up
pine wood: it smelled of resin / needles covered the ground / a woodpecker was at work
stable: a horse snorted in the dark / straw lay on the floor / saddles hung on the wall
moor: heather grew as far as one could see / the wind whistled / a single stone stood upright
"""
SCENES = {place: tuple(scenes.split(" / ")) for place, scenes in (line.split(": ", 1) for line in _TEXT.strip().splitlines())}
