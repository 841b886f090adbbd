# SPDX-License-Identifier: BSD-3-Clause
"""getopt_long: its grammar against Python's getopt, its words against the C library's (as slirp4netns showed them)."""

import getopt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ts4nsnet.cli.longopts import Option, UsageError, getopt_long

OPTIONS = (
    Option("configure", "c"),
    Option("exit-fd", "e", "FD"),
    Option("mtu", "m", "MTU"),
    Option("macaddress", "", "MAC"),
    Option("out", "", "A"),
    Option("out6", "", "A"),
    Option("help", "h"),
)


def ours(*words: str, permute: bool = True) -> tuple[list[tuple[str, str]], list[str]]:
    options, rest = [], []
    for option, text in getopt_long("prog", words, OPTIONS, permute=permute):
        if option is None:
            rest.append(text)
        else:
            options.append((option.name, text))
    return options, rest


def pythons(*words: str, permute: bool = True) -> tuple[list[tuple[str, str]], list[str]]:
    names = {f"-{o.letter}": o.name for o in OPTIONS if o.letter} | {f"--{o.name}": o.name for o in OPTIONS}
    long = [o.name + ("=" if o.value else "") for o in OPTIONS]
    read = getopt.gnu_getopt if permute else getopt.getopt
    options, rest = read(list(words), "ce:m:h", long)
    return [(names[name], text) for name, text in options], rest


PIECES = ["-", "--", "c", "e", "m", "h", "=", "1", "mtu", "mac", "out", "6", "conf", "exit-fd", "help", "x", "tap0", ""]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=4).map("".join), max_size=5), st.booleans())
@example(["--m=1"], True)
@example(["--out", "1"], True)
@example(["12", "tap0", "-c", "--", "-c"], True)
@example(["web", "-c"], False)
@example(["-e"], True)
@example(["-ce3", "-c"], True)
def test_the_grammar_is_getopts(words: list[str], permute: bool) -> None:
    try:
        wanted = pythons(*words, permute=permute)
    except getopt.GetoptError:
        with pytest.raises(UsageError):
            ours(*words, permute=permute)
    else:
        assert ours(*words, permute=permute) == wanted


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("--m=1", "prog: option '--m=1' is ambiguous; possibilities: '--mtu' '--macaddress'"),
        ("--nope=1", "prog: unrecognized option '--nope=1'"),
        ("--conf=1", "prog: option '--configure' doesn't allow an argument"),
        ("--exit", "prog: option '--exit-fd' requires an argument"),
        ("-cx", "prog: invalid option -- 'x'"),
        ("-ce", "prog: option requires an argument -- 'e'"),
    ],
)
def test_a_mistake_is_told_as_the_c_library_does(word: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ours(word)
    assert str(caught.value) == text


def test_what_stands_before_a_mistake_has_been_taken() -> None:
    words = getopt_long("prog", ["--help", "--nope"], OPTIONS)
    option, _ = next(words)
    assert option is not None
    assert option.name == "help"
