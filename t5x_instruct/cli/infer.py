"""`t5x-instruct infer`: a model answers prompts that are typed or read from a text or JSONL file."""

import argparse
import sys

from t5x_instruct.cli.gin_arguments import add_gin_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    add_gin_arguments(parser, "infer")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="answer this; repeatable")
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="a prompt a line, or JSONL with 'prompt' or 'messages'; without it prompts are read from the terminal",
    )
    parser.add_argument("--output", metavar="FILE", help="write the input's records with 'response', as JSONL")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default)")


def run(args: argparse.Namespace) -> int:
    """Prints the answers, or writes them beside their prompts."""
    from t5x_instruct.config.validate import resolve

    config = resolve(["runs/infer.gin", *args.gin_file], args.gin_overrides, verb="infer")
    from t5x_instruct.runs.infer import Inference, Request, read_requests, write_answers

    inference: Inference = config.instantiate("Inference", temperature=args.temperature)
    if args.prompt or args.input:
        requests: list[Request] = [{"prompt": prompt} for prompt in args.prompt]
        if args.input:
            requests += read_requests(args.input)
        write_answers(requests, inference.answer(requests), args.output)
        return 0
    interactive = sys.stdin.isatty()
    while True:
        if interactive:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return 0
        if line.strip():
            print(inference.answer([{"prompt": line.rstrip("\n")}])[0], flush=True)
