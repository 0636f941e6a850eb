"""`ls4 logs`: the lines of the JSON log that a person wants to read."""

import json
from collections import deque

import click

from ls4_assets.cli.collection_names import COLLECTION_NAME
from ls4_assets.cli.configuration import load_command_settings
from ls4_assets.cli.terminal import echo
from ls4_assets.errors import ConfigurationError
from ls4_assets.log_reader import LEVELS, SERVICE_NAMES, LogFilter, format_line, parse, read_lines


@click.command()
@click.argument("name", default="", type=COLLECTION_NAME)
@click.option("--service", type=click.Choice(SERVICE_NAMES), help="Only lines of this service.")
@click.option("--frame", default="", help="Only frames with this in their id, like 6-107.")
@click.option("--level", default="info", show_default=True, type=click.Choice(LEVELS), help="Only lines of this level or worse.")
@click.option("--last", default=100, show_default=True, type=click.IntRange(min=1), help="Maximum number of earlier lines.")
@click.option("--follow", is_flag=True, help="Keep printing new lines, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they are in the file.")
def logs(name: str, service: str | None, frame: str, level: str, last: int, follow: bool, as_json: bool) -> None:
    """Print the JSON log of all services, as people read it. Times are in UTC.

    NAME is a collection like Adams_USDA_1958_frames, or its beginning.
    """
    from ls4_assets.domain.printable import printable

    file = load_command_settings().log_file
    if not file or not file.exists():
        reason = f"{file} does not exist" if file else "LS4_LOG_FILE is not set"
        raise ConfigurationError(f"There is no log file ({reason}); read the logs of the services, on AWS in CloudWatch.")
    wanted = LogFilter(name, service or "", frame, level)
    shown: deque[str] = deque(maxlen=last)
    is_earlier, size = True, file.stat().st_size
    read_bytes = 0
    for text in read_lines(file, follow=follow):
        read_bytes += len(text.encode())
        if (line := parse(text)) and wanted.matches(line):
            shown.append(json.dumps(line, ensure_ascii=False) if as_json else printable(format_line(line)))
        is_earlier = is_earlier and read_bytes < size
        if not is_earlier:
            _print(shown, as_json)
    _print(shown, as_json)


def _print(lines: deque[str], as_json: bool) -> None:
    while lines:
        (click.echo if as_json else echo)(lines.popleft())
