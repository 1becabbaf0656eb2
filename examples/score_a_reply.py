"""Form, verifier, score: how stage 2 sees a reply. Needs no model.

python examples/score_a_reply.py
"""

from lite_huatuo.response_format import parse, render
from lite_huatuo.training.reward import score
from lite_huatuo.verifier.base import Item
from lite_huatuo.verifier.exact import ExactVerifier

QUESTION, GROUND_TRUTH = "Which vitamin is missing in scurvy?", "vitamin C (ascorbic acid)"
REPLIES = {
    "right": render(
        "Bleeding gums. Vitamin K? No, the gums themselves are weak: collagen.", "Ascorbic acid is missing."
    ),
    "wrong": render("Bleeding, so clotting, so vitamin K.", "Vitamin K is missing."),
    "denied": render("Is it vitamin C? I doubt it.", "It is not vitamin C but vitamin K."),
    "without the form": "Vitamin C.",
    "an opener only": render("Hmm.", ":"),
}

verifier = ExactVerifier()
for name, reply in REPLIES.items():
    sections = parse(reply)
    verdict = verifier.verify([Item(QUESTION, sections.final_response, GROUND_TRUTH)])[0] if sections else None
    said = verdict.raw if verdict else "no final response"
    print(f"{name:18} score {score(sections is not None, verdict):.1f}   {said}")
