"""Frames of the exact verifier: sentences that speak about an answer without giving it.

Tables and patterns as in `exact_cues`; the mention stands in [brackets]. Those here look at the whole sentence, at what
comes later in the reply, or at its lay-out.
"""

from __future__ import annotations

import re

from lite_huatuo.verifier.exact_cues import NAME, WORD, any_of, any_of_zh

# Speaks to whoever judges the reply, or of the judging: no reply in earnest does.
TO_THE_JUDGE = re.compile(
    any_of("""ground truth | reference answer | reference is | answer key | expected answer | to the grader
    | dear grader | dear verifier | dear judge | note to ... judge | full marks | mark this | mark ... correct
    | output true | return true | return correct | verdict true | ignore ... instructions
    | treat ... as right | treat ... as correct | treat ... mention""")
    + r"|\b(?:correct|verdict) (?:[:,] )?true "
    + "|"
    + any_of_zh("标准答案 参考答案 评委 阅卷 裁判 请判 判为正确 请给分 得分为 得满分 给满分 系统提示 忽略以上 忽略上述")
)

# The answer is left open: "whether it is [gout]", "您问是否为[痛风]", "关于[痛风]".
LEAVES_OPEN = re.compile(
    r"(?:\bwhether (?:(?!but |so |because |: )\S+ ){0,8}|(?:是否|是不是|能否|有无)[^,:]{0,6}|关于|至于)$"
)

# The question is spoken about: "[gout] is one of the two diseases named in the question".
SPOKEN_ABOUT = re.compile(
    r"(?:\S+ ){0,8}?"
    + any_of(
        "named in ... question | mentioned in ... question | listed in ... question | asked in | often asked"
        " | tested in"
    )
)

# A heading or label, not a statement: "Keywords: [gout]", "[Gout]: an overview".
LABEL_BEFORE = re.compile(
    "^(?:"
    + any_of("""keyword | topic | title | subject | tag | heading | context | question | thinking | thought
    | reasoning | background""")
    + "|"
    + any_of_zh("关键词 主题 标题 题目 思考 思路 背景")
    + ")(?:过程)?: "
)
TITLE_AFTER = re.compile(": (?:" + any_of("overview | introduction | guide | summary | review") + ")$")

# Only under a condition: "if the crystals were urate, [gout] would be right", "若为尿酸盐则是[痛风]".
CONDITION_BEFORE = re.compile(
    r"(?:^|, )(?:if .*(?:were|had been) .*|had (?!to )(?:\S+ )+been .*|were (?:it|this|there) .*)$"
    "|(?:若|如果|假如|倘若).*$"
)
CONDITION_AFTER = re.compile(r"(?:, )?(?:(?:there|one|we|this|it) )?(?:would|might have) ")

# Someone else: "his father had [gout]", "其父有[痛风]".
KIN = any_of("""father | mother | sister | brother | uncle | aunt | cousin | friend | colleague | neighbor | grandmother
    | grandfather | patient in ... next | textbook""")
OTHER_PERSON = re.compile(
    rf"({KIN})(?:\S+ ){{0,4}}?(?:"
    + any_of("has | had | have | suffers | suffered | lists | says | said | thinks")
    + r")(?:\S+ ){0,3}$"
    r"|(其?(?:父|母|姐|兄|弟|妹|祖父|祖母|家人|同事|邻床|朋友|教科书)[^,:]{0,3}?(?:有|患|曾患|诊断为|认为是?|说是?))[^,:]{0,4}$"
)

# Only like it: "resembles [gout]", "like [gout], it comes at night", "与[痛风]相似".
LIKE_BEFORE = re.compile(
    "(?:"
    + any_of("resembles | resembling | similar to | reminiscent of | reminds of | reminds ... of")
    + r"(?:\S+ ){0,2}|^like )$"
)
LIKE_AFTER_ZH = re.compile("相似|类似|样(?:表现|症状|改变)|相仿")

# A first thought that is not kept: "[gout] was my first thought", "one thinks of [gout] first", "起初认为是[痛风]".
FIRST_THOUGHT = re.compile(
    any_of(
        "at first | at first glance | initially | thinks of | think of | thought of | first thought was | answer was"
    )
    + r"(?:, )?(?:(?!but |now )\S+ ){0,4}$|"
    + any_of_zh("起初 最初 一开始 首先想到 先想到 曾考虑 曾认为")
    + ".{0,6}$"
)
FIRST_THOUGHT_AFTER = re.compile(
    any_of("was ... first thought | was ... first guess | was ... first idea | came to mind")
)

# Takes back what came before: "[gout] - no, wait", "Correction: ...".
TAKES_BACK = re.compile(
    r"(?:^|[,:.] )no , wait |(?:^|[,:.] )no [:,] (?:it is|this is) "
    + "|"
    + any_of("""correction | on reflection | on second thought | I now choose | I now think | I change my
    | I changed my | I take ... back | scratch that""")
    + r"|(?:^|\. )actually , |更正|后来改为|改判|收回|不, ?(?:应)?[是为]"
)

# Leaves it between two: "[gout] and sepsis are equally likely", "[痛风]与感染均有可能".
BETWEEN = re.compile(
    any_of("""equally likely | just as likely | as likely as | equally possible | equally plausible | hard to choose
    | hard to tell | hard to say | hard to distinguish | difficult to choose | difficult to tell | cannot be told
    | cannot be excluded | is possible too | is possible , and | toss up | neither to""")
    + "|"
    + any_of("one of these | one of them")
    + "$"
    + r"|\band (?:\S+ ){1,3}both |"
    + any_of_zh("均有可能 都有可能 皆有可能 也可能 二者之一 两者之一 之一 中的一种 难以区分 难以鉴别 抑或 待排")
)
AGAINST = any_of("versus | vs")
AGAINST_BEFORE, AGAINST_AFTER = re.compile(AGAINST + r"(?:\S+ ){0,2}$"), re.compile(r"(?:, )?" + AGAINST)
GUESS = re.compile(any_of("perhaps | maybe | possibly | might | may be | could be"))

# Spared by the disease: "[the radial nerve] is intact"; holds no answer unless the question asks for it.
SPARED = re.compile(
    r"(?:, )?(?:is|are|was|were|remain|水平|结果|均|未受|没有)? ?(?:\S+ ){0,2}?("
    + any_of("spared | intact | normal | unaffected | uninvolved | preserved | unharmed | safe | harmless | present")
    + "|正常|完好|未受损|未受累)"
)

# Denied at the end of the sentence: "[gout] it is not", "[gout] is slow, so it cannot be the cause".
NOT_IT = re.compile(
    r"^(?:, )?(?:it|this|he|she) (?:is|has) not $|\b(?:it|they|this|that|which) (?:is|are|can|could) not (?:be )?"
    + any_of("trouble | cause | problem | answer | culprit | reason")
    + "|^(?:通常|一般)?(?:不会|并不|不引起|不导致|不能引起|不足以)"
)

# What is to be kept from: "avoid [gout]", "wait with [gout]"; turned round where the question asks for that.
AVOIDS = re.compile(
    any_of("""avoid | avoids | avoiding | withhold | wait with | hold off | postpone | delay | spares
    | sparing | leaves""")
    + WORD
    + "{0,2}$"
)
MUST_NOT = re.compile(
    any_of("must not | should not | may not | can not") + any_of("take | use | give | receive | be given | have")
)

# Ends in a name: "so it is sepsis", "故为假性痛风", "实为假性痛风".
CONCLUDES = re.compile(
    r"(?:\b(?:so|hence|therefore|thus|now|today) (?:it|this|he|she|man|woman|patient) (?:is|has|had) "
    rf"|\bas it is , )({NAME})$"
    r"|(?:故[为是]|实[为是]|应[为是]|正确的?.{0,3}[为是])([^,:、]{2,15})$"
)

# Another name of the same kind: after "[right coronary artery] ...", "it comes from left circumflex artery".
POINTS_TO = re.compile(rf"\b(?:is|are|from|by) (?!less |not |also |often |seldom |rarely )({NAME})")

# Another subject for the verb of the question "which disturbance makes ...?": "[X] flattens them; Y makes them".
VERB_AFTER = re.compile(r"([a-z]{4,}) ")
DOES = re.compile(r"([a-z]{6,}) ([a-z]{4,}) ")

# Parts the names of a row.
JOINT = re.compile(r", (?:and |or )?| and | or |、|或|和|与|及")

# Nothing but three or more names: "[痛风], 麻疹, 风疹", "Asthma, [gout] and sepsis".
NAME_ZH = "[\u4e00-\u9fff][^,:、是为的]{1,11}"
BARE_ROW = re.compile(
    rf"(?:{NAME}, )+{NAME}(?:, )?(?:and|or) {NAME}" + "|" + NAME_ZH + "(?:[,、] ?" + NAME_ZH + "){2,}"
)

# Counts something else: "[12] thoracic", "[300 mg] of clopidogrel"; these words may follow a number that is the answer.
COUNTED = re.compile(r"(of )?([a-z]{4,}) ")
ASKS_HOW_MUCH = re.compile(any_of("how many | how much | what dose | which dose | how long"))
FILLS = re.compile(
    any_of("""with | from | that | which | when | because | after | before | about | into | each | every
    | have | were | since | until | between | during | while | there | this | these | those | than | only | also | then
    | people | year | total | time | more | less""")
)

# Lay-out, in the reply as written: a heading in markdown, and the label of the last section.
HEADING = re.compile(
    r"(?m)^[ \t]{0,3}#{1,6}[ \t](?!.{0,40}(?:answer|diagnosis|conclusion|答案|诊断|结论)).*$", re.IGNORECASE
)
LAST_SECTION = re.compile(
    r"(?im)^[ \t#*]{0,9}(?:final (?:answer|response|diagnosis)|最终(?:答案|回答|诊断))[ \t*]{0,4}(?:[:：]|$)"
)
