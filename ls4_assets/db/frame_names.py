"""The attributes in a frame's file name as SQL expressions, for the statewide views.

They come from the patterns of `domain.names`, so that there is one grammar. Only photographs (type `frames`) have them.
"""

import re

from ls4_assets.domain.names import FRAME_PATTERNS


def attribute_sql(name: str, stem: str) -> str:
    """The attribute `name` (a group of the patterns) in the SQL expression `stem`; null where the name has none."""
    groups = (
        f"(regexp_match({stem}, '^(?:{_unnamed(pattern)})$'))[{pattern.groupindex[name]}]"
        for pattern in FRAME_PATTERNS
        if name in pattern.groupindex
    )
    return f"coalesce({', '.join(groups)})"


def acquired_sql(date: str, year: str) -> str:
    """The day of the SQL expression `date` (MM-DD-YY), in the century that is nearest to `year`; the 20th if that is null."""
    month, day, short_year = (f"split_part({date}, '-', {part})::integer" for part in (1, 2, 3))
    # Half a century away, the earlier one counts.
    nearest = f"least(20, greatest(18, ceil(({year} - {short_year}) / 100.0 - 0.5)))::integer"
    century = f"CASE WHEN {year} IS NULL THEN 19 ELSE {nearest} END"
    return f"make_date({century} * 100 + {short_year}, {month}, {day})"


def _unnamed(pattern: re.Pattern[str]) -> str:
    """The pattern in PostgreSQL's syntax, which has no names of groups."""
    return re.sub(r"\?P<\w+>", "", pattern.pattern, flags=re.ASCII)
