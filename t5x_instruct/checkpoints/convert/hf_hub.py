"""Models of the Hugging Face hub: `hf://ORG/NAME` becomes a folder on this machine."""

import re
from pathlib import Path

from t5x_instruct.common.errors import CheckpointError

PREFIX = "hf://"
# What is read, and nothing else: neither other programs' weights nor pickles.
PATTERNS = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "spiece.model",
)
_ANSWER_SECONDS = 20.0


def download(name: str) -> Path:
    """The folder of a model of the hub: from the cache, or downloaded first.

    A download that was cut off goes on where it ended. `HF_HUB_OFFLINE=1` looks into the cache alone, `HF_HOME` says
    where that is, `HF_TOKEN` opens what needs an account.

    Args:
        name: `hf://ORG/NAME` or `hf://ORG/NAME@REVISION` (a branch, a tag or a commit).

    Raises:
        CheckpointError: the name is none, the hub has no such model or does not give it, or there is neither network
            nor a copy in the cache; says what helps.
    """
    repository, revision = _parse(name)
    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{name}: models of the hub need huggingface_hub; install it with: pip install 't5x_instruct[hf]'"
        ) from None
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=list(PATTERNS), etag_timeout=_ANSWER_SECONDS
        )
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name}: its owners give it to accounts that have accepted their terms; accept them at the model's page "
            "and set HF_TOKEN to a token of that account"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name}: the model has no revision {revision!r}; leave it out for the newest") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name}: the hub has no model {repository!r}, or it is private; compare the name with the model's page, "
            "and set HF_TOKEN for a private one"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        offline, cache = constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE
        raise CheckpointError(_unreachable(name, repository, offline, cache)) from error
    except (errors.HFValidationError, errors.HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{name}: the download failed: {error}. Run the same again: it goes on there") from error
    return Path(folder)


def _parse(name: str) -> tuple[str, str | None]:
    part = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
    match = re.fullmatch(rf"{PREFIX}({part}(?:/{part})?)(?:@([A-Za-z0-9_][A-Za-z0-9._/-]*))?", name)
    if match is None:
        raise CheckpointError(f"{name}: a model of the hub is named hf://ORG/NAME or hf://ORG/NAME@REVISION")
    return match[1], match[2]


def _unreachable(name: str, repository: str, offline: bool, cache: str) -> str:
    if offline:
        return (
            f"{name}: HF_HUB_OFFLINE is set and the cache {cache} does not hold all of the model; unset it, or point "
            "HF_HOME to a cache that does"
        )
    return (
        f"{name}: the hub cannot be reached and the cache {cache} does not hold all of the model. Where there is a "
        f"network: hf download {repository} --local-dir FOLDER; then bring FOLDER here and name it hf:FOLDER"
    )
