"""What the capabilities of every map say, apart from the collection's own title and extent."""

from dataclasses import dataclass

from ls4_assets.domain.contact import Contact


@dataclass(frozen=True)
class Capabilities:
    """Texts and coordinate systems of the services, from the archive file.

    title: of the statewide map. epsg_codes: the coordinate systems that clients may request.
    license: the access constraints. attribution: named beside maps and tiles. citation: of one collection.
    contact: None: no contact block.
    background: the color under transparent parts in formats without transparency, such as JPEG: #RRGGBB.
    """

    title: str
    epsg_codes: tuple[int, ...]
    license: str | None = None
    attribution: str | None = None
    citation: str | None = None
    contact: Contact | None = None
    background: str = "#ffffff"

    @property
    def srs(self) -> str:
        return " ".join(f"EPSG:{code}" for code in self.epsg_codes)
