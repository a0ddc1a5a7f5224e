"""The table of speeds is made of the results that there are."""

from benchmarks.bench_serving import BEGIN, END, serving, serving_runs, spliced
from benchmarks.serving_worker import ServingConfig, ServingResult


def result(config: ServingConfig, seconds: float) -> ServingResult:
    return ServingResult(
        config=config,
        prompt_tokens=100,
        new_tokens=1024,
        epoch_s=[seconds],
        first_s=[0.1, 0.3],
        whole_s=[seconds],
        peak_mb=512.4,
        foreign_cores=0.07,
        threads=1,
        processor="p",
    )


def test_the_ratio_is_of_tokens_per_second() -> None:
    ours, theirs, *_ = serving_runs()[0]
    table = serving({ours.label: [result(ours, 2.0)], theirs.label: [result(theirs, 9.0)]})
    assert "| S: 16 at once | 512 / 512 (0.07) | **4.50** | 2 | 4 | aim met | 0.20 |" in table
    assert "| S: transformers, one after the other | 114 / 512 (0.07) | – |" in table
    assert len(table.splitlines()) == 8  # title, text, head, rule, two rows, two blanks


def test_labels_are_all_different() -> None:
    labels = [config.label for group in serving_runs() for config in group]
    assert len(set(labels)) == len(labels)


def test_the_table_replaces_the_one_before() -> None:
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    assert spliced(page, "new") == f"above\n{BEGIN}\nnew\n{END}\nbelow\n"
    assert spliced(spliced(page, "a"), "new") == spliced(page, "new")
