"""Requests that ended a worker, most because mapserv accessed invalid memory, and a grammar of requests like them.

The faults are MapServer's; an anonymous request reached them through our configuration. `crash_addresses` has those that were
found, `similar_addresses` generates others of the same kinds from a seed.
"""

import random
from collections.abc import Iterator
from urllib.parse import quote

from ls4_assets_tests.integration.serving_fixtures import EXTENT, NAME, TABLE

_BOX = ",".join(map(str, EXTENT))
_BETWEEN = (
    "<Filter><PropertyIsBetween><PropertyName>{}</PropertyName><LowerBoundary><Literal>1</Literal></LowerBoundary>"
    "<UpperBoundary><Literal>2</Literal></UpperBoundary></PropertyIsBetween></Filter>"
)
_FEATURE_IDS = ("<Filter><FeatureId fid='{}'/></Filter>", "<Filter><ResourceId rid='{}'/></Filter>")
_GET_FEATURE = "SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature"
_BRACKETS = ('[roll]"', "] or 1=1")


def get_map(
    width: object = 64, height: object = 64, box: str = _BOX, layers: str = NAME, version: str = "1.1.1", table: str = TABLE
) -> str:
    system = "CRS" if version == "1.3.0" else "SRS"
    return (
        f"/wms/{table}?SERVICE=WMS&VERSION={version}&REQUEST=GetMap&LAYERS={layers}&STYLES=&{system}=EPSG:3857"
        f"&FORMAT=image/png&TRANSPARENT=TRUE&WIDTH={width}&HEIGHT={height}&BBOX={box}"
    )


def get_feature(version: str, parameters: str) -> str:
    names = "TYPENAMES" if version == "2.0.0" else "TYPENAME"
    return f"/wms/{TABLE}?SERVICE=WFS&VERSION={version}&REQUEST=GetFeature&{names}={NAME}_index&{parameters}"


def forged_database_error() -> str:
    """MapServer's message about the unknown name has a line that begins like that of a failed connection."""
    return f"/wms/{TABLE}?{_GET_FEATURE}&TYPENAME=x%0ADatabase%20connection%20failed%20(x)"


def crash_addresses() -> dict[str, str]:
    """Each ended one worker: the last with SIGKILL, because it was replaced, the others with SIGSEGV. The key says why."""
    addresses = {
        f"infinite scale, {version}, {width} x {height}": get_map(width, height, version=version)
        for version in ("1.1.1", "1.3.0")
        for width, height in ((1, 1), (1, 300), (1.5, 1.5))
    }
    addresses["infinite scale in the published address"] = get_map(1).replace(f"/wms/{TABLE}?", f"/?map=/mapfiles/{TABLE}.map&")
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        for output in ("geojson", "application/json", "GeoJSON"):
            addresses[f"hits as {output}, {version}"] = get_feature(version, f"RESULTTYPE=hits&OUTPUTFORMAT={output}")
    addresses["hits with an encoded name"] = get_feature("2.0.0", "%52ESULTTYPE%3Dhits&outputFormat=geojson")
    filters = {f"between {name}": _BETWEEN.format(name) for name in _BRACKETS}
    filters |= {f"{kind[8:18]} {_BRACKETS[0]}": kind.format(_BRACKETS[0]) for kind in _FEATURE_IDS}
    filters["between, character references"] = _BETWEEN.format("&#91;roll&#93;&quot;")
    filters["between, hexadecimal references"] = _BETWEEN.format("&#x5b;roll&#x5D;&quot;")
    for name, text in filters.items():
        addresses[f"WFS {name}"] = get_feature("1.1.0", f"FILTER={quote(text)}")
        addresses[f"WMS {name}"] = get_map(layers=f"{NAME}_index") + f"&FILTER={quote(f'({text})')}"
    odd = quote(_BETWEEN.format('[roll]"'))
    # nginx's JavaScript does not decode a parameter that is not UTF-8, and MapServer decodes escapes that are not hexadecimal.
    addresses["between, not UTF-8"] = get_feature("1.1.0", f"FILTER={odd}%FF")
    addresses["between, invalid escapes"] = get_feature("1.1.0", f"FILTER={odd.replace('%5B', '%4R').replace('%5D', '%4T')}")
    addresses["between, encoded ="] = get_feature("1.1.0", f"FILTER%3D{odd}")
    addresses["between, terminated name"] = get_feature("1.1.0", f"FILTER={odd}%00&FILTER%00x=1")
    # MapServer's message quotes it, and read like a message of PostgreSQL.
    addresses["name like a database error"] = f"/wms/{TABLE}?{_GET_FEATURE}&TYPENAME=too%20many%20connections"
    return addresses


def similar_addresses(seed: int, count: int) -> Iterator[str]:
    """Small pictures, extreme boxes, counts in every format, and filters with odd names, values and identifiers."""
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.choice((_small_picture, _hits, _filter, _identifier))(rng)


_SIZES = (0, 1, 1.0, 1.5, 1.999, 2, 2.5, 3, "1e0", "+1", "%201", 64)
_EDGES = (
    "0", "1", "-1", "1e-300", "1e-9", "1e30", "-1e30", "1e308", "-1e308", "1e309", "inf", "-inf", "nan", "20037508.34",
    "-20037508.34", "2147483648", *map(str, EXTENT),
)  # fmt: skip
_FORMATS = (
    "geojson", "application/json", "GeoJSON", "gml2", "gml3", "GML2", "text/xml;+subtype%3Dgml/3.1.1", "text/xml", "png",
    "image/png", "utfgrid", "mvt", "csv", "", "application/json;+subtype%3Dgeojson", "application/gml%2Bxml;+version%3D3.2",
)  # fmt: skip
_WORDS = (
    "roll", "date", "geom", "oid", "[roll]", '[roll]"', "roll]", "[", "]", "] or 1=1", "&#91;roll&#93;", "&#x5b;", '"', "'",
    '""', "`", "~", "\\", "(", ")", "((", "roll)", "%", "*", "", " ", "null", "1", "-1", "1e999", "a" * 300, "é", "\x01", "&amp;",
    "&lt;", "]]>", f"{NAME}_index.1", f"{NAME}_index.x", "x.y.z", "1,2,3", ";", "--", "/*", "{", "}", "$", "^", "=",
    "<Literal>1</Literal>", "<a/>", "roll' OR '1'='1", "ST_Area(geom)", "%roll%", "%s%n",
)  # fmt: skip
_COMPARISONS = (
    "PropertyIsEqualTo", "PropertyIsNotEqualTo", "PropertyIsLessThan", "PropertyIsGreaterThan", "PropertyIsLessThanOrEqualTo",
    "PropertyIsGreaterThanOrEqualTo", "PropertyIsLike", "PropertyIsNull", "PropertyIsNil", "PropertyIsBetween",
)  # fmt: skip
_SPATIAL = (
    "BBOX",
    "Intersects",
    "Within",
    "Contains",
    "DWithin",
    "Beyond",
    "Equals",
    "Disjoint",
    "Touches",
    "Crosses",
    "Overlaps",
)


def _small_picture(rng: random.Random) -> str:
    box = ",".join(rng.choice(_EDGES) for _ in range(4)) if rng.random() < 0.7 else _BOX
    table = rng.choice((TABLE, TABLE, "catalog"))
    layers = rng.choice((NAME, f"{NAME}_index", f"{NAME},{NAME}_index") if table == TABLE else ("imagery", "imagery,collections"))
    address = get_map(rng.choice(_SIZES), rng.choice(_SIZES), box, layers, rng.choice(("1.1.1", "1.3.0")), table)
    if rng.random() < 0.2:
        query = (
            f"&QUERY_LAYERS={layers}&X=0&Y=0&I=0&J=0&INFO_FORMAT={rng.choice(('text/html', 'text/plain', 'application/json'))}"
        )
        return address.replace("GetMap", "GetFeatureInfo") + query
    if rng.random() < 0.2:
        return address.replace("GetMap", "GetLegendGraphic") + f"&LAYER={layers}&SCALE={rng.choice(_EDGES)}"
    return address


def _hits(rng: random.Random) -> str:
    version, output = rng.choice(("1.0.0", "1.1.0", "2.0.0")), rng.choice(_FORMATS)
    result = rng.choice(("hits", "HITS", "results", "%68its", "hits%20"))
    request = get_feature(version, f"RESULTTYPE={result}&OUTPUTFORMAT={output}")
    limit = f"&{rng.choice(('MAXFEATURES', 'COUNT', 'STARTINDEX'))}={rng.choice(('0', '1', '-1', '999999999999'))}"
    return request + (limit if rng.random() < 0.3 else "")


def _filter(rng: random.Random) -> str:
    text = f"<Filter>{_condition(rng, 2)}</Filter>"
    if rng.random() < 0.05:
        text = text[: rng.randrange(len(text))]
    if rng.random() < 0.5:
        return get_feature(rng.choice(("1.0.0", "1.1.0", "2.0.0")), f"FILTER={quote(text)}&OUTPUTFORMAT=geojson")
    return get_map(layers=f"{NAME}_index", version=rng.choice(("1.1.1", "1.3.0"))) + f"&FILTER={quote(f'({text})')}"


def _condition(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if depth and kind < 0.2:
        operator = rng.choice(("And", "Or", "Not"))
        return f"<{operator}>{''.join(_condition(rng, depth - 1) for _ in range(rng.randrange(4)))}</{operator}>"
    if kind < 0.35:
        return rng.choice(_FEATURE_IDS)[8:-9].format(rng.choice(_WORDS).replace("'", "&apos;"))
    name = f"<{rng.choice(('PropertyName', 'ValueReference'))}>{rng.choice(_WORDS)}</PropertyName>"
    name = name.replace("</PropertyName>", "</ValueReference>") if "<ValueReference>" in name else name
    if kind < 0.5:
        shape = rng.choice(
            (
                f"<gml:Box><gml:coordinates>{','.join(rng.choice(_EDGES) for _ in range(4))}</gml:coordinates></gml:Box>",
                f"<gml:Point><gml:coordinates>{rng.choice(_EDGES)},{rng.choice(_WORDS)}</gml:coordinates></gml:Point>",
                "<gml:Polygon/>",
                "",
            )
        )
        operator = rng.choice(_SPATIAL)
        return f"<{operator}>{name}{shape}<Distance units='m'>{rng.choice(_EDGES)}</Distance></{operator}>"
    literals = "".join(f"<Literal>{rng.choice(_WORDS)}</Literal>" for _ in range(rng.randrange(3)))
    operator = rng.choice(_COMPARISONS)
    if operator == "PropertyIsBetween":
        low, high = (f"<Literal>{rng.choice(_WORDS)}</Literal>" for _ in range(2))
        literals = f"<LowerBoundary>{low}</LowerBoundary><UpperBoundary>{high}</UpperBoundary>"
    wildcards = f' wildCard="{rng.choice("*%[")}" singleChar="{rng.choice("._]")}" escapeChar="{rng.choice("!/")}"'
    attributes = wildcards if operator == "PropertyIsLike" and rng.random() < 0.8 else ""
    return f"<{operator}{attributes}>{name}{literals}</{operator}>"


def _identifier(rng: random.Random) -> str:
    word = quote(rng.choice(_WORDS))
    stored = f"STOREDQUERY_ID=urn:ogc:def:query:OGC-WFS::GetFeatureById&ID={word}"
    parameters = (
        f"FEATUREID={word}",
        f"RESOURCEID={word}",
        stored,
        f"PROPERTYNAME={word}",
        f"SORTBY={word}",
        f"VALUEREFERENCE={word}",
    )
    address = get_feature(rng.choice(("1.0.0", "1.1.0", "2.0.0")), rng.choice(parameters))
    return address.replace("GetFeature&", "GetPropertyValue&") if rng.random() < 0.2 else address
