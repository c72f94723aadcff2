"""Prints ERRORS.md from the codes of the toolkit: python scripts/errors_page.py > ERRORS.md"""

from __future__ import annotations

from interp.kernels.errors import CODES, EXIT_CODES

HEAD = """# Errors

Every error names its code, one line of what is wrong, where, and how to mend it. The first digit of a code is the exit
code of the command line. `--debug` adds the traceback; with `--json` the same three lines are on stdout as data.
This page is made by `python scripts/errors_page.py > ERRORS.md`.

Exit code 0 is success and 1 an error nobody foresaw: please report it.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(code, meaning) for code, meaning in EXIT_CODES.items())])


def section(exit_code: int, meaning: str) -> str:
    """One exit code with its error codes."""
    rows = [f"| `INTERP-{code}` | {text} |" for code, text in CODES.items() if int(code[1]) == exit_code]
    table = ["", "| code | meaning |", "|---|---|", *rows] if rows else []
    return "\n".join([f"## Exit code {exit_code}: {meaning}", *table, ""])


if __name__ == "__main__":
    print(page(), end="")
