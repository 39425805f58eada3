"""The `vqrae` command. Each subcommand is a module of this package with three names:

    HELP                      one line for `vqrae --help`
    add_arguments(parser)     its options
    run(arguments)            does it; heavy imports belong in here, so that `--help` stays fast

To add one, write the module and add its name to `COMMANDS`.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from common.errors import run_cli

COMMANDS = ("reconstruct", "ask", "chat", "generate", "tune-sampling", "export", "index", "codes")


class _Command(argparse.ArgumentParser):
    """Takes the positionals of any number, `words`, on both sides of options; argparse takes the first ones alone."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if hasattr(found, "words") and not any(word.startswith("-") for word in rest):
            found.words, rest = [*found.words, *rest], []
        return found, rest


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vqrae", description="Use a trained VQRAE.")
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Command)
    for name in COMMANDS:
        module = import_module(f"vqrae.{name.replace('-', '_')}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def dispatch(argv: list[str] | None = None) -> None:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        from vqrae import __version__

        print(__version__)
    elif hasattr(arguments, "run"):
        arguments.run(arguments)
    else:
        parser.print_help()


def main() -> None:
    """What the installed `vqrae` script calls: bad input ends in one line."""
    run_cli(dispatch)


if __name__ == "__main__":
    main()
