"""Where a text states an answer: the phrases that do so, in English and Chinese, and what takes a statement back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lite_huatuo.evaluation.naming import Named, Options

_FLAGS = re.IGNORECASE | re.VERBOSE
_IS = r"(?:is|are|was|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be|remains|seems\s+to\s+be)"
_ADVERB = r"(?:therefore|thus|then|hence|indeed|clearly|definitely|probably|most\s+likely|likely|simply|just|still)"

# Phrases after which the answer is named.
_ANSWER = re.compile(
    rf"""\b(?:final[\s_])?(?:answers?|ans\.?|option|choice|response|pick|selection|correct|conclusion|verdict)(?:_\w+)?\b
    (?P<mid>[^.:;\n?!=]{{0,60}}?)(?:\b{_IS}\b|[:=→为是]|->|\s[-–—]\s)(?:\s*{_ADVERB}\b)*[\s:,]*
    |\b(?:i\s+(?:would|will|shall)?|i'd|i'll|we|me|to|must)\s*(?:\b{_ADVERB})?\s*
        \b(?:choose|choosing|select|pick|opt\s+for|go\s+with|settle\s+on|vote\s+for|answer)\s+
    |(?:^|(?<=[.!?\n]))\s*(?:choose|select|pick|definitely|certainly|clearly)\s+
    |\b(?:students|people|doctors|some|many|others)\s+(?:would\s+|may\s+|might\s+)?(?:answer|choose|say|pick|select)\s+
    |\bans\.\s+|\bwhich\s+is\s+(?:option|choice)\s+|\(\s*(?:option|choice)\s+(?=\w\s*\)\s*(?:$|[.\n]))
    |(?:^|(?<=[.!?\n]\s)|(?<=\n))(?:option|choice)\s+(?=\w\s*(?:$|[.\n]))
    |\bnot\s+[^.,;:\n]{{1,60}}?,?\s+but\s+(?:rather\s+)?
    |答案?(?:选项)?(?:应该|应当|应|就|很可能|最可能|可能|大概)?(?:选择?|是|为|:|】|"|\s)+(?:选择?|:|\s)*
    |(?:正确|最佳|最终)(?:的|选项|选择)(?:应该|应|就)?(?:是|为|:|\s)+
    |更正为|改(?:为|成)|\bdiagnosis\s*:\s*(?=[A-Z]\b)
    |\b(?:final|most\s+likely|likely|probable|correct|definitive|principal|primary)\s+diagnosis\s*:\s*
    |(?:^|(?<=\n))\s*diagnosis\s*:\s*
    |\bfinal\s+(?:decision|conclusion|impression|assessment)\s*:\s*
    |(?:对应|即|属于|就是|是|为)选项
    |(?:而是|(?<!可)选(?!项)择?(?:的是|的)?)\s*:?\s*""",
    _FLAGS,
)
# Phrases after which a sentence names the answer and ends.
_LAST_WORD = re.compile(
    rf"""(?:\b(?:therefore|thus|hence|so|accordingly|consequently|that\s+leaves(?:\s+us\s+with)?|leaving)\b|=>|→|⇒)
        (?:\s+(?:it|this|that)\s+{_IS})?\s*,?\s*
    |\b(?:it|this|that)(?:\s+{_IS}|'s)(?:\s+{_ADVERB})*\s+
    |(?:的|应)(?:该|当)?(?:是|为|有)\s*""",
    _FLAGS,
)
# Phrases after which the text of an option is what the question asked for.
_ASKED_FOR = re.compile(
    rf"""\b(?:most|best|next|first|first-line|right|correct|likely|appropriate|initial|definitive|underlying|final|
        diagnosis|mechanism|expected)\b[^.;:\n?!]{{0,80}}?\b(?:{_IS}|has|have)\s+(?:to\s+|the\s+|an?\s+)*
    |\bthe\s+(?:dose|drug|organism|pathogen|treatment|cause|enzyme|nerve|artery|vitamin|hormone|finding|structure|patient)
        \s+(?:is|has)\s+(?:the\s+|an?\s+)?
    |(?:诊断|处理|措施|治疗|机制|首选|原因|因素|方法|步骤|方案|药物)[^。;\n?!]{{0,20}}?(?:是|为|:)\s*
    |(?:^|(?<=[\s,。,;]))应(?=立即|尽快|首先)""",
    _FLAGS,
)
# In Chinese a sentence that ends with an option's text after one of these gives what was asked for; only the first and
# the last sentence and a conclusion do so, and only where they name no other option.
_LINK = re.compile(
    r"""(?:是|为|属于|属|即|就是|指的是|指|见于|在于|位于|来自|来源于|由于|选用|应用|采用|包括|称为|提示|考虑|导致|引起)(?:了|的)?[:,]?\s*["“]?""",
    _FLAGS,
)
_CONCLUDES = re.compile(r"\s*(?:因此|所以|故|综上(?:所述)?|总之|由此可(?:见|知)|可见|可知|结论)")
_OTHERS_DENIED = re.compile(r"其[他余](?:的)?(?:[几三四]个)?(?:选项|各项|几项|答案)[^。;\n]*?(?:不|非|无|没有|错误)")
# The last sentence of a reply to "which is wrong", where nothing else is given as the answer.
_ALL_WRONG = re.compile(
    r"(?:因此|所以|故|综上(?:所述)?)[,:]?(?:选项|答案)?\(?([A-Z])\)?(?:选项|项)?(?:的?(?:说法|描述|叙述))?"
    r"(?:是|为)?(?:错误|不正确|不对)的?(?:选项|说法)?[。;]?"
)
_SEEN = re.compile(r"(?:可以看出|由此可见|由此可知|可见|可知|可以得知)[,:]?\s*")
_BEST_OF = re.compile(
    r"这(?:组|个|种|些|一)[^。;\n]{0,16}是[^。;\n]{0,24}(?:最佳|最合适|最适合|首选|正确)的?(?:选择|答案|选项|方案)?"
)
# Phrases before which the answer is named.
_IS_RIGHT = re.compile(
    rf"""(?:\s*(?:\b{_IS}\b|,)?\s*(?:\b{_ADVERB}\b)?\s*\bthe\s+(?:single\s+|only\s+)?
        (?:(?:correct|right|best)\s+(?:initial\s+|next\s+|possible\s+)?(?:answer|option|choice|one|response|fit|therapy|step)|answer)\b
    |\s*\b{_IS}\s+(?:\b{_ADVERB}\b)?\s*the\s+(?:best|most\s+(?:likely|probable|appropriate|suitable))(?:\s+\w+){{1,2}}
    |(?<=only\s[A-Z])\s+(?:fits|remains|is\s+left)\b
    |\s*\b{_IS}\s+(?:\b{_ADVERB}\b)?\s*(?:correct|right|the\s+(?:right|correct)\s+one)\b
    |\s*\b{_IS}\s+what\s+i\s+would\s+choose\b
    |\s+best\s+(?:explains|fits|matches|answers)\b
    |\s+it\s+is(?=\s*(?:$|[.!,\n]))
    |\s*[:–—-]?\s*\b(?:correct|right|yes)\b(?=\s*(?:$|[.,;\n]))
    |\s*\b{_IS}\s+(?:an?|the)\s+more\s+(?:likely|probable)\s+(?:possibility|diagnosis|explanation|cause)\b
    |(?:是|为)(?:除外|例外)的?(?:疾病|选项|答案|[一]?项|情况|说法)?
    |的?可能性(?:最|更)[大高]
    |(?:被称为|被称作|称为)\s*["“]
    |\s*(?:选项|项)?\s*(?:都|均|皆)?(?:就)?(?:是|为)?(?:唯一)?(?:最?正确|最合适|最佳|最恰当|最?符合题意|对(?=的|[,。;\s]|$))(?:的|答案|选项|选择)*(?!可能|的|与否|吗))""",
    _FLAGS,
)

_NEGATED = re.compile(
    r"""\b(?:not|never|cannot|neither|nor|wrong|incorrect|mistake|unlikely|exclude[sd]?|except|without|no)\b|n't\b
    |\brul(?:ed?|ing)\s+out\b|\binstead\s+of\b|\brather\s+than\b
    |不(?:能|应|可|宜|是|会|考虑|支持|符合)?该?$|不(?:能|应|可|宜|是)|并非|排除|错误|不正确|无法|除""",
    _FLAGS,
)
_DOUBTED = re.compile(
    r"""\b(?:might|may|could|perhaps|possibly|some|many|others?|students?|people|tempting|consider(?:ed)?|thought|
    initially|first\s+(?:choice|thought|guess)|at\s+first|guidelines?|would\s+i)\b
    |(?<!最)(?<!很)可能(?!性)|\b(?:previous|earlier|example)\b|也许|或许|一开始|起初|有人|误|最初|原以为""",
    _FLAGS,
)
_CONDITION = re.compile(
    r"\b(?:if|unless|suppose|assuming|had\s+(?:he|she|they|the))\b(?!\s+i\s+(?:had|have|must))"
    r"|如果(?!必须|一定|只能|要选|非要|只选)|若|假如|倘若",
    _FLAGS,
)
_TURN = re.compile(r"\b(?:but|however)\b|但是?|然而|不过", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"(?:\bor|还是|或者?)[\s,]*$", re.IGNORECASE)  # the statement is the other of two
_TAKEN_BACK = re.compile(
    r"""\b(?:wait|actually|correction|scratch\s+that|on\s+(?:second\s+thought|reflection)|take\s+that\s+back|
    let\s+me\s+(?:re|correct|think\s+again)|my\s+mistake|sorry|reconsider\w*|hmm|looking\s+at\s+\w+\s+again)\b
    |(?:^|[.!?]\s+)no[.,]
    |(?<![A-Z项])不对|等等|更正|重新考虑|我错了|改选|再想|纠正""",
    _FLAGS,
)
_GOES_ON = re.compile(r"[)\]\"'”’]*\s*(?:[.\n。,:]|\(|-\s|because\b|since\b|as\b)")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。\n;]")
_CLAUSE_END = re.compile(r"[,:,、]|\bso\b|\bincorrect(?=\s+\(?[A-Z]\b)", re.IGNORECASE)
_LONE_LETTER = re.compile(r"(?:^|[.!?。]\s+|\n)\(?([A-Z])\)?(?=[.。]\s|[.。]?$)")
_LAST_SENTENCE = re.compile(r"[.!。]\s+(\(?[A-Z]\)?)[.。]?$")
_LONE_LINE = re.compile(r"\(?[A-Z]\)?[.。]?\s*\n")
_HEADING = re.compile(r"\s*(?:(?:option|choice)\s+|选项)?\(?[A-Z]\)?\s*[.:、)]\s*\S", re.IGNORECASE)
_NAMES_OPTION = re.compile(r"(?:option|choice|选项)\s*\(?[A-Z]\)?\s*[:=]\s*", re.IGNORECASE)  # "Option A: its text"
_LISTS_OPTIONS = re.compile(r"(?:option|choice)s?\s*:\s*\n", re.IGNORECASE)  # "each option:", and they follow
# What says nothing against another option: a remark in brackets, "(D选项正确)", and all that comes before "最终答案:".
_REMARK = re.compile(r"\([^()]*$")
_FINAL = re.compile(r"(?:最终|最后)(?:的)?(?:答案|选择)|\bfinal\s+answer\b", re.IGNORECASE)
_MARKED = re.compile(
    r"(?:\(\s*|\b(?:option|choice|answer)\s+|选项|选)(?=[A-Za-z]\b|[A-Z][^A-Za-z])|(?m:^)(?=[A-Z][.):,])"
)


@dataclass(frozen=True)
class Statement:
    """Options stated as the answer from `start` to `end`. `firm` is False where it is doubted, conditional or somebody
    else's; `broken` where it is left open or letter and text disagree; `soft` where it is no more than the text of an
    option in a sentence about the case."""

    start: int
    end: int
    letters: str
    firm: bool = True
    broken: bool = False
    soft: bool = False


def find(text: str, options: Options) -> list[Statement]:
    """Return every statement of a cleaned text in order; what is denied or asked is none."""
    found = [*_alone(text, options), *_beginning(text, options)]
    for cue, soft, last_word in ((_ANSWER, False, False), (_LAST_WORD, False, True), (_ASKED_FOR, True, False)):
        for start, named in _after(cue, text, options):
            if last_word and not _ends_sentence(text, named.end):
                continue
            if _LISTS_OPTIONS.match(text, start) or (not named.lettered and _NAMES_OPTION.match(text, start)):
                continue
            found += _in_context(text, start, named.end, named, soft=soft and not named.lettered)
    for match in _IS_RIGHT.finditer(text):
        before = options.ends_with(text, match.start())
        remark = before is not None and _REMARK.search(text[max(0, before.end - 2) : match.start()])
        if before is not None and match.start() > 0 and not remark:
            found += _in_context(text, before.end, match.end(), before, soft=False)
    found += [] if any(statement.firm for statement in found) else _concluded(text, options)
    return sorted(found, key=lambda statement: (statement.end, statement.start))


def final(text: str, found: list[Statement]) -> list[Statement]:
    """Return the statements that count: those from the last "final answer" on, where there is one, else all."""
    final = [statement for statement in found if _FINAL.search(text[max(0, statement.start - 4) : statement.end])]
    return [statement for statement in found if statement.start >= final[-1].start] if final else found


def _concluded(text: str, options: Options) -> list[Statement]:
    """Return what Chinese sentences give as the answer without saying that it is one: "主症是…。", "因此…见于…。"."""
    sentences = [(m.start(), m.end()) for m in re.finditer(r"[^。;\n!?]+[。;\n!?]?", text) if m[0].strip(" :\n")]
    found: list[Statement] = []
    for number, (start, end) in enumerate(sentences):
        sentence = text[start:end]
        if not re.search("[\u3400-\u9fff]", sentence):
            continue
        ends = number in (0, len(sentences) - 1) or _CONCLUDES.match(sentence) is not None
        told = {letter for _, _, letter in options.mentions(sentence)}
        for cue in (_LINK, _SEEN) if ends else ():
            for at, named in _after(cue, sentence, options):
                last = cue is _SEEN or _ends_sentence(sentence, named.end)
                if last and not named.lettered and told <= set(named.letters):
                    found += _in_context(text, start + at, start + named.end, named, soft=True)
        wrong = _ALL_WRONG.fullmatch(sentence.strip()) if number == len(sentences) - 1 and not found else None
        if wrong is not None and wrong[1] in options.letters:
            found.append(Statement(start, end, wrong[1]))
        if number and (_OTHERS_DENIED.match(sentence.strip()) or _BEST_OF.search(sentence)):
            before = {letter for _, _, letter in options.mentions(text[:start])}
            if len(before) == 1:
                found.append(Statement(start, end, before.pop(), soft=True))
    return found


def taken_back(text: str, position: int) -> bool:
    """True where words that take something back come after a place."""
    return _TAKEN_BACK.search(text, position) is not None


def marked(text: str, options: Options) -> list[tuple[int, str]]:
    """Return (place, letters) of every option that is mentioned and not denied, by a marked letter or by its text."""
    found = [(start, letter) for start, _, letter in options.mentions(text)]
    for match in _MARKED.finditer(text):
        named = options.named(text, match.end(), lead=False)
        if named is not None and named.lettered:
            found.append((match.end(), named.letters))
    return sorted((place, letters) for place, letters in found if not _denied(text, place))


def _after(cue: re.Pattern[str], text: str, options: Options) -> Iterator[tuple[int, Named]]:
    """Yield (start of the phrase, what is named after it)."""
    position = 0
    while (match := cue.search(text, position)) is not None:
        named = options.named(text, match.end())
        if named is not None:
            yield match.start(), named
            position = max(match.end(), match.start() + 1)
        else:
            position = match.start() + 1


def _alone(text: str, options: Options) -> list[Statement]:
    """Return what stands alone: in the whole text, or in one or two of its lines. More are a list."""
    numbered = re.compile(r"(?:(?:q|question|第)?\s*\d+\s*题?\s*[.):、]\s*)?", re.IGNORECASE)
    lines, place, read = [], 0, 0
    for line in text.split("\n"):
        prefix = numbered.match(line)
        start = place + (prefix.end() if prefix is not None else 0)
        named = options.named(text, start) if start >= read else None
        if named is not None:
            ends = text.find("\n", named.end)
            rest = text[named.end : ends if ends >= 0 else len(text)]
            read = named.end  # one letter a line may have gone on to the next lines
            if re.fullmatch(r"[\s.。!)\]}\"'”’,>]*(?:\(?[\s\w]*\d+\s*%?\)?)?", rest):
                if named.listed and "\n" in text[start : named.end]:
                    return []  # every option, one a line
                if not named.listed:
                    lines.append(Statement(start, named.end, named.letters, broken=named.clash or named.open))
        place += len(line) + 1
    same = {statement.letters for statement in lines}
    alone = lines if len(same) == 1 and len(lines) <= 2 else []
    last = _LAST_SENTENCE.search(text) if len(set(_LONE_LETTER.findall(text))) < 2 else None
    if not lines and last is not None:
        named = options.named(text, last.start(1))
        if named is not None and named.lettered:
            alone = [Statement(last.start(1), named.end, named.letters)]
    return alone


def _beginning(text: str, options: Options) -> list[Statement]:
    """Return the answer that a text begins with: "B. The pain …", "No, there was …"; a list begins with none."""
    named = options.named(text, 0)
    if named is None or named.listed or (named.letters == "I" and text[named.end : named.end + 1] in (",", " ", "")):
        return []
    end = 1 if re.match(r"[A-Z][.):]", text) and named.lettered else named.end  # "B. Aspirin blocks …"
    follows = _GOES_ON.match(text, end)
    others = {letter for _, _, letter in options.mentions(text[named.end :])} - set(named.letters)
    lines = sum(1 for line in text.split("\n") if (one := options.named(line, 0)) is not None and one.lettered)
    if _LONE_LINE.match(text) and len(named.letters) == 1:  # what follows explains the options one by one
        lines -= sum(1 for line in text.split("\n")[1:] if _HEADING.match(line))
    if follows is None or lines > 1 or (not named.lettered and "," in follows[0] and others):
        return []
    return [Statement(0, named.end, named.letters, broken=named.clash or named.open)]


def _in_context(text: str, start: int, end: int, named: Named, *, soft: bool) -> list[Statement]:
    """Return the statement as its sentence has it: none where it is denied or asked, not firm where it is doubted."""
    if named.listed or _denied(text, start):
        return []
    after = _SENTENCE_END.search(text, max(end - 1, 0))
    rest = text[end : after.end() if after else len(text)]
    if (
        rest.rstrip().endswith("?")
        or re.match(r"[\s\"')]*吗", rest)
        or re.match(r"\s*(?:is|are)\s+(?:not|wrong|incorrect)", rest)
    ):
        return []
    before = _sentence_before(text, start)
    turns = [match.end() for match in _TURN.finditer(before)]
    before = before[turns[-1] :] if turns else before
    cue = text[start:end]
    clause = before[_clause_start(before) :]
    firm = not (_CONDITION.search(before) or _DOUBTED.search(clause) or _DOUBTED.search(cue))
    broken = named.clash or named.open or _ALTERNATIVE.search(before) is not None
    return [Statement(start, end, named.letters, firm, broken, soft)]


def _denied(text: str, place: int) -> bool:
    """True where the words before a place, in its clause, deny what comes."""
    before = _sentence_before(text, place)
    return _NEGATED.search(before[_clause_start(before) :]) is not None


def _sentence_before(text: str, place: int) -> str:
    """Return the part of the sentence before a place. "B." ends none where it begins one."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text, max(0, place - 400), place)]
    return text[ends[-1] if ends else max(0, place - 400) : place]


def _clause_start(before: str) -> int:
    """Return where the last clause of the part of a sentence begins; "I do not think that" goes with what follows."""
    starts = [match.end() for match in _CLAUSE_END.finditer(before)]
    return starts[-1] if starts else 0


def _ends_sentence(text: str, end: int) -> bool:
    """True where nothing of the sentence is left but brackets and quotes."""
    return re.compile(r"[)\]\"'”’\s]*(?:$|[.!。;,\n])").match(text, end) is not None
