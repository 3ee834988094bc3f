"""New text in, decision out: the grammar, and the vocabulary in every language of its table."""

from __future__ import annotations

import pytest

from mailrelayd.approvals.lexicon import VocabularyError, lexicon, line_words
from mailrelayd.approvals.values import Decision, Options, Verdict
from mailrelayd.approvals.verdict import judge
from mailrelayd.approvals.vocabulary import LANGUAGES
from mailrelayd.approvals.words import fold

ROWS = {row.code: row for row in LANGUAGES}


def verdict(text: str, options: Options | None = None) -> Verdict:
    options = options or Options()
    return judge(text.split("\n"), lexicon(options.approve, options.reject), options)


@pytest.mark.parametrize("code", ROWS)
def test_every_approve_word_approves_in_any_case_and_with_every_courtesy(code: str) -> None:
    """Alone, in capitals, emphasised, and followed by what people add out of politeness."""
    row = ROWS[code]
    for word in row.approve.split("|"):
        for text in (word, word.upper(), word.capitalize() + ".", f"*{word}* !", f"- {word} -"):
            assert verdict(text).decision is Decision.APPROVED, text
    word = row.approve.partition("|")[0]
    for courtesy in row.courtesy.split("|"):
        for text in (f"{word}, {courtesy}!", f"{word}. {courtesy.capitalize()}.", f"{word}\n\n{courtesy},\nPat"):
            assert verdict(text).decision is Decision.APPROVED, text
    for thanked in filter(None, row.thanked.split("|")):
        assert verdict(f"{word}, {courtesy} {thanked}!").decision is Decision.APPROVED, thanked
        assert verdict(f"{word} {thanked}").decision is Decision.UNCLEAR, thanked
    for greeting in filter(None, row.greeting.split("|")):
        assert verdict(f"{greeting} Pat,\n\n{word}").decision is Decision.APPROVED, greeting


@pytest.mark.parametrize("code", [code for code, row in ROWS.items() if row.subject or row.object])
def test_what_is_decided_on_may_be_named(code: str) -> None:
    """Before a decision word, or directly behind an approve-word, in the same language; nothing else may follow."""
    row = ROWS[code]
    approve, reject = row.approve.partition("|")[0], row.reject.partition("|")[0]
    doubt = row.doubt.partition("|")[0]
    for subject in filter(None, row.subject.split("|")):
        assert verdict(f"{subject.capitalize()} {approve}.").decision is Decision.APPROVED, subject
        assert verdict(f"{subject} {reject}: 4711").decision is Decision.REJECTED, subject
        assert verdict(f"{subject} {approve}: 4711").decision is Decision.UNCLEAR, subject
        assert verdict(f"{subject} {approve}?").decision is Decision.UNCLEAR, subject
        assert verdict(f"{subject} {doubt} {approve}").decision is not Decision.APPROVED, subject
        assert verdict(subject).decision is Decision.UNCLEAR, subject
    for thing in filter(None, row.object.split("|")):
        assert verdict(f"{approve} {thing}. Thanks!").decision is Decision.APPROVED, thing
        assert verdict(f"{approve} {thing}?").decision is Decision.UNCLEAR, thing
        assert verdict(f"{approve} {thing} {doubt}").decision is not Decision.APPROVED, thing
        assert verdict(f"{approve} 2 {thing}").decision is Decision.UNCLEAR, thing


def test_what_is_decided_on_is_named_in_the_language_of_the_decision() -> None:
    """A mixture is no sentence, and decides nothing."""
    assert verdict("La demande est genehmigt").decision is Decision.UNCLEAR
    assert verdict("Genehmigt the order").decision is Decision.UNCLEAR


def test_a_comment_keeps_its_lines_as_they_were_written() -> None:
    """Empty lines and indentation between its lines included."""
    assert verdict("Hi Ann,\n\nApproved\n\na\n\n  b\n\n\nc\n\n").comment == "a\n\n  b\n\n\nc"
    assert verdict("Rejected: a\n\n b").comment == "a\n\n b"


def test_a_rejection_stays_one_whatever_stands_below() -> None:
    """The rest is its comment: the decision words of a request that was quoted without any mark among it."""
    for below in ("Approved, thanks", "Reply with one of these words:\nApprove\nReject", "Is it too late?"):
        assert verdict(f"Rejected.\n\n{below}").decision is Decision.REJECTED, below


@pytest.mark.parametrize("code", ROWS)
def test_every_reject_word_rejects_and_stands_against_every_approval(code: str) -> None:
    """At the start of the first line it decides; anywhere below an approval it makes that unclear."""
    row = ROWS[code]
    for entry in row.reject.split("|"):
        word = entry.removeprefix("=")
        assert verdict(word).decision is Decision.REJECTED, word
        assert verdict(word.upper() + "!").decision is Decision.REJECTED, word
        if word == entry:
            assert verdict(f"{word}: 4711").decision is Decision.REJECTED, word
            for approval in (row.approve.partition("|")[0], "Approved"):
                assert verdict(f"{approval}.\n{word}").decision is Decision.UNCLEAR, (approval, word)


@pytest.mark.parametrize("code", ROWS)
def test_every_doubt_keeps_an_approval_from_being_one(code: str) -> None:
    """On the same line or below; words that are everyday words elsewhere count beside their own language."""
    row = ROWS[code]
    word = row.approve.partition("|")[0]
    for doubt in filter(None, f"{row.doubt}|{row.own}".split("|")):
        assert verdict(f"{word} {doubt} x").decision is not Decision.APPROVED, doubt
        assert verdict(f"{word}.\nx {doubt} x").decision is Decision.UNCLEAR, doubt
    for harmless in filter(None, row.harmless.split("|")):
        assert verdict(f"{word}.\n{harmless}").decision is Decision.APPROVED, harmless


def test_courtesies_of_any_language_go_with_a_decision_of_any_other() -> None:
    """An English decision under a German signature is an approval like any other."""
    for row in LANGUAGES:
        for courtesy in row.courtesy.split("|"):
            for word in ("Approved", "Genehmigt", "Aprobado", "Godkendt"):
                assert verdict(f"{word}\n\n{courtesy}").decision is Decision.APPROVED, (word, courtesy)


def test_accents_may_be_missing_and_letters_of_another_width() -> None:
    """Foreign keyboards, old systems, the Turkish dotless i, uppercase Greek."""
    for text in (
        "approuve",
        "Hyvaksytty",
        "SCHVALENO",
        "onaylandi",
        "ONAYLANDI",
        "Onaylandı",
        "ΕΓΚΡΙΝΕΤΑΙ",
        "Ａｐｐｒｏｖｅｄ",
    ):
        assert verdict(text).decision is Decision.APPROVED, text
    for text in ("REDDEDİLDİ", "reddedildi", "Отклонён", "отклонен", "ΑΠΟΡΡΙΠΤΕΤΑΙ"):
        assert verdict(text).decision is Decision.REJECTED, text


NEVER = """
Approver|Approval|Approvals needed|Unapproved|Approved-ish|Approvedly|Pre-approved
non-approved|approve_d|Approvd
Approved?|Approved ?|Approved!?|Approved؟|¿Aprobado|Approved - right?|Approve or reject?
Should I approve|Approved (?)
Approved/Rejected|Approve / Reject|Approved or rejected|Approved | Rejected|[x] Approved|[Approved]
"Approved"|'Approved'|~~Approved~~
Approved, but only the first item|Approved if legal agrees|Approved, assuming legal is ok
Approved provided it fits
Approved subject to review|Approved until Friday|Approved unless Ann objects|Approved by Ann
Approved for Ann
Approved yesterday|Approved, Pat|Approved with comments|Approved in part|Approved: no
Approved: yes|Approved = no|Approve this request later
Not approved|Not yet approved|I can't approve|I don't approve this|Never approved
Nobody approved this
I have not approved it|Will be approved|To be approved|Was approved|If approved, tell me
When approved, tell me|Almost approved|Approve it not
OK|Yes|+1|LGTM|Sure|Agreed|Fine with me|👍|✅|Accepted|Go ahead|No objections|Approved 👎
Approved ❌|Approved ;)|Approved :(|Genehmigt, sofern das Budget reicht|Nicht genehmigt
Genehmigung|Genehmigungsantrag|Ungenehmigt|Genehmigt?
不批准|未批准|批准吗|批准？|如果法务同意|批准书|承認しません|承認できません|承認者|未承認|条件付き承認
承認？|승인하지 않습니다|승인자|미승인|승인?
neschváleno|niezatwierdzone|onaylanmadı|onaylanmamıştır|no aprobado|non approvato|não aprovado
Εγκρίνεται;|не одобрено|لا أوافق|לא מאושר
Approved for the request|Approved for your work|Genehmigt für die Vorbereitung|Approved all
Is approved
Hi, approved|Hello Pat. Approved|Re: Approved|RE: PO-42 Approved|Subject: Approved|> Approved
Decision: Approved
I, Pat, approve
"""


def test_nothing_but_the_bare_word_and_courtesies_approves() -> None:
    """Conditions, questions, negations, choices, names, words that merely contain it, and everything informal."""
    texts = [
        text
        for line in NEVER.strip().split("\n")
        for text in line.replace("Approved | Rejected", "").split("|")
        if text
    ]
    for text in texts:
        for whole in (text, f"{text}\nGood work.", f"Hi Ann,\n\n{text}"):
            assert verdict(whole).decision is not Decision.APPROVED, whole


def test_doubt_below_an_approval_makes_it_unclear_and_says_why() -> None:
    """The reason is a code, the rule names the word."""
    for text, reason in {
        "Approved.\nRejected!": "contradiction",
        "Approved\nRejected.See/below": "contradiction",
        "Approved\nTel:not yet": "doubt",
        "Approved\nmailto:not": "doubt",
        "Approved\n\nPlease do not order yet": "doubt",
        "Approved\nIsn't that nice": "doubt",
        "Approved\n\nIs the price right?": "question",
        "Approved\nUnless Ann objects.": "doubt",
        "Approved\n\nAber nicht vor Freitag": "doubt",
        "Approved\nOnce legal agrees": "doubt",
        "Approved if possible": "doubt",
        "Approved for this year": "text-behind-keyword",
        "": "empty",
        " \n\t\n": "empty",
        "Please call me": "no-keyword",
    }.items():
        assert (verdict(text).decision, verdict(text).reason) == (Decision.UNCLEAR, reason), text
    assert "'do'" not in verdict("Approved\nPlease do not order").rules[-1]
    assert "'not'" in verdict("Approved\nPlease do not order").rules[-1]


def test_a_comment_that_is_merely_friendly_does_no_harm() -> None:
    """Comments are kept as they were written, and are not the place of the decision."""
    for comment in (
        "Looks good to me. Please order it this week.",
        "No objections, no further questions. Invoice no. 4711 is booked.",
        "Details: https://erp.example.com/po?id=42&ok=no and erp.example.com/a?b",
        "VAT No. DE123456789, Tel. +49 30 1234",
        "Sieht gut aus, keine Einwände.",
        "Det ser bra ut, tack för hjälpen",
        "De factuur mag betaald worden.",
        "Se ve bien, gracias a todos.",
    ):
        found = verdict(f"Approved\n\n{comment}")
        assert (found.decision, found.comment) == (Decision.APPROVED, comment)


def test_a_rejection_needs_only_its_first_word() -> None:
    """Rejecting by mistake costs one more mail; the reason is the comment."""
    for text, comment in {
        "Rejected": "",
        "Rejected, too expensive": "too expensive",
        "Rejected of course": "of course",
        "Reject: too expensive\nAsk again": "too expensive\nAsk again",
        "REJECTED!! Why was this approved last year?": "Why was this approved last year?",
        "Hi Ann,\n\nrejected. Thanks": "Thanks",
        "拒绝，价格太高": "，价格太高",
        "却下します。高すぎます。": "。高すぎます。",
    }.items():
        found = verdict(text)
        assert found.decision is Decision.REJECTED, text
        assert found.comment.lstrip("，。 ") == comment.lstrip("，。 "), text


def test_a_rejection_that_is_a_question_or_a_choice_is_unclear() -> None:
    """So is one that is displayed in another order."""
    for text in (
        "Rejected?",
        "Reject this one?",
        "Reject or approve",
        "Reject / Approve",
        "Rejected, approved",
        "Reject and approve",
        "Afgekeurd of goedgekeurd",
        "拒绝吗",
        "却下しません",
        "Rejected by\u202e mistake",
    ):
        assert verdict(text).decision is Decision.UNCLEAR, text


def test_a_word_in_both_lists_is_refused() -> None:
    """Also where one of them is built in, and in another case; a word without letters is none."""
    for approve, reject in ((("ok",), ("OK",)), (("Rejected",), ()), ((), ("approve",)), (("not approved",), ())):
        with pytest.raises(VocabularyError, match="both an approve-word and a reject-word"):
            lexicon(approve, reject)
    with pytest.raises(VocabularyError, match="holds no word"):
        lexicon((" ",), ())


def test_a_greeting_is_nothing_but_a_greeting() -> None:
    """A line that says anything else is the first line, and decides."""
    words = lexicon()
    for line in (
        "Hi Bob,",
        "Dear Mr. Smith,",
        "Guten Tag Frau Müller",
        "Hola Juan:",
        "田中様",
        "王经理，您好",
        "김부장님,",
        "דנה שלום,",
    ):
        assert words.greets(line_words(fold(line)), fold(line)), line
    for line in (
        "Hi, rejected",
        "Hello no",
        "Hi all, please wait",
        "Hi?",
        "Approved",
        "Dear Bob, I cannot do that",
        "您好，批准",
        "Bob,",
    ):
        assert not words.greets(line_words(fold(line)), fold(line)), line


def test_every_row_of_the_table_is_complete() -> None:
    """Each language has both decisions, courtesies and greetings, and the codes are unique."""
    assert len(ROWS) == len(LANGUAGES) >= 22
    assert {"en", "de", "fr", "es", "it", "pt", "nl", "sv", "no", "da", "fi", "pl", "cs", "hu", "ro"} <= ROWS.keys()
    assert {"ru", "uk", "el", "tr", "he", "ar", "zh", "ja", "ko"} <= ROWS.keys()
    for row in LANGUAGES:
        assert row.approve and row.reject and row.doubt and row.courtesy and row.greeting, row.code
        for table in (row.approve, row.reject, row.doubt, row.own, row.harmless, row.courtesy, row.greeting):
            assert "" not in table.split("|") or not table, row.code
        for table in (row.subject, row.object):
            assert "" not in table.split("|") or not table, row.code
