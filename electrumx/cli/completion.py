"""Completion of command lines in shells: ``python -m electrumx.cli.completion SHELL``.

Prints a script for bash, zsh or fish, made of the parsers of the programs, so that it has all of their
options and commands.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from electrumx.cli import compact_history, restore, rpc, server, verify
from electrumx.cli.logs import print_lines

PARSERS = (
    server.make_parser,
    rpc.make_parser,
    verify.make_parser,
    compact_history.make_parser,
    restore.make_parser,
)
SHELLS = ("bash", "zsh", "fish")
# Options whose value is a path.
_PATHS = frozenset({"FILE", "PATH"})


@dataclass(frozen=True)
class Words:
    """The words that may follow a program, or one of its commands."""

    #: option -> its help
    options: dict[str, str]
    #: options that take a path, and those that take another value
    path_options: frozenset[str]
    value_options: frozenset[str]
    #: command -> its words, and its help
    commands: "dict[str, tuple[Words, str]]"

    @classmethod
    def of(cls, parser: argparse.ArgumentParser) -> "Words":
        """Return the words of a parser."""
        options: dict[str, str] = {}
        paths: set[str] = set()
        values: set[str] = set()
        commands: dict[str, tuple[Words, str]] = {}
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
                for name, sub_parser in action.choices.items():
                    commands[name] = (cls.of(sub_parser), helps.get(name, ""))
            for option in action.option_strings:
                options[option] = (action.help or "").partition(";")[0].partition(" (")[0]
                if action.nargs != 0:
                    (paths if action.metavar in _PATHS else values).add(option)
        return cls(options, frozenset(paths), frozenset(values), commands)


def script(shell: str) -> Iterator[str]:
    """Yield the lines of the script for a shell of SHELLS."""
    programs = {parser.prog: Words.of(parser) for parser in (make() for make in PARSERS)}
    if shell == "fish":
        for program, words in programs.items():
            yield from _fish(program, words)
        return
    if shell == "zsh":
        yield f"#compdef {' '.join(programs)}"
        yield "autoload -U +X bashcompinit && bashcompinit"
    for program, words in programs.items():
        yield from _bash(program, words)


def _bash(program: str, words: Words) -> Iterator[str]:
    """Yield a function of bash, which zsh can run too."""
    name = f"_{program}"
    yield f"{name}() {{"
    yield "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} i"
    yield f"    local words={shlex.quote(' '.join([*words.options, *words.commands]))}"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield "        case ${COMP_WORDS[i]} in"
    for command, (own, _help) in words.commands.items():
        yield f"            {command}) words={shlex.quote(' '.join(own.options))}; break ;;"
    yield "        esac"
    yield "    done"
    everything = [words, *(own for own, _help in words.commands.values())]
    paths = sorted(frozenset[str]().union(*(own.path_options for own in everything)))
    values = sorted(frozenset[str]().union(*(own.value_options for own in everything)))
    yield "    case $before in"
    if paths:
        yield f'        {"|".join(paths)}) COMPREPLY=($(compgen -f -- "$word")); return ;;'
    if values:
        yield f"        {'|'.join(values)}) COMPREPLY=(); return ;;"
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$word"))'
    yield "}"
    yield f"complete -F {name} -o default {program}"


def _fish(program: str, words: Words) -> Iterator[str]:
    yield f"complete -c {program} -f"
    yield from _fish_options(program, words, "")
    for command, (own, text) in words.commands.items():
        yield (
            f"complete -c {program} -n __fish_use_subcommand -a {command} -d {shlex.quote(text)}"
        )
        condition = f" -n '__fish_seen_subcommand_from {command}'"
        yield from _fish_options(program, own, condition)


def _fish_options(program: str, words: Words, condition: str) -> Iterator[str]:
    for option, text in words.options.items():
        kind = "-l" if option.startswith("--") else "-s"
        value = " -r -F" if option in words.path_options else ""
        value = " -x" if option in words.value_options else value
        yield (
            f"complete -c {program}{condition} {kind} {option.lstrip('-')}{value} "
            f"-d {shlex.quote(text)}"
        )


def main(argv: list[str] | None = None) -> int:
    """Print the script for a shell; return the exit status."""
    parser = argparse.ArgumentParser("electrumx.cli.completion", description=__doc__)
    parser.add_argument("shell", choices=SHELLS)
    return print_lines(script(parser.parse_args(argv).shell))


if __name__ == "__main__":
    sys.exit(main())
