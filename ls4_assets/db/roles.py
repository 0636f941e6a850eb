"""The database roles. `bootstrap` creates them; a service logs in as one of them."""

ROLES = ("dagster", "ls4", "mapserver")
