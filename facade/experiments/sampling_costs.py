"""What the steps of the sampling experiment will take at most, before any of them runs; nothing is written."""

from collections.abc import Iterator
from math import comb
from typing import TYPE_CHECKING

from ...lake.values import Json
from .sampling_session import SamplingSession as Session
from .sampling_steps import branches_part
from .session import Cost

if TYPE_CHECKING:
    from ...collect.running.planning.plan import Estimate

Part = tuple[str, Json]
CANDIDATES = 8
"""Most clusters that are tried where their number is looked for."""
ATTEMPTS = 4
"""Requests for one verdict or solution at most."""


def variance(session: Session) -> list[Cost]:
    """Step 2."""
    if session.given_sampled or session.given_greedy:
        return []
    section = session.config.variance_exp
    parts = [session.sampled_part(one, section.max_new_tokens) for one in section.temperatures]
    return [_of_run(session, 2, part) for part in parts]


def oracle(session: Session) -> list[Cost]:
    """Step 3."""
    return [*_greedy(session, 3), *_oracles(session, 3)]


def forced(session: Session) -> list[Cost]:
    """Step 4: as many tokens as if every answer began with the whole solution."""
    config = session.config
    length = config.generation.max_new_tokens
    found = [*_greedy(session, 4), *_oracles(session, 4)]
    for share in config.manifold_exp.oracle_percentage:
        settings = session.settings(**_given(session), temperature=0.0, max_new_tokens=length)
        found.append(_of_run(session, 4, (f"forced:{share:g}:{length}", settings)))
    return found


def sensitivity(session: Session) -> list[Cost]:
    """Step 5: a branch every so many tokens of greedy answers as long as they may be."""
    return [*_greedy(session, 5), *_branches(session, 5)]


def attribution(session: Session) -> list[Cost]:
    """Step 6: passes over stored answers; what it needs of step 5."""
    return [*_greedy(session, 6), *_branches(session, 6)]


def clusters(session: Session) -> list[Cost]:
    """Step 7: the solutions, and every pair of representatives before the judge."""
    section, service = session.config.clustering, session.config.service
    found = []
    if not session.given_sampled:
        found.append(_of_run(session, 7, session.sampled_part(section.temperature, section.max_new_tokens)))
    if section.judge_enabled and section.judge == "service":
        k = min(section.n_clusters or CANDIDATES, session.config.n_samples_per_problem)
        calls = session.n_problems * comb(k, 2) * section.orders * ATTEMPTS
        found.append(_of_service(7, "judge", min(calls, service.max_calls), service.max_usd))
    return found


def steering(session: Session) -> list[Cost]:
    """Step 8: the unsteered answers, and one run per direction, random ones included, and strength."""
    section = session.config.steering
    base = session.sampled_part(section.temperature, section.max_new_tokens)
    found = [] if session.given_sampled else [_of_run(session, 8, base)]
    if section.method == "pca":
        found.append(_of_run(session, 8, session.greedy_part(section.max_new_tokens)))
    one = session.runs.estimate(base[1] | {"keep": ("tokens",)})
    n = {"pca": section.n_directions, "mean_diff": 1, "stored": len(section.directions)}[section.method]
    n_runs = n * (1 + section.random_directions) * len(section.strength)
    done = len([part for part in session.runs.stored() if part.startswith("steered:")])
    sizes = (one.n_sequences * n_runs, one.n_tokens * n_runs, one.n_bytes * n_runs)
    found.append(Cost(8, f"{n_runs} steered runs", *sizes, exact=False, stored=done >= n_runs))
    return found


def _greedy(session: Session, step: int) -> Iterator[Cost]:
    if session.given_greedy is None:
        yield _of_run(session, step, session.greedy_part(session.config.generation.max_new_tokens))


def _given(session: Session) -> Json:
    """Where oracle solutions come from, as a setting; of a service nothing is known before."""
    config = session.config
    if config.oracle == "file":
        return {"given": config.oracle_file}
    if config.oracle == "api":
        return {}
    return {"given": "dataset" if config.oracle_key is None else f"dataset:{config.oracle_key}"}


def _oracles(session: Session, step: int) -> Iterator[Cost]:
    service = session.config.service
    if session.config.oracle == "api":
        calls = min(session.n_problems * ATTEMPTS, service.max_calls)
        yield _of_service(step, "oracle solutions", calls, service.max_usd)
    yield _of_run(session, step, ("oracles", session.settings(**_given(session), max_new_tokens=0)))


def _branches(session: Session, step: int) -> Iterator[Cost]:
    section = session.config.sensitivity_exp
    stored = session.runs.stored()
    greedy = session.given_greedy or stored.get(session.greedy_part(session.config.generation.max_new_tokens)[0])
    if greedy is not None and session.lake.run_status(greedy) == "complete":
        part = branches_part(session, greedy)
        found = _of_run(session, step, part)
        yield Cost(**{**found.as_dict(), "n_branches": found.n_sequences})
        return
    _, settings = session.greedy_part(session.config.generation.max_new_tokens)
    whole = session.runs.estimate(settings)
    each = -(-session.config.generation.max_new_tokens // section.bifurcation_step_interval)
    n = whole.n_sequences * each
    # A branch stores the rows of its parent's tokens, and observes only its own.
    tokens = n * (whole.n_tokens // max(1, whole.n_sequences) + section.max_new_tokens)
    size = whole.n_bytes // max(1, whole.n_tokens) * tokens
    yield Cost(step, "branches", n, tokens, size, exact=False, n_branches=n)


def _of_run(session: Session, step: int, part: Part) -> Cost:
    name, settings = part
    run_id = session.runs.stored().get(name)
    if run_id is not None and session.lake.run_status(run_id) == "complete":
        return Cost(step, name, stored=True)
    sizes: Estimate = session.runs.estimate(settings)
    return Cost(step, name, sizes.n_sequences, sizes.n_tokens, sizes.n_bytes, sizes.exact)


def _of_service(step: int, name: str, calls: int, worst: float | None) -> Cost:
    return Cost(step, name, exact=False, n_calls=calls, worst_usd=worst)
