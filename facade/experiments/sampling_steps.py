"""Steps 2 to 7 of the sampling experiment: variance, oracle (free and forced), sensitivity, attribution, clusters."""

from ...collect.experiment.sampling_config import layer_of
from .sampling_session import SamplingSession as Session


def variance(session: Session) -> None:
    """Step 2: how far samples spread, at each temperature."""
    config, section = session.config, session.config.variance_exp
    layers = config.variance_layers or (config.target_layer,)
    options = {
        **session.pooling(), "layer": ",".join(str(layer_of(one, session.n_layers)) for one in layers),
        "checkpoints": section.token_checkpoints or None, "within": section.within, "short": section.short,
    }  # fmt: skip
    given = [*filter(None, [session.given_greedy]), *(run for _, run in sorted(session.given_sampled.items()))]
    for run in given or [session.sampled(one, section.max_new_tokens) for one in section.temperatures]:
        session.ask("variance", run, **options)


def oracle(session: Session) -> None:
    """Step 3: how far greedy answers are from an oracle's solutions."""
    oracles, greedy = read_oracles(session), session.greedy()
    session.ask("oracle", [greedy, oracles], **session.pooling(), layer=str(session.target))


def forced(session: Session) -> None:
    """Step 4: how far they are when they are forced to begin with a share of the oracle's tokens."""
    oracles, greedy = read_oracles(session), session.greedy()
    for share in session.config.manifold_exp.oracle_percentage:
        run = session.collect(*forced_part(session, oracles, share))
        session.ask("oracle", [greedy, oracles, run], **session.pooling(), layer=str(session.target))


def read_oracles(session: Session) -> str:
    """The run that has read the oracle's solutions."""
    return session.collect(*oracles_part(session))


def oracles_part(session: Session) -> tuple[str, dict[str, object]]:
    """Name and settings of that run: solutions of the dataset, of a file, or written by a service."""
    config = session.config
    if config.oracle == "file":
        given = str(config.oracle_file)
    elif config.oracle == "api":
        given = f"solutions:{written_oracles(session)}"
    else:
        given = "dataset" if config.oracle_key is None else f"dataset:{config.oracle_key}"
    return "oracles", session.settings(given=given, max_new_tokens=0)


def written_oracles(session: Session) -> str:
    """The run whose problems a service has written solutions to; what it wrote before is not asked for again."""
    config, service = session.config, session.config.service
    greedy = session.greedy()
    written = session.lake.write_oracles(
        greedy, model=str(config.oracle_model), base_url=service.base_url, key_env=service.key_env,
        max_calls=service.max_calls, max_usd=service.max_usd, usd_per_million=service.usd_per_million,
        concurrency=service.concurrency,
    )  # fmt: skip
    session.note_analysis("oracle_solutions", written.analysis_id, written.n_asked > 0)
    return greedy


def forced_part(session: Session, oracles: str, share: float) -> tuple[str, dict[str, object]]:
    """Name and settings of answers that begin with a share of the oracle's tokens."""
    length = session.config.generation.max_new_tokens
    more = {"given": f"run:{oracles}:{share:g}", "temperature": 0.0, "max_new_tokens": length}
    return f"forced:{share:g}:{length}", session.settings(**more)


def sensitivity(session: Session) -> None:
    """Step 5: how far one other token at each of some steps moves the rest of a greedy answer."""
    sensitivity_of(session)


def sensitivity_of(session: Session) -> tuple[str, str | None]:
    """The greedy run, and the id of its sensitivity (None in a trial too small for it)."""
    greedy = session.greedy()
    branches = session.collect(*branches_part(session, greedy))
    window = session.config.sensitivity_exp.max_new_tokens
    options = {"site": session.config.site, "layer": str(session.target), "lookahead": window}
    answer = session.ask("sensitivity", [greedy, branches], **options)
    return greedy, None if answer is None else answer.analysis_id


def branches_part(session: Session, greedy: str) -> tuple[str, dict[str, object]]:
    """Name and settings of the branches of the greedy answers."""
    section = session.config.sensitivity_exp
    wanted = session.settings(
        branch_from=greedy, at=(f"every:{section.bifurcation_step_interval}",), force="second",
        max_new_tokens=section.max_new_tokens - 1,
    )  # fmt: skip
    for name in ("dataset", "dataset_path", "limit", "prompt_template"):
        wanted.pop(name)
    return f"branches:{section.bifurcation_step_interval}:{section.max_new_tokens}", wanted


def attribution(session: Session) -> None:
    """Step 6: which parts of the model chose, at the most sensitive points of step 5."""
    from ...collect.rereading.points import sensitive_points

    section = session.config.attribution_exp
    greedy, analysis_id = sensitivity_of(session)
    points = [] if analysis_id is None else sensitive_points(session.lake, greedy, analysis_id, section.top_n_points)
    if not points and session.trial:
        return session.refuse("attribution: no branch has a whole window.")
    done = session.lake.attribution(greedy, at=points, by=section.by, model=session.config.model.model_name_or_path)
    return session.note_analysis("attribution", done.analysis_id, done.computed, done.notices)


def clusters(session: Session) -> None:
    """Step 7: kinds of right solutions, and whether a judge calls them distinct."""
    section, service = session.config.clustering, session.config.service
    run = session.sampled(section.temperature, section.max_new_tokens)
    options = {**session.pooling(), "layer": str(session.target), "k": section.n_clusters}
    if session.ask("clusters", run, **options) is None or not section.judge_enabled:
        return
    judged = session.lake.judge(
        run, judge=section.judge, judge_model=section.judge_model, base_url=service.base_url, key_env=service.key_env,
        orders=section.orders, max_calls=service.max_calls, max_usd=service.max_usd,
        usd_per_million=service.usd_per_million, concurrency=service.concurrency,
    )  # fmt: skip
    session.note_analysis("judge", judged.analysis_id, judged.n_asked > 0)
    session.ask("clusters", run, **options)  # once more: now with the verdicts
