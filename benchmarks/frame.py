"""Measure the cost of one frame: `python -m benchmarks.frame [--json] [--quick] [--repeat N]`

Compares this platform's products of a frame with GDAL's COG driver (which writes the COG only), the three commands of lambda-s4,
and rio-cogeo (`benchmarks.contenders`). Each contender runs in a process of its own. CPU and wall seconds exclude the imports and
are the best of `--repeat` rounds; peak memory is that of the process, the worst of the rounds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.contenders import CONTENDERS, measure
from benchmarks.photographs import write_photograph
from ls4_assets.domain.film_types import FilmType

Figures = dict[str, dict[str, float]]

_YARDSTICK = "cog_driver"
_FRAMES: dict[str, tuple[FilmType, int, bool]] = {
    "bw": ("bw", 8192, False),
    "nc": ("nc", 6000, False),
    "bw_collared": ("bw", 8192, True),
}
_QUICK_DIVISOR = 4


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frame", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--quick", action="store_true", help="a quarter of the side length: takes seconds, gives rough ratios")
    parser.add_argument("--repeat", type=int, default=2, metavar="N", help="rounds per contender (default 2)")
    arguments = parser.parse_args()
    results = {}
    for name, (film_type, size, collar) in _FRAMES.items():
        side = size // _QUICK_DIVISOR if arguments.quick else size
        with tempfile.TemporaryDirectory(prefix="ls4-benchmark-") as folder:
            source = Path(folder) / "scan.tif"
            _run_in_own_process("write", str(source), str(side), "1" if film_type == "bw" else "3", str(int(collar)))
            results[name] = _compare(source, film_type, Path(folder), arguments.repeat)
        print(_format_table(name, side, results[name]), flush=True)
    if arguments.json:
        print(json.dumps(results))


def _compare(source: Path, film_type: FilmType, folder: Path, repeat: int) -> Figures:
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(repeat):
        for name, figures in rounds.items():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                figures.append(json.loads(_run_in_own_process("measure", name, str(source), scratch, film_type)))
    return {
        name: {key: (max if key == "peak_mb" else min)(figure[key] for figure in figures) for key in figures[0]}
        for name, figures in rounds.items()
    }


def _run_in_own_process(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.frame", "--in-own-process", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _run_job(arguments: list[str]) -> None:
    match arguments:
        case ["write", path, size, bands, collar]:
            write_photograph(Path(path), int(size), int(bands), collar=collar == "1")
        case ["measure", contender, source, folder, ("bw" | "nc") as film_type]:
            print(json.dumps(measure(contender, Path(source), Path(folder), film_type)))
        case _:
            raise SystemExit(f"Unknown job {arguments}; run python -m benchmarks.frame --help.")


def _format_table(name: str, side: int, figures: Figures) -> str:
    yardstick = figures[_YARDSTICK]
    lines = [f"{name}, {side} x {side} px (ratios to {_YARDSTICK})"]
    for contender, figure in figures.items():
        ratios = {key: figure[key] / yardstick[key] for key in ("cpu_s", "wall_s", "peak_mb", "cog_mb")}
        lines.append(
            f"  {contender:13s} CPU {figure['cpu_s']:6.2f} s ({ratios['cpu_s']:4.2f})   wall {figure['wall_s']:6.2f} s "
            f"({ratios['wall_s']:4.2f})   peak {figure['peak_mb']:6.0f} MB ({ratios['peak_mb']:4.2f})   "
            f"COG {figure['cog_mb']:6.1f} MB ({ratios['cog_mb']:4.2f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-own-process"]:
        _run_job(sys.argv[2:])
    else:
        main()
