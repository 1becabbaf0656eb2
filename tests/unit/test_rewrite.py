"""Rewriting: what reaches the SFT data passed every check, and nothing in it tells that an answer was known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lite_huatuo import response_format
from lite_huatuo.data.rewrite import Limits, check_text, length, rewrite
from lite_huatuo.data.search import exact_verify, search, teacher_verify
from lite_huatuo.errors import ReplyError
from lite_huatuo.prompts.render import VERSION
from lite_huatuo.records import Round, SFTExample, Trajectory, VerifiableProblem, detect_language
from tests.scripted_teacher import InProcess, is_right

PROBLEM = VerifiableProblem(
    "p1", "A child has a strawberry tongue and peeling fingertips. What is it?", "Kawasaki disease"
)
STEPS = [{"action": "think", "title": "Tongue", "content": "A strawberry tongue fits scarlet fever too."}]
FIRST = Round("first", STEPS, "It is scarlet fever.", False, "t")
SECOND = Round("correction", STEPS, "It is Kawasaki disease.", True, "t")
SOLVED = Trajectory("p1", PROBLEM, [[FIRST, FIRST], [FIRST, SECOND]], solved=True)
COT = (
    "A strawberry tongue and peeling fingertips. Scarlet fever comes to mind, and it peels too. Hmm, but wait: should "
    "I not expect a sore throat and a sandpaper rash? None of that is here. So what else inflames mucosa and skin in a "
    "child? Let me check that against Kawasaki disease. Yes, both findings fit, so it must be Kawasaki disease."
)
RESPONSE = (
    "The child has Kawasaki disease, which explains both the strawberry tongue and the peeling of the fingertips."
)
LONG = (1, 10_000)


def run(
    trajectory: Trajectory = SOLVED, ask: InProcess | None = None, verify: Any = None, **settings: Any
) -> SFTExample:
    ask = ask or InProcess(rewrite=COT, respond=RESPONSE)
    return asyncio.run(rewrite(trajectory, ask=ask, verify=verify or exact_verify(), **settings))


def test_an_example_holds_both_texts_and_where_they_come_from() -> None:
    example = run()
    assert example == SFTExample(
        "p1",
        PROBLEM.question,
        COT,
        RESPONSE,
        "Kawasaki disease",
        {"origin": "searched", "strategies": ["first", "correction"], "attempt": 2, "teacher": "t", "prompts": VERSION},
    )
    guided = Trajectory("p1", PROBLEM, [[FIRST, SECOND]], solved=True, label_guided=True)
    assert run(guided).provenance["origin"] == "label-guided"


def test_the_prompts_show_the_winning_attempt_and_never_the_ground_truth() -> None:
    ask = InProcess(rewrite=COT.replace("Kawasaki disease", "MCLS"), respond=RESPONSE)
    other = Round("correction", STEPS, "It is MCLS.", True, "t")
    run(Trajectory("p1", PROBLEM, [[FIRST] * 4, [FIRST, other]], solved=True), ask)
    notes, thinking = ask.prompts("rewrite")[0]["thoughts"], ask.prompts("respond")[0]["thinking"]
    assert notes.count("scarlet fever.\n") == 1
    assert "MCLS" in notes
    assert "MCLS" in thinking
    assert not any("Kawasaki" in request.prompt for request in ask.requests)
    assert [request.schema for request in ask.requests] == [None, None]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("rewrite", COT + " This agrees with the given answer.", "an answer that was given: 'given answer'"),
        ("rewrite", "## Thinking\n\n" + COT, "has headings"),
        ("rewrite", COT + "\n\n**Conclusion**", "has headings"),
        ("rewrite", "Here is the rewritten stream of thought: " + COT, "remark about itself"),
        ("rewrite", "Kawasaki disease.", "2 words"),
        ("rewrite", "word " * 3001, "3001 words"),
        ("rewrite", "患儿杨梅舌，指端脱皮，应该是川崎病。" * 9, "not in the language of the question"),
        ("rewrite", "<think>Hm", "inside its <think> part"),
        ("rewrite", " ", "it is empty"),
        ("respond", "The child has scarlet fever, as the strawberry tongue shows.", "not right any more"),
        ("respond", RESPONSE + " It matches the reference answer.", "an answer that was given"),
        ("respond", RESPONSE + " Option B is wrong.", "speaks of options"),
        ("respond", RESPONSE + "\n## Final Response\n" + RESPONSE, "has headings"),
        ("respond", "Kawasaki disease", "2 words"),
    ],
)
def test_a_text_that_fails_a_check_is_asked_for_again_and_then_told(name: str, text: str, reason: str) -> None:
    ask = InProcess(**{"rewrite": COT, "respond": RESPONSE, name: text})
    step = {"rewrite": "rewrite.thinking", "respond": "rewrite.response"}[name]
    with pytest.raises(ReplyError, match=rf"{step}: no usable reply[^:]*: the last of 3: ") as caught:
        run(ask=ask)
    assert reason in str(caught.value)
    asked = [request.sample for request in ask.requests if request.step == step]
    assert asked == ["", "retry 1", "retry 2"]


def test_texts_that_make_no_well_formed_reply_are_refused_whatever_the_bounds() -> None:
    async def right(*_: Any) -> bool:
        return True

    with pytest.raises(ReplyError, match="does not have the form"):
        run(ask=InProcess(rewrite=COT, respond="…"), verify=right, limits=Limits(response=(0, 9)))


def test_a_good_text_at_a_second_try_is_taken() -> None:
    ask = InProcess(
        rewrite=lambda request: COT if request.sample else "No.", respond=f"<think>Short.</think>{RESPONSE}"
    )
    example = run(ask=ask)
    assert (example.complex_cot, example.response) == (COT, RESPONSE)


def test_the_bounds_are_the_callers() -> None:
    with pytest.raises(ReplyError, match="5 to 6 are wanted"):
        run(limits=Limits(complex_cot=(5, 6)), tries=1)
    assert run(limits=Limits(response=(17, 17))).response == RESPONSE
    assert length("川崎病 (MCLS), 5 days") == 6
    assert length(RESPONSE) == 17


@pytest.mark.parametrize(
    "text",
    [
        "As the provided answer says, it is gout.",
        "The answer key says gout.",
        "It must be gout, since the ground truth is gout.",
        "The answer was already given: gout.",
        "We were given the correct answer, gout.",
        "I already know the answer.",
        "According to the solution it is gout.",
        "I was told that my last answer does not hold.",
        "My first answer was judged as wrong.",
        "The previous conclusion was marked incorrect.",
        "这与标准答案一致。",
        "根据给定的答案，应为痛风。",
        "题目给出的答案是痛风。",
        "既然已知答案是痛风，那么要反推。",
        "既然答案已给出，那就是痛风。",
        "按照正确答案倒推即可。",
        "刚才的答案被判定为错误。",
        "我被告知上一个答案是错的。",
    ],
)
def test_what_tells_that_an_answer_was_known_is_found(text: str) -> None:
    with pytest.raises(ReplyError, match="an answer that was given"):
        check_text(text, detect_language(text), LONG)
    with pytest.raises(ReplyError, match="an answer that was given"):
        check_text(f"So.\n{text.upper()}", detect_language(text), LONG)


@pytest.mark.parametrize(
    "text",
    [
        "So the correct answer is gout. That answers what was asked.",
        "Aspirin was given, and the answer to treatment was good.",
        "The patient was told that the rash is harmless. Given the findings, the answer is clear.",
        "Wait, that is wrong. My first answer does not explain the fever.",
        "Her options are surgery and rest; the best option a patient has is rest.",
        "Here's a man of 40 with gout. Here is the thing: it hurts.",
        "The known causes are few. Expected findings are absent. # of cells: 5",
        "这么说来，正确答案应该是痛风，我给出的答案也说得通。",
        "以下肢水肿为主，这是右心衰竭的表现，可以给出答案了。",
        "患者被告知需要手术。根据以上分析，答案是痛风。",
    ],
)
def test_ordinary_thinking_passes(text: str) -> None:
    check_text(text, detect_language(text), LONG)


def test_hostile_texts_are_checked_in_linear_time() -> None:
    for piece in ("\n", " ", "a", "# ", "*", "**a", "told ", "answer ", "根据", "according to the "):
        text = piece * (200_000 // len(piece)) + "x"
        try:
            check_text(text, "es", (0, 10**9))
        except ReplyError:
            continue


def test_search_and_rewriting_with_the_scripted_teacher() -> None:
    async def one(problem: VerifiableProblem) -> SFTExample | str | None:
        ask = InProcess()
        verify = teacher_verify(ask)
        try:
            trajectory = await search(problem, ask=ask, verify=verify, teacher="t", label_guided=True)
            return await rewrite(trajectory, ask=ask, verify=verify) if trajectory.solved else None
        except ReplyError as error:
            return str(error)

    problems = [
        VerifiableProblem(f"p{n}", f"{n} days of fever, then a rash. What?", f"Exanthem {n}") for n in range(60)
    ]
    problems += [VerifiableProblem(f"z{n}", f"发热{n}天后出疹，诊断是什么？", f"急疹{n}型", "zh") for n in range(60)]
    made = [asyncio.run(one(problem)) for problem in problems]
    examples = [example for example in made if isinstance(example, SFTExample)]
    assert {example.provenance["origin"] for example in examples} == {"searched", "label-guided"}
    assert len(examples) > 100
    for example in examples:
        assert is_right(example.question, str(example.ground_truth), example.response)
        reply = response_format.render(example.complex_cot, example.response)
        assert response_format.parse(reply) == (example.complex_cot, example.response)
