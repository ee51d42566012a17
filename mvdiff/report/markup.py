"""HTML and SVG as nested function calls, escaped unless a part says that it is markup already."""

from collections.abc import Iterable
from html import escape

VOID_ELEMENTS = frozenset({"br", "hr", "img", "link", "meta"})


class Html(str):
    """A string that is markup already: `tag` inserts it as it is, every other string is escaped."""

    __slots__ = ()


def markup(content: object) -> Html:
    """Turn content into markup: `Html` stays, None vanishes, lists are joined, the rest is escaped text.

    >>> markup(["a < b", None, Html("<br>")])
    'a &lt; b<br>'
    """
    if isinstance(content, Html):
        return content
    if content is None:
        return Html()
    if isinstance(content, Iterable) and not isinstance(content, str):
        return Html("".join(markup(part) for part in content))
    return Html(escape(str(content)))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Write one element.

    Args:
        name: Element name.
        children: Anything that `markup` takes.
        attributes: `class_` stands for class, `data_yaw` for data-yaw; True writes the bare name, None and False
            leave the attribute out.

    >>> tag("p", "1 < 2", class_="note", hidden=True)
    '<p class="note" hidden>1 &lt; 2</p>'
    """
    written = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelled = key.rstrip("_").replace("_", "-")
        written.append(spelled if value is True else f'{spelled}="{escape(str(value))}"')
    opening = f"<{' '.join(written)}>"
    if name in VOID_ELEMENTS:
        return Html(opening)
    return Html(f"{opening}{markup(children)}</{name}>")
