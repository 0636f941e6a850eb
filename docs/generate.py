"""Write the generated tables of docs/reference from the code: `make reference`.

A page is written by hand around its tables. A table stands between the markers `<!-- generated: NAME -->` and
`<!-- end -->`. ls4_assets_tests/unit/test_reference.py fails when a page is out of date, and when a setting, command,
product, export, asset, check, sensor or log event is in no table. Alarms need the AWS CDK, so
ls4_assets_tests/deploy/test_alarms.py compares their page.
"""

import inspect
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import dagster as dg
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ls4_assets.cli.main import main as commands
from ls4_assets.definitions import build_definitions
from ls4_assets.domain.exports import EXPORTS
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.products import PRODUCTS
from ls4_assets.domain.profiles import PROFILES, FrameProfile
from ls4_assets.domain.sidecars import SIDECARS
from ls4_assets.domain.storages import KINDS, Capabilities
from ls4_assets.logs import EVENTS
from ls4_assets.operations.health.conditions import RULES
from ls4_assets.operations.health.metrics import METRICS
from ls4_assets.settings import CONCERNS, Unit
from ls4_assets_tests.place_traits import PLACE_TRAITS
from ls4_assets_tests.traits import TRAITS
from mapserver.metrics import MAP_METRICS
from resources.archive import Archive
from sensors import DAEMON_SLACK_SECONDS

REFERENCE = Path(__file__).parent / "reference"
_BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
# Described by hand on the page, because they are nested.
_NESTED = ("profiles",)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells may hold Markdown, and `|` is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def settings_tables() -> str:
    """A heading and a table for each concern. One row for each setting: environment variable, default, unit, meaning."""
    return "\n".join(
        f"### {inspect.getdoc(concern) or ''}".rstrip(".") + "\n\n" + _settings_table(concern) for concern in CONCERNS
    )


def _settings_table(concern: type[BaseModel]) -> str:
    rows = [
        (f"`LS4_{name.upper()}`", _default(field), unit(field) or "", _sentence(field.description or ""))
        for name, field in concern.model_fields.items()
        if name not in _NESTED
    ]
    return table(("setting", "default", "unit", "meaning"), rows)


def unit(field: FieldInfo) -> str | None:
    """The unit of a numeric setting."""
    return next((item.name for item in field.metadata if isinstance(item, Unit)), None)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, tuple):
        return f"`{','.join(field.default)}`"
    return f"`{field.default}`" if field.default not in (None, "") else "none"


def _sentence(text: str) -> str:
    return text if "://" in text.split(" ")[0] else text[:1].upper() + text[1:]


def film_types_table() -> str:
    """One row for each film type: its folder, what it is, its bands and its COG."""
    rows = [
        (f"`{film_type}`", spec.title, ", ".join(spec.band_names), spec.cog_compression) for film_type, spec in FILM_TYPES.items()
    ]
    return table(("film type", "photographs in", "bands, in this order", "COG by default"), rows)


def profiles_table() -> str:
    """One row for each option of a profile: its default for every film type and its meaning."""
    rows = [
        (f"`{name.upper()}`", *(_option(profile, name) for profile in PROFILES.values()), field.description or "")
        for name, field in FrameProfile.model_fields.items()
        if name != "film_type"
    ]
    return table(("option", *PROFILES, "meaning"), rows)


def _option(profile: FrameProfile, name: str) -> str:
    value = getattr(profile, name)
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def commands_text() -> str:
    """A section for each command: usage, what it does, its arguments and options."""
    return "\n".join(_commands(commands, "ls4"))


def _commands(group: click.Group, prefix: str) -> Iterator[str]:
    for name in sorted(group.commands):
        command = group.commands[name]
        path = f"{prefix} {name}"
        if isinstance(command, click.Group):
            yield from _commands(command, path)
            continue
        usage = " ".join([path, *command.collect_usage_pieces(click.Context(command, info_name=path))])
        help_text = re.sub(r"(?<=\.) (?=[A-Z])", "\n", " ".join((command.help or "").replace("\b", "").split()))
        yield f"## {path}\n\n```\n{usage}\n```\n\n{help_text}\n"
        records = [option.get_help_record(click.Context(command)) for option in command.params]
        rows = [(f"`{names}`", _sentence(text)) for names, text in filter(None, records) if text]
        if rows:
            yield table(("option", "meaning"), rows)


def sidecars_table() -> str:
    """One row for each kind of sidecar: name, content, programs that write it, largest size."""
    rows = [
        (
            f"`x{kind.suffix}`",
            kind.content,
            kind.written_by,
            f"{kind.max_bytes:,} bytes" if kind.max_bytes else "as a tif (`LS4_MAX_SOURCE_BYTES`)",
        )
        for kind in SIDECARS
    ]
    return table(("beside `x.tif`", "holds", "written by", "largest size"), rows)


def products_table() -> str:
    """One row for each product of a frame."""
    fields = {
        "folder": "<film type>/<collection>/<type>",
        "collection": "<Name>",
        "film_type": "<film type>",
        "stem": "<stem>",
    }
    rows = []
    for product in PRODUCTS:
        access = "public" if product.is_public else "private"
        kept = "may expire" if product.is_intermediate else "stays"
        asset = f"`{product.name}`" if product.is_step else f"with `{product.upstream}`"
        rows.append((product.title, f"`{product.key.format(**fields)}`", access, kept, product.content_type, asset))
    return table(("product", "key", "access", "lifecycle", "media type", "asset"), rows)


def exports_table() -> str:
    """One row for each export of a collection."""
    rows = []
    for export in EXPORTS:
        key = export.key.format(collection="<Name>", film_type="<film type>")
        suffix = "_<film type>" if export.is_per_film_type else ""
        listed = f"`{export.listed_as}`" if export.listed_as else "no"
        rows.append((export.title, f"`{key}`", export.content_type, f"`{export.name}{suffix}`", listed))
    return table(("export", "key", "media type", "asset in STAC", "field of `exports` in `collections.json`"), rows)


def build_reference_definitions() -> dg.Definitions:
    """The platform with one shard, which stands for all of them."""
    return build_definitions({"Travis": "county"}, Archive(), 5)


def assets_table(definitions: dg.Definitions) -> str:
    """One row for each asset: its partitions and what it holds."""
    graph = definitions.resolve_asset_graph()
    rows = []
    for key in sorted(graph.get_all_asset_keys(), key=lambda each: (len(each.path), each.path[-1])):
        node = graph.get(key)
        partitions = node.partitions_def.name if isinstance(node.partitions_def, dg.DynamicPartitionsDefinition) else None
        kind = partitions.partition("/")[0].rstrip("s") if partitions else ""
        rows.append((f"`{key.path[-1]}`", f"one per {kind}" if kind else "none", _one_line(node.description)))
    return table(("asset", "partitions", "content"), rows)


def checks_table(definitions: dg.Definitions) -> str:
    """One row for each asset check: its asset, whether a failure blocks, and what it asks."""
    graph = definitions.resolve_asset_graph()
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    rows = [
        (f"`{spec.name}`", f"`{spec.asset_key.path[-1]}`", "blocks" if spec.blocking else "reports", _one_line(spec.description))
        for spec in sorted(specs, key=lambda each: each.name)
    ]
    return table(("check", "asset", "a failure", "what it checks"), rows)


def _interval_seconds(sensor: dg.SensorDefinition) -> int:
    return (sensor.minimum_interval_seconds or 0) + DAEMON_SLACK_SECONDS


def sensors_table(definitions: dg.Definitions) -> str:
    """One row for each sensor and schedule: how often it runs and what it does."""
    by_events = build_definitions({"Travis": "county"}, Archive(), 5, has_events=True)
    found: dict[str, tuple[str, str]] = {}
    for each in (definitions, by_events):
        repository = each.get_repository_def()
        for sensor in repository.sensor_defs:
            found[sensor.name] = (f"every {_interval_seconds(sensor)} s", _one_line(sensor.description))
        for schedule in repository.schedule_defs:
            found[schedule.name] = (f"`{schedule.cron_schedule}` UTC", _one_line(schedule.description))
    return table(("sensor or schedule", "runs", "what it does"), [(f"`{name}`", *found[name]) for name in sorted(found)])


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def events_table() -> str:
    """One row for each event of the JSON log."""
    return table(("event", "meaning"), [(f"`{name}`", meaning) for name, meaning in EVENTS.items()])


def storages_table() -> str:
    """One row for each capability: what it means, and which kinds of storage have it."""
    kinds = list(KINDS.values())
    lines = inspect.cleandoc(Capabilities.__doc__ or "").splitlines()
    meanings = dict(line.split(": ", 1) for line in lines if ": " in line)
    capabilities = [
        (_sentence(meanings[each.name]), *("yes" if getattr(kind.capabilities, each.name) else "no" for kind in kinds))
        for each in fields(Capabilities)
    ]
    addresses = [("address", *(f"`{kind.example}`" for kind in kinds))]
    return table(("capability", *(kind.name for kind in kinds)), [*addresses, *capabilities])


def traits_table() -> str:
    """One row for each trait that a dropped tif may have: the film type under which it is tested, and what happens."""
    rows = [(trait.group, trait.name, f"`{trait.film_type}`", trait.outcome) for trait in TRAITS]
    # No trait of a place depends on the film type.
    rows += [(trait.group, trait.name, "`bw`", trait.outcome) for trait in PLACE_TRAITS]
    return table(("kind", "trait", "tested under", "what happens"), rows)


def alarms_table(resources: Mapping[str, Mapping[str, Any]]) -> str:
    """One row for each CloudWatch alarm of the synthesized stacks."""
    alarms = [each["Properties"] for each in resources.values() if each["Type"] == "AWS::CloudWatch::Alarm"]
    rows = sorted({(f"`{alarm['AlarmName']}`", alarm["AlarmDescription"]) for alarm in alarms})
    return table(("alarm", "what it means and what to do"), rows)


def conditions_table() -> str:
    """One row for each condition that `ls4 status` and the monitor judge."""
    rows = []
    for rule in RULES:
        reports = "yes" if rule.is_alarm else "no"
        rows.append((f"`{rule.name}`", rule.severity.name.lower(), reports, _template(rule.sentence), _template(rule.advice)))
    return table(("condition", "severity", "message", "what is wrong", "what to do"), rows)


def _template(text: str) -> str:
    """A sentence with the names of its values in italics."""
    return re.sub(r"{([a-z]+)}", r"*\1*", text)


def metrics_table() -> str:
    """One row for each metric of /metrics."""
    metrics = [(each.name, each.kind, each.labels, each.meaning) for each in METRICS]
    rows = [
        (f"`{name}{'_total' if kind == 'counter' else ''}`", kind, ", ".join(f"`{label}`" for label in labels), meaning)
        for name, kind, labels, meaning in (*metrics, *MAP_METRICS)
    ]
    return table(("metric", "type", "labels", "meaning"), rows)


def blocks() -> dict[str, str]:
    """The content of every block that needs no AWS CDK, by name."""
    definitions = build_reference_definitions()
    return {
        "settings": settings_tables(),
        "profiles": profiles_table(),
        "film-types": film_types_table(),
        "commands": commands_text(),
        "sidecars": sidecars_table(),
        "products": products_table(),
        "exports": exports_table(),
        "assets": assets_table(definitions),
        "checks": checks_table(definitions),
        "sensors": sensors_table(definitions),
        "log-events": events_table(),
        "storages": storages_table(),
        "traits": traits_table(),
        "conditions": conditions_table(),
        "metrics": metrics_table(),
    }


def rendered(page: str, content: Mapping[str, str]) -> str:
    """The page with its blocks replaced; a block that `content` does not have stays as it is."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{content[match[2]]}\n{match[3]}" if match[2] in content else match[0], page)


def synthesized_resources() -> dict[str, Mapping[str, Any]]:
    """The resources of the stacks of deploy/example.toml. Needs Node and the dependency group `deploy`."""
    from deploy.aws.app import build_app
    from deploy.aws.config import read_config

    with tempfile.TemporaryDirectory() as folder:
        assembly = build_app(read_config(Path(__file__).parents[1] / "deploy" / "example.toml"), folder).synth()
        return {name: each for stack in assembly.stacks for name, each in stack.template["Resources"].items()}


def main() -> None:
    """Rewrite the pages in place."""
    content = blocks() | {"alarms": alarms_table(synthesized_resources())}
    for path in sorted(REFERENCE.glob("*.md")):
        old = path.read_text(encoding="utf-8")
        new = rendered(old, content)
        if new != old:
            path.write_text(new, encoding="utf-8")
            sys.stdout.write(f"{path} is up to date now.\n")


if __name__ == "__main__":
    main()
