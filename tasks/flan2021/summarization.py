"""FLAN 2021, summarization: the short of something long, in one line or several.

AG News, which asks for the topic of an article, belongs to this cluster too.
"""

import html
import re
from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.evaluation.text_metrics import rouge
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.registry import add_flan_task, cap
from tasks.flan2021.rows import Row, complete

CLUSTER = "summarization"
TOPICS = ("World", "Sports", "Business", "Science/Tech")
MOST_OPINIONS = 10
"""As many reviews of a film, or arguments of a debate, are shown, as FLAN does."""

_BETWEEN_ARTICLES = "|||||"
_MEDIA = re.compile(r"<[^<>\n]*>")
# AG News has lost the '&' of most character references: "Google #39;s".
_BARE_REFERENCE = re.compile(r"&?#(\d+);")

Example = dict[str, Any]


def aeslc_row(example: Example) -> Row | None:
    """An e-mail with its subject line."""
    return _row(example["email_body"], example["subject_line"])


def cnn_dailymail_row(example: Example) -> Row | None:
    """An article with its highlights, one a line."""
    return _row(example["article"], example["highlights"])


def gigaword_row(example: Example) -> Row | None:
    """The first sentence of a report, with its headline, both tokenized and in lower case.

    Those with unknown words or with digits that are blotted out ('#') are left out, as FLAN does.
    """
    both = f"{example['document']} {example['summary']}"
    return None if "UNK" in both or "#" in both else _row(example["document"], example["summary"])


def multi_news_row(example: Example) -> Row | None:
    """Several articles on one event, parted by lines of dashes, with one summary (without the dash before it)."""
    articles = [article.strip() for article in example["document"].split(_BETWEEN_ARTICLES)]
    return _row("\n\n---\n\n".join(article for article in articles if article), example["summary"].lstrip("–- "))


def newsroom_row(example: Example) -> Row | None:
    """An article with its title and the summary that its publisher gave it."""
    return _row(example["text"], example["summary"], title=example["title"])


def samsum_row(example: Example) -> Row | None:
    """A chat with its summary; marks of photos and files ('<file_photo>') are left out."""
    return _row(_MEDIA.sub("", example["dialogue"].replace("\r\n", "\n")), example["summary"])


def xsum_row(example: Example) -> Row | None:
    """An article with its summary of one sentence."""
    return _row(example["document"], example["summary"])


def rotten_tomatoes_row(example: Example) -> Row | None:
    """Reviews of a film with what its critics agree on."""
    film = example["_movie_name"].replace("_", " ")
    return _opinions_row(example["_critics"]["value"], example["_critic_consensus"], film)


def idebate_row(example: Example) -> Row | None:
    """Arguments of a debate with the claim that they make."""
    return _opinions_row(example["_argument_sentences"]["value"], example["_claim"], example["_debate_name"])


def wiki_lingua_row(example: Example) -> Row | None:
    """Steps of a guide with a summary of each."""
    return _row(example["source"], example["target"])


def ag_news_row(example: Example) -> Row | None:
    """The beginning of an article, to be sorted under one of four topics."""
    if example["label"] not in range(len(TOPICS)):
        return None
    fields = {"title": _unescaped(example["title"]), "text": _unescaped(example["description"])}
    return complete({**fields, "options": list(TOPICS), "answer": TOPICS[example["label"]]})


def _unescaped(text: str) -> str:
    return html.unescape(_BARE_REFERENCE.sub(r"&#\1;", text))


def _row(text: str, summary: str, **more: str) -> Row | None:
    """A text with its summary; None where one of the parts has nothing in it."""
    return complete({"text": text, "answer": summary, **more})


def _opinions_row(opinions: list[str], summary: str, about: str) -> Row | None:
    said = [" ".join(opinion.split()) for opinion in opinions if opinion.strip()]
    listed = "\n".join(f"{i}. {opinion}" for i, opinion in enumerate(said[:MOST_OPINIONS], start=1))
    return _row(listed, html.unescape(summary), about=about, first=said[0] if said else "")


AESLC: list[Template | str] = [
    "{text}\n\nGive this e-mail a subject line.",
    "What should stand in the subject field of the following message?\n\n{text}",
    "Body: {text}\nSubject:",
    "I have written an e-mail and forgot the subject. Please suggest one.\n\n{text}",
    "In a few words, what is this mail about?\n\n{text}",
    "Sum up the message below so briefly that it fits into the line above it.\n\n{text}",
    "Message:\n{text}\n\nA fitting title would be:",
    Template("Write an e-mail with the subject: {answer}", "{text}"),
    Template("Subject: {answer}\nBody:", "{text}"),
    Template('My inbox shows a mail called "{answer}". What may it say?', "{text}"),
]

CNN_DAILYMAIL: list[Template | str] = [
    "{text}\n\nSummarize this article in a few sentences, each on a line of its own.",
    "What are the main points of this news report?\n\n{text}",
    "Article: {text}\n\nHighlights:",
    "List what a hurried reader should take away from the following.\n\n{text}",
    "Condense the story below into three or four short lines.\n\n{text}",
    "News:\n{text}\n\nPlease tell me the essentials.",
    "The editor wants bullet points above this article. Write them.\n\n{text}",
    Template("Write a news article that has these highlights.\n\n{answer}", "{text}"),
    Template("Key points:\n{answer}\n\nFull story:", "{text}"),
    Template("{answer}\n\nFlesh this out into a complete report.", "{text}"),
]

GIGAWORD: list[Template | str] = [
    "{text}\n\nWrite a headline for this.",
    "Shorten the following sentence to a headline: {text}",
    "Sentence: {text}\nHeadline:",
    "How would a newspaper title this report? It begins: {text}",
    "Say the same in far fewer words.\n\n{text}",
    "{text}\n\nIn short:",
    "Find a headline that tells what happened here: {text}",
    Template("Write the first sentence of the report under this headline: {answer}", "{text}"),
    Template("Headline: {answer}\nThe report begins:", "{text}"),
    Template('A newspaper prints "{answer}" in big letters. Continue with the lead sentence.', "{text}"),
]

MULTI_NEWS: list[Template | str] = [
    "{text}\n\nThe articles above report on one event. Summarize them together.",
    "Here are several reports, parted by dashes. Write one summary of all.\n\n{text}",
    "Reports:\n{text}\n\nSummary:",
    "Read what different papers write and tell me in a paragraph what is going on.\n\n{text}",
    "Merge the following news into a single short account.\n\n{text}",
    "Compile a digest of these sources.\n\n{text}\n\nDigest:",
    "I do not have the time for all of this. What does it come down to?\n\n{text}",
    Template("{answer}\n\nThis is a summary. Write the reports that it may have been made of.", "{text}"),
    Template("Write one or more news articles from which somebody could gather the following.\n\n{answer}", "{text}"),
    Template("Summary: {answer}\n\nReports, parted by dashes:", "{text}"),
]

NEWSROOM: list[Template | str] = [
    "{title}\n\n{text}\n\nSummarize this.",
    "What does the article say, in a sentence or two?\n\n{text}",
    "Title: {title}\nArticle: {text}\nSummary:",
    "Write the teaser that a news site would show under the title of this piece.\n\n{title}\n{text}",
    "{text}\n\nGive the gist.",
    "Describe the following article to someone who wonders whether to read it.\n\n{title}\n\n{text}",
    "Abridge as much as you can:\n\n{text}",
    Template("{text}\n\nFind a title for the article above.", "{title}"),
    Template("Write an article with this title and this summary.\n\nTitle: {title}\nSummary: {answer}", "{text}"),
    Template('What would be a good title for an article that is summed up as "{answer}"?', "{title}"),
]

SAMSUM: list[Template | str] = [
    "{text}\n\nWhat was this chat about? Answer in a few sentences.",
    "Sum up the conversation.\n\n{text}",
    "Dialogue:\n{text}\n\nSummary:",
    "Tell somebody who was not there what these people said to each other.\n\n{text}",
    "I missed the messages in our group. Please bring me up to date:\n\n{text}",
    "Write a short note on the outcome of the following exchange.\n\n{text}",
    "{text}\n\nIn brief, who wants what?",
    Template("Write a chat that could be summed up like this: {answer}", "{text}"),
    Template("{answer}\n\nHow may they have put it in their messages? Write the dialogue.", "{text}"),
    Template("Summary: {answer}\n\nDialogue:", "{text}"),
]

XSUM: list[Template | str] = [
    "{text}\n\nPut the whole story into one sentence.",
    "What happened? One sentence, please.\n\n{text}",
    "Article: {text}\nIn a sentence:",
    "Write the opening line that tells readers of this report what it is about.\n\n{text}",
    "{text}\n\nTL;DR:",
    "Boil this down to a single statement.\n\n{text}",
    "A radio host has ten seconds for this story. What does she say?\n\n{text}",
    Template("Write a news article that goes on from this first line: {answer}", "{text}"),
    Template("In a sentence: {answer}\nThe whole article:", "{text}"),
    Template("{answer}\n\nReport on this at full length.", "{text}"),
]

ROTTEN_TOMATOES: list[Template | str] = [
    "Critics wrote about {about}:\n{text}\n\nWhat do they agree on?",
    "{text}\n\nSum up these reviews in a sentence.",
    'Reviews of "{about}":\n{text}\n\nConsensus:',
    "Should I go and see {about}? Here is what the papers say; draw the conclusion for me.\n\n{text}",
    "Write one line on {about} that does justice to all of these opinions.\n\n{text}",
    "The verdicts differ:\n{text}\n\nWhat is the common view of the film?",
    "Put together the opinions below into an overall judgement of the film {about}.\n\n{text}",
    Template('Write a review of "{about}" that fits this general opinion: {answer}', "{first}"),
    Template("The critics' consensus on a film reads: {answer}\nWhich film may this be?", "{about}"),
    Template("Overall judgement of {about}: {answer}\n\nWhat did single critics write? List some reviews.", "{text}"),
]

IDEBATE: list[Template | str] = [
    "In the debate on {about} the following was said.\n{text}\n\nWhat is the claim behind it?",
    "{text}\n\nWhich single claim do these arguments support?",
    "Topic: {about}\nArguments:\n{text}\nClaim:",
    "Reduce the arguments to one sentence.\n\n{text}",
    "A speaker on {about} argues like this:\n{text}\n\nState the speaker's point.",
    "What do these sentences try to convince us of?\n\n{text}",
    "Debate: {about}\n\n{text}\n\nSum up this side's position.",
    Template("Argue for this claim in the debate on {about}: {answer}", "{text}"),
    Template("Somebody claims: {answer}\nWhich debate does this belong to?", "{about}"),
    Template("Give one argument in favour of the following claim: {answer}", "{first}"),
]

WIKI_LINGUA: list[Template | str] = [
    "{text}\n\nSummarize the steps of this guide.",
    "Write the short form of these instructions.\n\n{text}",
    "Guide: {text}\n\nIn short:",
    "I know this already and only need a reminder. Which steps are there?\n\n{text}",
    "Make a checklist of the following.\n\n{text}",
    "{text}\n\nWhat do I have to do, one short sentence a step?",
    "Turn the advice below into its bare essentials.\n\n{text}",
    Template("Explain these steps at length.\n\n{answer}", "{text}"),
    Template("In short: {answer}\n\nThe whole guide:", "{text}"),
    Template("{answer}\n\nA beginner would not understand this list. Write it out as a helpful text.", "{text}"),
]

AG_NEWS: list[Template | str] = [
    "{title}\n\n{text}\n\nWhat is this news about?",
    "Under which heading would a newspaper print the following?\n\n{title}\n{text}",
    "Sort this article by topic: {text}",
    "Title: {title}\nText: {text}\n\nWhich topic is it?",
    'Where on a news site would you look for "{title}"?',
    "Choose the section that fits this report best.\n\n{title}: {text}",
    "{text}\n\nWho would read this? Name the part of the paper it belongs to.",
    Template("Write the beginning of a news article for the section {answer}.", "{text}"),
    Template("Find a title for this article from the section {answer}.\n\n{text}", "{title}"),
    Template("Section: {answer}\nTitle: {title}\n\nHow does the article begin?", "{text}"),
]

_NEWSROOM_BY_HAND = (
    "register at https://summari.es/download/ and put train.jsonl, dev.jsonl and test.jsonl into the manual folder"
)
_SAMSUM_BY_HAND = (
    "download https://arxiv.org/src/1911.12237v2/anc/corpus.7z and put its train.json, val.json and test.json into the"
    " manual folder"
)
_XSUM_BY_HAND = (
    "follow https://github.com/EdinburghNLP/XSum/blob/master/XSum-Dataset/README.md and put"
    " xsum-extracts-from-downloads.tar.gz into the manual folder"
)

for _name, _dataset, _version, _make_row, _templates, _manual in (
    ("cnn_dailymail", "cnn_dailymail", "3.1.0", cnn_dailymail_row, CNN_DAILYMAIL, None),
    ("gigaword", "gigaword", "1.2.0", gigaword_row, GIGAWORD, None),
    ("multi_news", "multi_news", "1.0.0", multi_news_row, MULTI_NEWS, None),
    ("newsroom", "newsroom", "1.0.0", newsroom_row, NEWSROOM, _NEWSROOM_BY_HAND),
    # FLAN reads 'huggingface:xsum', which has to ask the hub before it can even name its fields; TFDS's own builder
    # has the same articles.
    ("xsum", "xsum", None, xsum_row, XSUM, _XSUM_BY_HAND),
    ("wiki_lingua_english_en", "gem/wiki_lingua_english_en", "1.1.0", wiki_lingua_row, WIKI_LINGUA, None),
):
    add_flan_task(
        _name,
        cluster=CLUSTER,
        dataset=_dataset,
        version=_version,
        manual=_manual,
        train=cap("train"),
        validation="validation[:200]",
        test="test",
        row=_make_row,
        templates=_templates,
        metrics=[rouge],
    )

add_flan_task(
    "aeslc",
    cluster=CLUSTER,
    dataset="aeslc",
    version="1.0.0",
    train="train",
    validation="validation[-200:]",
    test="test",
    row=aeslc_row,
    templates=AESLC,
    metrics=[rouge],
)

add_flan_task(
    "samsum",
    cluster=CLUSTER,
    dataset="samsum",
    version="1.0.0",
    manual=_SAMSUM_BY_HAND,
    train="train",
    validation="validation[:200]",
    test="test",
    row=samsum_row,
    templates=SAMSUM,
    metrics=[rouge],
)

for _name, _make_row, _templates in (
    ("rotten_tomatoes", rotten_tomatoes_row, ROTTEN_TOMATOES),
    ("idebate", idebate_row, IDEBATE),
):
    add_flan_task(
        f"opinion_abstracts_{_name}",
        cluster=CLUSTER,
        dataset=f"opinion_abstracts/{_name}",
        version="1.0.0",
        train="train[:-600]",
        validation="train[-600:-500]",
        test="train[-500:]",
        row=_make_row,
        templates=_templates,
        metrics=[rouge],
    )

add_flan_task(
    "ag_news_subset",
    cluster=CLUSTER,
    dataset="ag_news_subset",
    version="1.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="test",
    row=ag_news_row,
    templates=AG_NEWS,
    metrics=[exact_match],
)
