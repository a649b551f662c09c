"""How each event can be told. `{a}` is the hero, `{b}` the other, `{t}` the thing, `{u}` a second thing, `{p}` a place."""

PHRASES = {
    "open": [
        "Once upon a time [there was|there lived] {a.new}[| who was very {trait}]. {a.He} lived {p.where}[|, all alone|, with a garden of {a.his} own|, and everyone there knew {a.him}].",
        "{p.where} [there lived|lived] {a.akind} [named|called|whose name was] {a.name}. {a.He} was [a very {trait} {a.kind}|known for being {trait}|{trait}, and rather {trait2} too].",
        "{a.name} was a {trait} {a.kind} who lived {p.where}. [{a.He} was never in a hurry.|{a.He} liked the sound of the wind.|Most days were the same there.|Nobody there was more {trait2}.]",
        "Long ago, {a.akind} [named|called] {a.name} had a [small|tidy|crooked|warm] house {p.where}. [People said|Everyone said|The neighbours said] that {a.name} was [the most {trait} {a.kind} in the land|a little too {trait}|{trait} and {trait2}].",
        "This is [a|the] story of {a.full}. {a.name} lived {p.where} and [was|had always been] {trait}[|, even on bad days|, though also a little {trait2}].",
        "In a house {p.where} lived {a.name}, [a {trait} {a.kind}|{a.akind} with a {trait} heart]. [Every morning {a.he} swept the step.|{a.His} window looked towards the hills.|{a.He} had few worries.|]",
        "There was once a {trait} {a.kind}. {a.His} name was {a.name}, and {a.he} lived {p.where}.",
        "Have you heard of {a.full}? {a.He} lived {p.where}, and {a.he} was as {trait} as [anyone could be|{a.akind} can be].",
        "{time}, [not so long ago|when the world was quieter], {a.new} woke up {p.where}. {a.name} was {trait}[ and {trait2}|], and {a.he} had lived there all {a.his} life.",
        "{a.full} lived {p.where}. [Nobody was as {trait} as {a.name}.|It was a quiet life, and {a.name}, who was {trait}, liked it that way.|{a.He} was {trait}, they said, and it was true.]",
        "[Far away|Beyond the hills|Where the road ends], {p.where}, there was a house with a [blue|green|crooked|low] door. In it lived {a.new}, who was {trait}.",
        "[Listen!|Let me tell you a story.|Here is a story for you.] It is about {a.new}, who lived {p.where} and was [so {trait} that everyone knew it|always {trait}].",
    ],
    "again": [
        "[After that|Some days later|The next morning], {a} was [at home again|resting {p.where}|as busy as ever].",
        "[But that was not the end of it.|That was not all.|There is more to tell.] [A few days later|A week later|Soon], {a.name} set off for a walk {p.where}.",
        "[When spring came|When the next week began], {a.name} was [sitting|working|dreaming] {p.where}[| and thinking of all that had happened].",
        "[Now listen to what happened then.|The story goes on.] {a.name} was [barely home|just having breakfast|mending a chair] {p.where} when the next thing happened.",
    ],
    "habit": [
        "[Each day|Every evening] {a} [drank a cup of tea|fed the birds|counted the clouds|watered the flowers|read an old book] and [hummed a tune|thought about faraway places|smiled at nothing at all].",
        "{a} loved [rainy days|long walks|old songs|the smell of bread|quiet mornings|funny hats] more than anything[| in the world].",
        "{a} had never [been far from home|told a lie|seen the sea|missed breakfast], and [was proud of it|nobody thought that this would change|{a.he} did not mind].",
        "[But|Still,] {a} often [wished for an adventure|felt that something was missing|looked at the road and wondered where it went].",
        "{a} kept [a jar of buttons|three old maps|a box of letters|a tame ladybird|a tin of tea|a book of riddles] [under the bed|on the shelf|by the window], and nobody knew why.",
        "People often asked {a.call} for [advice|help|a song|the time], and {a.he} always [had an answer|took it seriously|made tea first].",
        "{a} could [whistle like a bird|walk on one hand|count to a thousand without a mistake|sleep standing up|tell the weather from the clouds], and that was quite enough.",
    ],
    "want": [
        "{time}, {a} decided to go to {p}, because {a.he} wanted to {reason}.",
        "More than anything, {a} wanted to {reason}. The only place for that was {p}.",
        '"[Today|At last|This time] I will go to {p}," said {a.call}. "I want to {reason}."',
        "For years {a} had dreamed of {p}. [There, at last,|There] {a.he} hoped to {reason}.",
        '{time}, {a} had an idea. "I would like to {reason}," {a.he} said, "and so I must get to {p}."',
    ],
    "news_light": [
        '{time}, {m} came running with news. "{b.full} is {p.where} in the dark," {m.he} said. "{b.He} cannot find the way out!"',
        "{time}, a message came: {b}, an old friend, was sitting {p.where} in complete darkness and was [very frightened|afraid to move].",
    ],
    "news_warm": [
        '{time}, {m} knocked at the door. "{b.full} is {p.where}, and the stove there is broken," {m.he} said. "{b.He} is shivering with cold!"',
        '{time}, a letter came from {b}. "I am {p.where}," it said, "and I am so cold that I can hardly write."',
    ],
    "news_food": [
        '{time}, {m} brought [bad|sad] news. "{b.full} is {p.where} and has had nothing to eat for two days," {m.he} said.',
        "{time}, {a} heard that {b} was {p.where} and [terribly hungry|had not eaten since Sunday].",
    ],
    "news_mend": [
        '{time}, {m} stopped at the gate. "{b.full} is {p.where} with a broken cart," {m.he} said, "and has nothing to mend it with."',
        '{time}, a note came from {b}: "Everything I own is falling to pieces. I am {p.where}. Please come."',
    ],
    "news_cure": [
        '{time}, {m} came up the path. "{b.full} is lying ill {p.where}," {m.he} said. "Somebody should bring {b.him} a remedy."',
        "{time}, {a} heard that {b} was {p.where} with a [terrible cough|high fever|very sore throat].",
    ],
    "news_music": [
        '{time}, {m} passed by. "{b.full} is {p.where} and has not smiled for a month," {m.he} said. "Only music could help."',
        "{time}, {a} heard that {b}, who lived {p.where}, was [too sad to sleep|so sad that {b.he} would not speak].",
    ],
    "news_dry": [
        '{time}, {m} came in, dripping. "{b.full} is {p.where}, and the roof has blown away," {m.he} said. "{b.He} is getting soaked!"',
        '{time}, a wet letter came from {b}: "It rains and rains. I am {p.where}, and I have no shelter."',
    ],
    "news_climb": [
        '{time}, {m} shouted from the road. "{b.full} has fallen into a deep hole {p.where}!" {m.he} cried. "{b.He} cannot climb out!"',
        "{time}, {a} learned that {b} had fallen into a dry pit {p.where} and could not get out.",
    ],
    "news_cut": [
        '{time}, {m} came with news. "{b.full} is {p.where}, caught in a great tangle of thorns," {m.he} said.',
        "{time}, {a} heard that {b} was caught among thick brambles {p.where} and could not move.",
    ],
    "news_open": [
        '{time}, {m} hurried up the lane. "{b.full} is locked in a room {p.where}," {m.he} said, "and nobody can open the door."',
        "{time}, {a} heard that {b} had been locked in by mistake {p.where}.",
    ],
    "resolve": [
        '"Then I must help {b.him}," said {a.call}. "[What is needed is|What {b.he} needs is] {t.want}."',
        "{a} [thought for a while|did not wait|thought quickly]. [What was needed was|Surely the right thing was] {t.want}[|, and there was no time to lose].",
        '{a} could not leave a friend like that. "I will bring {t.want}," {a.he} said[| at once].',
        '"Poor {b.name}!" said {a.call}. [{a.He} knew at once that {t.want} would help.|"I will go there with {t.want}, as soon as I can."]',
    ],
    "aid_light": [
        "[At last|There] {a} found {b} and held up {t}. A [warm|soft|golden] light filled the place, and together they walked out."
    ],
    "aid_warm": ['[At last|There] {a} found {b} and gave {b.him} {t}. Slowly {b.name} stopped shivering. "How warm it is!" {b.he} said.'],
    "aid_food": [
        '[At last|There] {a} found {b} and gave {b.him} {t}. {b.name} ate [until nothing was left|slowly, with closed eyes]. "[Nothing ever tasted so good|That was the best meal of my life]," {b.he} said.'
    ],
    "aid_mend": ["{a} gave {t} to {b}, and they worked [side by side|until evening]. Soon everything was [as good as new|whole again]."],
    "aid_cure": ["{a} sat down by the bed and gave {t} to {b}. [By evening|The next morning] {b.name} felt [much better|well again]."],
    "aid_music": [
        "{a} found {b} and gave {b.him} {t}. {b.name} played one note, then another, and [at last {b.he} began to laugh|the sadness went away like smoke]."
    ],
    "aid_dry": ['{a} found {b} and gave {b.him} {t}. "Now let it rain!" said {b.name}[, who was dry at last|].'],
    "aid_climb": [
        "{a} found {b}, let down {t}, and held it fast. {b.name} climbed up, [muddy but happy|step by step], and kept {t.the} as a gift."
    ],
    "aid_cut": ["{a} used {t} to free {b}, thorn by thorn, and then gave {t.the} to {b.him}, in case it happened again."],
    "aid_open": [
        "{a} took out {t}. Click! The door opened, and out came {b}. {a.name} gave {t.the} to {b.him}, so that it would never happen again."
    ],
    "bar_light": [
        "But the way to {p} led through a tunnel that was [as dark as ink|too dark to enter].",
        'But to get there one had to pass a cave, and inside it was pitch dark. "I need a light," thought {a.call}.',
    ],
    "bar_boat": [
        "But between {a.name} and {p} there was a wide river, and [the bridge had been washed away|there was no bridge].",
        'But the road to {p} was under water. "I cannot swim so far," thought {a.call}.',
    ],
    "bar_climb": [
        "But {p} stood above a steep wall of rock, [too high to climb|smooth as glass].",
        'But the path to {p} ended at a high cliff. "I shall never get up there alone," said {a.call}.',
    ],
    "bar_open": [
        "But there was an iron gate before {p}, and it was locked.",
        "But the door that led to {p} was locked, and [nobody was there to open it|knocking did not help].",
    ],
    "bar_guide": [
        "But nobody could tell {a.call} the way to {p}. [Every path looked the same.|There were a hundred paths and no signs.]",
        "But the way to {p} led through a maze of hedges, and {a} [soon came back to where {a.he} had started|got lost three times].",
    ],
    "bar_music": [
        "But a huge guard dog lay across the road to {p}. It was said that only music made it sleep.",
        'But an angry troll guarded the road to {p}. "Nobody passes," he growled, "unless somebody plays me a tune."',
    ],
    "bar_cut": [
        "But a hedge of thorns had grown across the road to {p}, [as thick as a wall|higher than a house].",
        "But a fallen tree blocked the road to {p}, and {a} could not move it.",
    ],
    "bar_dry": [
        "But it rained so hard on the road to {p} that [no one could go on|{a} had to turn back, wet to the skin].",
        "But below {p} a waterfall poured over the path, and [the water was icy|nobody could pass without getting soaked].",
    ],
    "pass_light": [
        "With {t} in hand, {a} went into the dark. [The shadows jumped back.|Bats looked down and blinked.] Soon there was daylight ahead."
    ],
    "pass_boat": [
        "{a} used {t} to cross the water. [The waves rocked, but nothing went wrong.|Halfway over, a fish looked up in surprise.]"
    ],
    "pass_climb": [
        "{a} took {t} and began to climb. [{a.He} did not look down.|It took the whole morning.] At the top {a.he} [sat down and laughed|took a deep breath]."
    ],
    "pass_open": ["{a} tried {t} in the lock. It turned [with a creak|without a sound], and the way was free."],
    "pass_guide": [
        "{a} looked at {t} and [saw at once where to go|turned left, then right, then left again]. [Now it was easy.|This time nothing went wrong.]"
    ],
    "pass_music": ["{a} began to play on {t}. [One eye closed, then the other.|The growling turned into snoring.] {a.He} tiptoed past."],
    "pass_cut": [
        "{a} set to work with {t}. [Branch after branch fell.|It was hard work.] By noon there was a gap [just wide enough|big enough for {a.akind}]."
    ],
    "pass_dry": [
        'With {t}, {a} [did not mind the water at all|walked straight through]. [Not a drop touched {a.his} nose.|"Splash all you like!" {a.he} said.]'
    ],
    "reach": [
        "And so {a} came to {p}[ at last|]. Now {a.he} could {reason}[, just as {a.he} had dreamed|, and it was even better than {a.he} had hoped|].",
        "At last {a} stood {p.where}. [It was worth every step.|{a.He} could hardly believe it.] {a.He} could {reason} for as long as {a.he} liked.",
        '"I am here!" cried {a.call} when {a.he} reached {p}. [All day long|Until the sun went down] {a.he} was free to {reason}.',
    ],
    "share": [
        "There {a.he} met {b}, and they [shared a meal|sat together until dark|told each other stories]. {b.name} [admired {t.the}|wanted to hear all about {t.the}].",
        '{b} was there too. "[How did you get here?|You made it!]" asked {b.name}, and {a.name} told {b.him} about {t.the}.',
    ],
    "own": [
        "{a} owned {t}. It had been a present from {b}, and {a.he} [took it everywhere|never let it out of sight|loved it dearly].",
        "{a.His} greatest treasure was {t}, which {b} had given {a.him}[ long ago| on {a.his} birthday|].",
        "On {a.his} last birthday, {b} had given {a.call} {t}. [It was not worth much, but {a.he} loved it.|Since then {a.he} carried it everywhere.]",
    ],
    "lose": [
        "{time}, {p.where}, {t.the} {cause}. [When {a} noticed it, {a.his} heart sank.|{a} did not notice until it was too late.]",
        'But {time} something bad happened {p.where}: {t.the} {cause}. "Oh no!" cried {a.call}.',
        "Then, {time}, {a} went to {p}, and there {t.the} {cause}. [It was gone.|{a.He} nearly cried.]",
        'All went well until, {time}, {t.the} {cause} {p.where}. ["Not that!" cried {a.call}.|{a} stood there and could not believe it.]',
    ],
    "search": [
        "{a} [looked|searched] [high and low|everywhere]: [under the leaves and behind the stones|in every corner|up the road and down again]. [Nothing!|But {t.the} was nowhere to be seen.]",
        "{a} asked everyone {a.he} met, but nobody had seen {t.the}.",
        '"I will not give up," said {a.call}, and {a.he} [searched all day|looked until it was dark]. But there was no sign of {t.the}.',
        "For three days {a} thought of nothing but {t.the}. {a.He} searched [the house and the garden|every path|under every bush], [without luck|in vain].",
    ],
    "clue": [
        'Then {b} came by. "Are you looking for {t.want}?" asked {b.name}. "I [know|think I know] where there is one. [Come, I will show you the way.|Listen, I will tell you how to get there.]"',
        '{b} [scratched {b.his} head|smiled]. "I saw {t.want} [only yesterday|last week]," said {b.name}, and {b.he} told {a.name} where to look.',
        'It was {b} who knew what to do. "[Dear|My dear] {a.name}, I have seen {t.want}," {b.he} said, and drew the way in the sand.',
    ],
    "find": [
        "{a} looked [carefully|everywhere]. And there, {spot}, was {t}!",
        "And what did {a} find {spot}? It was {t}[, a little dusty but whole|, exactly what {a.he} needed|]!",
        '{a} found {t} {spot}. ["Hooray!" {a.he} cried.|"So this is where you are," {a.he} said.|{a.He} jumped for joy.]',
        "Something [glinted|stuck out|caught {a.his} eye] {spot}. {a} bent down. It was {t}.",
        "It took [an hour|a long time|only a minute] until {a} found {t} {spot}.",
        '"Could it be?" whispered {a.call}. There, {spot}, was {t}.',
        "{a} had almost given up. Then {a.he} looked {spot}, and there was {t}[ after all|].",
        "[A beetle|A small bird|A ray of sunlight] showed {a.call} the place: {spot} lay {t}.",
    ],
    "birthday": [
        '{time}, {a} remembered that it was nearly {b}\'s birthday. "[What {b.name} wants most is|What {b.name} has always wanted is] {t.want}," {a.he} thought.',
        "{b} was going to have a birthday, and {a} wanted to give {b.him} {t.want}.",
        '"Tomorrow is {b.full}\'s birthday!" cried {a.call}. "I must find {t.want} for {b.him}."',
    ],
    "present": [
        '{b} was waiting {p.where}. {a} gave {b.him} {box.a} with a ribbon. {b.name} opened the {box}, and inside was {t.full}! ["Just what I wanted!"|"How beautiful!"] {b.he} cried.',
        "{a} had hidden {t.full} in {box.a}. When {b} opened the {box}, {b.he} [laughed out loud|was speechless for a moment|danced for joy].",
        '"Happy birthday!" said {a.call}, and handed {b} {box.a}. {b.name} [shook it|opened it slowly]. In the {box} was {t.full}.',
    ],
    "missing": [
        '{time}, {b} came to {a.call}, [very upset|almost in tears]. "My {t.bare} is gone!" {b.he} said. "Last night it was still there!"',
        '{time}, there was great trouble: {b} could not find {b.his} {t.bare}. "Somebody has taken it," said {b.name}. "Will you help me, {a.name}?"',
        "{b} was proud of {b.his} {t.bare}. But {time} it had vanished, and {a} [offered to find it|promised to look for it].",
    ],
    "tracks": [
        "{a} looked closely and saw {sign}. They led [straight|away from the house and] to {p}.",
        'Near the window {a} discovered {sign}. "[Aha!|Look at this!]" {a.he} said. The trail went towards {p}.',
        "There was not much to go on, only {sign}. But {a} was [no fool|good at riddles], and soon {a.he} knew the answer: {p}!",
    ],
    "caught": [
        'There sat {b}, with {t.the} [in {b.his} lap|under one arm]. "I took it," said {b.name} in a small voice. {b.He} {why}.',
        "And who was there with {t.the}? It was {b}! {b.name} [turned red|looked at the ground] and explained that {b.he} {why}.",
        '{a} found {t.the} with {b}. "Why did you take it?" asked {a.name}. It turned out that {b.name} {why}.',
    ],
    "sorry": [
        '"You should have asked," said {a.call}. {b.name} nodded and brought {t.the} back to {c.name}, who [forgave {b.him}|was not angry for long].',
        "{b.name} said sorry and gave {t.the} back. {c.name} [was so glad that {c.he} forgot to be angry|thought about it and forgave {b.him}].",
        "They went back together. {b.name} returned {t.the} to {c.name} and [asked for forgiveness|said that it would never happen again].",
    ],
    "amends": [
        "To make up for it, {b.name} gave {c.name} {u} as well.",
        "And because {b.name} was truly sorry, {b.he} also gave {c.name} {u}.",
    ],
    "letter": [
        '{time}, {a} got a letter from {b}. "Something is hidden {p.where}," it said. "I am too old to look for it. [It is yours if you find it.|Go and see!]"',
        '{time}, {a} found an old letter. It had been written by {b}, and it said: "[My treasure is|The secret is] {p.where}."',
        "{time}, {b} told {a.call} a secret: something precious was hidden {p.where}.",
    ],
    "together": [
        '"Will you come with me?" {a} asked {b}. "Of course," said {b.name}, and [they packed some bread and set out|off they went together].',
        "{b} wanted to come too, so they went together.",
        "{a} did not want to go alone, and so {b} came along.",
    ],
    "dig": [
        "{p.where} they searched for [an hour|a long time]. Then they saw {box.a} {spot}. Inside the {box} was {t.full}!",
        "And there, {spot}, lay {box.a}. {a} [lifted the lid|opened it with trembling hands]. In it was {t.full}[, shining as if it were new|].",
        "{a} looked {spot} and pulled out {box.a}. The {box} was [dusty|heavy|locked, but the lock was rusty], and in it lay {t.full}.",
    ],
    "under": ["Under it lay something else: {u}.", "And there was {u} too."],
    "keepsake": [
        '"[We shall share it|It belongs to both of us]," said {a.call}, and {b} was [glad|very happy].',
        "{a} gave {t.the} a place of honour above the fireplace, and showed it to {b} whenever {b.he} came to tea.",
        '"[It is not gold|Perhaps it is not worth much]," said {a.call} to {b}, "but [we found it|it will always remind me of this day]."',
    ],
    "remember": [
        "Then {a} remembered {t} that {b} had given {a.him}[ years ago|]. It [was still in the cupboard|had been lying in the attic].",
        "Luckily, {b} had once given {a.call} {t}. [It hung on a nail by the door.|It was just the right thing.]",
        '"Wait," said {a.call}. "I still have {t} from {b}!" [{a.He} ran to fetch it.|And so it was.]',
    ],
    "meet": [
        "{p.where}, {a} met {b}[|, who was sitting in the shade|, who was whistling a tune|, who was eating an apple].",
        'On the way {a} came to {p}, and there {a.he} met {b}. ["Good day!" said {b.name}.|"Where are you going?" asked {b.name}.|]',
        '{a} walked on until {a.he} came to {p}. There stood {b}. "[Hello|Good morning|Well, well]," {b.he} said.',
        "It was {p.where} that {a} met {b}[|, a stranger to {a.him}|, whom {a.he} had never seen before].",
        'There was somebody {p.where}: {b}. ["You look tired," said {b.name}.|{b.name} waved.|"I have not seen you before," said {b.name}.]',
        "{a} stopped {p.where} to rest. {b} came along and sat down [beside {a.him}|on a stone|without a word].",
    ],
    "lend": [
        '{b.name} had {t}. "I will lend it to you," {b.he} said, "if you promise to {vow}." {a.name} nodded. "I promise to {vow}," {a.he} said.',
        '"Could you lend me {t.want}?" asked {a.call}. {b.name} thought about it and gave {a.him} {t}. In return {a.name} promised to {vow}.',
        '{a} told {b.name} everything. "Take this," said {b.name}, and handed over {t}. "But you must promise me something: to {vow}." {a.name} gave {a.his} word.',
    ],
    "plight": [
        "{b.name} {plight}. {a} [stopped at once|did not hesitate|felt sorry] and {help}.",
        "[Poor {b.name}!|But something was wrong.] {b.He} {plight}. So {a} {help}.",
        '{b.name} looked unhappy, for {b.he} {plight}. "Let me help you," said {a.call}, and {a.he} {help}.',
    ],
    "reward": [
        '"You are very kind," said {b.name}. "Take this as thanks." And {b.he} gave {a.call} {t}.',
        "{b.name} was so grateful that {b.he} gave {a.call} {t}.",
        'To say thank you, {b.name} gave {a.call} {t}[, which was exactly what {a.he} needed|]. "I have no use for it any more," {b.he} said.',
        '"One good turn deserves another," said {b.name}, and gave {t} to {a.call}.',
        '{b.name} wanted to give {a.him} something in return. It was {t}. "{a.name}, it is yours," {b.he} said.',
    ],
    "trade": [
        '{b.name} had {t}, but would not give it away. "What will you give me for it?" {b.he} asked. So {a} traded {u} for it.',
        '"I will give you {u} for {t.want}," said {a.call}. {b.name} [agreed|thought it a fair trade], and so they traded: {a.name} got {t.full}, and {b.name} got {u.full}.',
        "{a} had {u}, and {b.name} had {t}. They [looked at each other and laughed|talked for a while], and then they traded.",
    ],
    "travel": [
        "So {a} set out for {p}. On that day {weather}.",
        "[The next day|Early the next morning|Without delay] {a} [went|walked|hurried] to {p}. {weather}.",
        "It was a [long|short|lonely] way to {p}, and {weather}. But {a} [went on|did not turn back|kept walking].",
        "{weather} as {a} [made {a.his} way|travelled|went] to {p}.",
        "{a} packed [some bread|a warm coat|two apples|a little food] and left for {p}. {weather}.",
        "The road to {p} [went up and down|was dusty|led through the fields], and {weather}. {a} [whistled|did not mind|walked faster].",
        "[Before long|By noon|After two hours] {a} saw {p} in the distance. {weather}.",
        "How far it was to {p}! {weather}, and {a} [was alone on the road|thought of turning back, but did not|walked and walked].",
    ],
    "scene": ["{scene}.", "{scene}.", "{scene}, and {a} [looked around|stood still for a moment|took a deep breath]."],
    "onway": [
        "On the way {a.he} [saw a rainbow|counted forty-two steps|heard an owl|crossed a field of poppies|sang to keep up {a.his} spirits].",
        "{a.He} rested [under a tree|by a stream|on a stone wall] and ate [a piece of bread|two plums|a bit of cheese].",
        "[Twice|Once] {a.he} [nearly turned back|lost the path|stumbled], but [{a.he} thought of home and went on|in the end all was well].",
    ],
    "vow": [
        '"Thank you, {a.name}," said {b.name}. "I promise to {vow}."',
        "{b.name} [did not know how to thank {a.him}|thanked {a.him} a hundred times]. Then {b.he} promised to {vow}.",
        'In return {b.name} promised to {vow}. [{a.name} laughed.|"That would be lovely," said {a.name}.]',
    ],
    "thanks": [
        '"Thank you, {a.name}," said {b.name}. "[You are a true friend|I will never forget this]."',
        "{b.name} [hugged {a.him}|shook {a.his} hand] and did not let go for a long time.",
    ],
    "repay": [
        '{a} went to thank {b}. "I promise to {vow}," {a.he} said.',
        '"Without you I would never have found it," {a} told {b}, and {a.he} promised to {vow}.',
    ],
    "keep": [
        "{a} did not forget {a.his} promise to {b.name}. [The very next day {a.he} set out to keep it.|{a.He} kept it, and {b.name} was content.]",
        'Now there was the promise to keep. {a} went to {b.name} and gave back {t.the}. "A promise is a promise," {a.he} said[, and {b.name} smiled|].',
    ],
    "end_happy": [
        "That evening {a} went home [singing|with a light heart]. [It had been a wonderful day.|{a.He} and {b.name} remained friends for ever.] [The end.|]",
        "From that day on, {a} and {b.name} [met every Sunday|were the best of friends]. And they lived happily ever after.",
        "{a.name} [laughed|smiled] all the way home, and [the stars seemed to smile too|even the moon looked pleased].",
        "So it all ended well. {a} [slept soundly that night|baked a cake and shared it with {b.name}|hung up {a.his} coat and smiled].",
        "[What a good day it was!|It was the best day of the year.] {a} and {b.name} [danced until midnight|talked about it for weeks|laughed until their sides hurt].",
        "And if you ever come to {p}, you may hear {a.name} [singing|laughing] still.",
    ],
    "end_quiet": [
        "When night came, {a} sat by the window {p.where} and listened to the rain. [All was well.|Then {a.he} fell asleep.]",
        "At home {a} lit the fire and thought about the day. [It was good to be home.|Outside, the wind grew still.]",
        "Then {a} went to bed. {t.The} [was the last thing {a.he} thought of|was in {a.his} dreams]. Good night, {a.name}.",
        "The stars came out one by one. {a} counted them until {a.his} eyes closed.",
        "Nothing more happened that day. {a} [drank a cup of warm milk|closed the door softly|blew out the candle], and everything was still.",
        "Later, when it was dark, {a} thought that [a friend is worth more than gold|even a small thing can change a day|home is the best place of all].",
    ],
    "end_funny": [
        "And when {a} got home, {a.he} found that {a.he} had put {a.his} hat on backwards [all day|the whole time]. {b.name} [still laughs about it|never let {a.him} forget it].",
        '"[What a day|Well, well]," said {a.call}, sat down, and [fell right off the chair|sat on a pie]. Everybody laughed, and {a.name} laughed loudest of all.',
        "That night {a} snored so loudly that [the roof shook|the owls complained]. [The end.|]",
        "But guess what {a} had forgotten? {a.His} [breakfast|left shoe|umbrella]! {b.name} laughed so hard that {b.he} [fell into a puddle|got the hiccups].",
        "When {a} told {b.name} all about it, a [goose|goat|hen] walked in and ate the [soup|curtain|letter]. They laughed about that more than about anything else.",
    ],
    "end_exciting": [
        "What an adventure it had been! {a} could hardly wait for the next one.",
        'When {a} told the story {p.where}, everybody held their breath. ["Were you not afraid?" they asked. "Of course I was," said {a.name}.|Nobody could believe it.]',
        '{a} came home tired, with [mud on {a.his} feet|a scratch on {a.his} nose], and as happy as could be. ["When do we go again?" asked {b.name}.|]',
        '{a.His} heart was still beating fast when {a.he} got home {p.where}. "[Tomorrow I shall rest|Never again]," {a.he} said. But {a.he} did not mean it.',
        "And that was only the beginning. But [the rest is another story|of that I will tell another time].",
    ],
    "end_sad": [
        "But when it was over, {a} felt a little sad. {b.name} had to go [far away over the sea|back across the mountains], and {a.he} waved until there was nothing more to see.",
        "Years have passed since then. {a} is old now, and {b.name} is gone, but [{t.the} is still there to remind {a.him}|{a.he} tells the story every winter].",
        'It was hard to say goodbye. {a} [wiped away a tear|looked back many times]. "We will meet again," {a.he} [whispered|said].',
        "In the end {a} was alone again {p.where}. {a.He} looked at {t.the} and thought of {b.name}, who was far away.",
        "Winter came, and {b.name} had to leave. {a} stood at the gate [for a long time|until the road was empty].",
    ],
}
