"""Prints the table of supported architectures; exit code 1 where a bar is missed.

python scripts/architectures.py [NAME ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interp.hooks.architectures import CERTIFICATE, EFFECT, FOOTNOTE, PATTERN, TRANSFORMER_LENS, Row, rows  # noqa: E402
from interp.hooks.tiny import TINY  # noqa: E402

HEADER = ("architecture", "certificate", "pattern", "pattern edit", "z edit", "TransformerLens", "")
BARS = (
    "",
    f"<= {CERTIFICATE:.0e}",
    f"<= {PATTERN:.0e}",
    f">= {EFFECT:.0e}",
    f">= {EFFECT:.0e}",
    f"<= {TRANSFORMER_LENS:.0e}",
    "",
)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    name = f"{row.architecture} ({row.tower})" if row.tower else row.architecture
    lens = "-" if row.transformer_lens is None else f"{row.transformer_lens:.1e} ({row.n_shared})"
    values = (row.certificate, row.pattern, row.pattern_edit, row.z_edit)
    verdict = "FAIL: " + ", ".join(row.failures) if row.failures else "pass"
    return (name, *map(number, values), lens, verdict)


def main(names: list[str]) -> int:
    lines = [HEADER, BARS]
    found = [row for name in names or TINY for row in rows(name)]
    lines += [cells(row) for row in found]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print(f"\n{FOOTNOTE}")
    failed = [row for row in found if row.failures]
    print(f"\n{len(found) - len(failed)} of {len(found)} rows pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
