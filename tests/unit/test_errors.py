"""The tree of errors: a slug each, drawn in the docstring."""

from __future__ import annotations

import forebay.errors
from forebay.errors import ForebayError, PolicyError
from forebay.policy import Finding


def tree(base: type[ForebayError]) -> list[type[ForebayError]]:
    return [base, *(leaf for child in base.__subclasses__() for leaf in tree(child))]


def test_every_error_has_its_own_slug_and_stands_in_the_docstring() -> None:
    # Rooms above may add their own; each is drawn where it stands.
    errors = [error for error in tree(ForebayError) if error.__module__ == "forebay.errors"]
    slugs = [error.slug for error in errors]
    assert len(set(slugs)) == len(slugs)
    assert {error.__name__ for error in errors} == set(forebay.errors.__all__)
    drawn = forebay.errors.__doc__ or ""
    for error in errors[1:]:
        assert f"{error.__name__} " in drawn
        assert error.slug in drawn


def test_a_refused_policy_says_every_finding() -> None:
    findings = [Finding("error", "a", "x.y", "is wrong", 3, 1), Finding("error", "b", "", "is worse")]
    assert str(PolicyError("p.yaml", findings)) == "p.yaml:3: error[a] x.y: is wrong\np.yaml: error[b]: is worse"
