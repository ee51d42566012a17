"""Report pages: one self-contained HTML file with tables, charts, view strips, a 360-degree and a 3D viewer.

Needs nothing but numpy and Pillow. The 360-degree viewer follows the conventions of `mvdiff.geometry`: a panorama's
centre is yaw 0, yaw grows to the right, pitch grows upwards. The 3D viewer has glTF's axes.
"""

from mvdiff.report.charts import Chart, Series
from mvdiff.report.galleries import PanoramaEntry, Strip, view_labels
from mvdiff.report.markup import Html
from mvdiff.report.meshes import MeshEntry
from mvdiff.report.page import render_part, render_report, write_report
from mvdiff.report.tables import Column, Interval, Table

__all__ = [
    "Chart",
    "Column",
    "Html",
    "Interval",
    "MeshEntry",
    "PanoramaEntry",
    "Series",
    "Strip",
    "Table",
    "render_part",
    "render_report",
    "view_labels",
    "write_report",
]
