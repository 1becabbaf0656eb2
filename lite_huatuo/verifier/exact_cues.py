"""Cue phrases of the exact verifier: the words beside a mention that deny it, hedge it, or commit to it.

A table is written as one would say it, phrases between "|"; `_any` folds it as a reply is folded ("doesn't" is "does
not", articles and plurals go) and lets "..." stand for up to three words. The patterns are matched on the folded words
before or after a mention in its sentence. In the examples the mention stands in [brackets].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lite_huatuo.verifier.medical_terms import normalise


def write(tokens: Iterable[str]) -> str:
    """Write tokens as a text for the cues: Chinese without spaces, every other token followed by one."""
    return "".join(token if "\u4e00" <= token[0] <= "\u9fff" or token == "、" else token + " " for token in tokens)


def _any(table: str) -> str:
    """Return the pattern of a table: any one of its phrases, from a word's start to the space after its last word."""
    phrases = [[normalise(part) for part in phrase.split("...")] for phrase in table.split("|")]
    return r"\b(?:" + "|".join(r" (?:\S+ ){0,3}?".join(parts) for parts in phrases) + ") "


# --- Denied by what stands before -------------------------------------------------------------------------------------

# A new clause, which a denial does not reach: "not rubella but [measles]", "the drug that cannot be used is [aspirin]".
NEW_CLAUSE = _any("""but | however | because | since | so | therefore | thus | hence | although | though | yet | while
    | which | that | who | is | are | was | were | rather | than""") + "|[,:] |、"
_WORD = rf"(?:(?!{NEW_CLAUSE})\S+ )"  # a word of the same clause

# Denies the next few words: "no evidence of acute [gout]", "sepsis rather than [gout]", "more likely than [gout]".
DENIES_NEXT = _any("""not | no | never | neither | nor | without | unlike | unlikely | improbable | incorrect | wrong
    | rule out | rules out | ruled out | ruling out | exclude | excluded | excluding | eliminate | eliminated
    | reject | rejected | dismiss | dismissed | argues against | evidence against
    | rather than | instead of | opposed to | other than | except | anything but | whereas | although | though | while
    | compared to | compared with | contrast to | contrast with | mistaken for | confused with | mimics
    | more ... than | better ... than | greater ... than
    | differs ... from | different ... from | distinct from | distinguish ... from | distinguished ... from
    | differentiate ... from | differentiated ... from""")

# Denies the rest of the clause: "I do not think the answer is [gout]".
DENIES_CLAUSE = _any("not ... think | not ... believe | not ... convinced | not the case | not true")

# A "not" that denies no name: "not only [measles]"; "cannot metabolise [phenylalanine]", but "does not suggest [gout]".
HARMLESS_NOT = re.compile(
    _any("not only | not just | not merely | no doubt | no longer | not surprisingly") + "|"
    + _any("do not | does not | did not | can not | could not | should not | would not | will not | may not | might not")
    + "(?!" + _any("""be | suggest | support | indicate | fit | have | represent | consider | diagnose | point | mean
    | show | favor | confirm | reflect | explain | choose | select | think | believe""") + ")")

# The same in Chinese, over the next few characters: "不考虑典型的[麻疹]", but not "不是风疹而是[麻疹]"; "非[麻疹]".
DENIES_NEXT_ZH = ("(?:不是|并非|而非|排除|除外|除了|不考虑|不支持|不符合|不提示|不太可能|不像|不属于|不能诊断|不应诊断|没有|未见"
                  "|未发现|否认|需与|应与|不同于|区别于|有别于|虽然|尽管)(?:(?!而是|但|应为|应是|才是)[^,:、]){0,8}|[非无除]")

DENIED_BEFORE = re.compile(rf"(?:{DENIES_NEXT}{_WORD}{{0,4}}|{DENIES_CLAUSE}(?:(?!but )[^\s,:]+ ){{0,7}}|{DENIES_NEXT_ZH})$")

# --- Denied by what stands after --------------------------------------------------------------------------------------

_IS = "(?:, )?(?:" + _any("""is | are | was | were | be | been | seems | appears | can | could | would | has | have | may
    | might | does | do | did""") + ")+"

# "[gout] is clearly unlikely", "[gout] was considered but excluded".
IS_WRONG = _IS + r"(?:\S+ ){0,2}?" + _any("""incorrect | wrong | false | excluded | ruled out | unlikely | improbable
    | less likely | eliminated | dismissed | rejected | inconsistent | contraindicated""")

# "[gout] is not the most likely diagnosis", "[gout] does not explain it".
IS_NOT_RIGHT = _IS + r"(?:not|never) (?:\S+ ){0,2}?" + _any("""answer | diagnosis | likely | correct | right | case
    | culprit | best | consistent | fit | match | explain | considered | supported""")

# "[gout], on the other hand, comes at night".
CONTRASTS = "(?:, )?" + _any("on the other hand | in contrast | by contrast")

# "[麻疹]可以排除", "[麻疹]的可能性较小", "需与[麻疹]鉴别", "[麻疹]不是正确答案".
IS_WRONG_ZH = ("[可以能应被已予的相是]{0,3}(?:除外|排除|不成立|不正确|不对|错误|不太可能|不符|不支持|不考虑|可能性[较很]?[不小低])"
               "|并?[不非]是?.{0,4}(?:答案|诊断|正确)")

DENIED_AFTER = re.compile(f"{IS_WRONG}|{IS_NOT_RIGHT}|{CONTRASTS}|{IS_WRONG_ZH}")

# Denied even where the question asks for the odd one out: "[gout] is not the correct answer".
NOT_THE_ANSWER = re.compile(_IS + _any("not ... answer"))

# A question that asks for the odd one out: to it, "[gout] is unlikely" is an answer.
ASKS_ODD_ONE = re.compile(_any("""not | except | least | false | incorrect | contraindicated | avoid | avoided | unlikely
    | never | wrong | untrue | exclude | excluded | ineffective | unsuitable | inappropriate""") + "|[不非无]|错误|除外|禁")

# --- Hedged -----------------------------------------------------------------------------------------------------------

# Gives no answer: "I cannot say whether it is [gout]".
REFUSES = re.compile(_any("""I ... cannot | I ... could not | I ... unable | I ... do not know | I ... not sure
    | I ... not able | we ... cannot | we ... do not know | unable to answer | unable to say | unable to determine
    | cannot be answered | cannot be determined | as an AI | not enough information | insufficient information""")
    + "|不知道|无法(?:回答|确定|判断|作答)|不能回答|不确定")

# An alternative follows: "[gout] or sepsis", "[麻疹]、风疹", but not "[46] or more".
OR_AFTER = re.compile(rf"{_WORD}?(?:, )?or (?!"
    + _any("if | when | in | at | by | with | without | more | less | not | so | even | to | other | any | similar") + ")"
    "|[^,:、的是可为 ]{0,3}(?:, )?(?:、|或(?!称)|还是)")

# An alternative stands before: "sepsis or acute [gout]", "either [gout]", "风疹或[麻疹]", but not "发热、皮疹支持[麻疹]".
OR_BEFORE = re.compile(rf"(?:\bor {_WORD}{{0,2}}|\beither {_WORD}?|(?:、|或|还是)[^,:、是为持示断虑合]{{0,4}})$")

# Words between two names of one thing: "[thiamine], also known as [vitamin B1]", "[宫外孕]，又称[异位妊娠]".
ALIAS_WORDS = frozenset(["or", "also", "known", "as", "called", "termed", "aka", "或", "又", "也", "称", "即", "叫"])

# Words that no bare name holds; without them "acute gout" is one of a row of names, and "gout causes pain" is none.
NOT_IN_A_NAME = frozenset(["is", "are", "was", "were", "be", "been", "has", "have", "had", "can", "may", "will", "doe", "did", "which", "that", "who", "because", "from", "in", "by", "with", "for", "to", "cause", "treat", "show", "suggest", "and", "or", "是", "为", "的", "可", "应", ",", ":", "、"])


def is_name(words: Sequence[str]) -> bool:
    """True for a few words without a verb or preposition, as "acute gout"."""
    return 1 <= len(words) <= (4 if "".join(words).isascii() else 10) and NOT_IN_A_NAME.isdisjoint(words)


ROW_JOINTS = frozenset(["and", "or"])

# Words before a name that stands alone: "It is [gout]", "maybe [gout]".
LEADS = frozenset(["it", "this", "or", "perhaps", "maybe", "possibly", "could", "may", "might", "would", "be", "is", "also", "then", "and"])

# --- Committed --------------------------------------------------------------------------------------------------------

# Makes up for an earlier list: "It may be gout or sepsis. Most likely it is [gout]".
COMMITS = re.compile(_any("""answer | diagnosis | likely | therefore | thus | conclude | conclusion | best | correct | favor
    | choose | final | consistent | it is | this is | suggest | point""") + "|最可能|答案|诊断|因此|所以|综上|应为|考虑|最终|选")

# Names the answer: "the answer is gout", "the most likely diagnosis here is gout", "答案：痛风".
NAMES_THE_ANSWER = re.compile(
    r"(\banswer|\bdiagnosis|答案|诊断)(?: (?:\S+ ){0,5}?(?:is|be|:) |应?[是为]|: )(?!"
    + _any("made | based | confirmed | established | supported | not | clinical | often | usually | as follows") + r")(?=\w)")

# --- In the ground truth ----------------------------------------------------------------------------------------------

ANSWER_LABEL = re.compile(r"^(?:[A-H][.:)]\s+|(?:the )?(?:correct |final )?answer(?: is|:)\s+)", re.IGNORECASE)
ALSO_CALLED = re.compile(r"^(?:also known as|also called|accept|formerly|previously|aka|i\.e\.|又称|即)\s*", re.IGNORECASE)
ADJECTIVE = re.compile(r"\w+(?:al|ic|ive|ous|ar|ary|ior)|left|right")

# The polarity of a reply to a yes/no question: "Yes, ...", "The statement is not true".
POLARITY = re.compile(
    r"(?:^|\b(?:answer|statement|it|this|that|claim|答案)[^.?]{0,20}?(?:is |: |是|为)(not |不)?)"
    "(yes|true|no|false|不是|并非|没有|不|否|错|是|对|正确)(?![A-Za-z])")
