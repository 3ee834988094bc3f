"""Lines of a reply in, the author's own lines out: what clients write is cut, and nothing that the author said."""

from __future__ import annotations

import pytest

from mailrelayd.approvals.htmltext import CUT
from mailrelayd.approvals.lexicon import lexicon
from mailrelayd.approvals.memory import Memory
from mailrelayd.approvals.newtext import NewText, new_text

NAMES = {
    "en": ("From", "Sent", "To", "Subject", "Saturday, November 21, 2026 10:00 AM"),
    "de": ("Von", "Gesendet", "An", "Betreff", "Samstag, 21. November 2026 10:00"),
    "fr": ("De", "Envoyé", "À", "Objet", "samedi 21 novembre 2026 10:00"),
    "es": ("De", "Enviado", "Para", "Asunto", "sábado, 21 de noviembre de 2026 10:00"),
    "it": ("Da", "Inviato", "A", "Oggetto", "sabato 21 novembre 2026 10:00"),
    "pt": ("De", "Enviada em", "Para", "Assunto", "sábado, 21 de novembro de 2026 10:00"),
    "nl": ("Van", "Verzonden", "Aan", "Onderwerp", "zaterdag 21 november 2026 10:00"),
    "sv": ("Från", "Skickat", "Till", "Ämne", "den 21 november 2026 10:00"),
    "no": ("Fra", "Sendt", "Til", "Emne", "lørdag 21. november 2026 10:00"),
    "fi": ("Lähettäjä", "Lähetetty", "Vastaanottaja", "Aihe", "lauantai 21. marraskuuta 2026 10:00"),
    "pl": ("Od", "Wysłano", "Do", "Temat", "sobota, 21 listopada 2026 10:00"),
    "cs": ("Od", "Odesláno", "Komu", "Předmět", "sobota 21. listopadu 2026 10:00"),
    "hu": ("Feladó", "Elküldve", "Címzett", "Tárgy", "2026. november 21., szombat 10:00"),
    "ro": ("De la", "Trimis", "Către", "Subiect", "sâmbătă, 21 noiembrie 2026 10:00"),
    "ru": ("От", "Отправлено", "Кому", "Тема", "суббота, 21 ноября 2026 г. 10:00"),
    "uk": ("Від", "Надіслано", "Кому", "Тема", "субота, 21 листопада 2026 р. 10:00"),
    "el": ("Από", "Στάλθηκε", "Προς", "Θέμα", "Σάββατο, 21 Νοεμβρίου 2026 10:00"),
    "tr": ("Kimden", "Gönderildi", "Kime", "Konu", "21 Kasım 2026 Cumartesi 10:00"),
    "he": ("מאת", "נשלח", "אל", "נושא", "יום שבת 21 נובמבר 2026 10:00"),
    "ar": ("من", "تم الإرسال", "إلى", "الموضوع", "السبت، 21 نوفمبر 2026 10:00"),
    "zh": ("发件人", "发送时间", "收件人", "主题", "2026年11月21日 10:00"),
    "ja": ("差出人", "送信日時", "宛先", "件名", "2026年11月21日土曜日 10:00"),
    "ko": ("보낸 사람", "보낸 날짜", "받는 사람", "제목", "2026년 11월 21일 토요일 오전 10:00"),
}
SEPARATORS = (
    "-----Original Message-----",
    "----- Ursprüngliche Nachricht -----",
    "-------- Message d'origine --------",
    "-------- Messaggio originale --------",
    "-------- Mensaje original --------",
    "-------- Oorspronkelijk bericht --------",
    "-------- Исходное сообщение --------",
    "------------------ 原始邮件 ------------------",
    "‐‐‐‐‐‐‐ Original Message ‐‐‐‐‐‐‐",
    "*-----Original Message-----*",
    "-- reply above this line: abcdef --",
    "##- Please type your reply above this line -##",
    "**** Please do not modify below this line ****",
)
ATTRIBUTIONS = (
    "On Sat, Nov 21, 2026 at 10:00 AM Ann <ann@example.com> wrote:",
    "On 11/21/26 10:00, Ann wrote:",
    "Am 21.11.26 um 10:00 schrieb Ann:",
    "Le 21/11/2026 à 10:00, Ann a écrit :",
    "El sáb, 21 nov 2026 a las 10:00, Ann (<ann@example.com>) escribió:",
    "сб, 21 нояб. 2026 г. в 10:00, Ann <ann@example.com>:",
    "Ann <ann@example.com> 于2026年11月21日周六 10:00写道：",
    "2026年11月21日(土) 10:00 Ann <ann@example.com>:",
    "‫בתאריך שבת, 21 בנוב׳ 2026 ב-10:00 מאת ‪Ann‬‏ <‪ann@example.com‬‏>:‬",
    "Ann <ann@example.com> writes:",
    "---- On Sat, 21 Nov 2026 10:00:00 +0100 Ann <ann@example.com> wrote ---",
    "On Sat, Nov 21, 2026 at 10:00 AM Ann with a very long name of her own\n<ann@example.com> wrote:",
    "On Sat, Nov 21, 2026 at 10:00 AM Ann\n<ann2026@example.com> wrote:",
    "2026. jan. 5., h 14:32 időpontban Nagy Béla <bela@example.com> ezt írta:",
    "pe 20. lokakuuta 2026 klo 17.50 Ann Example\n<ann@example.com> kirjoitti:",
    "Dne po 15. led. 2026 17:03 Anna <ann@example.com>\nnapsal(a):",
    "On Sat, Nov 21, 2026 at 10:00 AM Ann <\nann.with.a.long.address@example.com>\nwrote:",
)
OLDER = "Please decide.\nApprove\nReject"


def cut(text: str, memory: Memory | None = None) -> NewText:
    return new_text(text.split("\n"), lexicon(), memory)


def own(text: str, memory: Memory | None = None) -> str:
    return "\n".join(cut(text, memory).lines)


def quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))


@pytest.mark.parametrize("code", NAMES)
@pytest.mark.parametrize("style", ["{name}: {value}", "*{name}:* {value}", "{name} : {value}", "{name}:\t{value}"])
def test_a_block_of_header_lines_begins_the_older_mail(code: str, style: str) -> None:
    """In every language, plain, bold, with the French space, and as Notes indents it."""
    sender, sent, to, subject, date = NAMES[code]
    values = ((sender, "Ann <ann@example.com>"), (sent, date), (to, "Pat"), (subject, "PO-42"))
    block = "\n".join(style.format(name=name, value=value) for name, value in values)
    for above in ("\n\n", "\n", f"\n\n{'_' * 32}\n"):
        assert own(f"Approved\nfine{above}{block}\n\n{OLDER}") == "Approved\nfine"


@pytest.mark.parametrize("line", SEPARATORS)
def test_a_separator_begins_the_older_mail(line: str) -> None:
    """Everything below it is somebody else's."""
    assert own(f"Approved\n\n{line}\n{OLDER}") == "Approved"


@pytest.mark.parametrize("line", ATTRIBUTIONS)
def test_an_attribution_goes_with_the_quotation_that_follows(line: str) -> None:
    """Marked or not, wrapped or not; and text below a marked quotation is the author's."""
    assert own(f"Approved\n\n{line}\n\n{quoted(OLDER)}") == "Approved"
    assert own(f"Approved\n{line}\n{OLDER}") == "Approved"
    assert own(f"{line}\n{quoted(OLDER)}\n\nApproved\nfine\n") == "Approved\nfine"
    assert own(f"{quoted(line)}\n{quoted(OLDER)}\n\nApproved") == "Approved"
    assert own(f"{line}\n{quoted(OLDER)}") == ""


KEPT = (
    "Approved.\nRejected!",
    "Approved\n\nRejected by Ann on 21.11.2026, she wrote:",
    "Approved\nNot before 2026, as ann@example.com wrote:\n",
    "Approved\nOn reflection, rejected.\nAnn and Bob (see 21.11.2026)",
    "Approved\nOn Monday I am away.",
    "Approved\nFrom now on: order every week.",
    "Approved\nTo do: nothing",
    "Approved\n---- not ----\nfrom me",
    "Approved\nSent from my desk, but not approved",
    "Approved\nThis email is short.",
    "Approved\n| a table",
    "Approved\nhttps://example.com/2026/11/21 says 10:00",
)


@pytest.mark.parametrize("text", KEPT)
def test_what_the_author_says_is_never_taken_for_a_clients_line(text: str) -> None:
    """Cutting too early would hide a rejection below an approval."""
    assert own(text).split("\n") == text.rstrip("\n").split("\n")
    assert own(f"{text}\nAnn <ann@example.com> wrote on 21.11.2026:\n{OLDER}").split("\n") == text.rstrip("\n").split(
        "\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        *(
            "Sent from my iPhone",
            "Get Outlook for iOS<https://aka.ms/o0ukef>",
            "Von meinem iPhone gesendet",
            "Envoyé de mon iPhone",
        ),
        *(
            "Enviado desde mi iPhone",
            "Inviato da iPhone",
            "Enviado do meu iPhone",
            "Verstuurd vanaf mijn iPhone",
            "Sendt fra min iPhone",
        ),
        *(
            "Skickat från min iPhone",
            "Wysłane z iPhone'a",
            "Отправлено с iPhone",
            "iPhone'umdan gönderildi",
            "从我的 iPhone 发送",
        ),
        *(
            "iPhoneから送信",
            "나의 iPhone에서 보냄",
            "Odesláno z mého iPhonu",
            "Trimis de pe iPhone-ul meu",
            "Στάλθηκε από το iPhone μου",
        ),
        *(
            "Sent from Yahoo Mail on Android",
            "Gesendet mit der GMX Mail App",
            "*Sent from my Galaxy*",
            "(Sent from a phone)",
        ),
    ],
)
def test_a_devices_signature_is_left_out_and_nothing_else(line: str) -> None:
    """The text goes on behind it: a rejection there is not lost."""
    assert own(f"Approved\n\n{line}\n") == "Approved"
    assert own(f"Approved\n\n{line}\nRejected") == "Approved\n\nRejected"


def test_a_signature_ends_where_the_quotation_begins() -> None:
    """RFC 3676 section 4.3: below "-- "; with or without its space, alone or above a quotation."""
    assert own("Approved\n-- \nPat\nRejected Goods") == "Approved"
    assert own("Approved\n--\nPat") == "Approved"
    assert own(f"-- \nPat\n\n{quoted(OLDER)}\n\nApproved") == "Approved"
    assert own("-- \nApproved Suppliers") == ""
    assert own("Approved\n--not a signature") == "Approved\n--not a signature"


def test_a_disclaimer_is_left_out_below_a_text_only() -> None:
    """It begins a paragraph and speaks of recipients and confidence; it hides no text above or below it."""
    notice = "This e-mail is confidential. If you are not the intended recipient, delete it."
    assert own(f"Approved\n\n{notice}\n{notice}") == "Approved"
    assert cut(f"Approved\n\n{notice}\n\nRejected").below == ("Rejected",)
    longer = f"ACME Ltd, registered in England. {notice} Any use that is not authorised by ACME Ltd is prohibited."
    assert own(f"Approved\n\n{longer} If you have received it in error, tell us.") == "Approved"
    assert own(f"Approved\n{notice}") == f"Approved\n{notice}"
    assert own(f"{notice}\n\nApproved").startswith(notice)
    assert own("Approved\n\nThis e-mail is my decision, and not only mine.").endswith("mine.")


def test_forwarded_and_encrypted_mail_is_told() -> None:
    """Neither approves, whatever stands above it."""
    for line in (
        "---------- Forwarded message ---------",
        "Begin forwarded message:",
        "-------- Weitergeleitete Nachricht --------",
    ):
        assert cut(f"Approved\n\n{line}\nFrom: Ann <ann@example.com>\n").forwarded, line
    assert not cut(f"Approved\n\n> ---------- Forwarded message ---------\n{quoted(OLDER)}").forwarded
    assert cut("-----BEGIN PGP MESSAGE-----\n\nhQEM\n-----END PGP MESSAGE-----").encrypted


def test_a_pgp_signature_is_taken_off() -> None:
    """RFC 9580 section 7: the header lines above, the signature below."""
    signature = "-----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END PGP SIGNATURE-----"
    assert own(f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nApproved\n{signature}") == "Approved"


def test_the_wrapped_end_of_a_quoted_line_is_no_clear_answer() -> None:
    """A line directly below a long quoted one may belong to it; below an empty line it does not."""
    assert cut(f"> {'long ' * 14}\nApproved\n").doubtful
    assert not cut(f"> {'long ' * 14}\n\nApproved\n").doubtful
    assert not cut("> Approve?\nApproved\n").doubtful


def test_what_stands_below_a_quotation_is_shown() -> None:
    """Whoever judges the text above can look at it."""
    assert cut(f"Approved\n\n{quoted(OLDER)}\n\nRejected").below == ("Rejected",)
    assert cut(f"{quoted(OLDER)}\n\nRejected").below == ()


def test_a_clients_own_mark_cuts_only_above_an_older_mail() -> None:
    """HTML says where that begins; a mere ruler above more text does not count."""
    assert new_text(["Approved", CUT, "From: Ann", OLDER], lexicon()).lines == ("Approved",)
    assert new_text(["Approved", CUT, "fine"], lexicon()).lines == ("Approved", "fine")


def test_lines_of_the_request_are_quoted_without_any_mark() -> None:
    """See also test_replies: whole runs of words, and short lines only beside their neighbours."""
    memory = Memory(["Please decide about the order of Ann.", "Approve", "Reject", "It expires in fourteen days."])
    assert own("Approve\n\nPlease decide about\nthe order of Ann.\nApprove\nReject", memory) == "Approve"
    assert own("Reject\n\nIt is too late", memory) == "Reject\n\nIt is too late"
    assert own("Please decide about the order of Bob.", memory) == "Please decide about the order of Bob."
