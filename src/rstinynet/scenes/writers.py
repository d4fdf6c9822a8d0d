"""Detections as files: GeoPackage with a QGIS style, GeoJSON, COCO results, CSV.

Attributes are the same everywhere, ten characters at most so that any format can hold them. Every
file is written beside and renamed; an empty result keeps its schema and CRS.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt
import pyogrio.raw
import shapely

from rstinynet.errors import UsageError
from rstinynet.files import replacing, write_bytes
from rstinynet.scenes import georef
from rstinynet.scenes.palette import colour_of

if TYPE_CHECKING:
    from pyproj import CRS

    from rstinynet.scenes.result import Result

LAYER = "detections"
"""Name of the GeoPackage's layer."""
_SUFFIX = {"gpkg": ".gpkg", "geojson": ".geojson", "coco": ".json", "csv": ".csv"}


def attributes(result: Result) -> dict[str, npt.NDArray[Any]]:
    """Columns of every vector format, each (N,)."""
    found = result.detections
    n = len(found)
    width, height = georef.sizes_m(found.boxes, result.transform, result.crs)
    names = np.array(result.class_names, dtype=object)
    pixels = found.boxes.astype(np.float64)
    return {
        "det_id": np.arange(1, n + 1, dtype=np.int64),
        "class_id": found.labels,
        "class_name": names[found.labels],
        "score": found.scores.astype(np.float64).round(6),
        "px_xmin": pixels[:, 0],
        "px_ymin": pixels[:, 1],
        "px_xmax": pixels[:, 2],
        "px_ymax": pixels[:, 3],
        "width_m": width.round(4),
        "height_m": height.round(4),
        "source": np.full(n, Path(result.source).name, dtype=object),
    }


def write(result: Result, stem: Path, kind: str, *, image_id: int = 1) -> dict[str, Path]:
    """Write one format ("gpkg", "geojson", "coco" or "csv"); the files by what they are."""
    path = stem.with_name(stem.name + _SUFFIX[kind])
    refuse_source(result, path)
    if kind == "coco":
        write_bytes(path, json.dumps(result.to_coco(image_id), allow_nan=False).encode())
        return {kind: path}
    if kind == "csv":
        write_csv(result, path)
        return {kind: path}
    if kind == "geojson":
        write_geojson(result, path)
        return {kind: path}
    write_geopackage(result, path)
    style = path.with_suffix(".qml")
    write_bytes(style, qgis_style(result.class_names).encode())
    return {kind: path, "qml": style}


def refuse_source(result: Result, path: Path) -> None:
    """UsageError where writing `path` would replace the image that was searched."""
    source = Path(result.source)
    if path.exists() and source.exists() and path.samefile(source):
        raise UsageError(f"{path} would replace the source itself: choose another output folder")


def write_geopackage(result: Result, path: Path) -> None:
    """Polygons in the source's CRS, layer `detections`; pixels and a warning without a CRS."""
    if result.transform is None:
        georef.warn_unlocated(result.source)
    columns = attributes(result)
    shapes = georef.polygons(georef.corners(result.detections.boxes, result.transform))
    crs = None if result.crs is None else result.crs.to_wkt()
    with replacing(path) as beside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.raw.write(
            str(beside),
            geometry=shapely.to_wkb(shapes),
            field_data=list(columns.values()),
            fields=np.array(list(columns), dtype=object),
            geometry_type="Polygon",
            crs=crs,
            layer=LAYER,
            driver="GPKG",
        )


def write_geojson(result: Result, path: Path) -> None:
    """RFC 7946: longitude and latitude on WGS 84, 7 decimals, counter-clockwise rings.

    Raises UsageError without a CRS, since the format has no other coordinates.
    """
    crs = required_crs(result.source, None if result.transform is None else result.crs)
    ground = georef.corners(result.detections.boxes, result.transform)
    shapes = georef.polygons(georef.to_lonlat(ground, crs))
    rings = shapely.get_coordinates(shapes).reshape(len(shapes), 5, 2).round(7)
    columns = attributes(result)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    features = [
        json.dumps(
            {
                "type": "Feature",
                "id": index + 1,
                "geometry": {"type": "Polygon", "coordinates": [ring.tolist()]},
                "properties": _plain(dict(zip(columns, row, strict=True))),
            },
            allow_nan=False,
        )
        for index, (ring, row) in enumerate(zip(rings, rows, strict=True))
    ]
    text = '{"type": "FeatureCollection", "features": [\n' + ",\n".join(features) + "\n]}\n"
    write_bytes(path, text.encode())


def required_crs(source: str, crs: CRS | None) -> CRS:
    """`crs`; UsageError where `source` has none and GeoJSON is wanted."""
    if crs is None:
        raise UsageError(
            f"{source} has no coordinate system, which GeoJSON needs: use csv, coco or gpkg"
        )
    return crs


def write_csv(result: Result, path: Path) -> None:
    """The attributes, and the centre's longitude and latitude where it has them."""
    columns = attributes(result)
    if result.transform is not None and result.crs is not None:
        middle = georef.corners(result.detections.boxes, result.transform).mean(axis=1)
        lonlat = georef.to_lonlat(middle, result.crs)
        columns |= {"lon": lonlat[:, 0].round(7), "lat": lonlat[:, 1].round(7)}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        table.writerow(_plain(dict(zip(columns, row, strict=True))).values())
    write_bytes(path, text.getvalue().encode())


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for what is not known."""
    return {
        key: None if isinstance(value, float) and np.isnan(value) else value
        for key, value in row.items()
    }


def qgis_style(names: tuple[str, ...]) -> str:
    """A QGIS style (QML): outlines coloured by class, as in the drawn picture."""
    categories, symbols = [], []
    for index, name in enumerate(names):
        red, green, blue = colour_of(index)
        categories.append(
            f'<category render="true" symbol="{index}" value={quoteattr(name)} '
            f"label={quoteattr(escape(name))}/>"
        )
        options = {
            "color": "0,0,0,0",
            "outline_color": f"{red},{green},{blue},255",
            "outline_style": "solid",
            "outline_width": "0.5",
            "outline_width_unit": "MM",
            "style": "no",
        }
        values = "".join(
            f'<Option type="QString" name="{key}" value="{value}"/>'
            for key, value in options.items()
        )
        symbols.append(
            f'<symbol type="fill" name="{index}" alpha="1"><layer class="SimpleFill" enabled="1" '
            f'pass="0"><Option type="Map">{values}</Option></layer></symbol>'
        )
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.28" styleCategories="Symbology">\n'
        '<renderer-v2 type="categorizedSymbol" attr="class_name" enableorderby="0">\n'
        f"<categories>{''.join(categories)}</categories>\n<symbols>{''.join(symbols)}</symbols>\n"
        "</renderer-v2>\n</qgis>\n"
    )
