"""The filter that needs no model: questions that are short, ask for the wrong option, have several right options or one
that only points at others, need a picture, or were there before. Each drop says why, as "kind: detail".

Shorter than 101 characters is what the published sample of the method's data leaves out (its shortest has 101). The
other rules look at the sentence that asks, not at the case it is about: a patient may well "not smoke".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lite_huatuo.data import texts
from lite_huatuo.records import ExamQuestion

STEP = "rules"
MIN_LENGTH = 101
ASKING = 1000  # characters of the asking sentence that are looked at, its end

# What asks for the option that is wrong, searched for in the asking sentence only.
_DENIES = (
    r"(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would|should|may|might|must)(?:\s?not\b|n['’]t\b)"
)
_BEFORE_CASE = (
    r"(?:(?!\b(?:who|whose|if|when|because|that|s?he|it|they|you)\b)[^,;:.?])*?"  # not yet in a clause about a case
)
# "Conditioners are not used for long as they" asks for a reason.
_NO_REASON = r"(?![^?]*\b(?:as|because|since|due)\b(?: \w+){0,2}\W*$)"
_VERB = (
    r"(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might|must|include|suggests?|shows?)"
)
_WRONG_EN = re.compile(
    r"\bexcept(?:ing)?\b(?! for\b(?!\W*$))"
    r"|\bfalse\b(?![- ](?:positiv|negativ|lab|memor|lumen|aneurysm|cord|rib|vocal|teeth))"
    r"|\b(?:incorrect|untrue)\b|\b(?:is|are) wrong\b(?! with)|\bwrong (?:statement|option)"
    r"|\bleast (?:likely|common|commonly|frequent|frequently|helpful|useful|appropriate|suitable|effective|accurate"
    r"|important|probable|associated|involved|affected|preferred|desirable|consistent|characteristic|relevant)\b"
    r"|\b(?:is|are) (?:unlikely|never)\b(?=[^.?]*\W*$)"
    # "which of these is not …", "… does not cause:", "not a cause of …", "drug not used in …", "all are true but …"
    rf"|\b(?:which|what)\b{_BEFORE_CASE}\b(?:{_DENIES}|cannot\b|not (?:a|an|the|true|correct)\b)"
    rf"|^{_BEFORE_CASE}\b(?:do|does) not "
    r"(?:cause|include|contain|participate|involve|belong|have|show|affect|pass|produce)\b"
    r"|^not\b|^\w+(?: \w+)? not "
    r"(?:used|caus\w+|includ\w+|associated|seen|found|given|indicated|involved|present|true)\b"
    rf"{_NO_REASON}|^{_BEFORE_CASE}\b(?:is|are|in|should|be) not "
    rf"(?:be )?(?:true|correct|seen|used|found|given|included|an?|associated)\b{_NO_REASON}"
    # a noun and what it is not, without a verb of its own: "Structures not passing through the hilum:"
    rf"|^(?:(?!{_VERB}\b|who\b|if\b|when\b)[\w-]+ ){{1,5}}"
    rf"not (?:\w+ed|\w+ing|seen|found|given|an?|in)\b(?!.*\b{_VERB}\b)"
    r"|\ball\b[^.?,;]*\bbut\b\W*\w*\W*$",
    re.IGNORECASE,
)
_BLANK = r"(?:[（(？?。:：_]|\s|$)"
_UNLIKE_RULES = r"(?!(?<=标准)不符合)(?!(?<=规定)不符合)"  # what breaks a norm may be what is asked for
_WRONG_ZH = re.compile(
    r"除外|例外|，除了|除(?:哪|下列|以下)|(?:错误|有误|不对|不妥|不恰当|不准确|不正确|不当)(?:的|之处)?"
    rf"(?:是|为|有|说法|描述|叙述|论述|表述|做法|项|{_BLANK})"
    r"|(?:哪|何)一?(?:项|种|个|些|类|者|组|条|点)?[^，。,]{0,12}(?<!是否)(?:不|非|没有|无(?![菌症痛]))"
    rf"|{_UNLIKE_RULES}不(?:属于|包括|包含|符合|支持|具有|适[宜于合用]|宜|参与|影响|引起|出现|表现|可能|应|能|会|是|需要|考虑)"
    rf"[^，。,]{{0,24}}(?:的|[是为有用])(?:哪|什么|{_BLANK})"
    rf"|{_UNLIKE_RULES}不(?:属于|包括|包含|符合|支持|具有)[^，。,]{{0,16}}"
    r"(?:[（(][\s　]*[）)]|_+)?[。？?:：]?$|不(?:适宜|宜选用)的"
)
_IMAGE = r"(?:images?|figures?|photo\w*|pictures?|diagrams?|exhibit|micrographs?)"
# What can only be looked at; "report" and "histology" as well, unless their words follow a colon.
_LOOKED_AT = (
    rf"(?:{_IMAGE}|graphs?|curves?|charts?|illustrations?|drawings?|sketch|tracings?|strip"
    r"|electrocardiogra[mp]\w*|e[ck]g|eeg"
    r"|x-?rays?|radiographs?|roentgenogram|ct|mri|scans?|sonogram|ultrasound|ultrasonogra\w+|echocardiogram|angiogra\w+"
    r"|mammogram|smears?|slides?|sections?|specimens?|biopsy|histology|histopathology|cytology|report|karyotype|pedigree"
    r"|audiogram|spirogram|loops?|fundus|fundoscopy|blot|gel|appearance|lesions?|rash)"
)
_PICTURE = re.compile(
    rf"[\[<]img\b|\bsee (?:the )?{_IMAGE}|\bfigure [a-d1-9]\b"
    r"|\b(?:shown|depicted|pictured|seen|illustrated|provided|demonstrated) (?:in|on) (?:the |this )?"
    rf"(?:following |accompanying |attached |given |above )?{_IMAGE}\b"
    rf"|\b(?:{_IMAGE}|radiograph|x-ray|ecg|tracing|graph) (?:is |are )?(?:shown |given )?(?:below|above|attached)\b"
    rf"|\b{_LOOKED_AT}\b(?: (?:of|from|taken|obtained|against|for|in|with|at|on)\b[^.?!:;]{{0,80}}?)? (?:is|are|was|were) "  # noqa: E501
    r"(?:as )?(?:shown|displayed|depicted|pictured|reproduced|provided|given|presented)(?: (?:here|below|above|next))?"
    r"(?=\s*(?:$|[.,;?!]|and\b|what\b))"
    r"|\b(?:as )?(?:shown|seen|depicted|pictured) (?:below|here|above)(?=\s*[.?!])(?!\W+\w[^.?!:]{0,40}:)"
    r"|(?:如|见|下|上|附|左|右)图(?!像)(?:所示|示|中|为|是|，|。|：|[（(])|图示",
    re.IGNORECASE,
)
# A right option that has no sense without the others: "all of the above", "A and C", "1, 2, 3", "①③".
_MARK = r"[(\[]?(?:[a-e1-9]|i{1,3}|iv|v)[)\].]?"
_NAMES_OPTIONS = re.compile(
    r"(?:all|both|any|none|neither|two)(?: of)?(?: the| these| them)? ?(?:above|these|options|following|statements)\b.*"
    r"|(?:all|both|none|neither|any)(?: (?:are|is) (?:true|correct|false))?"
    rf"|(?:both |neither )?{_MARK}(?:\s*(?:,|&|\+|and|nor|，|、|和|及)+\s*(?:and |& )?{_MARK})+(?:\s*(?:only|are \w+))?"
    r"|[①-⑨]{2,}|(?:以上|上述|前述)[^，。]{0,8}(?:都|均|皆|全)[^，。]{0,6}|(?:以上|所有)(?:所有)?(?:选项|答案)?"
    r"|(?:都|均|全)(?:部|都)?(?:是|不是|对|正确|可)",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"(?=..)a?b?c?d?e?", re.IGNORECASE)  # "acd", where the question itself lists a) to e)
_LISTS = re.compile(r"\ba\)|\(a\)|(?<=\S)b\)", re.IGNORECASE)


def rule(question: ExamQuestion, *, min_length: int = MIN_LENGTH) -> str | None:
    """Return the reason to drop a question, None to keep it. Lengths count as texts.length does."""
    text, answer = question.question, question.answer.strip().rstrip(".。")
    if len(question.answer_idx) > 1:
        return f"several right: {question.answer_idx}"
    if _LETTERS.fullmatch(answer) and _LISTS.search(text):
        return f"several right: {answer} of those listed in the question"
    if _NAMES_OPTIONS.fullmatch(answer):
        return f"answer names options: {answer}"
    denied = (_WRONG_ZH if question.language == "zh" else _WRONG_EN).search(asking(text))
    if denied:
        return f"asks for the wrong option: {denied[0].strip()[-60:]}"
    picture = _PICTURE.search(text)
    if picture:
        return f"needs a picture: {picture[0]}"
    whole = texts.length(f"{question.context or ''}{text}")
    return f"short: {whole} characters, {min_length} are needed" if whole < min_length else None


def asking(text: str) -> str:
    """Return the sentence that asks: the last one, with the one before it where it is a few words only."""
    parts = re.split(r"(?<=[.?!])\s+(?=[A-Z0-9(\"'])|(?<=[。？！；])(?=.)|\n+", text.strip())
    last = parts[-1]
    asked = f"{parts[-2]} {last}" if len(parts) > 1 and len(texts.units(last)) < 4 else last
    return asked[-ASKING:]


def apply(
    questions: Iterable[ExamQuestion], *, min_length: int = MIN_LENGTH
) -> Iterator[tuple[ExamQuestion, str | None]]:
    """Yield every question with the reason to drop it, None where it stays. Remembers 16 bytes and the id of each kept.

    A duplicate has the question, context and right answer of one kept before; options and their order may differ.
    """
    first: dict[bytes, str] = {}  # key -> id of the one that was kept
    for question in questions:
        reason = rule(question, min_length=min_length)
        if reason is None:
            before = first.setdefault(
                texts.key(question.question, question.context or "", question.answer), question.id
            )
            reason = None if before == question.id else f"duplicate: of {before}"
        yield question, reason
