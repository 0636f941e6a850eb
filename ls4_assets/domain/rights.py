"""License, credit and citation of photographs: of the archive, of an agency, or of one collection, from the archive file.

The most specific one applies. Where they are shown is decided in `publishing` (services, STAC, GeoParquet) and in `processing`
(tags of new files). Pure: reading the file is in `archive_file`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ls4_assets.domain.names import Collection

# What a citation may contain, in braces.
CITATION_FIELDS = ("title", "agency", "year", "attribution", "organization")


@dataclass(frozen=True)
class Rights:
    """What is known about the use of photographs; None: unknown.

    license: its name. license_url: its text. license_id: its SPDX identifier. attribution: whom to credit. citation: how to cite
    a collection; in the archive file, with fields in braces.
    """

    license: str | None = None
    license_url: str | None = None
    license_id: str | None = None
    attribution: str | None = None
    citation: str | None = None

    def or_else(self, general: "Rights") -> "Rights":
        """These rights, and those of `general` where they say nothing. The three texts of a license belong together."""
        licensed = self if self.license or self.license_url or self.license_id else general
        return Rights(
            license=licensed.license,
            license_url=licensed.license_url,
            license_id=licensed.license_id,
            attribution=self.attribution or general.attribution,
            citation=self.citation or general.citation,
        )

    def metadata(self) -> dict[str, str]:
        """What is known, by name, for file formats with free metadata."""
        return {name: value for name, value in vars(self).items() if value}

    def tiff_tags(self) -> dict[str, str]:
        """Tags of TIFF, and one of GDAL's for the citation, which has no tag of TIFF."""
        copyright_ = " ".join(filter(None, (self.license, self.license_url)))
        tags = {"TIFFTAG_COPYRIGHT": copyright_, "TIFFTAG_ARTIST": self.attribution, "CITATION": self.citation}
        return {name: value for name, value in tags.items() if value}


@dataclass(frozen=True)
class ArchiveRights:
    """The rights of all collections. `named`: by agency or name of a collection. `organization` publishes the archive."""

    archive: Rights = Rights()
    named: Mapping[str, Rights] = field(default_factory=dict)
    organization: str | None = None

    def of(self, collection: Collection) -> Rights:
        """The rights of a collection, with its citation complete."""
        own, agency = (self.named.get(name, Rights()) for name in (collection.name, collection.agency))
        rights = own.or_else(agency).or_else(self.archive)
        return replace(rights, citation=self._cite(collection, rights)) if rights.citation else rights

    def digest(self) -> str:
        """Twelve hex digits; empty if nothing is known about any photograph."""
        if self.archive == Rights() and not self.named:
            return ""
        return hashlib.sha256(repr((self.archive, sorted(self.named.items()))).encode()).hexdigest()[:12]

    def _cite(self, collection: Collection, rights: Rights) -> str:
        values = {
            "title": collection.label,
            "agency": collection.agency,
            "year": str(collection.year or "n.d."),
            "attribution": rights.attribution or collection.agency,
            "organization": self.organization or "",
        }
        return (rights.citation or "").format(**values).strip()
