"""An evaluation as one HTML file that needs no other file, no script and no network.

It is made from the dictionary that `rstinynet val --json` prints. Curves, errors and confusion are
shown where it has them. A content security policy forbids every request, and every value is
escaped: names of classes and files come from data that others made.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import cv2
import numpy as np

from rstinynet.data.image import RgbArray
from rstinynet.evaluate.svg import curves_svg
from rstinynet.evaluate.tables import NOTHING, number, percent

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1c2024; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse } caption { text-align: left; color: #555c63 }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 1px solid #888 }
tr.mean td, tr.mean th { font-weight: 600; border-top: 1px solid #888 }
.confusion td { padding: .3rem .6rem; text-align: center }
.bar { background: #0072b2; height: .8rem; min-width: 1px }
.curves { display: flex; flex-wrap: wrap; gap: 1.5rem } figure { margin: 0 0 1.5rem }
figcaption { font-size: .85rem; color: #555c63 } img { max-width: 100%; border: 1px solid #ccd0d4 }
.wide { overflow-x: auto } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SIZES = {"vt": "very tiny", "t": "tiny", "s": "small", "m": "medium", "l": "large"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image of the page."""

    pixels: RgbArray
    caption: str


def page(report: Mapping[str, Any], *, title: str, pictures: Sequence[Picture] = ()) -> str:
    """The page of `report`, the dictionary of an evaluation."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_how(report))}</p>",
        _numbers(report),
        _classes(report),
        _curves(report.get("curves")),
        _errors(report.get("errors")),
        _confusion(report.get("confusion")),
        _pictures(pictures),
        _settings(report.get("settings", {})),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _how(report: Mapping[str, Any]) -> str:
    settings = report.get("settings", {})
    limit = settings.get("max_det")
    shown = "all" if limit is None else f"at most {limit}"
    text = (
        f"{settings.get('protocol', 'Unknown')} protocol, {report.get('images', '?')} images, "
        f"{shown} detections of each class on an image. Percent, unless said otherwise; "
        f"{NOTHING} where there is nothing to find."
    )
    if report.get("dropped_unknown"):
        text += f" {report['dropped_unknown']} detections of classes unknown on their image left"
        text += " out."
    return text


def _keys(report: Mapping[str, Any]) -> list[str]:
    """Keys of average precision and recall that the report has, in its order."""
    return [
        key
        for key, value in report.items()
        if key.startswith(("ap", "ar")) and not isinstance(value, dict)
    ]


def _head(key: str) -> str:
    return key[:2].upper() + key[2:]


def _numbers(report: Mapping[str, Any]) -> str:
    rows = [(_meaning(key), percent(report[key])) for key in _keys(report)]
    if report.get("olrp") is not None:
        rows.append(("oLRP error (0 is perfect)", percent(report["olrp"])))
    return "<h2>Numbers</h2>" + _table(("number", "%"), rows)


def _meaning(key: str) -> str:
    what = "average precision" if key.startswith("ap") else "average recall"
    rest = key[2:].lstrip("_")
    if rest in _SIZES:
        return f"{_head(key)}, {what} of {_SIZES[rest]} objects"
    if rest:
        return f"{_head(key)}, {what} at IoU 0.{rest[:2]}"
    return f"{_head(key)}, {what}"


def _classes(report: Mapping[str, Any]) -> str:
    classes = report.get("per_class", {})
    keys = [key for key in _keys(report) if key.startswith("ap")]
    rows = [
        (
            name,
            *(percent(each.get(key)) for key in keys),
            number(each.get("objects"), 0),
            number(each.get("detections"), 0),
        )
        for name, each in classes.items()
    ]
    means = ("mean", *(percent(report[key]) for key in keys), "", "")
    heads = ("class", *map(_head, keys), "objects", "detections")
    return "<h2>Classes</h2>" + _table(heads, [*rows, means], last="mean")


def _curves(curves: Mapping[str, Any] | None) -> str:
    if not curves or not curves.get("classes"):
        return ""
    classes = curves["classes"]
    figures = []
    for iou in next(iter(classes.values()))["precision"]:
        lines = {name: (curves["recall"], each["precision"][iou]) for name, each in classes.items()}
        figures.append(curves_svg(lines, title=f"Precision over recall at IoU {iou}"))
    return f"<h2>Precision and recall</h2><div class=curves>{''.join(figures)}</div>"


def _errors(errors: Mapping[str, Any] | None) -> str:
    if not errors:
        return ""
    kinds = errors["kinds"]
    most = max([kind["gain"] or 0 for kind in kinds.values()] + [1e-9])
    sizes = list(next(iter(kinds.values()))["count_by_size"])
    rows = []
    for name, kind in kinds.items():
        gain = kind["gain"]
        cells = [escape(name), f"{kind['count']:,}", percent(gain)]
        cells.append(f'<div class=bar style="width:{140 * max(gain or 0, 0) / most:.0f}px"></div>')
        cells += [f"{kind['count_by_size'][size]:,}" for size in sizes]
        rows.append(cells)
    heads = ("kind", "errors", "AP50 if mended, +", "", *sizes)
    note = (
        f"{errors['hits']:,} of {errors['objects']:,} objects found; AP50 "
        f"{percent(errors['ap50'])}. Without false detections "
        f"+{percent(errors['gain_without_false_detections'])}, were nothing else to be "
        "found than what was "
        f"+{percent(errors['gain_without_unfound_objects'])}. Kinds are TIDE's (Bolya et al., "
        "2020); the last columns count errors by size of the object."
    )
    return f"<h2>Errors</h2><p>{escape(note)}</p>{_raw_table(heads, rows)}"


def _confusion(confusion: Mapping[str, Any] | None) -> str:
    if not confusion:
        return ""
    names, counts = confusion["names"], np.asarray(confusion["counts"])
    totals = np.maximum(counts.sum(axis=1), 1)
    rows = []
    for at, name in enumerate(names):
        cells = "".join(
            f'<td style="background:rgba(0,114,178,{0.75 * count / totals[at]:.2f})">{count:,}</td>'
            for count in counts[at].tolist()
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    note = (
        f"Rows: the true class. Columns: what it was found as. Detections from confidence "
        f"{confusion['conf']:g}, matched at IoU {confusion['iou']:g}; background in a column is "
        "missed, in a row a false alarm."
    )
    return (
        f"<h2>Confusion</h2><p>{escape(note)}</p><div class=wide><table class=confusion><thead>"
        f"<tr><th>true \\ found</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        "</div>"
    )


def _pictures(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    figures = []
    for each in pictures:
        coded = cv2.imencode(".jpg", np.ascontiguousarray(each.pixels[..., ::-1]))[1].tobytes()
        text, caption = base64.b64encode(coded).decode(), escape(each.caption)
        figures.append(
            f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{text}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return (
        "<h2>Worst images</h2><p>Those with most misses and false alarms: the bad cases, not "
        f"typical ones.</p>{''.join(figures)}"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    rows = [(str(key), _plain(value)) for key, value in settings.items()]
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)
    return f"<details><summary>How it was measured</summary><dl>{body}</dl></details>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, last: str | None = None) -> str:
    escaped = [[escape(cell) for cell in row] for row in rows]
    return _raw_table(heads, escaped, last=last)


def _raw_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, last: str | None = None
) -> str:
    """A table whose cells are HTML already; `last` is the class of the last row."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = []
    for at, row in enumerate(rows):
        kind = f' class="{last}"' if last and at == len(rows) - 1 else ""
        cells = f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:])
        body.append(f"<tr{kind}>{cells}</tr>")
    return (
        f"<div class=wide><table><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
