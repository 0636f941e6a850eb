"""The contact block that WMS capabilities and STAC documents print."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contact:
    """Person and organization responsible for the maps. No field has a default because WMS wants the complete block or none."""

    person: str
    organization: str
    position: str
    email: str
    telephone: str
    facsimile: str
    address: str
    city: str
    state: str
    postal_code: str
    country: str
