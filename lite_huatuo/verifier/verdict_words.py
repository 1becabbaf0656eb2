"""The words a judge gives its verdict in, and how strictly they are read: the first word, exactly, and nothing after it
that takes it back. What cannot be read so is no verdict; the judge is asked again.
"""

from __future__ import annotations

import re

# Language -> (right, wrong): the words asked for, and the only ones understood.
WORDS = {"en": ("True", "False"), "zh": ("正确", "错误")}
_SAYS = {word.lower(): right for pair in WORDS.values() for word, right in zip(pair, (True, False), strict=True)}

_FLAGS = re.IGNORECASE | re.ASCII  # ASCII: no "falſe" is folded to "false", no letter of another script ends a word

# Markup that may wrap the word: **True**, "True", `True`, 【正确】.
_OPENS, _CLOSES = r"[\s*_`\"'“‘「『【(（]*", r"[*_`\"'”’」』】)）]*"
# After the word: the end, a full stop or a new line; "True or False", "True?", "正确吗", "Trueish" have something else.
_VERDICT = re.compile(
    rf"{_OPENS}({'|'.join(map(re.escape, _SAYS))}){_CLOSES}[^\S\n]*(?P<rest>\Z|[.。!！].*|\n.*)", _FLAGS | re.DOTALL
)
# In an explanation after "True" each of these may take it back; a "True" with one of them is no verdict.
_TAKES_BACK_TRUE = re.compile(
    r"false|untrue|\b(?:wrong\w*|incorrect\w*|inaccurat\w*|not\w*|no|nor|never|neither|none|cannot|without|fails?|failed"
    r"|but|however|although|though|except|unless|actually|wait|instead|rather|if|whether|unsure|uncertain|unclear|maybe"
    r"|perhaps|possibly|mistak\w*|erro\w*|contradict\w*|differ\w*|mismatch\w*|disagree\w*|oppos\w*|partial\w*|invalid"
    r"|retract\w*|sorry|joking|kidding|correction)\b|n['’]t\b|\?|？|不|错|误|非|否|但|然而|没|未|无|假|除|若|如果|也许|可能|矛盾|相反",
    _FLAGS,
)  # fmt: skip
# "False. The correct answer is X" is an honest explanation; another verdict after it is not.
_TAKES_BACK_FALSE = re.compile(rf"true|(?:^|[\n.。!！]){_OPENS}正确{_CLOSES}(?:$|[\n.。!！])|\?|？", _FLAGS)


def read(text: str) -> bool | None:
    """Return the verdict that a judge's reply gives, None where it gives none that can be trusted."""
    found = _VERDICT.match(text)
    if found is None:
        return None
    says = _SAYS[found[1].lower()]
    doubt = _TAKES_BACK_TRUE if says else _TAKES_BACK_FALSE
    return None if doubt.search(found["rest"]) else says
