"""Every client of the platform: the bucket behind one port, the database, and the Dagster resource that hands them out.

Nothing is imported here: worker processes need the clients and not Dagster.
"""
