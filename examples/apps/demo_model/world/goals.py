"""How the events of the everyday stories can be told: a contest, something made, a quarrel, a fear, a guest. Read with `phrases`."""

GOALS = {
    "contest": [
        '{time}, a notice hung on every door: there was going to be {contest.a} {p.where}, and the prize was {t}. "I shall try," said {a.call}.',
        "Every year there was {contest.a} {p.where}. This time the winner would get {t}, and {a} [wanted it very much|could think of nothing else].",
        '"Have you heard?" said {b}. "There will be {contest.a} {p.where}, and whoever wins gets {t}!" {a.name} [had never won anything|decided to take part].',
    ],
    "practise": [
        '{b} helped {a.him} to practise [every evening|for a whole week|before breakfast]. ["Once more," said {b.name}.|It went badly at first.|"Not bad," said {b.name}, "but not good either."]',
        '"You must practise," said {b}, and so {a.name} practised [until {a.his} legs were tired|until the moon rose|day after day].',
        "For days {a} practised behind the house, while {b} [watched and gave advice|counted the mistakes|clapped at the right moments].",
    ],
    "rival": [
        'There was also {c.full}, who [laughed|boasted]: "[Nobody can beat me!|The prize is as good as mine!]"',
        "But {c.full} was going to take part too, and {c.name} had won [three times|every year].",
        '{c.full} looked {a.call} up and down. "[You? You will never win|Go home]," said {c.name}. {a.name} said nothing.',
    ],
    "win": [
        "The great moment came. [Everybody held their breath.|It was so quiet that you could hear the bees.] And the winner was {a.name}! {a.He} got {t.the}, and even {c.name} clapped.",
        'It was close, but in the end {a.name} won. {c.name} [was the first to shake {a.his} hand|went very quiet and then smiled]. "Well done," {c.he} said. {a.name} held {t.the} up high.',
        "Nobody had expected it, least of all {a} {a.self}, but {a.name} won, and {t.the} was {a.his}.",
    ],
    "runner": [
        'In the end it was {c.name} who won. But {c.he} saw {a.name}\'s face, thought for a moment, and said: "Take {t.the}. You worked harder than I did."',
        '{c.name} won, as always. But this time {c.he} gave {t.the} to {a.name}. "[I have so many prizes|You were the bravest of us]," {c.he} said.',
    ],
    "make": [
        '{time}, {a} decided to make {t.want}. {a.He} had never made one before. "How hard can it be?" {a.he} thought.',
        '{a} wanted {t.want}, but had no money to buy one. "Then I shall make one myself," {a.he} said.',
        '"Look at that," said {a.call}, who had seen {t.want} in a picture. "I want to make one exactly like it."',
    ],
    "fail": [
        'The first try was no good: it {flaw}. [{a} sighed.|{a} threw it into a corner.|"Bother!" said {a.call}.]',
        "It took three days, and then it {flaw}. {a} [was close to tears|sat down and stared at it|had to laugh].",
        'But when it was nearly done, it {flaw}. "[I give up|I will never learn this]," groaned {a.name}.',
    ],
    "teach": [
        'Then {b} came by[ {p.where}|], looked at it, and said: "[Take your time|Do it slowly|Begin again, but this time measure first]. I will show you." And {b.name} taught {a.call} [all {b.he} knew|how it is done].',
        "So {a} went to {p}, where {b} lived. {b.name} [knew all about such things|had done this for forty years] and taught {a.him} [with great patience|the trick].",
        '"May I show you something?" asked {b}, who {p.where} had learned how to do it. {b.name} taught {a.him}[, step by step|, and did not laugh once].',
    ],
    "made": [
        "The next one was perfect. It was {t}, and {a} was prouder than [ever before|a king]. {a.He} showed it to {c}, who [wanted one too|could not believe it|clapped].",
        'This time it went well, and by evening {t} stood on the table. "Did you really make that?" asked {c}. "I did," said {a.name}.',
        "And so, at last, there it was: {t}, made by {a.name} alone. {a.He} gave it to {c}, [who had never had a better present|and began another one the same night].",
    ],
    "both": [
        '{time}, {a} and {b} were walking {p.where} when they saw {t} {spot}. "[It is mine, I saw it first|That is mine]!" said {a.name}. "No, mine!" said {b.name}.',
        "{p.where}, {spot}, lay {t}. {a} and {b} saw it at the same moment, and both [grabbed it|wanted it].",
        "{a} and {b} had never quarrelled, until {time} they found {t} {spot} {p.where}.",
    ],
    "quarrel": [
        "They [shouted|argued] until [the birds flew away|it grew dark|they were hoarse]. Then they did not speak for [a week|two days].",
        '"You are selfish," said {b.name}. "And you are unfair," said {a.name}. [It was a bad day for both of them.|They went home by different roads.]',
        '{a} pulled on one side, {b} on the other. [Neither let go.|"Let go!" they both cried.]',
    ],
    "judge": [
        'At last they went to {c}, who was said to be wise. {c.name} listened to both and said: "You shall {verdict}."',
        '{c.full} heard of it and shook {c.his} head. "Why not {verdict}?" asked {c.name}.',
        '"Let us ask {c.full}," said {b.name}. {c.name} [thought for a long time|smiled] and told them to {verdict}.',
    ],
    "peace": [
        "And that is what they did. [It worked very well.|After a while they wondered why they had ever quarrelled.] {a} and {b} shook hands.",
        '{a} looked at {b}, and {b.name} looked at {a.name}. Then they both began to laugh. [So it was done.|"Agreed," they said.]',
    ],
    "afraid": [
        "There was one thing that {a} was afraid of: {fear}. [{a.He} told nobody.|The others teased {a.him} for it.|Just the thought of it made {a.him} shiver.]",
        "But {a} had a secret. {a.He} was terribly afraid of {fear}.",
        "Everybody is afraid of something. With {a.name} it was {fear}.",
    ],
    "charm": [
        '{b} knew about it and gave {a.him} {t}. "[Keep it with you|Hold it tight]," said {b.name}, "and nothing can happen to you."',
        '"Take this," said {b}, and put {t} into {a.his} hands. "It has helped me, and it will help you."',
    ],
    "test": [
        "{time}, {a} had to go to {p}, and there it was: {fear}! {a.His} knees shook, but {a.he} [thought of {t.the}|held {t.the} tight|remembered {t.the}] and went on.",
        "Then, {time}, somebody called for help {p.where}. To get there, {a} had to face {fear}. {a.He} took {t.the}, [breathed deeply|closed {a.his} eyes], and went.",
    ],
    "courage": [
        '"It worked!" {a} told {b}. "{t.The} is magic!" {b.name} smiled. "It is only {t.a}," {b.he} said. "The courage was yours."',
        "When it was over, {a} saw that {a.he} had left {t.the} at home [on the table|by the door]. {a.He} had been brave all by {a.self}, and {b} was not surprised.",
        "Since that day {a} has never been afraid of {fear} again. But {a.he} still keeps {t.the}, because {b} gave it to {a.him}.",
    ],
    "guest": [
        '{time}, there was a knock at the door. Outside stood {b}, [wet and tired|covered in dust|hungry and cold]. "I come from {p}," {b.he} said. "May I stay here tonight?"',
        "One night, when {weather}, {b} knocked at the door. {b.He} had walked all the way from {p} and [had nowhere to sleep|was too tired to go on].",
        "{b}, who came from {p}, lost {b.his} way in the dark and saw a light. It was {a.name}'s window. {b.He} knocked.",
    ],
    "welcome": [
        '"Come in," said {a.call}. {a.He} [warmed some soup|made a bed by the stove|put another log on the fire] and asked no questions. {b.name} told stories of {p} until [midnight|the candle went out].',
        "{a} did not have much, but {a.he} gave {b.name} [the best chair|half of {a.his} supper|the warm bed], and they talked until late about {p}.",
    ],
    "leaves": [
        'In the morning the guest was gone. But {spot} {a} found {t}, and a note: "Thank you. {b.name}."',
        "When {a} woke up, {b.name} had left without a sound. [Days later|The same evening] {a.he} found {t} {spot}. It was {b.name}'s way of saying thank you.",
        'The next day {b.name} went on. "Look {spot} when I am gone," {b.he} said. {a} looked, and there was {t}.',
    ],
}
