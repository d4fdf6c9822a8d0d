"""The colours that QGIS gives detections: a style file, and the same inside a GeoPackage."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from xml.sax.saxutils import quoteattr

from rstinynet.scenes.palette import colour_of

# The table as QGIS makes it when a style is saved in a GeoPackage ("Save default style").
_TABLE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
    f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)
"""
_LISTED = """
INSERT INTO gpkg_contents (table_name, data_type, identifier, description, srs_id)
VALUES ('layer_styles', 'attributes', 'layer_styles', '', 0)
"""
_STYLE = """
INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column,
    styleName, styleQML, styleSLD, useAsDefault, description, owner)
VALUES ('', '', ?, ?, ?, ?, '', 1, ?, '')
"""


_OPENING = (
    "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    '<qgis version="3.28" styleCategories="Symbology">\n'
    '<renderer-v2 type="categorizedSymbol" attr="class_name" enableorderby="0">\n'
)
"""How a style begins that `style` made; QGIS itself names a whole version and more settings."""


def is_own(path: Path) -> bool:
    """Whether the file is a style that was made here, not one that a user saved in QGIS."""
    with path.open("rb") as file:
        return file.read(len(_OPENING)) == _OPENING.encode()


def style(names: Sequence[str]) -> str:
    """A QGIS style (QML): outlines coloured by class, as in the drawn picture."""
    categories, symbols = [], []
    for index, name in enumerate(names):
        red, green, blue = colour_of(index)
        label = quoteattr(name)
        categories.append(f'<category render="true" symbol="{index}" value={label} label={label}/>')
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
        f"{_OPENING}<categories>{''.join(categories)}</categories>\n<symbols>{''.join(symbols)}</symbols>\n"
        "</renderer-v2>\n</qgis>\n"
    )


def embed(geopackage: Path, layer: str, names: Sequence[str]) -> None:
    """Make `style` the default of `layer` inside the GeoPackage, which has no styles yet."""
    with closing(sqlite3.connect(geopackage)) as database, database:
        (geometry,) = database.execute(
            "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
        ).fetchone()
        database.execute(_TABLE)
        database.execute(_LISTED)
        database.execute(_STYLE, (layer, geometry, layer, style(names), "classes by colour"))
