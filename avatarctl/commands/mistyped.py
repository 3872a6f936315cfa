"""A command line that can't be read: what is wrong with it, and the whole command as it was probably meant."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from avatarctl.commands import complete
from avatarctl.commands.pages import kind_of
from avatarctl.errors import UsageError

PROGRAM = "avatarctl"
# What a file without an option before it is probably meant for.
MEANT = ((complete.PICTURES, "--image"), (complete.RECORDINGS, "--audio"), (complete.YAML, "--preset"))


def explain(problem: Any, words: Sequence[str]) -> UsageError:
    """Return the error that people and scripts read for an error of the parser; ``words`` is the command line given."""
    ctx = problem.ctx
    if ctx is None:
        return UsageError(problem.format_message(), f"`{PROGRAM} --help` lists the commands")
    if hasattr(problem, "possibilities"):
        return _no_such_option(problem, ctx, words)
    if problem.message.startswith("No such command"):
        return _no_such_command(ctx, words)
    if problem.message.startswith("Missing command"):
        return UsageError(f"{ctx.command_path}: got no command", f"`{ctx.command_path} --help` lists the commands")
    if hasattr(problem, "option_name"):
        return _no_value(problem, ctx)
    stray = _stray(ctx)
    if stray and (hasattr(problem, "param_type") or problem.message.startswith("Got unexpected")):
        return _stray_words(stray, ctx, words)
    if hasattr(problem, "param_type"):
        return _missing(problem.param, ctx, words)
    if getattr(problem, "param", None) is not None:
        return _bad_value(problem, ctx)
    return UsageError(problem.format_message(), _see_help(ctx))


def _no_such_option(problem: Any, ctx: Any, words: Sequence[str]) -> UsageError:
    name = str(problem.option_name)
    close = get_close_matches(name, _flags(ctx), n=1)
    message = f"{name}: no such option of `{ctx.command_path}`"
    if others := _with_flag(ctx.find_root().command, name):
        return UsageError(
            f"{message}; {' and '.join(others[:3])} {'has' if len(others) == 1 else 'have'} it", _see_help(ctx)
        )
    if not close:
        return UsageError(message, _see_help(ctx))
    return UsageError(
        f"{message}, did you mean {close[0]}?", _corrected(words, lambda word: [_renamed(word, name, close[0])])
    )


def _with_flag(command: Any, flag: str, words: tuple[str, ...] = ()) -> list[str]:
    """Return the commands that have an option."""
    below = getattr(command, "commands", {})
    if not below:
        return [" ".join(words)] if any(flag in each.opts + each.secondary_opts for each in command.params) else []
    return [found for name, each in below.items() for found in _with_flag(each, flag, (*words, name))]


def _renamed(word: str, wrong: str, right: str) -> str:
    return right + word[len(wrong) :] if word == wrong or word.startswith(f"{wrong}=") else word


def _no_such_command(ctx: Any, words: Sequence[str]) -> UsageError:
    known = [name for name, command in ctx.command.commands.items() if not command.hidden]
    group = ctx.command_path.split()[1:]
    rest = [word for word in words if word not in group]
    name = next((word for word in rest if not word.startswith("-")), "")
    close = get_close_matches(name, known, n=1)
    message = f"{name}: no such command of `{ctx.command_path}`"
    if not close:
        return UsageError(message, f"`{ctx.command_path} --help` lists the commands")
    return UsageError(
        f"{message}, did you mean {close[0]}?", _corrected(words, lambda word: [close[0]] if word == name else [word])
    )


def _stray_words(stray: list[str], ctx: Any, words: Sequence[str]) -> UsageError:
    """Explain words without an option: files with these endings are pictures, recordings or presets."""
    flags = _flags(ctx)
    meant: dict[str, str] = {}
    for word in stray:
        flag = next((flag for endings, flag in MEANT if word.lower().endswith(endings)), None)
        if flag in flags and flag not in meant.values() and flag not in words:
            meant[word] = flag
    listed = ", ".join(stray)
    if len(meant) < len(stray):
        return UsageError(f"{ctx.command_path}: got '{listed}', expected no further words", _see_help(ctx))
    given = _given(ctx)
    missing = [
        param
        for param in ctx.command.get_params(ctx)
        if param.required and param.name not in given and not set(param.opts) & set(meant.values())
    ]
    return UsageError(
        f"{ctx.command_path}: got '{listed}' without an option before it, expected {' and '.join(meant.values())}",
        _corrected(words, lambda word: [meant[word], word] if word in meant else [word])
        + "".join(f" {_example(param, ctx)}" for param in missing),
    )


def _missing(param: Any, ctx: Any, words: Sequence[str]) -> UsageError:
    kind = kind_of(param, ctx)
    wanted = f"one of {kind.replace('|', ', ')}" if _is_choice(param) else param.help[:1].lower() + param.help[1:]
    message = f"{_name(param)}: missing, expected {wanted.rstrip('.')}"
    return UsageError(message, f"{_said(words)} {_example(param, ctx)}")


def _example(param: Any, ctx: Any) -> str:
    """Return a parameter as it may be typed: the first of its choices, or the word for what it accepts."""
    kind = kind_of(param, ctx)
    value = kind.split("|")[0] if "|" in kind else kind
    if param.param_type_name == "option":
        return f"{_name(param)} {value}"
    return value if _is_choice(param) else _name(param)


def _is_choice(param: Any) -> bool:
    return bool(param.type_descriptor.is_choice)


def _name(param: Any) -> str:
    if param.param_type_name == "option":
        return str(max(param.opts, key=len))
    return str(param.metavar or param.name.upper())


def _bad_value(problem: Any, ctx: Any) -> UsageError:
    param = problem.param
    name = _name(param)
    kind = kind_of(param, ctx)
    given = _given(ctx).get(param.name)
    given = given[-1] if isinstance(given, list) and given else given
    low, high = getattr(param, "min", None), getattr(param, "max", None)
    if _is_choice(param):
        choices = kind.split("|")
        wanted = ", ".join(choices[:-1]) + f" or {choices[-1]}"
        if close := get_close_matches(str(given), choices, n=1):
            wanted += f", did you mean {close[0]}?"
    elif low is not None:
        wanted = f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
    else:
        kinds = {"int": "a whole number", "float": "a number"}
        wanted = kinds.get(str(param.display_type(ctx)).strip("<>"), str(problem.message))
    return UsageError(f"{name}: got '{given}', expected {wanted}", _see_help(ctx))


def _no_value(problem: Any, ctx: Any) -> UsageError:
    name = str(problem.option_name)
    param = next((each for each in ctx.command.get_params(ctx) if name in [*each.opts, *each.secondary_opts]), None)
    if param is None or getattr(param, "is_flag", False):
        return UsageError(f"{name}: got a value, expected none", _see_help(ctx))
    return UsageError(f"{name}: got no value, expected {name} {kind_of(param, ctx)}", _see_help(ctx))


def _see_help(ctx: Any) -> str:
    return f"`{ctx.command_path} --help` shows what it accepts"


def _flags(ctx: Any) -> list[str]:
    params = [param for param in ctx.command.get_params(ctx) if param.param_type_name == "option"]
    return [flag for param in params for flag in [*param.opts, *param.secondary_opts]]


def _stray(ctx: Any) -> list[str]:
    """Return the words that belong to no option or argument of the command."""
    words = ctx.meta.get("avatarctl.words")
    if words is None or hasattr(ctx.command, "commands"):
        return []
    return [str(word) for word in ctx.command.make_parser(ctx).parse_args(list(words))[1]]


def _given(ctx: Any) -> dict[str, Any]:
    words = ctx.meta.get("avatarctl.words", [])
    return dict(ctx.command.make_parser(ctx).parse_args(list(words))[0])


def _corrected(words: Sequence[str], change: Callable[[str], list[str]]) -> str:
    return shlex.join([PROGRAM, *(new for word in words for new in change(word))])


def _said(words: Sequence[str]) -> str:
    return shlex.join([PROGRAM, *words])
