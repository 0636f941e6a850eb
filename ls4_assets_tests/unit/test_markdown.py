"""Tables for the Dagster UI's metadata."""

from ls4_assets.assets.markdown import table


def test_what_stands_in_a_cell_is_read_as_it_is() -> None:
    """The advice `MM-DD-YY_<roll>-<frame>.tif` was read as `MM-DD-YY_-.tif` in the Dagster UI, which took the words for tags."""
    made = table(["file", "what to do"], [["a|b.tif", "reads MM-DD-YY_<roll>-<frame>.tif;\nrename it"]])
    assert made.splitlines() == [
        "| file | what to do |",
        "| --- | --- |",
        "| a\\|b.tif | reads MM-DD-YY_&lt;roll&gt;-&lt;frame&gt;.tif; rename it |",
    ]
