# SPDX-License-Identifier: BSD-3-Clause
"""getopt_long(3), as the GNU C library has it: what slirp4netns reads its command line with.

    -c -e 3   -ce3   -6c   --mtu 1400   --mtu=1400   --conf (what begins only one name)   12 tap0 -c   -- -x

Unlike `getopt.gnu_getopt` this goes word by word: what stands before a mistake has been taken by then (`--help --nope`
shows the help), and mistakes have the C library's words. Other than there, POSIXLY_CORRECT changes nothing.

Source: getopt_long(3), seen with slirp4netns 1.2.0 on glibc 2.36.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ts4nsnet.errors import Ts4nsnetError


class UsageError(Ts4nsnetError):
    """A command line that cannot be meant; the text is what the user sees."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: the long one, without hyphens.
        letter: the short one; "" for none.
        value: what its value is called in the help; "" where it takes none.
        help: what it does; "" keeps it out of the help.
    """

    name: str
    letter: str = ""
    value: str = ""
    help: str = ""


def getopt_long(
    program: str, words: Sequence[str], options: Sequence[Option], *, permute: bool = True
) -> Iterator[tuple[Option | None, str]]:
    """Take `words` apart, in their order.

    Args:
        program: whose command line it is, for errors.
        words: of the command line, without the program's name.
        options: that there are.
        permute: options may follow on other words; without it, all that follows on one is no option.

    Yields:
        an option and its value, or None and a word that is no option.

    Raises:
        UsageError: at the word that is wrong.
    """
    try:
        yield from _words(iter(words), options, permute)
    except UsageError as error:
        raise UsageError(f"{program}: {error}") from None


def _words(rest: Iterator[str], options: Sequence[Option], permute: bool) -> Iterator[tuple[Option | None, str]]:
    for word in rest:
        is_option = word.startswith("-") and word != "-"
        if not is_option:
            yield None, word
        if word == "--" or not (is_option or permute):
            yield from ((None, word) for word in rest)
        elif word.startswith("--"):
            yield _long(word, rest, options)
        elif is_option:
            yield from _short(word[1:], rest, options)


def _long(word: str, rest: Iterator[str], options: Sequence[Option]) -> tuple[Option, str]:
    name, equals, value = word[2:].partition("=")
    found = [o for o in options if o.name == name] or [o for o in options if o.name.startswith(name)]
    if not found:
        raise UsageError(f"unrecognized option '{word}'")
    if len(found) > 1:
        names = " ".join(f"'--{option.name}'" for option in found)
        raise UsageError(f"option '{word}' is ambiguous; possibilities: {names}")
    option = found[0]
    if equals and not option.value:
        raise UsageError(f"option '--{option.name}' doesn't allow an argument")
    if option.value and not equals:
        taken = next(rest, None)
        if taken is None:
            raise UsageError(f"option '--{option.name}' requires an argument")
        value = taken
    return option, value


def _short(letters: str, rest: Iterator[str], options: Sequence[Option]) -> Iterator[tuple[Option, str]]:
    while letters:
        letter, letters = letters[0], letters[1:]
        option = next((o for o in options if o.letter == letter), None)
        if option is None:
            raise UsageError(f"invalid option -- '{letter}'")
        if not option.value:
            yield option, ""
            continue
        taken = letters or next(rest, None)
        if taken is None:
            raise UsageError(f"option requires an argument -- '{letter}'")
        yield option, taken
        return
