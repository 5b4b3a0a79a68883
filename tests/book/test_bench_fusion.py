"""The benchmark of chapter 06 measures what it says, on a smaller draw."""

from helpers.book import bench_arms, bench_fusion


def test_the_rows_name_the_whole_table_and_the_parts(monkeypatch) -> None:
    monkeypatch.setattr(bench_arms, "N_CASES", 60)
    monkeypatch.setattr(bench_arms, "N_SITES", 6)
    monkeypatch.setattr(bench_fusion, "N_FOLDS", 2)
    rows = {row["id"]: row for row in bench_fusion.measure_fusion(workers=1)}
    assert rows["fusion/ablation_table/wall"]["bound"] == 300
    assert all(row["value"] > 0 and row["unit"] == "s" for row in rows.values())
    assert rows["fusion/genes_linear/processor"]["value"] < rows["fusion/ablation_table/processor"]["value"]
