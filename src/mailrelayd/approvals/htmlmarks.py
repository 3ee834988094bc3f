"""What an HTML element says about the text in it: whether that is displayed, quoted, or struck out.

Only what mail clients show counts: inline styles, style sheets in the mail, attributes, and the class names and ids by
which clients mark signatures and older mail.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_STYLE_RULES = 500
MAX_ATTRIBUTES = 8_000  # characters of a tag that are looked at
MAX_STYLE = 2_000  # characters of one style

VOID = frozenset(
    {"br", "hr", "img", "input", "meta", "link", "area", "base", "col", "embed", "source", "wbr", "param"},
)
BLOCK = frozenset(
    {
        *("address", "article", "aside", "blockquote", "body", "center", "dd", "div", "dl", "dt", "fieldset", "footer"),
        *(
            "form",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "header",
            "html",
            "li",
            "main",
            "nav",
            "ol",
            "p",
            "pre",
            "section",
        ),
        *("table", "tbody", "tfoot", "thead", "tr", "ul"),
    }
)
UNSEEN = frozenset(
    {
        *(
            "head",
            "style",
            "script",
            "title",
            "template",
            "noscript",
            "object",
            "iframe",
            "svg",
            "math",
            "select",
            "xml",
        ),
        *(
            "textarea",
            "button",
            "audio",
            "video",
            "datalist",
            "map",
            "canvas",
            "details",
            "dialog",
            "noframes",
            "noembed",
        ),
    }
)
_STRUCK = frozenset({"s", "del", "strike"})
_ATTRIBUTE = re.compile(r"([a-zA-Z-]{1,30})[ \t\n\r]*=[ \t\n\r]*(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"']+))")
_BARE_HIDDEN = re.compile(r"\shidden(?=[\s/>=]|$)", re.IGNORECASE)
_LONG_NUMBER = re.compile(r"&#(?:\d{8,}|[xX][0-9a-fA-F]{8,});?")
_STYLE_NAME = re.compile(r"([.#][a-z_-][\w-]*)$")
_STYLE_ATTRIBUTE = re.compile(r"\[(class|id)~?=[\"']?([\w-]+)[\"']?\]$")
_STYLE_ELEMENT = re.compile(r"[a-z][a-z0-9]*$")
_STYLE_TEXTLESS = re.compile(
    r"(?:^|[\s>+~])(?:img|hr|br|input|area|col|style|script|title|head)(?:[\[:][^\s>+~]*)?$|^$"
)
UNCLEAR_SELECTOR = "*"
# The marks that clients put around the author's signature, and around the mail that is answered.
_SIGNATURE = re.compile(
    r"\b(?:x_)*(?:gmail_signature|moz-signature|ms-outlook-mobile-signature|ymail_android_signature"
    r"|protonmail_signature_block|signature)\b"
)
_QUOTED = re.compile(r"yahoo_quoted|protonmail_quote|tutanota_quote|zmail_extra_quote|moz-email-headers-table")
_CONTAINER = re.compile(r"(?:^|\s)\.(?:x_)*gmail_quote(?:\s|$)")  # a person may write in it, but below the quotation
_OLDER = re.compile(
    r"\b(?:x_)*(?:divrplyfwdmsg|appendonsend|olk_src_body_section|mail-editor-reference-message-container"
    r"|stopspelling|replysplit|isforwardcontent|isreplycontent)\b"
)
_DIVIDER = re.compile(r"border-top:\s*(?:solid\s|1(?:\.0)?p[tx]\s+solid|#[0-9a-f]{6}\s+1(?:\.0)?p[tx]\s+solid)")
_HIDING = re.compile(
    r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|mso-hide\s*:\s*all"
    r"|opacity\s*:\s*(?:0++(?:\.0*+)?|\.0++)(?![.\d])|font-size\s*:\s*(?:0+(?:\.0*)?(?:p[tx]|r?em|%)?|0*\.\d+p[tx]|1p[tx]|1%|0*\.0\d*r?em)\s*(?=;|!|$)"
    r"|(?:max-)?(?:height|width)\s*:\s*0+(?:px|pt|em|%)?\s*(?=;|!|$)"
    r"|(?:text-indent|left|top|right|margin-left|margin-top)\s*:\s*-\d{3,}|clip\s*:\s*rect\(\s*0|clip-path\s*:\s*inset"
    r"|transform\s*:\s*scale[xy]?\(\s*0\s*[,)]|content-visibility\s*:\s*hidden"
    r"|color\s*:\s*(?:transparent|rgba\([^)]*,\s*0(?:\.0*)?\s*\)))"
)
_COLOUR = re.compile(r"(?:^|[;\s])color\s*:\s*([^;!]{1,40})")
_BACKGROUND = re.compile(r"(?:^|[;\s])background(?:-color)?\s*:\s*([^;!]{1,60})")
_WHITE = re.compile(r"(?:white|#fff(?:fff)?|#fefefe|rgb\(\s*255\s*,\s*255\s*,\s*255\s*\)|snow|ivory)\s*$")
_LINE_THROUGH = re.compile(r"text-decoration[a-z-]{0,20}\s*:[^;]{0,60}line-through")


@dataclass(slots=True)
class Element:
    """An open element and what holds for the text in it."""

    name: str
    dropped: bool = False  # not displayed, or a signature
    quoted: bool = False
    struck: bool = False
    preformatted: bool = False
    background: bool = False  # not white, so that white text is seen
    older: bool = False  # the client says that the older mail begins here
    container: bool = False  # what is in it is quoted up to the end of the quotation in it
    names: frozenset[str] = frozenset()  # by which a style sheet can mean it


def element(name: str, rest: str, hidden: set[str], *, background: bool) -> Element:
    """The element of a start tag. `rest`: what stands behind its name; `hidden`: what a style sheet hides."""
    found = Element(
        name, name in UNSEEN or name in hidden, name == "blockquote", name in _STRUCK, name == "pre", background
    )
    found.names = frozenset((name,))
    rest = rest[:MAX_ATTRIBUTES]
    if _BARE_HIDDEN.search(_ATTRIBUTE.sub(" ", rest) if "=" in rest else rest):
        found.dropped = True
    if "=" not in rest:
        return found
    attributes: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(rest):
        attributes.setdefault(match[1].lower(), (match[2] or match[3] or match[4] or "").lower()[:MAX_STYLE])
    if style := _without_comments(unescape(attributes.get("style", ""))):
        _apply_style(found, style)
    if attributes.get("bgcolor") or "background" in attributes:
        found.background = True
    if "hidden" in attributes or (
        name == "font" and _WHITE.match(attributes.get("color", "")) and not found.background
    ):
        found.dropped = True
    if attributes.get("type") == "cite":
        found.quoted = True
    names = {f"#{one}" for one in attributes.get("id", "").split()}
    names |= {f".{one}" for one in attributes.get("class", "").split()}
    if names:
        found.names = frozenset((name, *names))
        joined = " ".join(sorted(names))
        found.dropped |= not hidden.isdisjoint(names) or bool(_SIGNATURE.search(joined))
        found.quoted |= bool(_QUOTED.search(joined))
        found.container = not found.quoted and bool(_CONTAINER.search(joined))
        found.older |= bool(_OLDER.search(joined))
    return found


def _apply_style(found: Element, style: str) -> None:
    if background := _BACKGROUND.search(style):
        colour = background[1].strip()
        found.background |= not _WHITE.match(colour) and colour not in ("none", "transparent", "inherit", "initial")
    found.struck |= bool(_LINE_THROUGH.search(style))
    white = (colour_match := _COLOUR.search(style)) and _WHITE.match(colour_match[1].strip())
    found.dropped |= bool(_HIDING.search(style)) or bool(white and not found.background)
    # The line that Outlook draws above the header of the older mail.
    found.older |= found.name == "div" and bool(_DIVIDER.search(style)) and "border:none" in style.replace(" ", "")


def hidden_names(sheet: str) -> Iterator[str]:
    """The classes (".x"), ids ("#x") and elements ("x") that a style sheet hides, under whatever condition.

    UNCLEAR_SELECTOR stands for what cannot be told from the element alone.
    """
    text = _without_comments(sheet[: 64 * 1024].replace("<!--", " ").replace("-->", " ")).lower()
    for rule in text.split("}", MAX_STYLE_RULES)[:MAX_STYLE_RULES]:
        selectors, _, declarations = rule.rpartition("{")
        if _HIDING.search(declarations[:MAX_STYLE]):
            for selector in selectors.rpartition("{")[2][-400:].split(","):
                if name := _STYLE_NAME.search(selector.strip()):
                    yield name[1]
                elif name := _STYLE_ATTRIBUTE.search(selector.strip()):
                    yield f"{'.' if name[1] == 'class' else '#'}{name[2]}"
                elif _STYLE_ELEMENT.match(selector.strip()):
                    yield selector.strip()
                elif not _STYLE_TEXTLESS.search(selector.strip()):
                    yield UNCLEAR_SELECTOR


def unescape(text: str) -> str:
    """Character references replaced; numbers of any length are survived."""
    return html.unescape(_LONG_NUMBER.sub("\ufffd", text)) if "&" in text else text


def _without_comments(style: str) -> str:
    first, *others = style.split("/*")
    return "".join([first, *(one.partition("*/")[2] for one in others)])
