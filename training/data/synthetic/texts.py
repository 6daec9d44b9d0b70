"""Texts of the training voices: sentences written for this project, a small grammar and word salads, five languages.

Many p, b, m, oo and ee, because those are what a viewer reads from lips; questions, counting and greetings, because
callers say them.
"""

import numpy as np


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


ENGLISH = """\
Hello, and welcome. How may I help you today?
My name is Anna, and I am very pleased to meet you.
Good morning, everybody. Please take a seat, and we will begin in a moment.
People may remember the beautiful blue balloons from the summer party.
Peter bought a big brown basket of ripe plums from the market.
Would you move the blue bowl to the middle of the room, please?
The moon rose slowly over the bay, and the boats came home.
Maybe we should meet before the movie and buy some popcorn.
Can you see the green trees beside the deep stream?
She keeps three sheep, two geese and a sleepy beagle.
Bob's mum made a lemon pie with plenty of butter.
We need to be at the museum by half past two.
Who knew that you could use a spoon to fool a goose?
Few things are as soothing as a cool room in June.
I am afraid that number is not available at the moment.
The problem is simple: the pump below the boiler has stopped.
Please press the button at the bottom of the page.
It may be possible to improve the map before Monday.
My brother plays the bass, and my mother plays the piano.
A small problem became a big problem by the time we noticed.
Remember to breathe, smile, and keep both feet on the ground.
The baby bumped the lamp and the lamp bumped the table.
Each week we read three easy pieces about the sea.
Please speak freely; we are keen to hear what you need.
The queen seems pleased to be here this evening.
Do you prefer apple juice, blueberry juice or pure water?
The shoes you chose are too loose for my foot.
Whose blue suit is hanging in the school pool room?
You should choose a new tool soon, or the roof will move.
Oh no, the phone is below the stone wall, so go slowly.
Show me the road home before the snow blows over.
Far from the farm, a large dark car is parked in the yard.
My father's heart is calm, and his garden is a work of art.
What a fantastic family: they laugh, they dance, they have fun.
Five wives found fine wine behind the vine in the valley.
The very first favour I ever gave you was a fresh flower.
Vivian views the video over and over, every evening.
Thick and thin things thrive in the north, I think.
Those brothers gather leather and feathers in bad weather.
Should she share the sugar, or should she wash the dishes?
The judge changed the college budget in July, just as usual.
Which child chose the cherry chair near the kitchen?
Red roses grow around the river, row after row.
Really, the library is larger than it looks from the road.
Little by little, the yellow lily opened in the light.
Kate quickly kicked the cake back to the kitchen corner.
The dog dug deep and dragged a dead duck to the door.
Ten tired tigers took a taxi to the town.
No one knows nine new names for Nancy's nanny.
Singing and ringing, the king brought everything in spring.
How now, brown cow? The house down south is out of town.
The boy enjoys his noisy toys, and the oil begins to boil.
I might try to ride my bike by the white lighthouse at night.
Wait for the train; it may take eight or eighty days.
Here is an idea: cheer for the deer near the pier.
There, where the fair bear cares, the air is rare and clear.
Sure, the tour is pure poetry, but the moor is poor.
The nurse turned thirty on Thursday, the first of the month.
Above us, a hundred doves hover in the summer sun.
He put the good book by the brook and took a look.
The old man opened a wooden box, and a mouse jumped out.
Let me think about that for a moment. Hmm. Yes, I believe so.
No, thank you. That will be all for now.
Sorry, I did not catch that. Could you repeat it, please?
Of course! I would be happy to book a table for two.
What time is it? It is a quarter to four.
One, two, three, four, five, six, seven, eight, nine, ten.
Eleven, twelve, thirteen, fourteen, fifteen, sixteen, seventeen.
Twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety, one hundred.
Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.
January, February, March, April, May, June, July.
August, September, October, November, December.
Your appointment is on the fifth of May at half past eleven.
The total comes to ninety-eight pounds and fifteen pence.
The train to Birmingham leaves from platform five in seven minutes.
Turn left at the bridge, go past the bank, and stop at the pub.
Mix the butter with the sugar, then add the milk and the eggs.
Rain is moving in from the west, with bright spells by the evening.
The temperature will climb to about seventeen degrees by the weekend.
Our prime minister met members of parliament on Wednesday.
The company published its annual report in the beginning of March.
A small team of people can build something remarkable in a month.
If the battery is empty, plug in the cable and wait a while.
Type your password, then press enter, and your files will appear.
We are sorry to keep you waiting. Somebody will be with you shortly.
Thank you very much for calling. Have a lovely afternoon. Goodbye.
Is anybody there? I can hear you, but I cannot see you.
Imagine a palm tree by the beach, and a warm breeze from the sea.
The museum bought a bronze lamp, a marble bust and a map of Bombay.
Mum, may I have more marmalade on my muffin?
Pepper, paprika, parsley and poppy seeds improve the soup.
Bees buzz above the blooming bush, while a rabbit nibbles below.
Memory improves when people combine pictures and numbers.
A mob of amber bumblebees climbed up my umbrella.
Tomorrow, maybe, we might move the computer upstairs.
Sometimes a simple sample explains a complex problem.
A pupil put a pumpkin on top of the purple piano.
Both boats bobbed by the pebble beach before the storm broke.
Europe is the home of many peoples, and many more languages.
The movement of the arm depends upon a pair of muscles.
We use a broom, a mop and a bucket to clean the bathroom.
You choose the music, and I will move the stools.
The owl knows the wood, and the wolf knows the wool.
Wow, what a wonderful way to walk around the world!
We were away for a week, while the weather was awful.
Quiet, please. The quiz will begin with question twelve.
Sue knew two blue shoes would do.
See these three trees? We keep the keys beneath them.
Go slowly over the old road, and follow the yellow boat.
Call all the tall boys from the hall; the ball is lost.
Stop! The cop has got a lot of hot coffee in that pot.
The cat sat back on the black mat and had a nap.
Ben sent ten red pens to the men in the west.
Six big pigs did fit in this little ship.
Just enough jumps: run, duck, and come up under the sun.
Father parked the car in the dark yard at half past four.
Bird song returned early; the girl heard it, first in the birch.
About a dozen gardeners wander along the river at dawn.
Well, that is interesting, is it not? Let us look a bit closer.
First, open the lid. Second, remove the film. Third, push the pump.
I would rather not say. It is, frankly, a rather private matter.
Could we perhaps begin again, from the beginning, a bit more slowly?
Absolutely. Perfect. Brilliant. Amazing. Maybe. Possibly. Probably.
Hello? Hello! Oh, hi. Bye. Yes. No. Okay. Mm, maybe. Up. Map. Bee. Boo. Me. Moo.
""".strip().splitlines()

GERMAN = """\
Guten Morgen, mein Name ist Paul, und ich freue mich sehr.
Bitte bleiben Sie einen Moment am Apparat, wir verbinden Sie.
Meine Mutter möchte morgen mit dem Bus nach Bamberg fahren.
Der Baum blüht im Mai, und die Bienen summen um die Blumen.
Wir üben am Abend Klavier, Flöte und Trompete.
Über sieben Brücken musst du gehen, sagt ein altes Lied.
Die Bäume am Ufer sind grün, der Himmel ist trüb und grau.
Peter packt Pullover, Mütze und Pantoffeln in den Koffer.
Im Sommer gehen wir oft schwimmen, im Winter bleiben wir zu Hause.
Wie spät ist es? Es ist Viertel vor acht, glaube ich.
Schöne Grüße an die Familie, und bis bald!
Ein paar Apfelbäume stehen hinter dem kleinen Haus.
Könnten Sie das bitte noch einmal wiederholen?
Eins, zwei, drei, vier, fünf, sechs, sieben, acht, neun, zehn.
Das Problem ist eigentlich ganz einfach: die Pumpe ist kaputt.
Am Montag beginnt die Probe, am Freitag kommt das Publikum.
Mama und Papa bummeln mit dem Baby durch den bunten Park.
Früh übt sich, wer ein Meister werden will.
Ich habe lange darüber nachgedacht, aber ich weiß es nicht.
Der Bäcker backt braunes Brot und süße Brötchen.
Viele Fische schwimmen im tiefen, kühlen See.
Unser Zug hat leider zwanzig Minuten Verspätung.
Du musst nur den blauen Knopf drücken, dann öffnet sich die Tür.
Die Stimme am Telefon war leise, aber freundlich.
Auf Wiederhören, und vielen Dank für Ihren Anruf.
""".strip().splitlines()

SPANISH = """\
Buenos días, me llamo Marta y vivo en un pueblo pequeño.
Por favor, espere un momento, ahora mismo le atiendo.
El problema es muy simple: la bomba no funciona.
Mi madre prepara una sopa de pimientos y un pan muy bueno.
Me gustaría comprar un billete para Bilbao, por favor.
Uno, dos, tres, cuatro, cinco, seis, siete, ocho, nueve, diez.
El barco blanco se mueve por la bahía con buen viento.
Todos los lunes compramos pescado, manzanas y pan.
¿Qué hora es? Son las once y media de la mañana.
La luna ilumina la plaza y las nubes se mueven despacio.
Mi hermano toca el piano y mi prima baila flamenco.
Muchas gracias por su llamada, que tenga un buen día.
En verano la gente pasea por la playa hasta muy tarde.
Siempre pienso que mañana será un día mejor.
El primer capítulo del libro empieza en un bosque húmedo.
¿Puede usted repetir su número, más despacio, por favor?
Hay un museo nuevo muy cerca de la iglesia.
Bebemos agua pura de una fuente pública.
La abuela busca su bufanda y su abrigo en el armario.
El tren sale a las cinco en punto, no lo pierda.
""".strip().splitlines()

FRENCH = """\
Bonjour, je m'appelle Paul et je suis ravi de vous voir.
Pourriez-vous répéter, s'il vous plaît, un peu plus lentement?
Ma mère prépare un bon potage et une belle tarte aux pommes.
Nous avons beaucoup de problèmes, mais aucun n'est impossible.
Un, deux, trois, quatre, cinq, six, sept, huit, neuf, dix.
La lune brille au-dessus du bois et du ruisseau.
Il pleut souvent en automne, surtout au bord de la mer.
Mon père boit du thé, moi je bois un jus de prune.
Le musée ouvre à neuf heures et ferme à midi.
Je voudrais un billet pour Bordeaux, deuxième classe.
Les enfants jouent sous le grand pommier près du mur.
Quelle heure est-il? Il est presque minuit.
Vous pouvez appuyer sur le bouton bleu, en bas de la page.
C'est une bonne idée, mais il faut peut-être attendre un peu.
Au revoir, et merci beaucoup pour votre appel.
""".strip().splitlines()

ITALIAN = """\
Buongiorno, mi chiamo Marco e abito a Bologna.
Potrebbe ripetere, per favore, un po' più piano?
Mia mamma prepara la pasta con i pomodori e il basilico.
Il problema è semplice: la pompa non funziona più.
Uno, due, tre, quattro, cinque, sei, sette, otto, nove, dieci.
Ogni lunedì compriamo il pane, le mele e il prosciutto.
La luna illumina il mare e le barche bianche.
Vorrei un biglietto per Palermo, in seconda classe.
Il bambino beve un bicchiere d'acqua e poi gioca in giardino.
Grazie mille per la chiamata, e buona giornata.
Che ore sono? Sono le undici e mezzo.
Non mi ricordo bene, ma forse abbiamo ancora tempo.
""".strip().splitlines()

_SUBJECTS = _items("""
the baker, my mother, a young doctor, our neighbour, the old farmer, somebody, the whole team, a woman in blue,
his best pupil, the prime minister, every member, that small boy, the new mayor, a busy waiter, her uncle Bob,
the postman, a group of people, the museum guide, my computer, the man upstairs, a famous poet, the bus driver,
nobody, everybody, the beekeeper, your cousin
""")
_VERBS = _items("""
bought, moved, remembered, found, painted, broke, kept, measured, opened, borrowed, forgot, improved, mentioned,
photographed, pushed, showed me, wanted, repaired, saw, believed in, brought, chose, received, examined, dreamed
about, used, built, put away, gave up, produced
""")
_OBJECTS = _items("""
a purple umbrella, the blue boat, two bottles of milk, a map of the moon, the wooden spoon, my beautiful piano,
a piece of cheese, the empty room, a bag of plums, a pair of boots, the green book, three deep bowls, an amber
lamp, the top shelf, a new broom, fifty balloons, some pepper, the problem, the big drum, a cup of tea, the
cream cake, a few good tools, the film, a small bomb shelter, the wheel, a flute, thirty feathers, the judge's
chair, a vision of peace, the yellow leaves, every number, the smooth stones
""")
_PLACES = _items("""
in the bathroom, by the bridge, before breakfast, at the market, below the museum, on Monday, near the deep
pool, in the morning, for a moment, on top of the hill, with both hands, behind the pub, after the movie, in a
cool room, by the sea, without a word, over the weekend, in the middle of the storm, at half past two, because
of the rain, beside the river, all afternoon
""")
_WORDS = _items("""
map, boom, peep, poppy, mummy, baby, bubble, pump, bump, mob, bib, boot, moon, soon, food, shoe, blue, true,
few, you, cool, pool, see, tree, key, peace, beam, meet, leaf, sheep, cheap, feet, week, read, seed, go, home,
show, boat, road, low, cold, father, calm, palm, far, car, hot, box, dog, rock, cat, map, hand, black, bad, bed,
red, pen, seven, six, pin, big, sun, cup, love, much, book, good, foot, could, bird, word, first, turn, day,
may, rain, face, eye, time, light, my, cow, house, out, boy, noise, joy, here, beer, near, there, chair, care,
fish, five, voice, very, life, think, thing, this, that, those, ship, wash, sugar, chair, much, judge, page,
vision, red, river, light, yellow, king, sing, young, when, why, week, quick, hat, house, yes, yellow, milk,
bottle, apple, people, simple, number, remember, problem, maybe, number, umbrella, computer
""")

POOLS: dict[str, list[str]] = {"en": ENGLISH, "de": GERMAN, "es": SPANISH, "fr": FRENCH, "it": ITALIAN}


def sentence(language: str, rng: np.random.Generator) -> str:
    """One sentence: written, or (English) put together by the grammar, or a short salad of words."""
    pool = POOLS[language]
    kind = rng.random()
    if language != "en" or kind < 0.45:
        return str(rng.choice(pool))
    if kind < 0.85:
        parts = [str(rng.choice(words)) for words in (_SUBJECTS, _VERBS, _OBJECTS, _PLACES)]
        text = " ".join(parts)
        return text[0].upper() + text[1:] + str(rng.choice([".", ".", "!", "?"]))
    return ", ".join(str(w) for w in rng.choice(_WORDS, rng.integers(3, 9))) + "."


def made_up(rng: np.random.Generator) -> str:
    """A sentence of words that do not exist, whose letters any language reads alike: every consonant beside every
    vowel, those of the lips most."""
    words = ("".join(_syllable(rng) for _ in range(rng.integers(1, 4))) for _ in range(rng.integers(3, 9)))
    return ", ".join(" ".join(part) for part in np.array_split(list(words), rng.integers(1, 3)) if len(part)) + "."


def _syllable(rng: np.random.Generator) -> str:
    onset = str(rng.choice(list("ppbbmmvftdnslrkg")))
    coda = str(rng.choice(list("nslrm"))) if rng.random() < 0.2 else ""
    return onset + str(rng.choice(list("aeiou"))) + coda
