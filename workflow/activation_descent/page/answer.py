"""The answer in one paragraph, from the verdicts of the claims on which each of its theses rests (`answer` in `config/claims.yaml`)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from activation_descent.errors import SettingsError

OUTCOMES = {
    "holds": "What holds",
    "fails": "What does not hold",
    "partly": "What holds in part",
    "open": "What is open",
}


@dataclass(frozen=True)
class Finding:
    """One claim that speaks for or against a thesis: what was measured, in words."""

    claim: str
    text: str
    agrees: bool


@dataclass(frozen=True)
class Thesis:
    """A sentence of the answer, and which of `OUTCOMES` it has.

    Attributes:
        findings: those of its claims that were decided, those that agree first.
        undecided: how many of its claims are inconclusive, or not judged in this run.
    """

    text: str
    outcome: str
    findings: tuple[Finding, ...]
    undecided: int


def check(answer: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an answer that names no claim, or whose words cannot hold a number, before anything runs.

    Raises:
        SettingsError: naming the thesis and the claim.
    """
    known = {claim["id"] for claim in claims}
    for thesis in answer:
        for evidence in thesis["evidence"]:
            name = f"answer '{thesis['thesis']}'"
            if evidence["claim"] not in known:
                raise SettingsError(f"{name}: there is no claim {evidence['claim']}")
            try:
                evidence["finding"].format(value=1.0)
            except (AttributeError, IndexError, KeyError, ValueError) as error:
                raise SettingsError(
                    f"{name}: the finding of claim {evidence['claim']} can hold {{value}}, in a format such as {{value:.2f}}, and "
                    f"nothing else in braces ({error})"
                ) from error


def conclude(answer: Sequence[Mapping[str, Any]], claims: pd.DataFrame) -> list[Thesis]:
    """The theses with their outcomes.

    A thesis holds if every decided claim agrees with it, supported where it speaks for the thesis or refuted where it speaks against;
    it fails if every one disagrees, holds in part if some do, and is open if none is decided.

    Args:
        answer: `answer` of `config/claims.yaml`, checked.
        claims: the rows of claims.csv.
    """
    judged = claims.set_index("id")
    concluded = []
    for thesis in answer:
        findings = []
        for evidence in thesis["evidence"]:
            claim = judged.loc[evidence["claim"]]
            if claim["verdict"] != "inconclusive":
                agrees = (claim["verdict"] == "supported") == (evidence["speaks"] == "for")
                text = re.sub(r"-(?=\d)", "−", evidence["finding"].format(value=float(claim["value"])))
                findings.append(Finding(evidence["claim"], text, bool(agrees)))
        agree = [finding.agrees for finding in findings]
        outcome = "open" if not agree else "holds" if all(agree) else "partly" if any(agree) else "fails"
        findings.sort(key=lambda finding: not finding.agrees)
        concluded.append(Thesis(thesis["thesis"], outcome, tuple(findings), len(thesis["evidence"]) - len(findings)))
    return concluded
