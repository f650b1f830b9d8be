"""FLAN 2021 as it was published: each task's cluster, data set and version, and its slices of the data set's splits.

In the order train, validation, test. 'cap' stands for at most the first 30,000. Where FLAN reads `train[:30000]` and
`train[-200:]` the table has cap(train[:-200]), which is the same on the sets it is used for and cannot overlap.

Source: github.com/google-research/FLAN, flan/tasks.py and flan/task_splits.py.
"""

COUNTS = {
    "summarization": 11,
    "structure_to_text": 4,
    "reading_comprehension": 6,
    "open_domain_qa": 4,
    "paraphrase": 4,
    "sentiment": 4,
    "text_formatting": 3,
    "common_sense": 4,
    "translation": 8,
    "coreference": 3,
    "entailment": 10,
    "math": 1,
    "conversational_qa": 2,
    "word_disambiguation": 1,
    "linguistic_acceptability": 1,
    "question_classification": 1,
    "read_comp_and_common_sense": 2,
}

TAIL = "train[:-200] train[-200:]"  # validation is the end of train
OWN = "train validation[:200]"  # the start of its own validation

_TABLE = f"""
summarization aeslc:1.0.0 train validation[-200:] test
summarization cnn_dailymail:3.1.0 cap-{OWN} test
summarization gigaword:1.2.0 cap-{OWN} test
summarization multi_news:1.0.0 cap-{OWN} test
summarization newsroom:1.0.0 cap-{OWN} test
summarization samsum:1.0.0 {OWN} test
summarization xsum:- cap-{OWN} test
summarization opinion_abstracts/rotten_tomatoes:1.0.0 train[:-600] train[-600:-500] train[-500:]
summarization opinion_abstracts/idebate:1.0.0 train[:-600] train[-600:-500] train[-500:]
summarization gem/wiki_lingua_english_en:1.1.0 cap-{OWN} test
summarization ag_news_subset:1.0.0 cap-{TAIL} test
structure_to_text gem/common_gen:1.1.0 cap-{TAIL} validation
structure_to_text gem/dart:1.1.0 cap-{TAIL} validation
structure_to_text gem/e2e_nlg:1.1.0 cap-{TAIL} validation
structure_to_text gem/web_nlg_en:1.1.0 cap-{TAIL} validation
reading_comprehension squad/v1.1:3.0.0 cap-{TAIL} validation
reading_comprehension squad/v2.0:3.0.0 cap-{TAIL} validation
reading_comprehension drop:2.0.0 cap-{TAIL} dev
reading_comprehension super_glue/multirc:1.0.2 {TAIL} validation
reading_comprehension openbookqa:0.1.0 {OWN} test
reading_comprehension bool_q:1.0.0 {TAIL} validation
open_domain_qa trivia_qa/rc:1.1.0 cap-{TAIL} validation
open_domain_qa natural_questions_open:1.0.0 cap-{TAIL} validation
open_domain_qa ai2_arc/ARC-Challenge:1.0.0 {TAIL} test
open_domain_qa ai2_arc/ARC-Easy:1.0.0 {TAIL} test
paraphrase glue/mrpc:2.0.0 {TAIL} validation
paraphrase glue/qqp:2.0.0 cap-{TAIL} validation
paraphrase paws_wiki:1.1.0 cap-{OWN} test
paraphrase glue/stsb:2.0.0 train[:-100] train[-100:] validation
sentiment imdb_reviews/plain_text:1.0.0 {TAIL} test
sentiment sentiment140:1.0.0 cap-{TAIL} test
sentiment yelp_polarity_reviews:0.2.0 cap-{TAIL} test
sentiment glue/sst2:2.0.0 cap-{TAIL} validation
text_formatting para_crawl/enda:1.2.0 train[:30000] train[30000:30200] train[-3000:]
text_formatting para_crawl/enda:1.2.0 train[30200:60200] train[60200:60400] train[-3000:]
text_formatting para_crawl/enda:1.2.0 train[60400:90400] train[90400:90600] train[-3000:]
common_sense super_glue/copa:1.0.2 train[:-50] train[-50:] validation
common_sense hellaswag:1.1.0 cap-{TAIL} validation
common_sense story_cloze/2016:1.0.0 validation[:-200] validation[-200:] test
common_sense piqa:1.0.0 train[:-100] train[-100:] validation
translation para_crawl/enes:1.2.0 cap-train[:-1200] train[-1200:-1000] train[-1000:]
translation wmt14_translate/fr-en:1.0.0 cap-{OWN} test
translation wmt16_translate/de-en:1.0.0 cap-{OWN} test
translation wmt16_translate/tr-en:1.0.0 cap-{OWN} test
translation wmt16_translate/cs-en:1.0.0 cap-{OWN} test
translation wmt16_translate/fi-en:1.0.0 cap-{OWN} test
translation wmt16_translate/ro-en:1.0.0 cap-{OWN} test
translation wmt16_translate/ru-en:1.0.0 cap-{OWN} test
coreference definite_pronoun_resolution:1.1.0 {TAIL} test
coreference winogrande:1.1.0 cap-train_xl[:-200] train_xl[-200:] validation
coreference super_glue/wsc:1.0.2 train[:-50] train[-50:] validation
entailment anli/r1:0.1.0 {OWN} test
entailment anli/r2:0.1.0 cap-{OWN} test
entailment anli/r3:0.1.0 cap-{OWN} test
entailment super_glue/cb:1.0.2 train[:-50] train[-50:] validation
entailment super_glue/rte:1.0.2 {TAIL} validation
entailment glue/mnli:2.0.0 cap-{TAIL} validation_matched
entailment glue/mnli:2.0.0 cap-{TAIL} validation_mismatched
entailment glue/qnli:2.0.0 cap-{TAIL} validation
entailment glue/wnli:2.0.0 train[:-30] train[-30:] validation
entailment snli:1.1.0 cap-{OWN} test
math math_dataset/algebra__linear_1d:1.0.0 cap-{TAIL} test
conversational_qa quac:1.0.0 cap-{TAIL} validation
conversational_qa coqa:1.0.0 train[:-100] train[-100:] test
word_disambiguation super_glue/wic:1.0.2 {TAIL} validation
linguistic_acceptability glue/cola:- {TAIL} validation
question_classification trec:1.0.0 {TAIL} test
read_comp_and_common_sense super_glue/record:1.0.2 cap-{TAIL} validation
read_comp_and_common_sense cosmos_qa:1.0.0 {TAIL} validation
"""

ROWS = [tuple(line.split()) for line in _TABLE.strip().splitlines()]
"""(cluster, dataset:version, train, validation, test); version '-': FLAN pins none."""
