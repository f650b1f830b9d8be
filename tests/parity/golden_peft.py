"""PEFT's golden files: its adapters as it saves them, and what a model with them predicts. Needs torch and peft.

    python -m tests.parity.golden_peft --out tests/golden/peft [--check FOLDER CASE]

Each file holds ``config``, JSON, PEFT's `adapter_config.json`; ``adapter/NAME``, the tensors of its
`adapter_model.safetensors`; and float32 ``logits`` [batch, length, vocab] of the base model of the same case with the
inputs of its own golden file. With ``--check`` a folder that was exported is read by PEFT instead, and the largest
difference of its logits from the file's is printed.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file

from tests.parity import golden_llama, golden_t5

GOLDEN = Path(__file__).parent.parent / "golden"
CASES: dict[str, dict[str, Any]] = {
    "llama_untied": {
        "r": 3,
        "lora_alpha": 7,
        "lora_dropout": 0.15,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    },
    "t5_1_1": {
        "r": 2,
        "lora_alpha": 5,
        "use_rslora": True,
        "target_modules": ["q", "v", "o", "wi_1", "wo"],
        "task_type": "SEQ_2_SEQ_LM",
    },
}


def base_of(case: str) -> Any:
    """The base model, as its own golden file has it."""
    return (golden_llama if case.startswith("llama") else golden_t5).build(case)


def logits_of(model: Any, case: str) -> np.ndarray:
    """Logits for the inputs of the base model's golden file."""
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as golden, torch.no_grad():
        arrays = {name: torch.tensor(golden[name]).long() for name in golden if golden[name].dtype == np.int32}
    with torch.no_grad():
        if case.startswith("llama"):
            return model(arrays["tokens"], position_ids=arrays["positions"]).logits.numpy()
        inputs, targets = arrays["inputs"], arrays["targets"]
        mask = torch.arange(inputs.shape[1])[None] < arrays["input_lengths"][:, None]
        start = torch.full((len(targets), 1), golden_t5.CASES[case]["decoder_start_token_id"])
        fed = torch.cat([start, targets[:, :-1]], dim=1)
        return model(input_ids=inputs, attention_mask=mask.long(), decoder_input_ids=fed).logits.numpy()


def compute(case: str) -> dict[str, np.ndarray]:
    """Everything one file holds."""
    model = get_peft_model(base_of(case), LoraConfig(**CASES[case])).eval()
    rng = np.random.default_rng(2_000 + sorted(CASES).index(case))
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.tensor(rng.normal(0, 0.15, tuple(parameter.shape)), dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        tensors = load_file(Path(folder) / "adapter_model.safetensors")
    config["target_modules"] = sorted(config["target_modules"])
    adapter = {f"adapter/{name}": array for name, array in tensors.items()}
    return {"config": np.array(json.dumps(config)), "logits": logits_of(model, case)} | adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=GOLDEN / "peft", help="folder for the files")
    parser.add_argument("--check", nargs=2, metavar=("FOLDER", "CASE"), help="read an exported folder instead")
    arguments = parser.parse_args()
    if arguments.check:
        folder, case = arguments.check
        model = PeftModel.from_pretrained(base_of(case), folder).eval()
        with np.load(arguments.out / f"{case}.npz", allow_pickle=False) as golden:
            print(f"{case}: {np.abs(logits_of(model, case) - golden['logits']).max():.2e}")
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        path = arguments.out / f"{case}.npz"
        np.savez_compressed(path, **compute(case))
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
