"""HTML in, the lines that a person sees out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailrelayd.approvals.htmltext import CUT, MAX_LINES, MAX_SOURCE, MAX_TAGS, MAX_TEXT, render


def lines(source: str) -> list[str]:
    return [line for line in render(source).lines if line.strip() or line == CUT]


def test_blocks_begin_lines_and_white_space_is_folded() -> None:
    """As browsers do it: paragraphs, breaks, cells, preformatted text, character references."""
    assert lines("<p>a\n  b</p><div>c<div>d</div>e</div>f<br>g") == ["a b", "c", "d", "e", "f", "g"]
    assert lines("<b>App</b><i>roved</i> <u>now</u>") == ["Approved now"]
    assert lines("<table><tr><td>a<td>b<tr><td>c</table>") == ["a b", "c"]
    assert lines("<ul><li>a<li>b</ul>") == ["a", "b"]
    assert lines("<pre>a  b\n c</pre>") == ["a  b", " c"]
    assert lines("a&nbsp;b &amp; &#65;&#x42; &lt;p&gt; &nosuch;") == ["a b & AB <p> &nosuch;"]
    assert lines("x < y <3 <") == ["x < y <3 <"]


@pytest.mark.parametrize(
    "source",
    [
        "<style>{}</style>", "<script>{}</script>", "<title>{}</title>", "<head><meta>{}</head>", "<!-- {} -->",
        "<template>{}</template>",
        "<textarea>{}</textarea>", "<svg><text>{}</text></svg>", "<select><option>{}</select>", "<object>{}</object>",
        '<div style="display:none">{}</div>', "<div style='DISPLAY : NONE !important'>{}</div>", "<p hidden>{}</p>",
        '<p hidden="">{}</p>',
        '<span style="visibility:hidden">{}</span>', '<span style="font-size:0">{}</span>',
        '<span style="font-size: 0.1px">{}</span>',
        '<span style="mso-hide:all">{}</span>', '<div style="max-height:0;overflow:hidden">{}</div>',
        '<div style="opacity:0">{}</div>',
        '<div style="position:absolute;left:-9999px">{}</div>', '<div style="text-indent:-999em">{}</div>',
        '<div style="color:#fff">{}</div>',
        '<font color="white">{}</font>', '<div style="color:transparent">{}</div>',
        '<div style="dis/**/play:none">{}</div>',
        '<div style="display:&#110;one">{}</div>', '<span style="display:none"/>{}',
        '<div style="display:none"><b><i>{}</i></b></div>',
        "<style>.x, .y {{ display: none }}</style><p class='a y'>{}</p>",
        "<style>@media all {{ #z {{display:none}} }}</style><p id=z>{}</p>",
        '<div class="gmail_signature">{}</div>', '<div id="ms-outlook-mobile-signature">{}</div>',
        '<div class="moz-signature">{}</div>',
    ],
)  # fmt: skip
def test_what_is_not_displayed_is_no_text(source: str) -> None:
    """Hidden in whatever way, or a signature; what stands beside it is seen."""
    assert "Approved" not in " ".join(render(source.format("Approved") + "<p>seen</p>").lines)


@pytest.mark.parametrize(
    "source",
    [
        '<div style="font-size:0.9em">{}</div>', '<div style="font-size:1em;line-height:0">{}</div>',
        '<div style="margin:0;padding:0">{}</div>',
        '<div style="background:#000;color:#fff">{}</div>', '<div style="opacity:0.9">{}</div>',
        '<div style="opacity:1.0">{}</div>',
        '<table bgcolor="#003366"><tr><td style="color:white">{}</td></tr></table>',
        '<div style="border:none;display:block">{}</div>',
        '<div class="hidden-xs">{}</div>', '<p data-hidden="no">{}</p>', '<a title="> hidden" href="x">{}</a>',
        "<!---->{}", "<!-->{}", "<![if !mso]>{}<![endif]>",
        "<style>.x{{color:red}}</style><p class=x>{}</p>", '<div style="left:-10px">{}</div>',
        "<p><o:p></o:p>{}</p>", "<svg/>{}", "</p>{}",
    ],
)  # fmt: skip
def test_what_is_displayed_is_text(source: str) -> None:
    """Styles of everyday mail hide nothing."""
    assert "Approved" in " ".join(render(source.format("Approved")).lines)


def test_quotations_are_marked_as_in_plain_text() -> None:
    """blockquote and the containers of clients; what stands between is the author's."""
    assert lines("a<blockquote>b<p>c</p></blockquote>d") == ["a", "> b", "> c", "d"]
    assert lines('a<div class="ydp1yahoo_quoted">b</div>') == ["a", "> b"]
    assert lines("<blockquote>a<blockquote>b</blockquote>c</blockquote>d") == ["> a", "> b", "> c", "d"]


def test_the_older_mail_is_marked_where_a_client_says_so() -> None:
    """Outlook's containers and dividers become a line of their own, which no text can contain."""
    for mark in (
        '<div id="divRplyFwdMsg">',
        '<div id="appendonsend"></div><div>',
        '<div style="border:none;border-top:solid #E1E1E1 1.0pt">',
    ):
        assert lines(f"a{mark}<b>From:</b> b</div>") == ["a", CUT, "From: b"], mark
    assert CUT not in "".join(lines("a\x1eb&#30;c"))


def test_struck_out_text_does_not_pass_for_text() -> None:
    """It is seen, but says the opposite."""
    assert (
        lines("<s>Approved</s>")
        == lines('<span style="text-decoration: line-through">Approved</span>')
        == ["~~Approved~~"]
    )
    assert lines("<del>Not</del> Approved") == ["~~Not~~ Approved"]


def test_what_is_longer_than_the_bounds_is_cut_and_says_so() -> None:
    """Source, tags, lines, text; and a comment without end, of which nobody knows what is seen behind it."""
    assert not render("<p>a</p>").cut
    for source in (
        "a" * (MAX_SOURCE + 1),
        "<b>" * (MAX_TAGS + 1),
        "a<br>" * (MAX_LINES + 1),
        "<p>a" * (MAX_TEXT // 2),
        "a<!-- b",
    ):
        assert render(source).cut, source[:10]


PIECES = [
    *(
        "<p>",
        "</p>",
        "<div style='display:none'>",
        "</div>",
        "<!--",
        "-->",
        '<a x="',
        "'",
        '"',
        ">",
        "<",
        "a",
        " ",
        "<s>",
    ),
    *("<style>", "</style>", "{", "}", "<blockquote>", "</blockquote>", "&#", "1;"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_markup_gives_lines(source: str) -> None:
    """Nothing raises, no line holds a line end, and text is never invented."""
    for line in render(source).lines:
        assert "\n" not in line
        assert set(line) <= set(source) | set("> _~\x1e\x01\ufffd")
