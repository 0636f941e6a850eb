"""The keys of the bucket as patterns of policies and event rules, from the registry of products. In them `*` also matches `/`.

test_products.py compares them with the keys of real frames, tests of the exports with theirs.
"""

from collections.abc import Iterable

from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.products import COG, PRODUCTS, FrameProduct, product_folders

# Exports, overview mosaics and products below derived/ lie together.
_SHARED = ("derived/*", "geojson/*")
# The list of rejected files, which the sensors write and the web front end shows to staff; it is not public on CloudFront.
STAFF = "staff/*"


def _below_collections(folder: str) -> tuple[str, ...]:
    return tuple(f"{film_type}/*/{folder}/*" for film_type in FILM_TYPES)


def _unique(*groups: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(pattern for group in groups for pattern in group))


def key_patterns(product: FrameProduct) -> tuple[str, ...]:
    """Returns the patterns of the product's keys, those of its versions included."""
    templates = (product.key, product.versions_folder) if product.versions_folder else (product.key,)
    return _unique(*(_template_patterns(template) for template in templates))


def _template_patterns(template: str) -> tuple[str, ...]:
    top, _, rest = template.partition("/")
    return _below_collections(rest.rpartition("/")[0]) if top == "{folder}" else (f"{top}/*",)


# Keys that people may download: none of these may match below georef/ or mapfiles/.
PUBLIC_KEYS = _unique(
    _below_collections("scanned"), *(key_patterns(product) for product in PRODUCTS if product.is_public), _SHARED
)
# The keys that runs write.
WRITTEN_KEYS = _unique(*(key_patterns(product) for product in PRODUCTS), ("mapfiles/*",), _SHARED)
# The keys that MapServer reads: COGs, their later versions and overview mosaics (below derived/), and mapfiles; and the list for
# the staff page.
SERVED_KEYS = _unique(key_patterns(COG), ("derived/*", "mapfiles/*", STAFF))
# Products and raw scans start no run. EventBridge combines the values of one array by OR, so a wildcard next to an anything-but
# would exclude nothing: one list has all exclusions. `*/georef/*.tif` would also match georef/deflate/x.tif.
NEVER_DROPS = _unique((f"*/{folder}/*" for folder in product_folders()), ("*/scanned/*", "mapfiles/*"), _SHARED, ("*/",))
