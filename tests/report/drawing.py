"""Blocks drawn through the public names of the report."""

from mvdiff.report import Block, Page, Section, render_page


def drawn(*blocks: Block | str) -> str:
    """Return the HTML that a page has for its blocks."""
    page = render_page(Page("Page", sections=[Section("blocks", "Blocks", blocks)], is_frame=True))
    return page[page.index("<main>") + len("<main>") : page.index("</main>")].strip()
