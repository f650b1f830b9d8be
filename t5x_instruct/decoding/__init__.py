"""Generation and scoring with any model of `models/`."""

from t5x_instruct.decoding.generate import generate
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.decoding.sampling import GREEDY, Sampling
from t5x_instruct.decoding.scoring import Scores, score, score_options

__all__ = ["GREEDY", "LanguageModel", "Sampling", "Scores", "generate", "score", "score_options"]
