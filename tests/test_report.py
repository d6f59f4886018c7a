import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from dynamask.charts import Series, bar_chart, line_chart, smoothed, ticks
from dynamask.report import loss_charts, numbers, page, size_chart, table


class Tags(HTMLParser):
    """Checks that what is opened is closed, in order."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self):
        super().__init__()
        self.open, self.urls = [], []

    def handle_starttag(self, tag, attributes):
        self.urls += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def svgs(html):
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html)]


def test_ticks_are_round_and_enclose():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3, 97) == [0, 20, 40, 60, 80, 100]
    assert ticks(-0.3, 0) == [-0.3, -0.25, -0.2, -0.15, -0.1, -0.05, 0] or ticks(-0.3, 0)[0] <= -0.3
    assert len(ticks(5, 5)) >= 2


def test_smoothed_by_hand():
    assert smoothed([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(2, 3.0), (3, 9.0)]


def test_line_chart_places_points():
    html = line_chart([Series("a<b", [(0, 0.0), (10, 50.0), (20, 100.0)], "red")], "x", "y")
    (svg,) = svgs(html)
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    (x0, y0), (x1, y1), (x2, y2) = circles
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert y2 < y0
    assert "a&lt;b" in html


def test_bars_are_as_high_as_their_numbers():
    (svg,) = svgs(bar_chart(["one", "two"], [("s", "red", [2, 4])], "x", "y"))
    heights = [float(rect.get("height")) for rect in svg.iter("rect")]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)


@pytest.mark.parametrize("points", [[], [(1.0, float("nan"))], [(0.0, 0.0)], [(3.0, 5.0)]])
def test_charts_of_next_to_nothing(points):
    line_chart([Series("a", points, "red")], "x", "y")


def test_a_histogram_from_json_has_text_keys():
    html = size_chart({"14": 3, "112": 1})
    assert {"14", "28", "56", "112"} <= set(re.findall(r">(\d+)</text>", html))


def test_loss_charts_mark_the_second_phase():
    rows = [
        {"step": k, "phase": 1 + (k > 2), "loss": 3.0 / k, "mask": 1.0 / k, "budget": 0.1}
        for k in range(1, 6)
    ]
    rows[0]["budget"] = None
    html = loss_charts(rows)
    assert "phase 2" in html
    assert len(svgs(html)) == 3


def test_a_page_is_whole_and_needs_no_network():
    body = [numbers([("1.0", "of <this>")]), table([{"": "a&b", "n": None}, {"": "c", "n": 12.34}])]
    html = page("title & more", "lead", [*body, line_chart([], "x", "y")])
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert all(url.startswith("data:") for url in tags.urls)
    assert "http" not in html
    assert "of &lt;this&gt;" in html
    assert "a&amp;b" in html
    assert "prefers-color-scheme:dark" in html
