"""`ls4 status`: whether the platform works, and the progress and the problems of everything that was dropped."""

import dataclasses
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ls4_assets.cli.collection_names import COLLECTION_NAME
from ls4_assets.cli.configuration import find_database_error, load_command_settings
from ls4_assets.cli.terminal import echo
from ls4_assets.errors import Ls4Error

if TYPE_CHECKING:
    from ls4_assets.operations.health.model import Facts, Health
    from ls4_assets.settings import Settings


@click.command()
@click.argument("name", required=False, type=COLLECTION_NAME)
@click.option(
    "--check", is_flag=True, help="Only judge the platform, for monitoring: exit with 0 (OK), 1 (warning) or 2 (critical)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every name and reason.")
def status(name: str | None, check: bool, as_json: bool) -> None:
    """Report whether the platform works, and the state of dropped files and their collections.

    NAME is a collection like Adams_USDA_1958_frames, or its beginning, like Adams. With a single collection, its details are
    reported. Exits with status 1 when something failed or needs attention.
    """
    from ls4_assets.operations.health.conditions import judge

    try:
        settings = load_command_settings()
        facts = _collect_facts(settings)
        health = judge(facts)
        if check:
            (click.echo if as_json else echo)(
                json.dumps(_as_json(health), indent=1) if as_json else "\n".join(_format_health(health))
            )
            sys.exit(health.severity)
        sys.exit(_report(settings, name, as_json, facts, health))
    except Ls4Error as error:
        if not (as_json or check):
            raise
        click.echo(json.dumps({"error": str(error)}, indent=1) if as_json else f"CRITICAL: {error}")
        sys.exit(2 if check else 1)


def _collect_facts(settings: "Settings") -> "Facts":
    """What can be observed; only that the database is down, without the seconds that the import of Dagster takes."""
    from ls4_assets.operations.health.model import Facts

    if error := find_database_error(settings.database_url.get_secret_value()):
        return Facts(now=datetime.now(UTC), database_error=error)
    from ls4_assets.operations.health.facts import collect_facts

    return collect_facts(settings)


def _report(settings: "Settings", name: str | None, as_json: bool, facts: "Facts", health: "Health") -> int:
    """Print health and collections; without the database, health alone. Returns the exit status."""
    if facts.database_error:
        click.echo(json.dumps(_as_json(health), indent=1)) if as_json else echo("\n".join(_format_health(health)))
        return 1
    from ls4_assets.operations.status import collect
    from ls4_assets.operations.status_text import TERMINAL_LIMIT, format_status, needs_attention

    report = collect(settings, name, limit=None if as_json else TERMINAL_LIMIT)
    if as_json:
        click.echo(json.dumps(_as_json(health) | dataclasses.asdict(report), indent=1, default=str))
    else:
        echo("\n".join([*_format_health(health), *format_status(report)]))
    return 1 if needs_attention(report, health) else 0


def _as_json(health: "Health") -> dict[str, Any]:
    conditions = [dataclasses.asdict(each) | {"severity": each.severity.name.lower()} for each in health.conditions]
    return {"health": {"status": health.severity.name.lower(), "summary": health.summary, "conditions": conditions}}


def _format_health(health: "Health") -> list[str]:
    """The summary, and a line for each further condition."""
    rest = health.conditions[1:]
    return [health.summary, *(f"{each.severity.name}: {each.sentence} {each.advice}" for each in rest)]
