"""The platform on one machine: what ``ls4 demo`` (``make demo``) starts and production gets from AWS or Docker instead.

Belongs here: a private PostgreSQL cluster, the services and their supervisor, the state directory, the sample data. Does not
belong here: the run launcher of one machine (``ls4_assets.runtime``) and the tables of the database (``ls4_assets.db``). Only the
command line and the tests import this package.
"""
