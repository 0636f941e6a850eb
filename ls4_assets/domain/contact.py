"""Who answers for the maps; the WMS capabilities print it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contact:
    """Who answers for the service. Capabilities want the whole block or none of it, hence no defaults."""

    person: str
    organisation: str
    position: str
    email: str
    telephone: str
    facsimile: str
    address: str
    city: str
    state: str
    postcode: str
    country: str
