"""Cue phrases of the exact verifier: the words beside a mention that deny it, hedge it or commit to it.

A table is written as one would say it, its phrases between "|"; `any_of` folds it like a reply ("doesn't" is "does
not", articles and plurals go) and reads "..." as up to three words. Chinese phrases are parted by spaces. The patterns
built from the tables are matched on the folded words before or after a mention, within its sentence; in the examples
the mention stands in [brackets].
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable

from lite_huatuo.verifier.medical_terms import normalise


def write(tokens: Iterable[str]) -> str:
    """Write tokens as a text for the cues: Chinese without spaces, every other token followed by one."""
    return "".join(token if "\u4e00" <= token[0] <= "\u9fff" or token == "、" else token + " " for token in tokens)


def any_of(table: str) -> str:
    """Return the pattern of a table: any one of its phrases, whole words with the space after them."""
    phrases = [[normalise(part) for part in phrase.split("...")] for phrase in table.split("|")]
    return r"\b(?:" + "|".join(r" (?:\S+ ){0,3}?".join(parts) for parts in phrases) + ") "


def any_of_zh(table: str) -> str:
    """Return the pattern of a table of Chinese phrases: any one of them."""
    return "(?:" + "|".join(table.split()) + ")"


# --- Denied by what stands before -------------------------------------------------------------------------------------

# Begins a new clause, which a denial does not reach: "not rubella but [measles]".
NEW_CLAUSE = "[,:] |、|" + any_of("""but | however | because | although | while | which | that | who | is | are | was
    | were | than""")
WORD = rf"(?:(?!{NEW_CLAUSE})\S+ )"  # a word of the same clause

# Denies the next few words: "no evidence of acute [gout]", "sepsis rather than [gout]", "more likely than [gout]".
DENIES_NEXT = any_of("""not | no | never | neither | nor | without | unlike | unlikely | improbable | incorrect | wrong
    | rule out | rules out | ruled out | ruling out | exclude | excluded | excluding | eliminate | eliminated
    | reject | rejected | rejecting | dismiss | dismissed | denies | absence of
    | argues against | evidence against
    | rather than | instead of | opposed to | other than | except | anything but | whereas | although | though | while
    | compared to | compared with | contrast to | contrast with | mistaken for | confused with | mimics
    | more ... than | better ... than | greater ... than | differs ... from | different ... from | distinct from
    | distinguish ... from | distinguished ... from | differentiate ... from | differentiated ... from
    | non | hardly | scarcely | opposite of | contrary of | nothing ... suggest | nothing ... indicate | any ... but
    | everything but | all but | of which | once it was""")

# Denies the rest of its clause: "I do not think the answer is [gout]".
DENIES_CLAUSE = any_of("not ... think | not ... believe | not ... convinced | not the case | not true | doubt")

# Denies the next few characters: "不考虑典型的[麻疹]", "非[麻疹]", but not "不是风疹而是[麻疹]".
DENIES_NEXT_ZH = any_of_zh("""不是 并非 而非 排除 除外 除了 不考虑 不支持 不符合 不提示 不太可能 不像 不属于 不能诊断
    不应诊断 不应选 不能选 没有 未见 未发现 否认 需与 应与 不同于 区别于 有别于 虽然 尽管
    其次才是 其次是 次选 不宜用 不宜选 禁用 避免 无关于 谈不上 称不上""")
NEW_CLAUSE_ZH = any_of_zh("而是 但 应为 应是 才是 , : 、")

DENIED_BEFORE = re.compile(
    rf"(?:{DENIES_NEXT}{WORD}{{0,4}}|{DENIES_CLAUSE}(?:(?!but )[^\s,:]+ ){{0,7}}"
    rf"|{DENIES_NEXT_ZH}(?:(?!{NEW_CLAUSE_ZH}).){{0,15}}|[非无除荨]|假性|去甲|异丙|类|副|亚|伪|拟)$"
)

# A "not" that denies no name: "not only [measles]", "cannot metabolise [phenylalanine]"; "does not suggest" denies one.
HARMLESS_NOT = re.compile(
    any_of("not only | not just | no doubt")
    + "|"
    + any_of(
        "do not | does not | did not | cannot | could not | should not | would not | will not | may not | might not"
    )
    + "(?!"
    + any_of("""be | suggest | support | indicate | fit | have | represent | consider | diagnose | point | mean
    | show | favor | confirm | reflect | explain | choose | select | think | believe""")
    + ")"
)

# --- Denied by what stands after --------------------------------------------------------------------------------------

IS = (
    "(?:, )?(?:"
    + any_of("""is | are | was | were | be | been | seems | appears | can | could | would | should | must | has
    | have | may | might | does | do | did""")
    + ")+"
)

# "[gout] is clearly unlikely", "[gout] was considered but excluded".
IS_WRONG = (
    IS
    + r"(?:\S+ ){0,2}?"
    + any_of("""incorrect | wrong | false | excluded | ruled out | unlikely | improbable
    | less likely | eliminated | dismissed | rejected | inconsistent | contraindicated | discarded | discounted
    | refuted | disproved | mistake | mistaken | error | crossed off | struck off | withheld | less so | unnecessary""")
)

# "[gout] is not the most likely diagnosis", "[gout] does not explain it".
IS_NOT_RIGHT = (
    IS
    + r"(?:not|never|seldom|rarely) (?:\S+ ){0,2}?"
    + any_of("""answer | diagnosis | likely | correct | right | case
    | culprit | best | consistent | fit | match | explain | considered | supported
    | cause | reason""")
)

# "[gout], on the other hand, comes at night".
CONTRASTS = "(?:, )?" + any_of("on the other hand | in contrast | by contrast")

# "[麻疹]可以排除", "[麻疹]的可能性较小", "[麻疹]不是正确答案".
IS_WRONG_ZH = (
    "(?:的(?:诊断|说法|判断|可能性?))?(?:对[此其])?[可以能应被已予的是]{0,3}"
    + any_of_zh("""除外 排除 不成立 不正确 不对 错误 不太可能 不符 不支持 不考虑
    不能成立 无效 不适用 禁忌 属于禁忌 次要 待排
    可能性小 可能性低 可能性不大 可能性较小 可能性较低 可能性很小 可能性很低""")
    + "|(?:不是|并非).{0,4}(?:答案|诊断|正确)"
)

# "[gout] has no part in it", "[gout] does not".
HAS_NO_PART = (
    "(?:, )?(?:"
    + any_of("""has no part | has no role | has no place | has no bearing | has nothing to do | have nothing to do
    | plays no""")
    + "|"
    + any_of("do not | does not | did not")
    + "(?=$|, ))"
)

DENIED_AFTER = re.compile(f"{IS_WRONG}|{IS_NOT_RIGHT}|{CONTRASTS}|{HAS_NO_PART}|{IS_WRONG_ZH}")

# Denied even where the question asks for the odd one out: "[gout] is not the correct answer", "[gout] comes later".
NOT_THE_ANSWER = re.compile(
    IS
    + any_of("not ... answer")
    + "|(?:, )?"
    + any_of("""come second | comes second | come later | comes later | come last | comes last | can wait | must wait
    | may go on | may continue | may be continued | less so | less often""")
)

# A "not" of the story told, not of what is asked: "when a patient cannot extend the wrist".
NOT_IN_THE_STORY = re.compile(
    any_of("""patient | he | she | who | man | woman | child | baby | they | it | wound | if | when | whom | whose""")
    + r"(?:(?!which |what )\S+ ){0,4}?not "
)

# Stands in a question that asks for the odd one out; there "[gout] is unlikely" gives the answer.
ASKS_ODD_ONE = re.compile(
    any_of("""not | except | least | false | incorrect | contraindicated | avoid | avoided | unlikely | never | wrong
    | untrue | exclude | excluded | ineffective | unsuitable | inappropriate | stopped | withheld | discontinued""")
    + "|"
    + any_of_zh("不 非 无 错误 除外 禁")
)

# --- Hedged -----------------------------------------------------------------------------------------------------------

# Gives no answer: "I cannot say whether it is [gout]".
REFUSES = re.compile(
    any_of("""I ... cannot | we ... cannot | I ... unable | I ... do not know | I ... not sure | unable to determine
    | cannot be determined | as an AI | not enough information | insufficient information
    | not able to | before I could | before one could | no advice | only a doctor | only ... doctor can""")
    + "|"
    + any_of_zh("不知道 无法 不能判断 不能回答 不能确定 难以确定 不确定 尚难")
)

# An alternative follows: "[gout] or sepsis", "[麻疹]、风疹", but not "[46] or more".
OR_AFTER = re.compile(
    rf"{WORD}?(?:, )?or (?!"
    + any_of("more | less | so | not | even | other | if | when")
    + ")|[^,:、的是可为 ]{0,3}(?:、|或(?!称)|还是)"
)

# An alternative stands before: "sepsis or acute [gout]", "风疹或[麻疹]", but not "发热、皮疹支持[麻疹]".
OR_BEFORE = re.compile(rf"(?:\b(?:or|either) {WORD}{{0,2}}|(?:、|或|还是)[^,:、是为持示断虑合]{{0,4}})$")

# One end of a range of numbers: "20 to [40 minutes]", "[20] to 40 minutes".
# An end of a range, or a bound: "between [20] and 40", "fewer than [12]", "at least [2 weeks] and up to".
RANGE_BEFORE = re.compile(r"(?:\b\d\S* to |\bbetween (?:\d\S* (?:\S+ )?and )?|\b(?:few|fewer|less|more) than )$")
RANGE_AFTER = re.compile(r"(?:to \d|and up to )")

# Words between two names of one thing: "[thiamine] or [vitamin B1]", "[宫外孕]，又称[异位妊娠]".
ALIAS_WORDS = frozenset(["or", "also", "known", "as", "called", "aka", "或", "又", "也", "称", "即", "叫"])

# A bare name is up to four words, none of these: "acute gout" is one, "gout causes pain" is none.
NOT_IN_A_NAME = any_of("""is | are | was | were | be | has | have | can | may | will | which | that | who | because
    | from | in | by | with | for | to | causes | and | or""")
NAME_WORD = rf"(?:(?!{NOT_IN_A_NAME})[^\s,:、是为的可应]+(?: |(?=,)|$))"
NAME = f"{NAME_WORD}{{1,4}}"

# The names of a row beside one of them: "sepsis, trauma, and [gout]", "[gout], sepsis, and trauma".
ROW_BEFORE = re.compile(rf"(?:^|(?<= ))((?:{NAME}, )*)(and |or )?$|$")
ROW_AFTER = re.compile(rf"((?:, {NAME}(?=, |$))*)((?:, )?(?:and|or) )?")

# A sentence that is a bare name, whatever leads up to it: "Gout", "Maybe it is gout".
LONE_NAME = re.compile(
    "(?:"
    + any_of("it | this | or | and | perhaps | maybe | possibly | could | may | might | would | be | is | also")
    + f")*({NAME})"
)

# --- Committed --------------------------------------------------------------------------------------------------------

# Makes up for an earlier hedge: "It may be gout or sepsis. Most likely it is [gout]".
COMMITS = re.compile(
    any_of("answer | diagnosis | likely | therefore | thus | conclusion | best | correct | final | it is | this is")
    + "|"
    + any_of_zh("最可能 答案 诊断 因此 所以 综上 应为 考虑 最终 选")
)

# Names the answer: "the answer is gout", "the most likely diagnosis here is gout", "答案：痛风".
NAMES_THE_ANSWER = re.compile(
    r"(\banswer|\bdiagnosis|答案|诊断)(?: (?:\S+ ){0,5}?(?:is|be|:) |应?[是为]|: )(?!"
    + any_of("not | made | based | confirmed | as follows")
    + r")(?=\w)"
)

# Answers yes or no: "Yes, it does", "The statement is not true", "答案是否".
POLARITY = re.compile(
    r"(?:^|\b(?:answer|statement|it|this|that|claim|答案)[^.]{0,20}?(?:is |: |是|为)(not |不)?)"
    "(yes|true|no|false|不是|并非|没有|不能|不可以|不会|能|可以|会|不|否|错|是|对|正确)(?![a-z])"
    "(?!,? ?(?:and|or) (?:yes|no|true|false))|(?<=[\u4e00-\u9fff])()(不能|不可以|不会|不|能够?|可以|会)"
)

# --- In a ground truth ------------------------------------------------------------------------------------------------

# Comes before the answer proper: "C. Cefaclor", "Answer: cefaclor".
LABEL = re.compile(r"(?i)^(?:[A-H][.:)]\s+|(?:the )?(?:correct |final )?answer(?: is|:)\s+)")

# Leads up to the answer proper: "in the liver", "by an explosion", "to ensure discipline".
LEADS_UP = frozenset(["in", "to", "by", "at", "on", "from", "through", "with", "during", "of"])

# Dates are said in two orders: "31 March 1909", "March 31, 1909".
MONTHS = frozenset(month.lower() for month in calendar.month_name[1:])

# Begins a second name in a parenthesis: "vitamin B1 (also known as thiamine)".
ALSO_CALLED = re.compile(r"(?i)^(?:also known as|also called|accept|formerly|previously|aka|i\.e\.|又称|即)\s*")

# May lack its noun before an "or": "viral or bacterial meningitis".
ADJECTIVE = re.compile(r"\w+(?:al|ic|ive|ous|ar|ary|ior)|left|right")
