"""Choose the photograph among the images of a tif: the page of full resolution, not a thumbnail, an overview or a mask.

GDAL shows the first image of a file. Scanners also write a thumbnail first, or the photograph as a sub-image of its thumbnail.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.io import DatasetReader

from ls4_assets.errors import FrameError
from ls4_assets.raster.georeference import Georeference, read_georeference
from ls4_assets.raster.position import PositionOptions
from ls4_assets.raster.sidecar_readers import Reading, read_header
from ls4_assets.raster.tiff_directories import Directory, read_directories


@dataclass(frozen=True)
class Page:
    """The image that is the photograph. `is_first`: GDAL opens it under the name of the file; `mask`: its mask image, if any."""

    path: Path
    directory: Directory
    is_first: bool
    mask: Directory | None

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
    return Page(path, page, page is images[0], mask)


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
    header = None if page is None or page.is_first else _read_page(page, dataset)
    return read_georeference(dataset, path, options, header)


def _read_page(page: Page, dataset: DatasetReader) -> Reading:
    """What a page that is not the first says, or the first one, scaled."""
    own = read_header(page.gdal_name, page.path)
    if own.has_position:
        return own
    # Without its sidecars, which place the photograph and not its thumbnail.
    first = read_header(str(page.path), page.path)
    if first.transform is None:
        return own
    with rasterio.open(page.path, driver="GTiff") as copy:
        transform = _scale(first.transform, copy, dataset)
    return replace(own, transform=transform, crs=own.crs or first.crs)


def _scale(transform: Affine, copy: DatasetReader, full: DatasetReader) -> Affine | None:
    """Return the geotransform of `full` by that of its smaller copy; None when the copy shows something else."""
    across, down = full.width / copy.width, full.height / copy.height
    if abs(across / down - 1) > 1.5 / min(copy.width, copy.height):
        return None
    # Every n-th pixel of a width that is not a multiple of n: the last pixel of the copy reaches beyond the photograph.
    factor = round(max(across, down))
    if (-(-full.width // factor), -(-full.height // factor)) == (copy.width, copy.height):
        across = down = factor
    scaled: Affine = transform @ Affine.scale(1 / across, 1 / down)
    return scaled
