"""The tour that ends `lake demo`: three answers in SQL and a set of charts, with the commands that make them."""

from pathlib import Path

from .charts.chart import NoRowsError, draw
from .charts.chart_file import save
from .queried_lake import QueriedLake
from .results.formats import render
from .saved_query import find

QUESTIONS = (
    (
        "How often is each level solved, and by which method?",
        "select cast(metadata ->> '$.level' as int) as level, solution_method, count(*) as n, "
        "avg(correct::int) as accuracy from sequences where run_id = '{run}' group by all order by level, n desc",
    ),
    (
        "Does the model doubt its wrong answers? (one join on the key)",
        "select s.correct, count(distinct s.sequence_id) as sequences, avg(t.surprisal_bits) as surprisal_bits, "
        "avg(t.entropy_bits) as entropy_bits from token_steps t join sequences s using (run_id, sequence_id) "
        "where run_id = '{run}' and t.step is not null group by all order by 1",
    ),
    (
        "Where does the residual stream grow, and do its states turn? (vectors in SQL)",
        "select a.layer, avg(l.l2_norm) as l2_norm, avg(l.cos_prev_layer) as cos_prev_layer, "
        "avg(list_cosine_similarity(a.vector, b.vector)) as cos_to_first_layer "
        "from activations a join layer_summaries l using (run_id, sequence_id, position, layer, site) "
        "join activations b on b.run_id = a.run_id and b.sequence_id = a.sequence_id and b.position = a.position "
        "and b.site = a.site and b.layer = 0 where a.run_id = '{run}' and a.site = 'resid_post' "
        "and a.sequence_id < 16 group by a.layer order by a.layer",
    ),
)
CHARTS = (
    "surprisal_trace",
    "entropy_by_step",
    "accuracy_by_level_and_method",
    "layer_norms",
    "attention_entropy_by_head",
    "confidence_calibration",
    "state_before_error",
    "embedding_path",
)


def show_tour(lake: QueriedLake, run_id: str, folder: Path, *, theme: str) -> list[Path]:
    """Print the answers, write the charts as PNG and one page as HTML; returns the files written."""
    for question, template in QUESTIONS:
        statement = template.format(run=run_id)
        print(f'\n{question}\n  lake sql "{statement}"\n')
        print(render(lake.sql(statement).to_arrow(), "table").decode(), end="")
    folder.mkdir(parents=True, exist_ok=True)
    print("\nCharts (lake chart NAME --run latest -o FILE):")
    written = []
    with lake.connect(locked=True) as connection:
        for name in CHARTS:
            try:
                drawing = draw(find(name), connection, lake.resolve_run, theme=theme, params={"run": run_id})
            except NoRowsError:
                continue  # a small demonstration has too few sequences for some
            for suffix in (".png", ".html") if name == CHARTS[0] else (".png",):
                target = folder / f"{name}{suffix}"
                save(drawing.chart, target, theme=theme)
                written.append(target)
                print(f"  {target}")
    return written
