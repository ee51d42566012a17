from mvdiff.report.markup import Html, markup, tag


def test_text_and_attributes_are_escaped():
    assert tag("p", '<script>alert("1 & 2")</script>', title='"<>') == (
        '<p title="&quot;&lt;&gt;">&lt;script&gt;alert(&quot;1 &amp; 2&quot;)&lt;/script&gt;</p>'
    )


def test_markup_passes_once_escaped():
    assert tag("p", tag("b", "a < b")) == "<p><b>a &lt; b</b></p>"
    assert markup(Html("<br>")) == "<br>"
    assert markup(str(Html("<br>")) + "x") == "&lt;br&gt;x"  # a plain string again: escaped


def test_attributes_are_spelled_as_in_html():
    assert tag("i", class_="a", data_yaw=3, aria_label="x", hidden=True, title=None, draggable=False) == (
        '<i class="a" data-yaw="3" aria-label="x" hidden></i>'
    )


def test_void_elements_and_lists():
    assert tag("p", [tag("br"), None, 3]) == "<p><br>3</p>"
