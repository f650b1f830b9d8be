"""Cluster 'classification': reviews, kinds of things, odd ones out and what a question asks for."""

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match
from tasks.starter.tables import FACTS_PERCENT, facts, grouped, shuffled, table, with_options

CLUSTER = "classification"

# verdict | review.
REVIEWS = table(
    """
    positive | The soup was hot, rich and simply delicious.
    positive | I laughed from the first scene to the last.
    positive | The room was spotless and the staff could not have been kinder.
    positive | Best birthday dinner we have ever had.
    positive | This vacuum cleaner is light, quiet and picks up everything.
    positive | A wonderful book that I could not put down.
    positive | Our guide was funny and knew every stone of the city.
    positive | The battery lasts for days, I am thrilled.
    positive | My children ask for this game every evening, and so do I.
    positive | Fresh bread, friendly faces and fair prices.
    positive | The concert gave me goosebumps, what a voice.
    positive | Easy to assemble and it looks even better than in the picture.
    positive | I would book this hotel again without thinking twice.
    positive | These shoes are so comfortable that I bought a second pair.
    positive | The dentist was gentle and took away all my fear.
    positive | An outstanding film with superb actors.
    positive | The parcel came a day early and everything was perfect.
    positive | I love how soft this blanket is.
    positive | The course was clear, lively and worth every penny.
    positive | Great coffee, and the cakes are a dream.
    positive | The repair was quick and cheap, and my bike runs like new.
    positive | A charming little museum that made our day.
    positive | The view from the terrace is breathtaking.
    positive | The app is simple, fast and a real help.
    positive | My plants have never looked so healthy, thank you!
    positive | The waiter remembered us and treated us like family.
    positive | An excellent knife: sharp, well balanced and beautiful.
    positive | This song makes me happy every single time.
    positive | The beach was clean and the water crystal clear.
    positive | A brilliant ending, the whole audience cheered.
    positive | The teacher is patient and my daughter adores her.
    positive | The jacket kept me warm and dry on every hike.
    positive | Superb pizza, we finished every crumb.
    positive | I slept like a baby on this mattress.
    positive | Their customer service solved my problem in two minutes.
    positive | The colours are bright and lovely, I am delighted.
    positive | A fantastic trip that we will never forget.
    positive | The cheese was perfectly ripe and full of flavour.
    positive | It works exactly as promised, highly recommended.
    positive | The museum's new wing is a triumph.
    positive | I am impressed by how well this tent survived the storm.
    positive | The singer was marvellous and the sound was flawless.
    positive | What a treat, this chocolate melts on the tongue.
    positive | The nurse was kind and explained everything.
    positive | A gripping story with a heroine I adored.
    positive | The garden is a peaceful place, we felt at home at once.
    positive | My new headphones sound amazing.
    positive | Five stars, and I would give six if I could.
    negative | The soup was cold and tasted of nothing.
    negative | I fell asleep after ten minutes, what a boring film.
    negative | The room was filthy and smelled of smoke.
    negative | The worst birthday dinner of my life.
    negative | This vacuum cleaner is loud and leaves half the dirt behind.
    negative | A dull book with flat characters, I gave up.
    negative | Our guide was rude and an hour late.
    negative | The battery is empty after an hour, a complete joke.
    negative | The game broke on the first day and nobody answers my mails.
    negative | Stale bread, grumpy faces and shameless prices.
    negative | The concert was a disaster, we could hear nothing but noise.
    negative | Half of the screws were missing and the shelf wobbles.
    negative | I will never set foot in this hotel again.
    negative | These shoes hurt so much that I threw them away.
    negative | The dentist was rough and did not listen to me.
    negative | A terrible film, a waste of two hours.
    negative | The parcel came three weeks late and the vase was broken.
    negative | The blanket is scratchy and lost its colour in the first wash.
    negative | The course was confusing and far too expensive.
    negative | Bitter coffee and dry cake, no thanks.
    negative | After the repair my bike was worse than before.
    negative | A sad little museum with nothing to see.
    negative | The view was a wall and the terrace was closed.
    negative | The app crashes all the time and lost my photos.
    negative | All of my plants died within a week.
    negative | The waiter ignored us and then got the bill wrong.
    negative | A useless knife that cannot even cut butter.
    negative | This song is so annoying that I switch off the radio.
    negative | The beach was covered with rubbish and the water stank.
    negative | A stupid ending, the audience booed.
    negative | The teacher shouts and my daughter is afraid of her.
    negative | The jacket leaked at the first drop of rain.
    negative | Burnt pizza with hardly any cheese, horrible.
    negative | My back aches from this awful mattress.
    negative | I waited on the phone for two hours and got no help.
    negative | The colours are ugly and nothing like the picture.
    negative | A dreadful trip, everything went wrong.
    negative | The cheese was mouldy when I opened it.
    negative | It stopped working after a day, do not buy it.
    negative | The new wing of the museum is an ugly failure.
    negative | The tent collapsed in a light breeze.
    negative | The singer was out of tune and the sound was painful.
    negative | This chocolate tastes like soap.
    negative | The nurse was unfriendly and lost my papers.
    negative | A tedious story with a heroine I could not stand.
    negative | The garden was full of rats, we left at once.
    negative | My new headphones crackle and hurt my ears.
    negative | One star, and that is one too many.
    """,
    "verdict",
    "review",
)

KINDS = grouped(
    """
    animal: dog, horse, tiger, rabbit, elephant, monkey, sheep, giraffe, wolf, camel, donkey, frog
    fruit: banana, cherry, pear, grape, strawberry, mango, pineapple, peach, lemon, melon, raspberry, plum
    vehicle: car, truck, bus, bicycle, train, tractor, motorcycle, ambulance, van, tram, taxi, scooter
    clothing: shirt, trousers, sock, jacket, skirt, sweater, glove, scarf, coat, dress, hat, pyjamas
    furniture: table, chair, sofa, wardrobe, bed, bookcase, armchair, stool, desk, cupboard, bench, dresser
    musical instrument: piano, violin, trumpet, flute, guitar, drum, harp, cello, clarinet, saxophone, trombone, banjo
    tool: hammer, screwdriver, saw, pliers, wrench, drill, chisel, shovel, axe, rake, crowbar, spanner
    colour: red, blue, green, yellow, purple, brown, white, black, grey, pink, turquoise, beige
    profession: doctor, baker, teacher, plumber, lawyer, nurse, farmer, carpenter, dentist, butcher, tailor, pilot
    sport: football, tennis, swimming, boxing, volleyball, golf, hockey, rugby, basketball, judo, rowing, fencing
    """
)

# what the answer would be | question.
ASKED = table(
    """
    person | Who invented the telephone?
    person | Who was the first human on the Moon?
    person | Which king had six wives?
    person | Who painted this portrait?
    person | Whose idea was it to leave so early?
    person | Who is the president of our chess club?
    person | Which actress played the queen in that film?
    person | Who taught you to swim?
    person | Whom did you meet at the station?
    person | Who lives in the house next door?
    person | Which scientist discovered penicillin?
    person | Who won the race last Sunday?
    person | Who wrote the letter on my desk?
    person | Which of your sisters is a doctor?
    person | Who will drive us home tonight?
    person | Who is the tallest pupil in your class?
    person | Which explorer gave the bay its name?
    person | Who left the door open?
    person | Which poet lived in this cottage?
    person | Who is that man with the red hat?
    person | Who was the last emperor of the dynasty?
    person | Which player scored the only goal?
    place | Where were the first Olympic Games held?
    place | In which city is the Eiffel Tower?
    place | Where do penguins live?
    place | Where did you put my keys?
    place | Which country has the longest coast?
    place | Where does this river begin?
    place | In what town were you born?
    place | Where can I buy fresh bread around here?
    place | Which island did they sail to?
    place | Where is the nearest chemist's shop?
    place | Which desert lies to the south of the mountains?
    place | In which street do your parents live?
    place | Where will the wedding take place?
    place | Which village did the army march through?
    place | Where does the cat sleep at night?
    place | From which harbour does the ferry leave?
    place | Where was this photograph taken?
    place | Which lake is the deepest of all?
    place | To which hospital was she brought?
    place | Where did the Vikings come from?
    place | In which room is the meeting?
    place | Where on the map is your farm?
    number | How many days are there in a leap year?
    number | How much does this lamp weigh in grams?
    number | How many students are in your class?
    number | How tall is the tower in metres?
    number | How many strings does a violin have?
    number | How far is it to the airport in kilometres?
    number | How many eggs do I need for the cake?
    number | How fast can a horse run in miles per hour?
    number | What percentage of the votes did she get?
    number | How many people live in your village?
    number | How deep is the well in feet?
    number | How many pages does the book have?
    number | How much do the tickets cost in dollars?
    number | How many stairs lead up to the church?
    number | How hot was the oven in degrees?
    number | How many goals were scored in the final?
    number | How many litres fit into this barrel?
    number | What is the square root of 81?
    number | How many cousins do you have?
    number | How old is your grandmother?
    number | How many bones does the hand have?
    number | How wide is the door in centimetres?
    date | When did the war end?
    date | On which day does the school year start?
    date | In what year was the bridge built?
    date | When is your birthday?
    date | When was the first railway opened?
    date | On what date is the rent due?
    date | When did your grandparents marry?
    date | In which month do the swallows return?
    date | When will the new museum open?
    date | In which year did the volcano last erupt?
    date | When was printing with movable type invented?
    date | On which weekday does the market take place?
    date | When does the summer holiday begin?
    date | In which century did the poet live?
    date | When is the next full moon?
    date | When was the town founded?
    date | On what day was the treaty signed?
    date | When did people first climb that mountain?
    date | What year did you finish school?
    date | When does the passport expire?
    date | In which decade was the song written?
    date | When did the old king die?
    """,
    "kind",
    "question",
)


def _kinds() -> list[dict[str, str | list[str]]]:
    return [
        {"thing": thing, "options": with_options(kind, KINDS, 3, "kind_of_thing", thing), "answer": kind}
        for kind, things in KINDS.items()
        for thing in things
    ]


def _odd_ones() -> dict[str, list[dict[str, str | list[str]]]]:
    """Lists of four words made of one split's words only, so that no word is in both splits."""
    splits = {}
    kind_of = {thing: kind for kind, things in KINDS.items() for thing in things}
    for split, rows in facts([{"thing": thing} for thing in kind_of], key="thing").items():
        words = [str(row["thing"]) for row in rows]
        count = 240 if split == "train" else 240 * FACTS_PERCENT // 100
        splits[split] = [_odd_one(words, kind_of, f"odd_one_out {split} {i}") for i in range(count)]
    return splits


def _odd_one(words: list[str], kind_of: dict[str, str], key: str) -> dict[str, str | list[str]]:
    order = shuffled(words, key)
    odd = order[0]
    by_kind: dict[str, list[str]] = {}
    for word in order[1:]:
        by_kind.setdefault(kind_of[word], []).append(word)
    same = next(group for kind, group in by_kind.items() if kind != kind_of[odd] and len(group) >= 3)
    return {"options": shuffled([odd, *same[:3]], key, "order"), "answer": odd}


add_task(
    "review_sentiment",
    cluster=CLUSTER,
    source=facts(
        [{"review": r["review"], "options": ["positive", "negative"], "answer": r["verdict"]} for r in REVIEWS],
        key="review",
    ),
    templates=[
        "Is this review positive or negative?\n{review}",
        "{review}\n\nWas the writer pleased? Answer {options_inline}.",
        "Review: {review}\nSentiment ({options_inline}):",
        'Classify the sentiment of "{review}".\n{options}',
        "A customer writes: {review} Tell me in one word whether that is positive or negative.",
        "Decide whether the opinion below is {options_inline}.\n\n{review}",
        "What is the tone of this text, positive or negative? {review}",
    ],
    metrics=[exact_match],
)

add_task(
    "kind_of_thing",
    cluster=CLUSTER,
    source=facts(_kinds(), key="thing"),
    templates=[
        "What kind of thing is this: {thing}?\n{options}",
        "Put {thing} into one of these categories: {options_inline}.",
        "Thing: {thing}\nCategories: {options_inline}\nCategory:",
        "Which word describes {thing} best?\n{options}",
        "{options}\n\nChoose the group above that {thing} belongs to.",
        "Is {thing} an example of {options_inline}? Name the category.",
    ],
    metrics=[exact_match],
)

add_task(
    "odd_one_out",
    cluster=CLUSTER,
    source=_odd_ones(),
    templates=[
        "Which word does not belong with the others?\n{options}",
        "Find the odd one out: {options_inline}",
        "Words: {options_inline}\nOdd one out:",
        "Three of these are of the same kind. Name the fourth.\n{options}",
        "{options}\n\nOne word above does not fit. Write only that word.",
        "Which of {options_inline} is different in kind from the rest?",
    ],
    metrics=[exact_match],
)

add_task(
    "question_type",
    cluster=CLUSTER,
    source=facts(
        [
            {"question": r["question"], "options": ["person", "place", "number", "date"], "answer": r["kind"]}
            for r in ASKED
        ],
        key="question",
    ),
    templates=[
        "What does this question ask for?\n{question}\n{options}",
        '"{question}" The answer would be a {options_inline}?',
        "Question: {question}\nExpected answer ({options_inline}):",
        "Do not answer this question, only say whether it asks for {options_inline}: {question}",
        "{question}\n\nChoose what kind of answer is wanted above.\n{options}",
        "Sort the question into one of the types {options_inline}. {question}",
    ],
    metrics=[exact_match],
)
