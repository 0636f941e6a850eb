"""Markdown tables in the metadata of the Dagster UI."""

from ls4_assets.assets.markdown import table


def test_cells_are_escaped() -> None:
    """The Dagster UI displayed `MM-DD-YY_<roll>-<frame>.tif` as `MM-DD-YY_-.tif`, because it parsed the words as HTML tags."""
    markdown = table(["file", "what to do"], [["a|b.tif", "must be MM-DD-YY_<roll>-<frame>.tif;\nrename it"]])
    assert markdown.splitlines() == [
        "| file | what to do |",
        "| --- | --- |",
        "| a\\|b.tif | must be MM-DD-YY_&lt;roll&gt;-&lt;frame&gt;.tif; rename it |",
    ]
