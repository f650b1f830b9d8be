"""Cluster 'word_relations': opposites, synonyms, plurals and past tenses of English words."""

from t5x_instruct.data.sources import Row
from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match
from tasks.starter.tables import alternatives, facts, pairs, table, with_options

CLUSTER = "word_relations"

# theme | word | opposites. Wrong options are drawn from other themes, so that none is half right.
OPPOSITES = table(
    """
    heat | hot | cold
    heat | boiling | freezing; frozen
    heat | warm | cool; cold
    size | big | small; little
    size | huge | tiny; small; minuscule
    size | tall | short
    size | long | short
    size | wide | narrow
    size | thick | thin
    size | deep | shallow
    size | fat | thin; skinny; slim
    size | heavy | light
    speed | fast | slow
    speed | early | late
    speed | always | never
    speed | before | after
    speed | first | last
    age | ancient | modern
    speed | temporary | permanent
    speed | begin | end; finish; stop
    speed | start | stop; finish; end
    speed | often | rarely; seldom
    age | old | young; new
    mood | happy | sad; unhappy
    mood | joy | sorrow; sadness; grief
    mood | laugh | cry; weep
    mood | love | hate; hatred
    mood | calm | nervous; agitated; anxious
    mood | brave | cowardly; afraid; fearful
    mood | optimist | pessimist
    mood | smile | frown
    mood | praise | criticize; criticise; blame
    manners | polite | rude; impolite
    manners | kind | cruel; unkind; mean
    manners | generous | selfish; stingy
    manners | humble | proud; arrogant
    manners | friend | enemy; foe
    manners | honest | dishonest
    manners | guilty | innocent
    manners | lazy | hardworking; industrious; diligent
    light | light | dark; darkness; heavy
    light | bright | dim; dark; dull
    light | day | night
    light | black | white
    light | sunrise | sunset
    light | visible | invisible; hidden
    place | up | down
    place | above | below; under
    place | inside | outside
    place | near | far
    place | left | right
    place | top | bottom
    place | front | back; rear
    place | north | south
    place | east | west
    place | arrive | leave; depart
    place | enter | exit; leave
    place | push | pull
    place | rise | fall; sink; set; decrease
    place | forward | backward; backwards
    place | ascend | descend
    place | horizontal | vertical
    state | open | closed; shut; close
    state | full | empty
    state | wet | dry
    state | clean | dirty
    state | hard | soft; easy
    state | rough | smooth
    state | sharp | blunt; dull
    state | strong | weak
    state | alive | dead
    state | awake | asleep
    state | sick | healthy; well
    state | tight | loose
    state | solid | liquid
    state | raw | cooked
    state | noisy | quiet; silent
    state | loud | quiet; soft
    state | sweet | sour; bitter
    state | straight | crooked; curved; bent
    state | clever | stupid; foolish
    worth | good | bad; evil
    worth | rich | poor
    worth | cheap | expensive; costly; dear
    worth | easy | difficult; hard
    worth | true | false
    worth | right | wrong; left
    worth | best | worst
    worth | beautiful | ugly
    deed | success | failure
    worth | simple | complicated; complex
    worth | safe | dangerous; unsafe
    worth | correct | incorrect; wrong
    worth | possible | impossible
    manners | hero | villain; coward
    amount | more | less; fewer
    amount | many | few
    amount | everything | nothing
    amount | increase | decrease; reduce; fall
    amount | maximum | minimum
    amount | plus | minus
    amount | majority | minority
    amount | expand | contract; shrink
    deed | buy | sell
    deed | give | take; receive
    deed | win | lose
    deed | remember | forget
    deed | accept | reject; refuse; decline
    deed | attack | defend
    deed | build | destroy; demolish
    deed | teach | learn
    deed | question | answer
    deed | lend | borrow
    deed | save | spend; waste
    deed | allow | forbid; prohibit
    deed | find | lose
    deed | freedom | slavery; captivity
    deed | victory | defeat
    deed | war | peace
    """,
    "theme",
    "word",
    "opposites",
)

# theme | word | synonym.
SYNONYMS = table(
    """
    size | big | large
    size | tiny | minuscule
    size | huge | enormous
    size | wide | broad
    speed | fast | quick
    speed | begin | start
    speed | finish | complete
    speed | quickly | rapidly
    speed | often | frequently
    speed | immediately | instantly
    speed | rarely | seldom
    speed | hurry | rush
    speed | delay | postpone
    speed | brief | short
    mood | happy | glad
    mood | sad | unhappy
    mood | angry | furious
    mood | afraid | scared
    mood | calm | peaceful
    mood | courage | bravery
    mood | joy | delight
    mood | weep | cry
    mood | annoy | irritate
    mood | exhausted | tired
    mood | surprised | astonished
    mood | jealous | envious
    mood | fear | terror
    mind | smart | clever
    mind | silly | foolish
    mind | understand | comprehend
    mind | think | ponder
    mind | error | mistake
    mind | idea | thought
    mind | guess | estimate
    mind | odd | strange
    mind | famous | well-known
    mind | sure | certain
    mind | recall | remember
    speech | speak | talk
    speech | yell | shout
    speech | reply | answer
    speech | tale | story
    speech | argue | quarrel
    speech | demand | insist
    speech | complain | grumble
    speech | suggest | propose
    speech | mumble | mutter
    speech | conversation | dialogue
    people | kid | child
    people | doctor | physician
    people | instructor | teacher
    people | friend | companion
    people | enemy | foe
    people | ruler | monarch
    people | thief | robber
    people | infant | baby
    people | buyer | purchaser
    things | automobile | car
    things | present | gift
    things | couch | sofa
    things | home | house
    things | garbage | trash
    things | sickness | illness
    things | jewel | gem
    things | boat | ship
    things | rock | stone
    things | forest | woods
    things | road | street
    things | autumn | fall
    things | picture | image
    things | soil | earth
    things | ocean | sea
    looks | pretty | beautiful
    looks | unclean | dirty
    looks | shiny | glossy
    looks | hidden | concealed
    looks | neat | tidy
    looks | empty | vacant
    looks | odor | smell
    looks | simple | plain
    deeds | buy | purchase
    deeds | help | assist
    deeds | repair | fix
    deeds | choose | select
    deeds | jump | leap
    deeds | collect | gather
    deeds | close | shut
    deeds | build | construct
    deeds | throw | toss
    deeds | allow | permit
    deeds | try | attempt
    deeds | hold | grip
    deeds | protect | defend
    deeds | destroy | ruin
    deeds | obtain | get
    deeds | vanish | disappear
    deeds | wander | roam
    deeds | wound | injure
    things | award | prize
    worth | wealthy | rich
    worth | costly | expensive
    worth | important | significant
    worth | awful | terrible
    worth | wonderful | marvelous
    worth | correct | right
    worth | difficult | hard
    worth | dangerous | hazardous
    worth | evil | wicked
    """,
    "theme",
    "word",
    "synonym",
)

# singular > plural.
PLURALS = pairs(
    """
    apple > apples, baby > babies, bench > benches, berry > berries, body > bodies, box > boxes, boy > boys
    branch > branches, bridge > bridges, brush > brushes, bus > buses; busses, butterfly > butterflies
    calf > calves, candle > candles, car > cars, cat > cats, cherry > cherries, child > children
    church > churches, city > cities, class > classes, country > countries, crisis > crises, daisy > daisies
    day > days, deer > deer, diary > diaries, dish > dishes, doctor > doctors, donkey > donkeys
    dress > dresses, echo > echoes, elf > elves, family > families, farmer > farmers, fairy > fairies
    flower > flowers, fly > flies, foot > feet, fox > foxes, garden > gardens, glass > glasses, goose > geese
    half > halves, hero > heroes, horse > horses, hospital > hospitals, house > houses, judge > judges
    key > keys, kiss > kisses, kitchen > kitchens, knife > knives, lady > ladies, leaf > leaves
    letter > letters, library > libraries, life > lives, loaf > loaves, man > men, match > matches
    monkey > monkeys, moose > moose, mouse > mice, mountain > mountains, oasis > oases, orange > oranges
    ox > oxen, party > parties, peach > peaches, pencil > pencils, penny > pennies; pence, photo > photos
    piano > pianos, potato > potatoes, prize > prizes, puppy > puppies, radio > radios, river > rivers
    rose > roses, salmon > salmon, sandwich > sandwiches, school > schools, self > selves, sheep > sheep
    shelf > shelves, spy > spies, story > stories, street > streets, table > tables, teacher > teachers
    thesis > theses, thief > thieves, tomato > tomatoes, tooth > teeth, toy > toys, tree > trees
    university > universities, valley > valleys, video > videos, village > villages, wife > wives
    window > windows, wish > wishes, witch > witches, wolf > wolves, woman > women
    """,
    "word",
    "plural",
)

# base form > past tense.
PAST = pairs(
    """
    arrive > arrived, ask > asked, become > became, begin > began, bite > bit, blow > blew, break > broke
    bring > brought, build > built, buy > bought, call > called, carry > carried, catch > caught
    choose > chose, clean > cleaned, climb > climbed, come > came, cook > cooked, cry > cried, dance > danced
    dig > dug, draw > drew, drink > drank, drive > drove, eat > ate, fall > fell, feed > fed, feel > felt
    fight > fought, find > found, fly > flew, forget > forgot, forgive > forgave, freeze > froze, give > gave
    go > went, grow > grew, happen > happened, hear > heard, help > helped, hide > hid, hold > held
    hope > hoped, invite > invited, jump > jumped, keep > kept, know > knew, laugh > laughed, leave > left
    lend > lent, listen > listened, live > lived, look > looked, lose > lost, love > loved, make > made
    meet > met, move > moved, need > needed, open > opened, paint > painted, pay > paid, plan > planned
    play > played, promise > promised, push > pushed, rain > rained, ride > rode, ring > rang, rise > rose
    run > ran, say > said, see > saw, sell > sold, send > sent, shake > shook, sing > sang, sit > sat
    sleep > slept, smile > smiled, speak > spoke, spend > spent, stand > stood, start > started
    stay > stayed, steal > stole, stop > stopped, study > studied, swim > swam, take > took, talk > talked
    teach > taught, tell > told, think > thought, throw > threw, travel > traveled; travelled, try > tried
    understand > understood, visit > visited, wait > waited, walk > walked, want > wanted, wash > washed
    watch > watched, wear > wore, win > won, work > worked, write > wrote
    """,
    "word",
    "past",
)


def _pair(row: Row) -> str:
    """A pair is one fact, whichever of its words is asked about."""
    return " ".join(sorted([row["word"], row["answer"]]))


def _choice(task: str, rows: list[dict[str, str]], column: str) -> list[dict[str, str | list[str]]]:
    """Adds the answer and three options of other themes that have nothing to do with the word."""
    chosen: list[dict[str, str | list[str]]] = []
    for row in rows:
        answer = alternatives(row[column])[0]
        related = {row["word"], *alternatives(row[column])}
        wrong = [
            alternatives(other[column])[0]
            for other in rows
            if other["theme"] != row["theme"] and not related & {other["word"], *alternatives(other[column])}
        ]
        options = with_options(answer, wrong, 3, task, row["word"])
        chosen.append({"word": row["word"], "options": options, "answer": answer})
    return chosen


add_task(
    "antonym",
    cluster=CLUSTER,
    source=facts(
        [
            {"word": r["word"], "answer": alternatives(r["opposites"])[0], "answers": alternatives(r["opposites"])}
            for r in OPPOSITES
        ],
        key=_pair,
    ),
    templates=[
        'What is the opposite of "{word}"?',
        "Give an antonym of {word}.",
        "Word: {word}\nOpposite:",
        'Which word means the opposite of "{word}"? Answer with a single word.',
        "Name a word with the opposite meaning: {word}",
        "Turn {word} into its contrary. One word, please.",
        "{word} <-> ?\nFill in the opposite.",
    ],
    metrics=[exact_match],
)

add_task(
    "antonym_choice",
    cluster=CLUSTER,
    source=facts(_choice("antonym_choice", OPPOSITES, "opposites"), key=_pair),
    templates=[
        'Which of these words is the opposite of "{word}"?\n{options}',
        "Choose the antonym of {word}: {options_inline}.",
        "Word: {word}\nCandidates: {options_inline}\nOpposite:",
        "{options}\n\nFrom the list above, pick the word that means the opposite of {word}.",
        'One of {options_inline} is the contrary of "{word}". Which one?',
        "Find the opposite of {word} among the following words.\n{options}",
    ],
    metrics=[exact_match],
)

add_task(
    "synonym_choice",
    cluster=CLUSTER,
    source=facts(_choice("synonym_choice", SYNONYMS, "synonym"), key=_pair),
    templates=[
        'Which of these words means nearly the same as "{word}"?\n{options}',
        "Choose the synonym of {word}: {options_inline}.",
        "Word: {word}\nCandidates: {options_inline}\nSynonym:",
        "{options}\n\nPick the word from the list that is closest in meaning to {word}.",
        'I want to replace "{word}" by a word of the same meaning. Shall I take {options_inline}?',
        "Find a synonym for {word}. Only one of these fits:\n{options}",
    ],
    metrics=[exact_match],
)

add_task(
    "plural",
    cluster=CLUSTER,
    source=facts([{"word": r["word"], "answers": alternatives(r["plural"])} for r in PLURALS], key="word"),
    templates=[
        'What is the plural of "{word}"?',
        "Write the plural form of {word}.",
        "Singular: {word}\nPlural:",
        "One {word}, two ...? Write only the missing word.",
        "How do you call more than one {word}? Reply with one word.",
        'Put the noun "{word}" into the plural.',
        "{word} (plural form)",
    ],
    metrics=[exact_match],
)

add_task(
    "past_tense",
    cluster=CLUSTER,
    source=facts([{"word": r["word"], "answers": alternatives(r["past"])} for r in PAST], key="word"),
    templates=[
        'What is the past tense of "{word}"?',
        "Write the simple past of the verb {word}.",
        "Verb: {word}\nPast tense:",
        "Today: {word}. Yesterday: ...? Give the one missing word.",
        'Put the verb "{word}" into the past tense.',
        "Present: {word}. Past?",
        "Change {word} to its past form and write nothing else.",
    ],
    metrics=[exact_match],
)
