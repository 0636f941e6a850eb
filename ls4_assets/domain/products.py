"""The registry of what ls4 makes of each photograph. Code that handles products iterates over it and has no list of its own.

To add a product, see docs/extending.md. The functions that write the files are in `raster/frame.py`, by product.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Step = Literal["deflate", "overviews", "cog"]
ProductName = Literal["deflate", "overviews", "cog", "thumbnail"]

GEOREF = "georef"
"""The upstream of the first product: the tif that staff dropped."""


@dataclass(frozen=True)
class FrameProduct:
    """One file of each frame.

    key: object key, with {folder} (`Frame.folder`), {collection}, {film_type} and {stem}.
    work_file: path in the working directory of a frame.
    upstream: the product that it is made from, or GEOREF.
    is_step: it is a Dagster asset with a profile hash, its own row in `frame.products`, and can be requested alone. Any other
        product is made and published together with its upstream.
    is_public: people may download it. Its key must be below a public prefix, and a private one below none.
    is_intermediate: it may expire, because it can be made again from the georef tif.
    profile_options: fields of FrameProfile that affect this product and not its upstream.
    versions_folder: prefix of the versions that the map reads while the public key still has the one before.
    stac_role: role of the asset in STAC items, for a public product; "" for a private one.
    kinds: of a step, what its asset is labeled with in the Dagster UI.
    title, description: for people, on docs/reference/names.md and in the Dagster UI.
    """

    name: ProductName
    key: str
    work_file: str
    upstream: str
    is_step: bool
    is_public: bool
    is_intermediate: bool
    content_type: str
    stac_role: str
    title: str
    description: str
    profile_options: tuple[str, ...] = ()
    versions_folder: str | None = None
    kinds: tuple[str, ...] = ()


DEFLATE = FrameProduct(
    name="deflate",
    key="{folder}/georef/deflate/{stem}.tif",
    work_file="deflate/{stem}.tif",
    upstream=GEOREF,
    is_step=True,
    is_public=False,
    is_intermediate=True,
    content_type="image/tiff",
    stac_role="",
    title="deflate tif",
    description="Tiled DEFLATE-compressed tif in EPSG:3857 with its collar masked. Intermediate: not public, and it may expire.",
    profile_options=("film_type", "resampling", "blocksize", "deflate_zlevel", "detect_collar", "gcp_transformation"),
    kinds=("geotiff",),
)
OVERVIEWS = FrameProduct(
    name="overviews",
    key="{folder}/georef/deflate/{stem}.tif.ovr",
    work_file="deflate/{stem}.tif.ovr",
    upstream="deflate",
    is_step=True,
    is_public=False,
    is_intermediate=True,
    content_type="application/octet-stream",
    stac_role="",
    title="overviews",
    description="External overviews (.ovr) of the deflate tif. Intermediate: not public, and they may expire.",
    profile_options=("overview_resampling", "overview_levels"),
    kinds=("geotiff",),
)
COG = FrameProduct(
    name="cog",
    key="{folder}/cog/{stem}.tif",
    work_file="cog/{stem}.tif",
    upstream="overviews",
    is_step=True,
    is_public=True,
    is_intermediate=False,
    content_type="image/tiff",
    stac_role="data",
    title="COG",
    description="Cloud Optimized GeoTIFF that the map shows and people download.",
    profile_options=("cog_compression", "jpeg_quality"),
    versions_folder="derived/{collection}/served/{film_type}/{stem}/",
    kinds=("cog", "geotiff"),
)
THUMBNAIL = FrameProduct(
    name="thumbnail",
    key="derived/{collection}/thumbnails/{film_type}/{stem}.webp",
    work_file="thumbnail/{stem}.webp",
    upstream="cog",
    is_step=False,
    is_public=True,
    is_intermediate=False,
    content_type="image/webp",
    stac_role="thumbnail",
    title="thumbnail",
    description="WebP of at most 256 px with a transparent collar, for the STAC catalog and the map page.",
)

# In the order in which they are made and published: each after its upstream.
PRODUCTS: tuple[FrameProduct, ...] = (DEFLATE, OVERVIEWS, COG, THUMBNAIL)
STEPS: tuple[Step, ...] = get_args(Step)
# Assets of a collection, in the order in which they are built from its frames.
COLLECTION_STEPS = ("tile_index", "overview_mosaic", "mapfile", "exports")

_BY_NAME = {product.name: product for product in PRODUCTS}


def product_of(name: ProductName) -> FrameProduct:
    return _BY_NAME[name]


def upstream_steps(step: Step) -> tuple[Step, ...]:
    """Returns the steps whose products `step` is made from, in their order; the first step has none."""
    return STEPS[: STEPS.index(step)]


def previous_step(step: Step) -> Step | None:
    """Returns the step that makes the upstream of `step`; None for the first, which reads the georef tif."""
    upstream = _BY_NAME[step].upstream
    return next((each for each in STEPS if each == upstream), None)


def made_with(step: Step) -> tuple[FrameProduct, ...]:
    """Returns the products that are made and published together with that of `step`."""
    return tuple(product for product in PRODUCTS if not product.is_step and product.upstream == step)


def product_folders() -> tuple[str, ...]:
    """Returns the folders below that of a collection and film type that hold products: georef/deflate, cog."""
    keys = (product.key for product in PRODUCTS if product.key.startswith("{folder}/"))
    return tuple(dict.fromkeys(key.removeprefix("{folder}/").rpartition("/")[0] for key in keys))
