import pandas as pd
import pytest

from activation_descent.errors import SettingsError
from activation_descent.page import answer


def evidence(claim, speaks, finding="it is {value:.2f}"):
    return {"claim": claim, "speaks": speaks, "finding": finding}


def concluded(*verdicts):
    """The outcome of a thesis for which claims c0, c2, .. speak, and against which c1, c3, .. do."""
    claims = pd.DataFrame([{"id": f"c{i}", "verdict": verdict, "value": float(i)} for i, verdict in enumerate(verdicts)])
    sides = [evidence(f"c{i}", "against" if i % 2 else "for") for i in range(len(verdicts))]
    (thesis,) = answer.conclude([{"thesis": "it is so", "evidence": sides}], claims)
    return thesis


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        (["supported"], "holds"),
        (["refuted"], "fails"),
        (["supported", "refuted"], "holds"),
        (["refuted", "supported"], "fails"),
        (["supported", "supported"], "partly"),
        (["refuted", "refuted"], "partly"),
        (["inconclusive"], "open"),
        (["inconclusive", "inconclusive"], "open"),
        (["inconclusive", "supported"], "fails"),
        (["supported", "inconclusive"], "holds"),
    ],
)
def test_a_thesis_holds_if_all_its_decided_claims_agree(verdicts, outcome):
    thesis = concluded(*verdicts)
    assert thesis.outcome == outcome
    assert thesis.undecided == verdicts.count("inconclusive")
    assert len(thesis.findings) == len(verdicts) - thesis.undecided


def test_findings_that_agree_come_first_and_hold_the_value():
    findings = concluded("refuted", "refuted", "supported").findings
    assert [(finding.claim, finding.agrees) for finding in findings] == [("c1", True), ("c2", True), ("c0", False)]
    assert findings[0].text == "it is 1.00"


def test_a_negative_number_has_a_minus_and_words_keep_their_hyphens():
    claims = pd.DataFrame([{"id": "c", "verdict": "supported", "value": -0.42}])
    sides = [evidence("c", "for", "in-context it is {value:.0%} of 1")]
    (thesis,) = answer.conclude([{"thesis": "t", "evidence": sides}], claims)
    assert thesis.findings[0].text == "in-context it is −42% of 1"


@pytest.mark.parametrize(
    ("claim", "finding", "sentence"),
    [
        ("d", "it is {value}", "^answer 't': there is no claim d$"),
        ("c", "it is {valu:.2f}", "^answer 't': the finding of claim c can hold {value}.*'valu'"),
        ("c", "it is {value:.2q}", "^answer 't': the finding of claim c can hold {value}"),
        ("c", "it is {}", "^answer 't': the finding of claim c can hold {value}"),
        ("c", "it is {value", "^answer 't': the finding of claim c can hold {value}"),
        ("c", "it is {value.real.x}", "^answer 't': the finding of claim c can hold {value}"),
    ],
)
def test_an_answer_that_cannot_be_given_is_refused(claim, finding, sentence):
    with pytest.raises(SettingsError, match=sentence):
        answer.check([{"thesis": "t", "evidence": [evidence(claim, "for", finding)]}], [{"id": "c"}])


def test_an_answer_that_can_be_given_is_not():
    answer.check([{"thesis": "t", "evidence": [evidence("c", "for", "{value:.1%} of it")]}], [{"id": "c"}])
