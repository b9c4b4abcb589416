"""Makes docs/methods.md, the table of all methods, from what the classes say about themselves.

Run `python -m vidcom2.table > docs/methods.md`. With `--plugins`, the table also has the methods of other installed
packages.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from vidcom2 import METHODS, Compressor, all_methods

HEAD = """# Methods

Every method compresses a video of T frames with M tokens each to a share R of its tokens, the retention ratio. Write a
method by its name, `vidcom2@0.25`, with `@0.25` for R. [How to add a method](adding-a-method.md).

| column | meaning |
| --- | --- |
| venue | where the method was published; a "control" is there to compare with |
| stage | where tokens are dropped: before the LLM, or between its layers |
| presets | other forms of the method, written `name.preset`, such as `vidcom2.released` |
| +fca | whether the method can take VidCom²'s budgets for the frames, written `name+fca` |
| by hand | whether a caller can give frames their budgets (`--keep`), and name tokens that must stay (`mask`) |
| attention | whether it ranks tokens by the LLM's attention |
| video | whether it compares frames with each other |
| adaptive | whether the content of a frame decides how many of its tokens stay |
| flash | whether the LLM can run flash or SDPA attention |
| keeps | tokens as they are, or means of several |
| retention | which R the method reaches. "any": it keeps round(R·T·M) tokens, but at least T |

"""
COLUMNS = (
    "method",
    "venue",
    "stage",
    "presets",
    "+fca",
    "by hand",
    "attention",
    "video",
    "adaptive",
    "flash",
    "keeps",
    "retention",
)
TAIL = "\n`python -m vidcom2.table > docs/methods.md` generates this page, and a test compares the two.\n"


def table(methods: Mapping[str, type[Compressor]] = METHODS) -> str:
    """Return the contents of docs/methods.md for these methods, in Markdown."""
    ordered = sorted(methods.values(), key=lambda method: (method.stage, method.name))
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(row, ordered)]
    return HEAD + "".join("| " + " | ".join(cells) + " |\n" for cells in rows) + TAIL


def row(method: type[Compressor]) -> tuple[str, ...]:
    """Return a method's cells, in the order of COLUMNS."""

    def yes(value: bool) -> str:
        return "yes" if value else "no"

    return (
        f"[{method.name}]({method.paper})" if method.paper else method.name,
        method.venue or "control",
        method.stage,
        ", ".join(method.presets) or "none",
        yes(method.takes_fca()),
        "no" if not method.takes_budgets() else "budgets, mask" if getattr(method, "ranks_alone", False) else "budgets",
        yes(method.needs_attention),
        yes(method.video_specific),
        yes(method.frame_adaptive),
        yes(method.flash_attention),
        "merged tokens" if method.merges else "tokens as they are",
        method.reachable,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m vidcom2.table", description="Print the table of all methods.")
    parser.add_argument("--plugins", action="store_true", help="with the methods of other installed packages")
    print(table(all_methods() if parser.parse_args().plugins else METHODS), end="")
