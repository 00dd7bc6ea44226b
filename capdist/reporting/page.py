"""The report of a run: one self-contained HTML file.

It reads ``config.json``, ``metrics.jsonl`` and ``scores.json`` from the run folder; the last maps
the name of a row ("test", `CONSTANT`) to the result of `capdist.metrics.coco.Scores.to_json`.
The page names the files that do not exist yet.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from capdist.errors import CapdistError
from capdist.reporting.curves import draw_curves
from capdist.reporting.metrics_log import METRICS_LOG, read_records
from capdist.reporting.table import format_score
from capdist.reporting.timeline import data_wait
from shards.atomic import atomic_write

CONFIG = "config.json"
SCORES = "scores.json"

#: The row of the baseline in ``scores.json``.
CONSTANT = "constant caption"


class ReportError(CapdistError):
    """A run folder, or a file in it, cannot be read."""


@dataclass(frozen=True)
class ReportSample:
    """An image of the report: key, the model's caption, references, and optionally a PNG."""

    key: str
    caption: str
    references: tuple[str, ...]
    picture: bytes | None = None


def write_report(run_dir: Path, out: Path, *, samples: Sequence[ReportSample]) -> None:
    """Write the report of a run folder: scores, curves, configuration and samples.

    The scores are those next to the report.

    Raises:
        ReportError: if the folder does not exist, or one of its files is not JSON.
        MetricsLogError: if ``metrics.jsonl`` cannot be parsed.
    """
    if not run_dir.is_dir():
        raise ReportError(f"{run_dir}: no such folder; give a run folder")
    config, scores = _read(run_dir / CONFIG), _read(out.with_name(SCORES))
    title = f"Report of {run_dir.resolve().name}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p class='lead'>{escape(str((config or {}).get('description', '')))}</p>",
        "<h2>Scores</h2>",
        _scores(scores) if scores else _missing(SCORES),
        "<h2>Curves</h2>",
        _curves(run_dir / METRICS_LOG)
        if (run_dir / METRICS_LOG).is_file()
        else _missing(METRICS_LOG),
        f"<h2>Samples</h2><div class='samples'>{''.join(map(_sample, samples))}</div>",
        "<h2>Configuration</h2>",
        _config(config) if config else _missing(CONFIG),
    ]
    page = _PAGE.format(title=escape(title), body="\n".join(sections))
    with atomic_write(out) as file:
        file.write(page.encode())


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise ReportError(f"{path}: not JSON ({error}); repair it or evaluate again") from error
    return data


def _missing(name: str) -> str:
    return f"<p class='note'>The run folder has no {name} yet.</p>"


def _scores(rows: Mapping[str, Any]) -> str:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row["values"]))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(_score_row(name, row["values"], columns) for name, row in rows.items())
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in _score_notes(rows))
    return f"<div class='wide'><table><tr><th></th>{head}</tr>{body}</table></div>{notes}"


def _score_row(name: str, values: Mapping[str, float], columns: Sequence[str]) -> str:
    kind = "baseline" if name == CONSTANT else "model"
    cells = "".join(f"<td>{format_score(values.get(column))}</td>" for column in columns)
    return f"<tr class='{kind}'><th>{escape(name)}</th>{cells}</tr>"


def _score_notes(rows: Mapping[str, Any]) -> Iterator[str]:
    if CONSTANT in rows:
        yield f"{CONSTANT}: the best single training caption, given to every image."
    for name, row in rows.items():
        if row["tokeniser"] != "ptb":
            yield f"{name}: {row['tokeniser']} tokeniser; not comparable with published scores."
        for metric, why in row["absent"].items():
            yield f"{name}: {metric} is absent: {why}."


def _curves(metrics_log: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "curves.png")
        draw_curves(metrics_log, picture)
        image = f"<img class='curves' alt='loss and CIDEr' src='{_inline(picture.read_bytes())}'>"
    steps = [record for record in read_records(metrics_log) if "data_s" in record]
    if not steps:
        return image
    return (
        f"{image}<p class='note'>{data_wait(steps):.1f} % of the steps' time: waiting for data.</p>"
    )


def _sample(sample: ReportSample) -> str:
    picture = f"<img alt='' src='{_inline(sample.picture)}'>" if sample.picture else ""
    references = "".join(f"<li>{escape(reference)}</li>" for reference in sample.references)
    return (
        f"<figure>{picture}<figcaption><small>{escape(sample.key)}</small>"
        f"<p>{escape(sample.caption)}</p><ul>{references}</ul></figcaption></figure>"
    )


def _config(config: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(json.dumps(value))}</td></tr>"
        for key, value in _flat(config)
    )
    return f"<details><summary>All values</summary><table class='config'>{rows}</table></details>"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, as for ``--set``, and their values."""
    if isinstance(value, dict | list) and value:
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in entries:
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; }}
h1 {{ font-size: 1.7rem; margin-bottom: 0.2rem; }}
h2 {{ font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #e3e3e3; }}
.lead {{ color: #555; margin-top: 0; }}
.note {{ color: #777; font-size: 0.85rem; margin: 0.3rem 0; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #eee; }}
th:first-child, .config td {{ text-align: left; }}
th {{ font-weight: 600; }} .baseline {{ color: #888; }}
.config {{ font-size: 0.82rem; }} .config th {{ font-weight: 400; color: #555; }}
summary {{ cursor: pointer; margin: 0.6rem 0; }}
.curves {{ width: 100%; max-width: 48rem; }}
.samples {{ display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }}
figure {{ margin: 0; border: 1px solid #e3e3e3; border-radius: 8px; overflow: hidden; }}
figure img {{ width: 100%; display: block; background: #f6f6f6; }}
figcaption {{ padding: 0.7rem 0.9rem; }} small {{ color: #999; }}
figcaption p {{ margin: 0.1rem 0 0.4rem; font-weight: 600; }}
figcaption ul {{ margin: 0; padding-left: 1.1rem; color: #666; font-size: 0.85rem; }}
</style></head><body>
{body}
</body></html>
"""
