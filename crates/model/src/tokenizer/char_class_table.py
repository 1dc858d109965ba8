#!/usr/bin/env python3
"""Writes char_class_table.rs beside this script from the Unicode Character Database.

The Unicode version is pinned: llama.cpp's tables are of the same one, and a character assigned
later would be split differently. Run with `pip install unicodedata2==15.1.0`:

    python char_class_table.py
"""

from pathlib import Path

import unicodedata2 as unicodedata

UNICODE_VERSION = "15.1.0"
# The White_Space property, which no general category spells.
WHITESPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028,
              0x2029, 0x202F, 0x205F, 0x3000}
CLASSES = {"LETTER": "L", "NUMBER": "N", "MARK": "M", "PUNCTUATION": "P"}
RANGES_A_LINE = 4


def class_of(code_point: int) -> str | None:
    if code_point in WHITESPACE:
        return "WHITESPACE"
    category = unicodedata.category(chr(code_point))
    return next((name for name, first in CLASSES.items() if category[0] == first), None)


def ranges() -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in [*CLASSES, "WHITESPACE"]}
    start, current = 0, class_of(0)
    for code_point in range(1, 0x110001):
        here = class_of(code_point) if code_point < 0x110000 else "end"
        if here != current:
            if current in found:
                found[current].append((start, code_point - 1))
            start, current = code_point, here
    return found


def main() -> None:
    assert unicodedata.unidata_version == UNICODE_VERSION, unicodedata.unidata_version
    lines = [
        f"//! Character classes of Unicode {UNICODE_VERSION}, written by `char_class_table.py`.",
        "//!",
        "//! Each list holds the first and last code point of its ranges, in order.",
    ]
    for name, pairs in ranges().items():
        lines += ["", "#[rustfmt::skip]", f"pub(super) const {name}: &[(u32, u32)] = &["]
        for row in range(0, len(pairs), RANGES_A_LINE):
            cells = [f"({a:#x}, {b:#x})," for a, b in pairs[row:row + RANGES_A_LINE]]
            lines.append("    " + " ".join(cells))
        lines.append("];")
    target = Path(__file__).with_suffix(".rs")
    target.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
