"""The archive's platform: names, pixels, index, assets; clients are in `resources`, sensors in `sensors`."""
