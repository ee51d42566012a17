"""Pages: one self-contained HTML file of tables, charts, galleries, a 360-degree and a 3D viewer; videos of samples.

A page is data (`Page`, `Section`, blocks); a template in `templates/` draws each kind of block. The names below need
nothing but numpy, Pillow and jinja2. The 360-degree viewer follows the conventions of `mvdiff.geometry`: a panorama's
centre is yaw 0, yaw grows to the right, pitch grows upwards. The 3D viewer has glTF's axes.
"""

from mvdiff.report.blocks import Block, Details, Facts, Note
from mvdiff.report.charts import Chart, Charts, Series
from mvdiff.report.galleries import Gallery, view_labels
from mvdiff.report.pages import Page, Section, render_page, report_sections, write_page
from mvdiff.report.tables import Column, Table
from mvdiff.report.viewers import MeshEntry, MeshViewer, PanoramaEntry, PanoramaViewer

__all__ = [
    "Block",
    "Chart",
    "Charts",
    "Column",
    "Details",
    "Facts",
    "Gallery",
    "MeshEntry",
    "MeshViewer",
    "Note",
    "Page",
    "PanoramaEntry",
    "PanoramaViewer",
    "Section",
    "Series",
    "Table",
    "render_page",
    "report_sections",
    "view_labels",
    "write_page",
]
