"""FLAN 2021, sentiment: whether a review or a message is positive or negative."""

from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import Row, labelled
from tasks.flan2021.registry import add_flan_task, cap

CLUSTER = "sentiment"
OPTIONS = ("negative", "positive")
# Labels of Sentiment140: 0 and 1 are negative, 3 and 4 positive; neutral messages (2) are left out.
_POLARITY = {0: 0, 1: 0, 3: 1, 4: 1}


def imdb_row(example: dict[str, Any]) -> Row | None:
    """`text`, with line breaks for HTML's. Reviews of the unlabelled part are left out."""
    return labelled({"text": example["text"].replace("<br />", "\n")}, example["label"], OPTIONS)


def sentiment140_row(example: dict[str, Any]) -> Row | None:
    """`text`; neutral messages, which the training data does not have, are left out."""
    return labelled({"text": example["text"]}, _POLARITY.get(example["polarity"], -1), OPTIONS)


def yelp_row(example: dict[str, Any]) -> Row | None:
    r"""`text`, with the escapes of the data set's table undone: '\n', '\""' and '""'."""
    text = example["text"].replace('\\""', '"').replace('""', '"').replace("\\n", "\n")
    return labelled({"text": text}, example["label"], OPTIONS)


def sst2_row(example: dict[str, Any]) -> Row | None:
    """`sentence`; the test split's unlabelled ones are left out."""
    return labelled({"sentence": example["sentence"]}, example["label"], OPTIONS)


IMDB: list[Template | str] = [
    "{text}\n\nDid the writer like the film?\nCall the review positive or negative.",
    "Is this film review positive or negative?\n\n{text}",
    "Review: {text}\nSentiment:",
    "A cinema wants to know what people think. Sort the following comment into positive or negative.\n\n{text}",
    '"{text}"\n\nWhat is the overall feeling of this piece about the movie?',
    "Here is what someone wrote after watching a movie. {text}\n\nThumbs up (positive) or thumbs down (negative)?",
    "Read to the end before you decide, since opinions may turn. What is the verdict of this review?\n\n{text}",
    "{text}\nwould u say thats a positive or a negative review",
    Template("Write a {answer} review of a film.", "{text}"),
    Template(
        "You have just seen a movie and your opinion of it is {answer}. Tell other viewers what you thought.", "{text}"
    ),
]

TWEETS: list[Template | str] = [
    "Is the mood of this tweet positive or negative?\n{text}",
    "{text}\n\nHow does the author feel?",
    "Tweet: {text}\nMood:",
    'Someone posted "{text}" Is that a happy post or an unhappy one? Say positive or negative.',
    "Label the message with its sentiment.\n\nmessage: {text}",
    "We sort posts by their tone. Which pile does this one go on?\n\n{text}",
    "{text}\nDoes that sound positive or negative to you?",
    'If this came from a friend, would you think they are in a positive or in a negative mood?\n"{text}"',
    Template("Write a tweet in a {answer} mood.", "{text}"),
    Template("Short message for social media, tone: {answer}", "{text}"),
]

YELP: list[Template | str] = [
    "{text}\n\nWould this customer come back? Call the review positive or negative.",
    "What does the following customer think of the business, in one word?\n\n{text}",
    "Customer review:\n{text}\n\nOverall impression:",
    "Classify this review of a local business as positive or negative.\n{text}",
    "The owner of the place has no time to read all of this. Is it positive or negative?\n\n{text}",
    'Read the experience below and say which way it went.\n\n"{text}"',
    "{text}\n\nIs this a recommendation (positive) or a warning (negative)?",
    "Review = {text}\nPolarity = ?",
    Template("Write a {answer} review of a restaurant, a shop or some other place that you visited.", "{text}"),
    Template(
        "Yesterday you were a customer somewhere; it left you with a {answer} impression. Post your review.", "{text}"
    ),
]

SST2: list[Template | str] = [
    '"{sentence}"\n\nIs this remark on a film positive or negative?',
    "Critic: {sentence}\nOpinion of the critic:",
    "A phrase from a movie review: {sentence}\nPraise or blame? Answer positive for praise, negative for blame.",
    "What is the sentiment of the next line?\n{sentence}",
    "{sentence}\n\nGood words or bad words about the movie? Answer positive or negative.",
    'If a poster quoted the words "{sentence}", would it be a positive or a negative quote?',
    "Tell the tone of this snippet: {sentence}",
    "snippet: {sentence} | positive or negative",
    Template("Write one {answer} phrase about a film, as a critic might.", "{sentence}"),
    Template("Sentiment: {answer}\nMake up a fitting line from a movie review.", "{sentence}"),
]

add_flan_task(
    "imdb_reviews",
    cluster=CLUSTER,
    dataset="imdb_reviews/plain_text",
    version="1.0.0",
    train="train[:-200]",
    validation="train[-200:]",
    test="test",
    row=imdb_row,
    templates=IMDB,
    metrics=[exact_match],
)

add_flan_task(
    "sentiment140",
    cluster=CLUSTER,
    dataset="sentiment140",
    version="1.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="test",
    row=sentiment140_row,
    templates=TWEETS,
    metrics=[exact_match],
)

add_flan_task(
    "yelp_polarity_reviews",
    cluster=CLUSTER,
    dataset="yelp_polarity_reviews",
    version="0.2.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="test",
    row=yelp_row,
    templates=YELP,
    metrics=[exact_match],
)

add_flan_task(
    "sst2",
    cluster=CLUSTER,
    dataset="glue/sst2",
    version="2.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=sst2_row,
    templates=SST2,
    metrics=[exact_match],
)
