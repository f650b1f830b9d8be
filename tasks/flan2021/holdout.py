"""FLAN's rules on what goes with a cluster that is held out.

`HOLD_OUT = ('entailment',)` with the mixture `flan2021` evaluates entailment and leaves paraphrase out of training too:
deciding whether two sentences say the same is most of what entailment asks. Reading comprehension and common sense
share data and skills with the cluster that has both.

Source: Wei et al. 2021, section 2.1 and FLAN's splits between clusters.
"""

RELATED_CLUSTERS = {
    "entailment": ("paraphrase",),
    "paraphrase": ("entailment",),
    "reading_comprehension": ("read_comp_and_common_sense",),
    "common_sense": ("read_comp_and_common_sense",),
    "read_comp_and_common_sense": ("reading_comprehension", "common_sense"),
}
"""For each cluster those that are neither trained on nor evaluated where it is held out."""
