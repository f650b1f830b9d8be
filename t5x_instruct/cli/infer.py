"""`t5x-instruct infer`: a model answers prompts that are typed or read from a text or JSONL file."""

import argparse
import sys
from typing import Any

from t5x_instruct.cli.data_arguments import add_module_arguments, module_options, modules_of
from t5x_instruct.cli.gin_arguments import add_gin_arguments
from t5x_instruct.common.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    add_gin_arguments(parser, "infer")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="answer this; repeatable")
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="a prompt a line, or JSONL with 'prompt' or 'messages' (and 'tools'); without it prompts are read from "
        "the terminal",
    )
    parser.add_argument("--output", metavar="FILE", help="write the input's records with 'response', as JSONL")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default)")
    parser.add_argument("--top_k", type=int, default=0, help="draw from so many likeliest tokens only (0: all)")
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="draw from the likeliest tokens that reach this probability (1: all)"
    )
    parser.add_argument("--num_beams", type=int, default=1, help="above 1: beam search, with temperature 0")
    parser.add_argument(
        "--length_penalty", type=float, default=0.6, help="with beams: more favours longer answers (default: 0.6)"
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="pass prompts on as they are, without the prompt format: a pretrained model goes on with the text",
    )
    parser.add_argument("--shots", type=int, default=0, metavar="K", help="put K exemplars of --exemplars in front")
    parser.add_argument("--exemplars", metavar="TASK", help="task whose training examples are the exemplars")
    parser.add_argument(
        "--inputs_length",
        type=int,
        default=1024,
        metavar="N",
        help="with --shots: most tokens of a prompt; exemplars that do not fit are left out (default: 1024)",
    )
    parser.add_argument(
        "--prepared_dir", metavar="DIR", help="folder of prepared exemplars (default: the cache folder)"
    )
    add_module_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the answers, or writes them beside their prompts."""
    from t5x_instruct.config.validate import resolve

    config = resolve(["runs/infer.gin", *args.gin_file], args.gin_overrides, verb="infer")
    from t5x_instruct.common import hosts

    with hosts.joined(config.instantiate("HostSettings")):
        return _run(args, config)


def _run(args: argparse.Namespace, config: Any) -> int:
    from t5x_instruct.common import hosts
    from t5x_instruct.runs.infer import Inference, Request, read_requests, write_answers

    chosen = ("temperature", "top_k", "top_p", "num_beams", "length_penalty", "shots", "raw")
    arguments = {name: getattr(args, name) for name in chosen}
    if args.exemplars is not None:
        arguments["exemplars"] = _exemplars(args, seed=config.instantiate("SEED"))
    inference: Inference = config.instantiate("Inference", **arguments)
    if args.prompt or args.input:
        requests: list[Request] = [{"prompt": prompt} for prompt in args.prompt]
        if args.input:
            requests += read_requests(args.input)
        answers = inference.answer(requests)
        if hosts.process_index() == 0:
            write_answers(requests, answers, args.output)
        return 0
    if hosts.process_count() > 1:
        raise ConfigError("several hosts have no terminal in common: give prompts with --prompt or --input")
    interactive = sys.stdin.isatty()
    while True:
        if interactive:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return 0
        if line.strip():
            print(inference.answer([{"prompt": line.rstrip("\n")}])[0], flush=True)


def _exemplars(args: argparse.Namespace, seed: int) -> Any:
    """Where exemplars come from: a task, of which nothing but its training examples is read."""
    from t5x_instruct.runs.settings import DataSettings

    if args.inputs_length < 1:
        raise ConfigError(f"--inputs_length {args.inputs_length}: must be at least 1")
    return DataSettings(
        mixture_or_task_name=args.exemplars,
        mixture_or_task_module=modules_of(args),
        module_options=module_options(args),
        task_feature_lengths={"inputs": args.inputs_length, "targets": 1},
        batch_size=1,
        splits=(),
        seed=seed,
        prepared_dir=args.prepared_dir,
    )
