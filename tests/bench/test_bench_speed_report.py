"""What a speed report looks like as Markdown."""

from bench.speed_report import render


def test_rows_become_a_table_and_a_single_row_a_list_of_figures() -> None:
    report = {
        "environment": {"device": "a card"},
        "repair": [{"size": "512x512", "median_ms": 2.3456}, {"size": "1024x1024", "each_ten": [1.01, 1.02]}],
        "memory": {"reserved_mib": {10: 660.0, 200: 760.0}, "s": 123.4},
        "cap": {"message": "no | card"},
    }
    text = render(report)
    assert "| size | median_ms | each_ten |\n|---|---|---|\n| 512x512 | 2.35 |  |" in text
    assert "| 1024x1024 |  | 1.01, 1.02 |" in text
    assert "| reserved_mib | 10 660, 200 760 |" in text and "| s | 123 |" in text
    assert "| message | no / card |" in text
    assert text.endswith("## Environment\n\n- device: a card\n")
