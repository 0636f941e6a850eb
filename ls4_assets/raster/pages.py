"""Choose the photograph among the images of a tif: the page of full resolution, not a thumbnail, an overview or a mask.

GDAL shows the first image of a file. Scanners also write a thumbnail first, or the photograph as a sub-image of its thumbnail.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from affine import Affine
from rasterio.io import DatasetReader

from ls4_assets.errors import FrameError
from ls4_assets.raster.georeference import Georeference, read_georeference
from ls4_assets.raster.position import PositionOptions
from ls4_assets.raster.sidecar_readers import HEADER, PAM, Reading, read_all, read_header
from ls4_assets.raster.tiff_directories import Directory, read_directories

Factors = tuple[float, float]
# The sidecars that a GIS writes for the image that it shows, which is the first of the file.
_OF_FIRST_IMAGE = (PAM, ".tab", ".aux.xml")


@dataclass(frozen=True)
class Page:
    """The image that is the photograph. `first`: the one that GDAL opens under the name of the file; `mask`: its mask image, if
    any."""

    path: Path
    directory: Directory
    first: Directory
    mask: Directory | None

    @property
    def is_first(self) -> bool:
        return self.directory is self.first

    @property
    def gdal_name(self) -> str:
        """GDAL's name for the image: a later page is opened by the offset of its directory."""
        return str(self.path) if self.is_first else _gdal_name(self.path, self.directory)

    @property
    def mask_gdal_name(self) -> str | None:
        return _gdal_name(self.path, self.mask) if self.mask else None


def _gdal_name(path: Path, directory: Directory) -> str:
    return f"GTIFF_DIR:off:{directory.offset}:{path}"


def choose_page(path: Path) -> Page | None:
    """Return the page of full resolution; None when no directory can be read. Raises FrameError when several pages are full."""
    images, subimages = read_directories(path)
    pages = [image for image in (*images, *subimages) if image.width and image.height and not image.is_mask]
    if not pages:
        return None
    largest = max(pages, key=lambda page: page.width * page.height)
    full = [page for page in pages if page is largest or not (page.is_reduced or _is_small(page, largest))]
    if largest.is_reduced and len(full) > 1:
        # Of two pages of the same size, the one that is not marked as a copy of the other.
        full.remove(largest)
    if len(full) > 1:
        raise FrameError(_explain_several(path, full, images))
    page = full[0]
    size = (page.width, page.height)
    mask = next((each for each in (*images, *subimages) if each.is_mask and (each.width, each.height) == size), None)
    return Page(path, page, images[0], mask)


def _is_small(page: Directory, largest: Directory) -> bool:
    """True for a page without a mark that is at most half as wide and half as high: a thumbnail, or a label."""
    return 2 * page.width <= largest.width + 1 and 2 * page.height <= largest.height + 1


def _explain_several(path: Path, full: list[Directory], images: list[Directory]) -> str:
    sizes = ", ".join(f"{page.width} x {page.height}" for page in full[:3])
    numbers = [images.index(page) + 1 for page in full if page in images]
    number = numbers[0] if numbers else 1
    return (
        f"{path.name} holds {len(full)} images of full resolution ({sizes}{', ...' if len(full) > 3 else ''}) and a frame is "
        f"one; export each as a file of its own, the first with gdal_translate GTIFF_DIR:{number}:{path.name} and a new name, "
        "and drop the result."
    )


def locate_page(page: Page | None, dataset: DatasetReader, path: Path, options: PositionOptions) -> Georeference:
    """Return the georeference of the page that `dataset` shows: its own, or that of a smaller copy of it in the same file."""
    if page is None or page.is_first:
        return read_georeference(dataset, path, options)
    factors = _factors(page.first, page.directory)
    readings = read_all(path, _read_page(page, factors))
    return read_georeference(dataset, path, options, [_as_on_page(page, reading, factors) for reading in readings])


def _read_page(page: Page, factors: Factors | None) -> Reading:
    """What a page that is not the first says, or the first one, scaled."""
    own = read_header(page.gdal_name, page.path)
    if own.has_position:
        return own
    # Without its sidecars: a world file places the photograph and not its thumbnail.
    first = read_header(str(page.path), page.path)
    if first.transform is None or factors is None:
        return own
    return replace(own, transform=_scale(first.transform, factors), crs=own.crs or first.crs)


def _as_on_page(page: Page, reading: Reading, factors: Factors | None) -> Reading:
    """What a sidecar says, in pixels of the page. GIS open a tif by its first image, and write points and their own sidecars in
    its pixels; points beyond it are those of the photograph already. A world file places the photograph.
    """
    transform = reading.transform if reading.suffix in _OF_FIRST_IMAGE else None
    width, height = 1.25 * page.first.width, 1.25 * page.first.height
    is_beyond = any(point.column > width or point.row > height for point in reading.points)
    if reading.suffix == HEADER or is_beyond or not (transform or reading.points):
        return reading
    if factors is None:
        export = _gdal_name(Path(page.path.name), page.directory)
        return Reading(
            reading.suffix,
            reading.name,
            error=f"{reading.name} is about the first image of {page.path.name}, which does not show the whole photograph; "
            f"export the photograph with gdal_translate {export} and a new name, georeference the result and drop it.",
        )
    across, down = factors
    points = tuple(replace(point, column=point.column * across, row=point.row * down) for point in reading.points)
    return replace(reading, transform=_scale(transform, factors) if transform else reading.transform, points=points)


def _scale(transform: Affine, factors: Factors) -> Affine:
    """The geotransform of a page by that of its smaller copy."""
    scaled: Affine = transform @ Affine.scale(1 / factors[0], 1 / factors[1])
    return scaled


def _factors(copy: Directory, full: Directory) -> Factors | None:
    """By how much `full` is wider and higher than its smaller copy; None when the copy shows something else."""
    across, down = full.width / copy.width, full.height / copy.height
    if abs(across / down - 1) > 1.5 / min(copy.width, copy.height):
        return None
    # Every n-th pixel of a width that is not a multiple of n: the last pixel of the copy reaches beyond the photograph.
    factor = max(1, round(max(across, down)))
    if (-(-full.width // factor), -(-full.height // factor)) == (copy.width, copy.height):
        across = down = factor
    return across, down
