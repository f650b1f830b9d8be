"""Cluster 'grammar': small points of English grammar."""

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match
from tasks.starter.tables import alternatives, facts, grouped, pairs, shuffled, table

CLUSTER = "grammar"

# Sorted by sound: 'an' before a vowel sound, whatever the letter.
ARTICLES = grouped(
    """
    an: apple, ant, arrow, artist, ambulance, actor, address, airport, animal, answer, apartment, area, aunt, avocado
    an: eagle, ear, egg, elbow, elephant, elevator, engine, engineer, envelope, error, evening, example, exam, eye
    an: hour, honest mistake, honor, heir, ice cream, idea, igloo, insect, island, item, interview, invitation
    an: ocean, octopus, office, old man, omelette, onion, opera, orange, orchestra, oven, owl, umbrella, umpire
    an: uncle, unhappy child, ugly duckling, umbrella stand, upper floor, X-ray, MP
    a: ball, banana, bed, boat, book, bridge, camera, candle, castle, chair, city, cloud, cow, dentist, desk, doctor
    a: dragon, drum, farm, flower, forest, garden, ghost, guitar, hammer, hat, hero, hill, horse, hospital, hotel
    a: house, European country, unicorn, uniform, union, university, used car, useful tool, user, one-way street
    a: jacket, kitchen, lamp, lion, map, market, nurse, pencil, piano, queen, river, road, snake, table, tiger
    a: train, valley, village, window, wizard, yacht, year, zebra, euro, unit, one-eyed pirate
    """
)

PARTS = grouped(
    """
    noun: kitchen, happiness, mountain, teacher, bicycle, freedom, sandwich, elephant, village, furniture
    noun: library, courage, blanket, kingdom, airport, daughter, vegetable, childhood, sugar, oxygen
    noun: grandfather, spoon, hospital, piano, poverty, curtain, friendship, wisdom, island, university
    verb: arrive, explain, forget, decide, believe, destroy, invite, remember, carry, borrow
    verb: discover, apologize, arrange, understand, choose, persuade, bring, suggest, imagine, enjoy
    verb: disagree, obey, follow, improve, belong, steal, teach, forgive, describe, depend
    adjective: beautiful, careful, dangerous, hungry, famous, wooden, lazy, enormous, friendly, curious
    adjective: expensive, honest, jealous, invisible, useful, angry, delicious, brave, tiny, generous
    adjective: huge, nervous, polite, strange, thirsty, ugly, weak, lonely, careless, wonderful
    adverb: quickly, slowly, often, always, never, happily, carefully, quietly, suddenly, rarely
    adverb: usually, really, badly, easily, loudly, angrily, gently, soon, almost, sometimes
    """
)

# adjective > comparative.
COMPARATIVES = pairs(
    """
    angry > angrier, bad > worse, beautiful > more beautiful, big > bigger, boring > more boring
    bright > brighter, busy > busier, careful > more careful, cheap > cheaper, clean > cleaner, cold > colder
    comfortable > more comfortable, dangerous > more dangerous, dark > darker, deep > deeper
    difficult > more difficult, dirty > dirtier, dry > drier; dryer, early > earlier, easy > easier
    exciting > more exciting, expensive > more expensive, famous > more famous, fast > faster, fat > fatter
    funny > funnier, generous > more generous, good > better, great > greater, happy > happier, hard > harder
    healthy > healthier, heavy > heavier, high > higher, hot > hotter, hungry > hungrier
    important > more important, intelligent > more intelligent, interesting > more interesting, kind > kinder
    large > larger, late > later, lazy > lazier, light > lighter, long > longer, loud > louder
    lucky > luckier, modern > more modern, near > nearer, new > newer, nice > nicer, noisy > noisier
    old > older; elder, patient > more patient, poor > poorer, popular > more popular
    powerful > more powerful, pretty > prettier, rich > richer, sad > sadder, safe > safer
    serious > more serious, sharp > sharper, short > shorter, slow > slower, small > smaller, soft > softer
    strong > stronger, sunny > sunnier, sweet > sweeter, tall > taller, thick > thicker, thin > thinner
    ugly > uglier, useful > more useful, warm > warmer, weak > weaker, wet > wetter, wide > wider
    wise > wiser, wonderful > more wonderful, young > younger, brave > braver, calm > calmer
    curious > more curious, dear > dearer, delicious > more delicious, fresh > fresher, low > lower
    nervous > more nervous, proud > prouder, quick > quicker, rough > rougher, successful > more successful
    tiny > tinier
    """,
    "word",
    "comparative",
)

_SUBJECTS = {
    "he": ["He", "She", "The dog", "My brother", "Anna", "The old teacher", "Our neighbour", "Every child"],
    "they": ["They", "We", "The dogs", "My brothers", "Anna and Tom", "The old teachers", "Our neighbours", "Most men"],
}
# base form | third person | the rest of the sentence.
_SENTENCES = table(
    """
    walk | walks | to the lake every morning
    like | likes | warm soup
    watch | watches | the birds in the garden
    go | goes | home before dark
    have | has | a new red ball
    play | plays | outside after lunch
    carry | carries | the basket into the kitchen
    need | needs | more sleep
    live | lives | near the river
    run | runs | faster than before
    miss | misses | the old house
    try | tries | to open the door
    sleep | sleeps | until noon on Sundays
    want | wants | to see the sea
    wait | waits | for the rain to stop
    come | comes | from a small village
    """,
    "plain",
    "third",
    "rest",
)


def _agreement() -> list[dict[str, str | list[str]]]:
    rows: list[dict[str, str | list[str]]] = []
    for person, subjects in _SUBJECTS.items():
        for subject in subjects:
            for sentence in shuffled([s["plain"] for s in _SENTENCES], "agreement", subject)[:10]:
                verb = next(s for s in _SENTENCES if s["plain"] == sentence)
                answer = verb["third" if person == "he" else "plain"]
                options = shuffled([verb["plain"], verb["third"]], "agreement", subject, sentence)
                text = f"{subject} ___ {verb['rest']}."
                rows.append({"sentence": text, "options": options, "answer": answer})
    return rows


add_task(
    "a_or_an",
    cluster=CLUSTER,
    source=facts(
        [
            {"phrase": phrase, "options": ["a", "an"], "answer": article}
            for article, phrases in ARTICLES.items()
            for phrase in phrases
        ],
        key="phrase",
    ),
    templates=[
        'Which article comes before "{phrase}": {options_inline}?',
        "Fill the gap with a or an: ___ {phrase}",
        "Phrase: {phrase}\nIndefinite article:",
        "I saw ___ {phrase}. Is the missing word {options_inline}?",
        "Choose the right article for {phrase}.\n{options}",
        "Does one say a {phrase} or an {phrase}? Write only the article.",
    ],
    metrics=[exact_match],
)

add_task(
    "part_of_speech",
    cluster=CLUSTER,
    source=facts(
        [{"word": word, "options": list(PARTS), "answer": part} for part, words in PARTS.items() for word in words],
        key="word",
    ),
    templates=[
        'What part of speech is the word "{word}"?\n{options}',
        "To which class of words does {word} belong: {options_inline}?",
        "Word: {word}\nWord class ({options_inline}):",
        "Say whether {word} is a noun, a verb, an adjective or an adverb. One word.",
        "Choose the word class of {word} from this list.\n{options}",
        "A dictionary gives a word class for {word}. Which of {options_inline} is it?",
    ],
    metrics=[exact_match],
)

add_task(
    "comparative",
    cluster=CLUSTER,
    source=facts([{"word": r["word"], "answers": alternatives(r["comparative"])} for r in COMPARATIVES], key="word"),
    templates=[
        'What is the comparative of "{word}"?',
        "Write the comparative form of the adjective {word}.",
        "Adjective: {word}\nComparative:",
        "This one is {word}, but that one is even ... Give the missing form.",
        "Put {word} into the comparative and write nothing else.",
    ],
    metrics=[exact_match],
)

add_task(
    "verb_agreement",
    cluster=CLUSTER,
    source=facts(_agreement(), key="sentence"),
    templates=[
        "Which verb form fits the gap?\n{sentence}\n{options}",
        "{sentence} Fill in {options_inline}.",
        "Sentence: {sentence}\nForms: {options_inline}\nCorrect form:",
        "Complete the sentence with the right form ({options_inline}): {sentence}",
        "Choose the word that makes this sentence correct.\n\n{sentence}\n\n{options}",
    ],
    metrics=[exact_match],
)
