"""The attributes in a frame's file name as SQL expressions, for the statewide views.

They come from the patterns of `domain.names`, so that there is one grammar. Only photographs (type `frames`) have them.
"""

import re

from ls4_assets.domain.names import FRAME_PATTERNS


def parts_sql(stem: str) -> str:
    """The array of all parts of the SQL expression `stem`; null where it has none. One match is much faster than one for each."""
    # PostgreSQL has no names of groups.
    alternatives = (re.sub(r"\?P<\w+>", "", pattern.pattern, flags=re.ASCII) for pattern in FRAME_PATTERNS)
    return f"regexp_match({stem}, '^(?:{'|'.join(alternatives)})$')"


def attribute_sql(name: str, parts: str) -> str:
    """The attribute `name` (a group of the patterns) in the SQL expression `parts`; null where the name has none."""
    groups, first = [], 0
    for pattern in FRAME_PATTERNS:
        if name in pattern.groupindex:
            groups.append(f"{parts}[{first + pattern.groupindex[name]}]")
        first += pattern.groups
    return f"coalesce({', '.join(groups)})"


def acquired_sql(parts: str, year: str) -> str:
    """The day in the SQL expression `parts`, in the century that is nearest to `year`; in the 20th if that is null."""
    date = attribute_sql("date", parts)
    month, day, short_year = (f"split_part({date}, '-', {part})::integer" for part in (1, 2, 3))
    # Half a century away, the earlier one counts.
    nearest = f"least(20, greatest(18, ceil(({year} - {short_year}) / 100.0 - 0.5)))::integer"
    century = f"CASE WHEN {year} IS NULL THEN 19 ELSE {nearest} END"
    return f"make_date({century} * 100 + {short_year}, {month}, {day})"
