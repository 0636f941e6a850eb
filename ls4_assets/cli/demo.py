"""`ls4 demo`: the platform on one machine, with sample data."""

import sys

import click


@click.command()
@click.option("--once", is_flag=True, help="Check the maps, stop everything, and exit with status 0 or 1.")
@click.option("--port", type=int, help="Port of the web front end. Default: a free port, the same one at each start.")
def demo(once: bool, port: int | None) -> None:
    """Start all services on this machine with sample data. Ctrl-C stops them."""
    from ls4_assets.local.demo import run_demo

    sys.exit(run_demo(once=once, port=port))
