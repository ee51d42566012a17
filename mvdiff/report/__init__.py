"""Reports: self-contained HTML pages with tables, charts, galleries, 360-degree and 3D viewers; videos of samples.

A page is data (`Page`, `Section`, blocks); a template in `templates/` renders each kind of block. The names exported
here require only numpy, Pillow and jinja2. The 360-degree viewer follows the conventions of `mvdiff.geometry`: a
panorama's centre is yaw 0, yaw grows to the right, pitch grows upwards. The 3D viewer uses glTF's axes.
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
