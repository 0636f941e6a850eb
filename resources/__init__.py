"""Clients of external systems: the bucket, the database, the event queue and the notifier, and the Dagster resource with all.

What is stored in them is decided in ls4_assets. This file imports nothing: worker processes need the clients without Dagster.
"""
